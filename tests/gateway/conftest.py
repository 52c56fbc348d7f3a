"""Fixtures of the gateway's tests; gateway_world.py makes what they give."""
import os
import sys
import time

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


@pytest.fixture(scope='session')
def shared_cli(keys):
    """TPAM's command line for the whole run. The user sps logs in with the key ed25519, jdoe with that of DSA."""
    users = {'sps': public(keys['ed25519']), 'jdoe': public(keys['dsa'])}
    with FakeTpamCli(new_tpam(), users, host_key=keys['ecdsa']) as cli:
        yield cli


@pytest.fixture
def cli(shared_cli):
    """TPAM's command line with a new TPAM behind it, and nobody logged in."""
    shared_cli.hang_up()
    shared_cli.tpam = new_tpam()
    shared_cli.reset()
    return shared_cli


@pytest.fixture
def tpam(cli):
    return cli.tpam


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


@pytest.fixture(scope='session')
def shared_gateway(tmp_path_factory, shared_cli, keys):
    gateway = Gateway(tmp_path_factory.mktemp('gateway'), [shared_cli], keys['ed25519'],
                      server={'minimum_tls': '1.0', 'old_clients': ['127.0.0.1']}).start()
    yield gateway
    gateway.kill()


@pytest.fixture
def gateway(cli, shared_gateway):
    """A gateway that serves the API user sps, and is logged in as sps; its log is empty. Tests that change it make
    another."""
    while shared_gateway.health() != 200:   # a test before this one may have refused its key
        time.sleep(0.1)
    shared_gateway.forget_log()
    return shared_gateway
