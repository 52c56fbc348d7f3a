"""The gateway in a process of its own, in front of a fake of TPAM's command line, for demo.py and bench.py.

Python 3.9 and the packages of gateway/requirements.txt.
"""
import asyncio
import base64
import http.client
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
import xmlrpc.client
from contextlib import contextmanager

import program
sys.path[1:1] = [program.TESTS, os.path.join(program.ROOT, 'gateway')]
import asyncssh  # noqa: E402
from fake_tpam_cli import FakeTpamCli  # noqa: E402
from settings import hash_password  # noqa: E402

PROGRAM = os.path.join(program.ROOT, 'gateway', 'tpam_gateway.py')
CONFIGURATION = """[server]
listen = "127.0.0.1:0"
certificate = "tls.pem"
log = "log"
minimum_tls = "1.0"
old_clients = ["127.0.0.1"]
[[tpam]]
address = "127.0.0.1:%(port)d"
host_key = "%(host_key)s"
[[user]]
name = "sps"
password = "%(hash)s"
cli_user = "sps"
key = "id_tpam"
clients = ["127.0.0.1"]
commands = ["Retrieve", "AddPwdRequest", "GetPwdRequest", "Cancel", "ListRequestDetails", "ListAssignedPolicies",
            "ListAccounts", "ListSystems", "ForceReset"]
"""


class Gateway(object):
    """port: where it serves; cli: the FakeTpamCli behind it; key: what logs in there as sps."""

    def __init__(self, directory, cli, key):
        self.directory, self.cli, self.key, self.port = directory, cli, key, None

    def log(self):
        """Return the lines of its log, as dicts."""
        try:
            with open(os.path.join(self.directory, 'log')) as lines:
                return [json.loads(line) for line in lines if line.endswith('\n')]
        except IOError:
            return []


@contextmanager
def serve(tpam, password, directory):
    """Serve a FakeTpam through the gateway, whose API user is sps -> Gateway. Its files go into the directory."""
    key = asyncssh.generate_private_key('ssh-ed25519')
    public = key.export_public_key().decode('ascii')

    def write(name, content):
        with os.fdopen(os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT, 0o600), 'w') as out:
            out.write(content)

    with FakeTpamCli(tpam, {'sps': public}) as cli:
        with open(os.path.join(program.TESTS, 'certs', 'good.pem')) as certificate:
            write('tls.pem', certificate.read())
        write('id_tpam', key.export_private_key().decode('ascii'))
        write('gateway.toml', CONFIGURATION % {
            'port': cli.port, 'host_key': cli.known_host, 'hash': hash_password(password)})
        process = subprocess.Popen([sys.executable, PROGRAM, 'serve', '--config',
                                    os.path.join(directory, 'gateway.toml')],
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            gateway = Gateway(directory, cli, key)
            while not gateway.log():
                if process.poll() is not None:
                    raise program.Mistake(u'the gateway did not start: %s' % PROGRAM)
                time.sleep(0.05)
            gateway.port = int(gateway.log()[0]['listen'].rpartition(':')[2])
            yield gateway
        finally:
            process.terminate()
            process.wait()


# ---- measuring

COMMAND = 'Retrieve --SystemName "WEB01" --AccountName "root" --ReasonText "bench"'
OPTIONS = {'SystemName': 'WEB01', 'AccountName': 'root', 'ReasonText': 'bench'}


def times_of_calls(gateway, password, count):
    """Run a command alternately over SSH and through the gateway, on kept connections -> (seconds, seconds) medians."""
    context = ssl.create_default_context(cafile=os.path.join(program.TESTS, 'certs', 'ca.pem'))
    connection = http.client.HTTPSConnection('localhost', gateway.port, context=context)
    pair = base64.b64encode(('sps:%s' % password).encode('utf-8')).decode('ascii')
    headers = {'Content-Type': 'text/xml', 'Authorization': 'Basic ' + pair}
    body = xmlrpc.client.dumps((OPTIONS,), 'Retrieve').encode('utf-8')

    async def measure():
        known = ([asyncssh.import_public_key(gateway.cli.known_host)], [], [])
        direct, through = [], []
        async with asyncssh.connect('127.0.0.1', gateway.cli.port, known_hosts=known, username='sps', config=None,
                                    client_keys=[gateway.key], agent_path=None) as tpam:
            for _ in range(count + 1):
                began = time.perf_counter()
                await tpam.run(COMMAND, check=True)
                direct.append(time.perf_counter() - began)
                began = time.perf_counter()
                connection.request('POST', '/RPC2', body, headers)
                if b'<int>0</int>' not in connection.getresponse().read():
                    raise program.Mistake(u'the gateway refused a call of the bench')
                through.append(time.perf_counter() - began)
        return [statistics.median(seconds[1:]) for seconds in (direct, through)]
    return asyncio.run(measure())
