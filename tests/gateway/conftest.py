"""Fixtures of the gateway's tests; gateway_world.py makes what they give."""
import os
import sys

import asyncssh
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(os.path.dirname(HERE)), 'gateway')]

from fake_tpam_cli import FakeTpamCli, USER_KEYS  # noqa: E402
from gateway_world import Gateway, new_tpam, public  # noqa: E402


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


@pytest.fixture
def make(tmp_path, cli, keys):
    """A function that makes a Gateway in front of the command line; options as Gateway. It ends with the test."""
    made = []

    def make(clis=None, **options):
        directory = tmp_path / ('gateway%d' % len(made))
        directory.mkdir()
        made.append(Gateway(directory, clis or [cli], keys['ed25519'], **options))
        return made[-1]
    yield make
    for gateway in made:
        gateway.kill()


@pytest.fixture
def gateway(make):
    """A gateway that serves the API user sps, who logs in as sps."""
    return make().start()
