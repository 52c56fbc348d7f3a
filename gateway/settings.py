"""The configuration: a TOML file, and the files that it names, checked as a whole.

Everything that is wrong raises Mistake, one line that names the option. Secrets are never in it.
"""
import base64
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import ssl
import stat
from collections import namedtuple

try:
    import tomllib
except ImportError:  # before Python 3.11
    import tomli as tomllib

import asyncssh

from commands import COMMANDS

MAX_COMMANDS, CONNECT_TIMEOUT, COMMAND_TIMEOUT = 4, 5, 50
SCRYPT = {'n': 2 ** 14, 'r': 8, 'p': 1}  # 16 MiB and some 50 ms


class Mistake(Exception):
    """The configuration is wrong; the text says what to change."""


# How commands are run; times in seconds.
Limits = namedtuple('Limits', 'max_commands connect_timeout command_timeout old_algorithms')
# One TPAM; host_key is an asyncssh key.
Tpam = namedtuple('Tpam', 'host port host_key')
# A user of TPAM's command line; key is an asyncssh private key.
CliLogin = namedtuple('CliLogin', 'name key')
# A user of the gateway. password: a hash, or None. certificates: fingerprints and subjects. login:
# CliLogin. commands: names. clients: networks.
User = namedtuple('User', 'name password certificates login commands clients')


class Settings:
    """The whole configuration.

    listen: (host, port). path: of the URL. log: path of the file, or None for stdout.
    certificate: path of the PEM. context: SSLContext for everybody but old_clients, a list of
    networks. old_context: the SSLContext for these. tpams: [Tpam]. limits: Limits.
    users: {name: User}.
    """

    def is_client(self, address):
        """Return whether any user may call from this address."""
        return any(contains(user.clients, address) for user in self.users.values())


def contains(networks, address):
    """Return whether an address (text) is in one of the networks."""
    address = ipaddress.ip_address(address.partition('%')[0])
    mapped = getattr(address, 'ipv4_mapped', None)
    return any((mapped or address) in network for network in networks)


# ---- password hashes -----------------------------------------------------------------------------

def hash_password(password):
    """Return a password (text) as scrypt$N$r$p$salt$hash."""
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode('utf-8'), salt=salt, dklen=32, **SCRYPT)
    encoded = [base64.b64encode(part).decode('ascii') for part in (salt, digest)]
    return '$'.join(['scrypt'] + [str(value) for value in SCRYPT.values()] + encoded)


def verify_password(password, hashed):
    """Return whether a password (text) has this hash. Takes as long as SCRYPT says."""
    n, r, p, salt, digest = hashed.split('$')[1:]
    found = hashlib.scrypt(password.encode('utf-8'), salt=base64.b64decode(salt), dklen=32,
                           n=int(n), r=int(r), p=int(p), maxmem=64 * 1024 * 1024)
    return hmac.compare_digest(found, base64.b64decode(digest))


def is_hash(text):
    """Return whether a text is a hash that verify_password() can take, in time and in memory."""
    try:
        kind, n, _, p, _, digest = text.split('$')
        verify_password('', text)
        is_strong = int(n) >= SCRYPT['n'] and len(base64.b64decode(digest)) == 32
        return kind == 'scrypt' and p == '1' and is_strong
    except (ValueError, OverflowError):  # verify_password() raises them for too much memory, too
        return False


# ---- files ---------------------------------------------------------------------------------------

def check_private(path):
    """Refuse a file that other users can read or write."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Mistake('%s: %s' % (path, error.strerror))
    if stat.S_IMODE(status.st_mode) & 0o027:
        raise Mistake('%s: others can read it, or its group can write it; chmod 640 or 600' % path)
    if status.st_uid not in (0, os.geteuid()):
        raise Mistake('%s: it belongs to another user than root and the one that runs this' % path)


def _read_key(path):
    check_private(path)
    try:
        return asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise Mistake('%s: not a private key without a passphrase: %s' % (path, error))


# ---- TOML ----------------------------------------------------------------------------------------

class Table:
    """One table of the file. take() returns an option and checks its type; end() refuses the rest.
    """

    def __init__(self, name, content):
        if not isinstance(content, dict):
            raise Mistake('[%s] must be a table' % name)
        self.name, self._content = name, dict(content)

    def take(self, option, kind, *default):
        """Return an option of this type, or the default. Without a default it is required."""
        if option not in self._content:
            if default:
                return default[0]
            raise self.mistake(option, 'is missing')
        value = self._content.pop(option)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise self.mistake(option, 'must be a %s' % kind.__name__)
        return value

    def texts(self, option, *default):
        """Return a list of texts."""
        values = self.take(option, list, *default)
        if not all(isinstance(value, str) and value for value in values) or not (values or default):
            raise self.mistake(option, 'must be a list of texts, and not empty')
        return values

    def networks(self, option, *default):
        """Return a list of networks, from addresses such as 192.0.2.1 and 192.0.2.0/24."""
        try:
            networks = [ipaddress.ip_network(text) for text in self.texts(option, *default)]
        except ValueError as error:
            raise self.mistake(option, 'has a wrong address: %s' % error)
        for network in networks:
            if getattr(network.network_address, 'ipv4_mapped', None) is not None:
                raise self.mistake(option, 'has a wrong address: %s; write it as IPv4' % network)
        return networks

    def end(self):
        """Refuse options that nobody took."""
        for option in self._content:
            raise self.mistake(option, 'is unknown')

    def mistake(self, option, text):
        return Mistake('[%s] %s %s' % (self.name, option, text))


def read_settings(path):
    """Return the Settings in a file. Raises Mistake."""
    check_private(path)
    try:
        with open(path, 'rb') as content:
            document = Table('file', tomllib.load(content))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Mistake('%s: %s' % (path, error))
    folder = os.path.dirname(os.path.abspath(path))
    settings = Settings()
    _read_server(Table('server', document.take('server', dict)), folder, settings)
    tpams = document.take('tpam', list)
    settings.tpams = [_read_tpam(Table('tpam', content)) for content in tpams]
    settings.limits = _read_limits(Table('ssh', document.take('ssh', dict, {})))
    settings.users = {}
    for content in document.take('user', list):
        user = _read_user(Table('user', content), folder)
        if user.name in settings.users:
            raise Mistake('[user] name %s is there twice' % user.name)
        settings.users[user.name] = user
    document.end()
    if not settings.tpams or not settings.users:
        raise Mistake('at least one [[tpam]] and one [[user]] are needed')
    users = [user for user in settings.users.values() if user.certificates]
    if users and settings.context.verify_mode == ssl.CERT_NONE:
        raise Mistake('[server] client_ca is missing: certificates of users need it')
    entries = [entry for user in users if user.password is None for entry in user.certificates]
    if len(set(entries)) < len(entries):
        raise Mistake('[user] certificates: one that is enough without a password is there twice')
    return settings


def _read_server(table, folder, settings):
    settings.listen = _address(table, 'listen', 443)
    settings.path = table.take('path', str, '/RPC2')
    if not settings.path.startswith('/'):
        raise table.mistake('path', 'must begin with /')
    log = table.take('log', str, '')
    settings.log = os.path.join(folder, log) if log else None
    minimum = table.take('minimum_tls', str, '1.2')
    if minimum not in ('1.0', '1.2'):
        raise table.mistake('minimum_tls', 'must be one of 1.0, 1.2')
    settings.old_clients = table.networks('old_clients', [])
    if bool(settings.old_clients) != (minimum == '1.0'):
        raise table.mistake('old_clients', 'must name the addresses of the old appliances if '
                                           'minimum_tls is 1.0, and only then')
    settings.certificate = certificate = os.path.join(folder, table.take('certificate', str))
    client_ca = table.take('client_ca', str, '')
    client_ca = os.path.join(folder, client_ca) if client_ca else None
    table.end()
    check_private(certificate)
    settings.context = settings.old_context = _context(certificate, client_ca)
    if settings.old_clients:
        settings.old_context = _context(certificate, client_ca, is_old=True)


def _context(certificate, client_ca, is_old=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if is_old:
        context.set_ciphers('DEFAULT:@SECLEVEL=0')  # OpenSSL 3 has no TLS 1.0 above level 0
        context.minimum_version = ssl.TLSVersion.TLSv1
    try:
        context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise Mistake('[server] certificate: %s contains no certificate with its unencrypted '
                      'key: %s' % (certificate, error))
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise Mistake('[server] client_ca: %s: %s' % (client_ca, error))
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _address(table, option, default_port):
    """Return (host, port) of host, host:port or [ipv6]:port."""
    value = table.take(option, str)
    found = re.fullmatch(r'(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/\s]+))(?::([0-9]{1,5}))?', value)
    port = int(found.group(3) or default_port) if found else 65536
    if port > 65535:
        raise table.mistake(option, 'must be host, host:port or [ipv6]:port')
    return found.group(1) or found.group(2), port


def _read_tpam(table):
    host, port = _address(table, 'address', 22)
    line = table.take('host_key', str)
    table.end()
    try:
        return Tpam(host, port, asyncssh.import_public_key(line))
    except asyncssh.KeyImportError:
        raise table.mistake('host_key', 'must be the kind and the base64 of a line of known_hosts')


def _read_limits(table):
    limits = Limits(table.take('max_commands', int, MAX_COMMANDS),
                    table.take('connect_timeout', float, CONNECT_TIMEOUT),
                    table.take('command_timeout', float, COMMAND_TIMEOUT),
                    table.take('old_algorithms', bool, False))
    table.end()
    if limits.max_commands < 1 or limits.connect_timeout <= 0 or limits.command_timeout <= 0:
        raise Mistake('[ssh] max_commands, connect_timeout and command_timeout must be positive')
    return limits


def _read_user(table, folder):
    name = table.take('name', str)
    if not name or ':' in name:
        raise table.mistake('name', 'must not be empty, and must not contain a colon')
    table.name = 'user] [name %s' % name
    password = table.take('password', str, None)
    if password is not None and not is_hash(password):
        raise table.mistake('password', 'must be a hash; tpam_gateway.py hash makes one')
    certificates = table.texts('certificates', [])
    for entry in certificates:
        if not re.fullmatch('sha256:[0-9a-f]{64}|subject:.+', entry):
            raise table.mistake('certificates', 'must be sha256:<64 hexadecimal digits in lower '
                                                'case> or subject:<name as in RFC 4514>')
    if password is None and not certificates:
        raise table.mistake('password', 'or certificates must be there')
    cli_user, key = table.take('cli_user', str), os.path.join(folder, table.take('key', str))
    if not cli_user:
        raise table.mistake('cli_user', 'is empty')
    commands = table.texts('commands')
    for command in commands:
        if command not in COMMANDS:
            raise table.mistake('commands', 'has an unknown command: %s' % command)
    clients = table.networks('clients')
    table.end()
    login = CliLogin(cli_user, _read_key(key))
    return User(name, password, certificates, login, commands, clients)
