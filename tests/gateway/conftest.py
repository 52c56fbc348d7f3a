"""Fixtures of the gateway's tests; gateway_world.py makes what they give."""
import os
import sys

import asyncssh
import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fake_tpam_cli import FakeTpamCli, USER_KEYS  # noqa: E402
from gateway_world import new_tpam, public  # noqa: E402


@pytest.fixture(scope='session')
def keys():
    """One key of each kind: {name in USER_KEYS: asyncssh private key}."""
    return dict((name, asyncssh.generate_private_key(kind)) for name, kind in USER_KEYS.items())


@pytest.fixture
def tpam():
    return new_tpam()


@pytest.fixture
def cli(tpam, keys):
    """TPAM's command line. The user sps logs in with the key ed25519, jdoe with the key of DSA."""
    with FakeTpamCli(tpam, {'sps': public(keys['ed25519']), 'jdoe': public(keys['dsa'])},
                     host_key=keys['ecdsa']) as server:
        yield server
