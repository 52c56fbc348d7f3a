"""The world of the gateway's tests: a TPAM, its command line, and the gateway in front of it."""
import asyncio
import base64
import hashlib
import http.client
import importlib.util
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import xmlrpc.client

import asyncssh

import package
from certs import make as certs
from fake_tpam import FakeTpam

PROGRAM = os.path.join(package.ROOT, 'gateway', 'tpam_gateway.py')
PASSWORD = 'Tr0ub4dor-&]]>%(x)s\'é密'       # one word, as TPAM's own passwords are


def load_plugin_world():
    """Return tests/conftest.py, whose name is that of the conftest of this folder, too."""
    spec = importlib.util.spec_from_file_location('plugin_world', os.path.join(package.ROOT, 'tests', 'conftest.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin_world = load_plugin_world()
read, API_PASSWORD = plugin_world.read, plugin_world.API_PASSWORD


def public(key):
    """Return a public key in OpenSSH's format."""
    return key.export_public_key('openssh').decode('ascii').strip()


def new_tpam():
    """Return a FakeTpam with WEB01 (10.0.0.5), its account root, and the users sps and jdoe."""
    tpam = FakeTpam(request_ids='tpam')
    tpam.add_system('WEB01', '10.0.0.5')
    tpam.add_account('WEB01', 'root', PASSWORD)
    tpam.add_user('sps')
    tpam.add_user('jdoe', isa=False, admin=False)
    return tpam


def ssh(cli, *lines, **options):
    """Send command lines over one connection -> [(stdout, stderr, exit status)]. None logs in without a command."""
    async def send():
        known = ([asyncssh.import_public_key(cli.known_host)], [], [])
        async with asyncssh.connect(cli.host, cli.port, known_hosts=known, config=None, agent_path=None,
                                    preferred_auth='publickey', signature_algs='+ssh-dss', **options) as connection:
            found = []
            for line in lines:
                result = await connection.run(line, encoding='utf-8')
                found.append((result.stdout, result.stderr, result.exit_status))
            return found
    return asyncio.run(send())


# ---- the gateway ---------------------------------------------------------------------------------------------------

COMMANDS = ['Retrieve', 'AddPwdRequest', 'GetPwdRequest', 'Cancel', 'ListRequestDetails', 'ListAssignedPolicies',
            'ListAccounts', 'ListSystems', 'ForceReset']


class Answer:
    """What came for a call: status, headers, and value (a dict, an xmlrpc Fault, or None for another status)."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()
        self.value = None
        if response.status == 200 and 'xml' in response.headers['Content-Type']:
            try:
                self.value, = xmlrpc.client.loads(self.body)[0]
            except xmlrpc.client.Fault as fault:
                self.value = fault

    def __getattr__(self, name):
        return self.value[{'code': 'returnCode'}.get(name, name)]


class Gateway:
    """A gateway in a process of its own, on a free port of 127.0.0.1, in front of these command lines.

    directory: where its files are. options: {section: {option: value}} that change the configuration; None takes an
    option out. users: [{option: value}] in place of the one user sps.
    """

    def __init__(self, directory, clis, key, users=({},), **options):
        self.directory, self.clis = str(directory), clis
        self.key = self.write('id_tpam', key.export_private_key('openssh').decode('ascii'))
        self.password_hash = CHEAP_HASH
        self.config = self.configure(users, **options)
        self.process = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, name, content, mode=0o600):
        with open(self.path(name), 'w', encoding='utf-8') as out:
            out.write(content)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def configure(self, users=({},), tpam=None, **options):
        """Write the configuration -> its path."""
        server = {'listen': '127.0.0.1:0', 'certificate': self.write('tls.pem', read('certs/good.pem')), 'log': 'log'}
        sections = {'server': server, 'ssh': {'connect_timeout': 5.0}}
        for name, changes in options.items():
            sections[name].update(changes)
        lines = []
        for name, section in sections.items():
            lines += ['[%s]' % name] + as_toml(section)
        for cli in self.clis:
            changed = dict({'address': '%s:%d' % (cli.host, cli.port), 'host_key': cli.known_host}, **tpam or {})
            lines += ['[[tpam]]'] + as_toml(changed)
        for user in users:
            usual = {'name': 'sps', 'password': self.password_hash, 'cli_user': 'sps', 'key': 'id_tpam',
                     'commands': COMMANDS, 'clients': ['127.0.0.1']}
            lines += ['[[user]]'] + as_toml(dict(usual, **user))
        return self.write('gateway.toml', '\n'.join(lines) + '\n')

    def run(self, *words, **options):
        """Run the program -> (exit status, what it printed)."""
        result = subprocess.run([sys.executable, PROGRAM] + list(words), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, encoding='utf-8', timeout=60, **options)
        return result.returncode, result.stdout

    def start(self):
        """Start to serve -> self."""
        self.process = subprocess.Popen([sys.executable, PROGRAM, 'serve', '--config', self.config],
                                        stderr=subprocess.PIPE, encoding='utf-8')
        started = self.wait_for(event='started')
        self.port = int(started['listen'].rpartition(':')[2])
        return self

    def stop(self):
        """Let it end -> (exit status, what it printed to stderr)."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60), self.process.stderr.read()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()

    def forget_log(self):
        """Empty the log."""
        os.truncate(self.path('log'), 0)

    def log(self, **fields):
        """Return the lines of the log (dicts) that have these fields."""
        try:
            with open(self.path('log'), encoding='ascii') as lines:
                found = [json.loads(line) for line in lines if line.endswith('\n')]
        except FileNotFoundError:
            return []
        return [line for line in found if all(line.get(name) == value for name, value in fields.items())]

    def wait_for(self, count=1, **fields):
        """Wait until the log has this many lines with these fields -> the last of them."""
        end = time.monotonic() + 30
        while len(self.log(**fields)) < count:
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)
        return self.log(**fields)[-1]

    def context(self, **options):
        context = ssl.create_default_context(cafile=certs.path('ca'))
        for name, value in options.items():
            setattr(context, name, value)
        return context

    def connection(self, context=None, timeout=60, source='127.0.0.1'):
        return http.client.HTTPSConnection('localhost', self.port, timeout=timeout,
                                           context=context or self.context(), source_address=(source, 0))

    def post(self, body, name='sps', password=API_PASSWORD, connection=None, path='/RPC2', **headers):
        """Post a body (bytes) -> Answer. name: None sends no credentials."""
        if name is not None:
            pair = ('%s:%s' % (name, password)).encode('utf-8')
            headers['Authorization'] = 'Basic ' + base64.b64encode(pair).decode('ascii')
        used = connection or self.connection()
        used.request('POST', path, body, dict({'Content-Type': 'text/xml'}, **headers),
                     encode_chunked='Transfer-Encoding' in headers)
        answer = Answer(used.getresponse())
        if connection is None:
            used.close()
        return answer

    def health(self):
        """Return the status of /healthz."""
        connection = self.connection()
        connection.request('GET', '/healthz')
        status = connection.getresponse().status
        connection.close()
        return status

    def call(self, method, options=None, **arguments):
        """Call a command -> Answer."""
        return self.post(xmlrpc.client.dumps((options or {},), method).encode('utf-8'), **arguments)


def as_toml(section):
    """Return the lines of a section; JSON writes texts, numbers and lists as TOML does."""
    return ['%s = %s' % (name, json.dumps(value)) for name, value in section.items() if value is not None]


def cheap_hash(password):
    """Return a hash that takes a few milliseconds to verify."""
    salt = b'0123456789abcdef'
    digest = hashlib.scrypt(password.encode('utf-8'), salt=salt, n=2 ** 14, r=1, p=1, dklen=32)
    return 'scrypt$16384$1$1$%s$%s' % tuple(base64.b64encode(part).decode('ascii') for part in (salt, digest))


CHEAP_HASH = cheap_hash(API_PASSWORD)
