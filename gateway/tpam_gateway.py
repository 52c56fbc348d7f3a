"""A gateway from XML-RPC over TLS to TPAM's command line over SSH.

serve   Serves until SIGTERM. SIGHUP reads the configuration and the certificates again.
check   Tries the configuration and the log-in at each TPAM, and sends ListSystems.
hash    Asks for a password and prints its hash for the configuration.

See README.md. docs/protocol.md describes the calls. Python 3.9 and later.
"""
import argparse
import asyncio
import base64
import errno
import functools
import getpass
import hashlib
import hmac
import ipaddress
import itertools
import logging
import math
import os
import re
import secrets
import signal
import socket
import sys
import time
import weakref
import xmlrpc.client
from xml.parsers.expat import ExpatError

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from defusedxml import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser

import commands
from commands import Fault, OutcomeUnknown, Refused
from log import Log
from settings import Mistake, contains, hash_password, read_settings, verify_password
from ssh import CliUser, Node, NotSent, TookTooLong

MAX_HEAD, MAX_BODY = 16 * 1024, 64 * 1024  # bytes; docs/protocol.md
MAX_HEADERS = 32
MAX_CONNECTIONS, MAX_OF_NETWORK = 500, 100  # each takes up to 420 KiB
HANDSHAKE_TIME, HEAD_TIME, BODY_TIME, SEND_TIME = 10, 10, 10, 30  # seconds
KEEP_OPEN = 90       # seconds; the plugin asks again after up to 60
WRONG_PASSWORD = 1   # seconds that each wrong password takes
BAD_XML, BAD_CALL = -32700, -32600  # fault codes
DUMMY_HASH = hash_password('')  # for unknown names, so that they take as long as known ones
LOGGED = {'system': 'SystemName', 'account': 'AccountName', 'request': 'RequestID'}
NOT_IN_XML = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]')


class HttpError(Exception):
    """The call fails. Arguments: the HTTP status, and the outcome for the log."""


# ---- XML-RPC -------------------------------------------------------------------------------------

def decode_call(body):
    """Return (method, options) of a methodCall (bytes). Raises Fault."""
    unmarshaller = xmlrpc.client.Unmarshaller()
    try:
        parser = DefusedExpatParser(unmarshaller, forbid_dtd=True)
        parser.feed(body)
        parser.close()
        params, method = unmarshaller.close(), unmarshaller.getmethodname()
    except (ExpatError, DefusedXmlException) as error:
        raise Fault(BAD_XML, 'no XML that is allowed: %s' % type(error).__name__)
    except Exception as error:  # an element out of place raises any of a dozen classes
        raise Fault(BAD_CALL, 'not an XML-RPC call: %s' % type(error).__name__)
    if not method:
        raise Fault(BAD_CALL, 'not an XML-RPC call: no methodName')
    return method, params[0] if len(params) == 1 else params


def encode_answer(answer):
    """Return an answer (dict, or xmlrpc.client.Fault) as bytes."""
    if isinstance(answer, dict):
        answer = (answer,)
    text = NOT_IN_XML.sub('\ufffd', xmlrpc.client.dumps(answer, methodresponse=True))
    return text.replace('\r', '&#13;').encode('utf-8')  # a parser would read \r as \n


# ---- who asks ------------------------------------------------------------------------------------

class Authentication:
    """Determine the user of a call. stopping: a task that is done at the end of the program."""

    def __init__(self, stopping):
        self._stopping = stopping
        self._key = secrets.token_bytes(32)
        self._verified = {}  # name: MAC of the password that was verified last
        self._locks = weakref.WeakValueDictionary()  # network: lock, while there are log-ins

    async def user(self, request, held, users):
        """Return the User, one of users ({name: User}), of a request. Raises HttpError.

        held: what identifies the client certificate. Whatever is wrong, the client is told the same
        after the same time.
        """
        name, password = _basic(request.headers.get('Authorization', ''))
        user = users.get(name)
        if name is None:
            matching = [other for other in users.values()
                        if other.password is None and held & set(other.certificates)]
            user = matching[0] if len(matching) == 1 else None
        outcome = 'log-in failed'
        if user is not None and not contains(user.clients, request.protocol.address):
            user, outcome = None, 'address not allowed'
        elif user is not None and user.certificates and not held & set(user.certificates):
            user, outcome = None, 'client certificate missing or wrong'
        if name is not None and not await self._check_password(user, password, request):
            user = None
        if user is None:
            shown = [' (certificate %s...)' % entry[:23] for entry in sorted(held)]
            raise HttpError(401, outcome + ''.join(shown[:1]))
        return user

    async def _check_password(self, user, password, request):
        """Return whether the password is right. Those from one network that are not known to be
        right are checked one after the other, with a pause after a wrong one."""
        hashed = DUMMY_HASH if user is None or user.password is None else user.password
        mac = hmac.new(self._key, ('%s\0%s' % (hashed, password)).encode('utf-8', 'surrogatepass'),
                       hashlib.sha256).digest()
        if self._is_verified(user, mac):
            return True
        async with self._locks.setdefault(request.protocol.network, asyncio.Lock()):
            if self._is_verified(user, mac):  # by the call before this one
                return True
            if not _is_open(request):  # clients that have gone do not fill the queue
                return False
            is_good = await asyncio.to_thread(verify_password, password, hashed)
            if is_good and user is not None and user.password is not None:
                self._verified[user.name] = mac
                return True
            await asyncio.wait([self._stopping], timeout=WRONG_PASSWORD)
            return False

    def _is_verified(self, user, mac):
        return user is not None and hmac.compare_digest(self._verified.get(user.name, b''), mac)


def _basic(header):
    """Return (name, password) of an Authorization header, or (None, None) without that scheme."""
    scheme, _, credentials = header.partition(' ')
    if scheme.lower() != 'basic':
        return None, None
    try:
        name, _, password = base64.b64decode(credentials).decode('utf-8').partition(':')
    except ValueError:
        raise HttpError(401, 'log-in failed')
    return name, password


def _certificate(request):
    """Return what identifies the client certificate of a connection, as in the configuration."""
    tls = request.get_extra_info('ssl_object')
    der = tls.getpeercert(True) if tls is not None else None
    if der is None:
        return set()
    subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    return {'sha256:' + hashlib.sha256(der).hexdigest(), 'subject:' + subject}


# ---- a connection --------------------------------------------------------------------------------

class Connection(web.RequestHandler):
    """The connection of one client, which has a limited time for its next request, and a limited
    size. Attributes: address; network, see network_of(); settings and cli_users, those under
    which it was accepted; call, a lock that its call holds; is_used, whether a call was answered;
    ended, an event."""

    def __init__(self, server, settings, cli_users, address):
        web.RequestHandler.__init__(
            self, server, loop=asyncio.get_running_loop(), keepalive_timeout=KEEP_OPEN,
            lingering_time=1, access_log=None, auto_decompress=False, max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD, max_headers=MAX_HEADERS)
        self.settings, self.cli_users = settings, cli_users
        self.address, self.network = address, network_of(address)
        self.call, self.is_used, self.ended = asyncio.Lock(), False, asyncio.Event()

    def connection_made(self, transport):
        self._wire = transport
        self.expect_request(HEAD_TIME)
        web.RequestHandler.connection_made(self, transport)

    def connection_lost(self, error):
        self._timer.cancel()
        self.ended.set()
        web.RequestHandler.connection_lost(self, error)

    def expect_request(self, seconds):
        """Close the connection unless a request begins within these seconds."""
        self._received, self.limit = 0, MAX_HEAD  # bytes
        if not self.ended.is_set():
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wire.abort)

    def data_received(self, data):
        web.RequestHandler.data_received(self, data)
        self._received += len(data)
        if self._messages:  # a head has come in time, and its body may follow
            self._timer.cancel()
            self.limit = MAX_HEAD + MAX_BODY  # for strangers, too
        # The protocol has no second call before the answer to the first. aiohttp 3.13, the last one
        # for Python 3.9, queues them without a limit.
        if self._received > self.limit or len(self._messages) > 1:
            self._wire.abort()
            while len(self._messages) > 1:  # the first may be waiting for its log-in
                self._messages.pop()


def network_of(address):
    """Return what counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    found = ipaddress.ip_address(address.partition('%')[0])
    if found.version == 4 or found.ipv4_mapped:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))


# ---- a call --------------------------------------------------------------------------------------

class Gateway:
    """Serve the calls of one configuration, which reload() replaces."""

    def __init__(self, path, settings, log):
        self._path, self._settings, self._log = path, settings, log
        self._connections = {}  # task: Connection
        self._refused = 0  # connections since the last line about them

    async def handle(self, request):
        """Answer one HTTP request, and log it."""
        connection = request.protocol
        async with connection.call:
            if (request.method, request.path, request.body_exists) == ('GET', '/healthz', False):
                response = await self._healthz()
            else:
                response = await self._respond(request)
            if connection.settings is not self._settings:
                response.force_close()
            connection.expect_request(KEEP_OPEN + HEAD_TIME)
            if not request.content.is_eof():  # aiohttp reads the rest for a second
                response.force_close()
                connection.limit = math.inf
            await _send(request, response)
            connection.is_used = True
            if connection.settings is not self._settings:  # a reload came while it was sent
                connection.force_close()
        return response

    async def _respond(self, request):
        began = time.monotonic()
        line = {'user': None, 'client': request.protocol.address, 'command': None,
                **dict.fromkeys(LOGGED)}
        try:
            answer = await self._answer(request, line)
            body = await asyncio.to_thread(encode_answer, answer)  # a long one takes a second
            response = web.Response(body=body, content_type='text/xml', charset='utf-8')
        except HttpError as error:
            status, line['outcome'] = error.args
            response = web.Response(status=status, text=line['outcome'] + '\n')
            if status == 401:
                response.text = 'log-in failed\n'
                response.headers['WWW-Authenticate'] = 'Basic realm="TPAM", charset="UTF-8"'
        except Exception as error:  # a mistake in this program
            line['outcome'] = 'internal error: %s' % type(error).__name__
            logging.exception('internal error')
            response = web.Response(status=500, text='internal error\n')
        if line['user'] is None:
            response.force_close()
        self._log.write(**line, ms=round(1000 * (time.monotonic() - began)))
        return response

    async def _answer(self, request, line):
        """Return the answer to a call: a dict, or xmlrpc.client.Fault. Fill in the line of the log.
        Raises HttpError."""
        # Those of a connection that is older than the last reload: its certificate was checked
        # against another client_ca.
        settings, cli_users = request.protocol.settings, request.protocol.cli_users
        if sum(len(name) + len(value) for name, value in request.raw_headers) > MAX_HEAD:
            raise HttpError(431, 'head too long')
        if request.path != settings.path:
            raise HttpError(404, 'wrong path')
        if request.method != 'POST':
            raise HttpError(405, 'not a POST')
        if request.content_length is None:  # chunks of a byte take 50 bytes of memory
            raise HttpError(411, 'no Content-Length')
        if request.content_length > MAX_BODY:
            raise HttpError(413, 'body too long')
        user = await self._authentication.user(request, _certificate(request), settings.users)
        line['user'] = user.name
        try:
            name, options = decode_call(await _read_body(request))
            if name in commands.COMMANDS:
                line['command'] = name
            command = commands.command_line(name, options)
            for field, option in LOGGED.items():
                line[field] = options.get(option)
            if name not in user.commands:
                raise Refused('%s is not authorized to use %s through this gateway'
                              % (user.name, name))
            answer = await self._run(request, cli_users[user.login], name, options, command)
        except Fault as fault:
            line['outcome'] = 'fault: %s' % fault
            return xmlrpc.client.Fault(fault.code, str(fault))
        except Refused as refusal:
            text = _without_texts(str(refusal), options)  # before it is cut, perhaps inside one
            line['outcome'] = 'refused: %s' % text[:commands.MAX_TEXT]
            return {'returnCode': commands.REFUSED, 'message': str(refusal)[:commands.MAX_TEXT]}
        line['outcome'] = 'done'
        if 'id' in answer:
            line['request'] = answer['id']
        return answer

    async def _run(self, request, cli_user, name, options, command):
        is_repeatable = commands.is_repeatable(name, options)
        try:
            return await cli_user.run(command, is_repeatable, lambda: _is_open(request),
                                      functools.partial(commands.answer, name, options))
        except NotSent as error:
            if is_repeatable:
                raise HttpError(503, 'not sent: %s' % error)
            # The plugin reads a 503 to such a command as an unknown outcome. With this phrase it
            # asks its next server.
            raise Refused('%s was not sent to TPAM (%s), and is handled as if it were "%s"'
                          % (name, error, commands.REPLICA))
        except OutcomeUnknown as error:
            if is_repeatable and isinstance(error, TookTooLong):
                raise HttpError(504, str(error))
            raise HttpError(500, 'outcome unknown: %s' % error)

    async def _healthz(self):
        response = web.Response(text='TPAM answers\n')
        if not all([await cli_user.is_up() for cli_user in self._cli_users.values()]):
            response = web.Response(status=503, text='TPAM does not answer\n')
        response.force_close()
        return response

    # -- connections

    async def serve(self):
        """Serve until SIGTERM, and finish the calls under way."""
        loop = asyncio.get_running_loop()
        self._cli_users, stopped = _cli_users(self._settings), asyncio.Event()
        stopping, self._reloading = loop.create_task(stopped.wait()), asyncio.Lock()
        self._authentication = Authentication(stopping)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self.reload()))
        self._server = web.Server(self.handle)
        listener = listen(self._settings.listen)
        self._log.write(event='started', listen='%s:%d' % listener.getsockname()[:2],
                        warnings=warnings_of(self._settings))
        accepting = loop.create_task(self._accept(listener))
        await stopping
        accepting.cancel()
        listener.close()
        limits = self._settings.limits  # a call may wait for its turn as long as for its answer
        self._server.pre_shutdown()
        await self._server.shutdown(2 * limits.command_timeout + limits.connect_timeout)
        self._log.write(event='stopped')

    async def reload(self):
        """Read the configuration again. A wrong one changes nothing. Calls under way go on as they
        began."""
        try:
            async with self._reloading:  # the last one read is the last one that counts
                settings = await asyncio.to_thread(read_settings, self._path)
            if (settings.listen, settings.log) != (self._settings.listen, self._settings.log):
                raise Mistake('[server] listen and log need a restart')
        except Mistake as mistake:
            self._log.write(event='not reloaded', reason=str(mistake))
            return
        self._retiring = asyncio.ensure_future(_retire(dict(self._connections), self._cli_users))
        self._settings, self._cli_users = settings, _cli_users(settings)
        self._log.write(event='reloaded', warnings=warnings_of(settings))

    async def _accept(self, listener):
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # sock_accept() lets nobody run while connections wait
            try:
                wire, peer = await loop.sock_accept(listener)
            except OSError:  # the other side has gone, or there are too many open files
                await asyncio.sleep(0.1)
                continue
            networks = [connection.network for connection in self._connections.values()]
            if not self._settings.is_client(peer[0]):
                self._refuse(wire, peer[0], 'address not allowed')
            elif (len(networks) >= MAX_CONNECTIONS
                    or networks.count(network_of(peer[0])) >= MAX_OF_NETWORK):
                self._refuse(wire, peer[0], 'too many connections')
            else:
                connection = Connection(self._server, self._settings, self._cli_users, peer[0])
                task = loop.create_task(self._connect(wire, connection))
                self._connections[task] = connection
                task.add_done_callback(self._connections.pop)

    def _refuse(self, wire, address, reason):
        """Close a connection; the first one in a second is logged with the number of all."""
        def write():
            self._log.write(client=address, outcome=reason, connections=self._refused)
            self._refused = 0
        wire.close()
        if not self._refused:
            asyncio.get_running_loop().call_later(1, write)
        self._refused += 1

    async def _connect(self, wire, connection):
        """Shake hands on a new connection, and wait for the end of it and of its call."""
        settings, address = connection.settings, connection.address
        is_old = contains(settings.old_clients, address)
        context = settings.old_context if is_old else settings.context
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, wire, ssl=context, ssl_handshake_timeout=HANDSHAKE_TIME)
            await connection.ended.wait()
            async with connection.call:
                pass
        except OSError as error:
            self._log.write(client=address, outcome='no TLS: %s'
                            % (getattr(error, 'reason', None) or error))


def _cli_users(settings):
    """Return {CliLogin: CliUser}. Users of the gateway with the same login share its connection."""
    return {user.login: CliUser(settings.tpams, user.login, settings.limits)
            for user in settings.users.values()}


async def _retire(connections, cli_users):
    """Close the connections of a configuration that was replaced, after the calls under way, and
    then those to TPAM. connections: {task: Connection}."""
    for connection in connections.values():
        if connection.is_used and not connection.call.locked():
            connection.force_close()
    if connections:
        await asyncio.wait(connections)
    for cli_user in cli_users.values():
        for node in cli_user.nodes:
            node.close()


def listen(address):
    host, port = address
    is_ipv6 = ':' in host
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET, backlog=1024,
            dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6())
    except OSError as error:
        raise Mistake('[server] listen: %s:%d: %s' % (host, port, error.strerror or error))
    listener.setblocking(False)
    return listener


def warnings_of(settings):
    """Return a line for each thing that is less safe than it could be."""
    found = []
    if settings.old_clients:
        found.append('minimum_tls: TLS 1.0 with weak ciphers is allowed for %s'
                     % ', '.join(str(network) for network in settings.old_clients))
    if settings.limits.old_algorithms:
        found.append('old_algorithms: SSH with SHA-1 and CBC is allowed to TPAM')
    for user in settings.users.values():
        if any(network.prefixlen == 0 for network in user.clients):
            found.append('clients of %s: every address is allowed' % user.name)
    return found


def _is_open(request):
    return request.transport is not None and not request.transport.is_closing()


async def _read_body(request):
    """Return the body of a request. Raises HttpError if it is too slow or cut off."""
    try:
        return await asyncio.wait_for(request.content.read(), BODY_TIME)
    except asyncio.TimeoutError:
        raise HttpError(408, 'body too slow')
    except (aiohttp.ClientError, OSError, RuntimeError):  # the last if the connection has ended
        raise HttpError(400, 'body incomplete')


async def _send(request, response):
    """Send a response; drop a client that does not read it."""
    try:
        await asyncio.wait_for(response.prepare(request), SEND_TIME)
        await asyncio.wait_for(response.write_eof(), SEND_TIME)
    except (asyncio.TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    return response


def _without_texts(text, options):
    """Return a text of TPAM for the log, without the texts of the caller that it may repeat."""
    texts = [str(options[name]).strip() for name in commands.FREE_TEXTS if name in options]
    for each in sorted(filter(None, texts), key=len, reverse=True):  # one may be in another
        text = text.replace(each, '...')
    return text


# ---- the program ---------------------------------------------------------------------------------

def serve(options):
    """Serve until a signal. Return the exit status."""
    settings = read_settings(options.config)
    for warning in warnings_of(settings):
        print('WARNING: ' + warning, file=sys.stderr, flush=True)
    log = Log(settings.log)
    logging.basicConfig(handlers=[log])
    logging.getLogger('asyncssh').setLevel(logging.CRITICAL)
    logging.getLogger('asyncio').setLevel(logging.ERROR)  # it warns of connections that broke
    asyncio.run(Gateway(options.config, settings, log).serve())
    log.close()
    return 0


def check(options):
    """Try the configuration and each TPAM. Return the exit status."""
    settings, status = read_settings(options.config), 0
    for word, text in itertools.chain(_check_machine(settings), _check_tpams(settings)):
        print('%-6s %s' % (word, text), flush=True)
        if word == 'WRONG':
            status = 1
    return status


def _check_machine(settings):
    """Yield ('ok', 'NOTE' or 'WRONG', text) for what can be tried without TPAM."""
    yield 'ok', 'the configuration and its files'
    for warning in warnings_of(settings):
        yield 'NOTE', warning
    with open(settings.certificate, 'rb') as pem:
        own = x509.load_pem_x509_certificates(pem.read())
    cas = [x509.load_der_x509_certificate(der) for der in settings.context.get_ca_certs(True)]
    for certificate in own + cas:
        word = 'ok' if _is_valid(certificate) else 'WRONG'
        if word == 'WRONG' and certificate in cas and any(map(_is_valid, cas)):
            word = 'NOTE'  # clients are moving to the other CA
        yield word, 'certificate %s: valid from %s to %s' % (
            certificate.subject.rfc4514_string(), certificate.not_valid_before_utc,
            certificate.not_valid_after_utc)
    if settings.old_clients and not isinstance(own[0].public_key(), rsa.RSAPublicKey):
        yield 'WRONG', 'certificate: for old_clients its key must be RSA'
    is_new = settings.log is not None and not os.path.exists(settings.log)
    try:
        Log(settings.log).close()
        if is_new:
            os.remove(settings.log)  # its owner may be another than that of the service
        listen(settings.listen).close()
    except Mistake as mistake:  # the port is busy if the service runs, and closed to most users
        is_usual = mistake.__context__.errno in (errno.EADDRINUSE, errno.EACCES)
        yield 'NOTE' if is_usual and 'listen' in str(mistake) else 'WRONG', mistake


def _is_valid(certificate):
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return first.timestamp() <= time.time() <= last.timestamp()


def _check_tpams(settings):
    for login in {user.login for user in settings.users.values()}:
        for tpam in settings.tpams:
            node = Node(tpam, login, settings.limits)
            word, text = asyncio.run(_check_tpam(node))
            yield word, '%s at %s: %s' % (login.name, node.name, text)


async def _check_tpam(node):
    began, options = time.monotonic(), {'MaxRows': 1}
    try:
        output = await node.run(commands.command_line('ListSystems', options))
        count = commands.answer('ListSystems', options, output)['count']
        return 'ok', 'ListSystems answered with %d rows in %.2f s' % (
            count, time.monotonic() - began)
    except Refused as refusal:
        return 'NOTE', ('the log-in works; ListSystems is refused: %s'
                        % str(refusal)[:commands.MAX_TEXT])
    except Exception as error:
        return 'WRONG', error
    finally:
        node.close()


def hash_command(options):
    """Ask for a password, and print its hash. Return the exit status."""
    if sys.stdin.isatty():
        password = getpass.getpass('Password: ')
    else:
        password = sys.stdin.readline().rstrip('\n')
    if not password:
        raise Mistake('the password is empty')
    print(hash_password(password))
    return 0


def main():
    """Run the command of the command line. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest='action', required=True)
    for name in ('serve', 'check'):
        actions.add_parser(name).add_argument('--config', required=True, metavar='FILE')
    actions.add_parser('hash')
    options = parser.parse_args()
    try:
        return {'serve': serve, 'check': check, 'hash': hash_command}[options.action](options)
    except Mistake as mistake:
        print('tpam_gateway.py: %s' % mistake, file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
