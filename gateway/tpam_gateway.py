"""A gateway from XML-RPC over TLS to TPAM's command line over SSH.

serve   Serves until SIGTERM. SIGHUP reads the configuration and the certificates again.
check   Tries the configuration and the log-in at each TPAM, and sends ListSystems.
hash    Asks for a password and prints its hash for the configuration.

See README.md. docs/protocol.md describes the calls. Python 3.9 and later.
"""
import argparse
import asyncio
import base64
import collections
import functools
import getpass
import hashlib
import hmac
import logging
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
from defusedxml import DefusedXmlException
from defusedxml.xmlrpc import DefusedExpatParser

import commands
from commands import Fault, OutcomeUnknown, Refused
from log import Log, LogHandler
from settings import Mistake, contains, hash_password, read_settings, verify_password
from ssh import CliUser, Node, NotSent, TookTooLong

MAX_HEAD, MAX_BODY = 16 * 1024, 64 * 1024  # bytes; docs/protocol.md
MAX_CONNECTIONS, MAX_OF_ADDRESS = 1000, 250
HANDSHAKE_TIME, HEAD_TIME, BODY_TIME, SEND_TIME = 10, 10, 10, 30  # seconds
KEEP_OPEN = 90       # seconds; the plugin asks again after up to 60
WRONG_PASSWORD = 1   # seconds that each wrong password takes
BAD_XML, BAD_CALL = -32700, -32600  # fault codes
DUMMY_HASH = hash_password('')  # for unknown names, so that they take as long as known ones
LOGGED = {'system': 'SystemName', 'account': 'AccountName', 'request': 'RequestID'}
NOT_IN_XML = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]')


class HttpError(Exception):
    """The call ends with this HTTP status; the text is the outcome in the log."""

    def __init__(self, status, outcome):
        Exception.__init__(self, outcome)
        self.status = status


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
        answer = (_in_xml(answer),)
    text = xmlrpc.client.dumps(answer, methodresponse=True)
    return text.replace('\r', '&#13;').encode('utf-8')  # a parser would read \r as \n


def _in_xml(value):
    """Return a value with base64 in place of the texts that XML cannot carry."""
    if isinstance(value, dict):
        return {name: _in_xml(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_in_xml(member) for member in value]
    if isinstance(value, str) and NOT_IN_XML.search(value):
        return xmlrpc.client.Binary(value.encode('utf-8'))
    return value


# ---- who asks ------------------------------------------------------------------------------------

class Authentication:
    """Determine the user of a call."""

    def __init__(self):
        self._key = secrets.token_bytes(32)
        self._verified = {}  # name: MAC of the password that was verified last
        self._locks = weakref.WeakValueDictionary()  # address: lock, while there are log-ins

    async def user(self, request, address, users):
        """Return the User, one of users ({name: User}), of a request. Raises HttpError."""
        held = _certificate(request)
        scheme, _, credentials = request.headers.get('Authorization', '').partition(' ')
        if scheme.lower() == 'basic':
            name, password = _basic(credentials)
            user = users.get(name)
            has_certificate = user is None or not user.certificates or held & set(user.certificates)
            # Without its certificate a right password takes as long as a wrong one.
            is_good = await self._check_password(
                user if has_certificate else None, password, request, address)
            if not has_certificate:
                raise HttpError(401, 'client certificate missing or wrong')
        else:
            user = _user_of_certificate(held, users)
            is_good = user is not None
        if not is_good:
            raise HttpError(401, 'log-in failed')
        if not contains(user.clients, address):
            raise HttpError(403, 'address not allowed')
        return user

    async def _check_password(self, user, password, request, address):
        """Return whether the password is right. Those from one address that are not known to be
        right are checked one after the other, with a pause after a wrong one."""
        hashed = DUMMY_HASH if user is None or user.password is None else user.password
        mac = hmac.new(self._key, ('%s\0%s' % (hashed, password)).encode('utf-8', 'surrogatepass'),
                       hashlib.sha256).digest()
        if self._is_verified(user, mac):
            return True
        async with self._locks.setdefault(address, asyncio.Lock()):
            if self._is_verified(user, mac):  # by the call before this one
                return True
            if not _is_open(request):  # clients that have gone do not fill the queue
                return False
            is_good = await asyncio.to_thread(verify_password, password, hashed)
            if is_good and user is not None and user.password is not None:
                self._verified[user.name] = mac
                return True
            await asyncio.sleep(WRONG_PASSWORD)
            return False

    def _is_verified(self, user, mac):
        return user is not None and hmac.compare_digest(self._verified.get(user.name, b''), mac)


def _user_of_certificate(held, users):
    for user in users.values():
        if user.password is None and held & set(user.certificates):
            return user
    return None


def _basic(credentials):
    try:
        name, colon, password = base64.b64decode(credentials).decode('utf-8').partition(':')
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


# ---- a call --------------------------------------------------------------------------------------

class Gateway:
    """Serve the calls of one configuration, which reload() replaces."""

    def __init__(self, path, settings, log):
        self._path, self._settings, self._log = path, settings, log
        self._authentication = Authentication()
        self._cli_users = _cli_users(settings)
        self._timers = {}  # connection: what ends it if it sends no request
        self._tasks = set()  # one for each connection
        self._of_address = collections.Counter()  # connections

    async def handle(self, request):
        """Answer one HTTP request, and log it."""
        if request.protocol in self._timers:
            self._timers[request.protocol].cancel()
        if request.method == 'GET' and request.path == '/healthz':
            return await _send(request, await self._healthz())
        began = time.monotonic()
        line = dict.fromkeys(('user', 'client', 'command', 'system', 'account', 'request'))
        line['client'] = _peer(request)
        try:
            answer = await self._answer(request, line)
            body = await asyncio.to_thread(encode_answer, answer)  # a long one takes a second
            response = web.Response(body=body, content_type='text/xml', charset='utf-8')
        except HttpError as error:
            line['outcome'] = str(error)
            response = web.Response(status=error.status, text=str(error) + '\n')
            if error.status == 401:
                response.text = 'log-in failed\n'
                response.headers['WWW-Authenticate'] = 'Basic realm="TPAM", charset="UTF-8"'
        except Exception as error:  # a mistake in this program
            line['outcome'] = 'internal error: %s' % type(error).__name__
            logging.exception('internal error')
            response = web.Response(status=500, text='internal error\n')
        if line['user'] is None:
            response.force_close()
        self._log.write(**line, ms=round(1000 * (time.monotonic() - began)))
        return await _send(request, response)

    async def _answer(self, request, line):
        """Return the answer to a call: a dict, or xmlrpc.client.Fault. Fill in the line of the log.
        Raises HttpError."""
        if request.path != self._settings.path:
            raise HttpError(404, 'wrong path')
        if request.method != 'POST':
            raise HttpError(405, 'not a POST')
        if (request.content_length or 0) > MAX_BODY:
            raise HttpError(413, 'body too long')
        cli_users = self._cli_users  # of the same configuration as the user
        user = await self._authentication.user(request, line['client'], self._settings.users)
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
            answer = await self._run(request, cli_users[user.login_id], name, options, command)
        except Fault as fault:
            line['outcome'] = 'fault: %s' % fault
            return xmlrpc.client.Fault(fault.code, str(fault))
        except Refused as refusal:
            line['outcome'] = 'refused: %s' % _without_texts(str(refusal), options)
            return _refusal(str(refusal))
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
        except TookTooLong as error:
            if is_repeatable:
                raise HttpError(504, str(error))
            raise HttpError(500, 'outcome unknown: %s' % error)
        except OutcomeUnknown as error:
            raise HttpError(500, 'outcome unknown: %s' % error)

    async def _healthz(self):
        up = [await cli_user.is_up() for cli_user in self._cli_users.values()]
        response = web.Response(text='TPAM answers\n')
        if not all(up):
            response = web.Response(status=503, text='TPAM does not answer\n')
        response.force_close()
        return response

    # -- connections

    async def serve(self):
        """Serve until stop()."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        seconds = self._settings.limits.command_timeout + self._settings.limits.connect_timeout
        runner = web.ServerRunner(
            web.Server(self.handle, keepalive_timeout=KEEP_OPEN, lingering_time=1, access_log=None,
                       auto_decompress=False, max_line_size=MAX_HEAD, max_field_size=MAX_HEAD),
            shutdown_timeout=seconds)
        await runner.setup()
        self._server = runner.server
        listener = _listen(self._settings.listen)
        self._log.write(event='started', listen='%s:%d' % listener.getsockname()[:2],
                        warnings=warnings_of(self._settings))
        accepting = loop.create_task(self._accept(listener))
        await self._stopped
        accepting.cancel()
        listener.close()
        await runner.cleanup()
        self._log.write(event='stopped')

    def stop(self):
        """Finish the calls under way, and end serve()."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    def reload(self):
        """Read the configuration again. A wrong one changes nothing. Calls under way go on as they
        began."""
        try:
            settings = read_settings(self._path)
            if (settings.listen, settings.log) != (self._settings.listen, self._settings.log):
                raise Mistake('[server] listen and log need a restart')
        except Mistake as mistake:
            self._log.write(event='not reloaded', reason=str(mistake))
            return
        for cli_user in self._cli_users.values():
            cli_user.retire()
        self._settings, self._cli_users = settings, _cli_users(settings)
        self._log.write(event='reloaded', warnings=warnings_of(settings))

    async def _accept(self, listener):
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError:  # the other side has gone, or there are too many open files
                await asyncio.sleep(0.1)
                continue
            reason = self._why_closed(peer[0])
            if reason is not None:
                connection.close()
                self._log.write(client=peer[0], outcome=reason)
                continue
            self._of_address[peer[0]] += 1
            task = loop.create_task(self._connect(connection, peer[0]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _why_closed(self, address):
        """Return why a new connection is closed at once, or None."""
        if not self._settings.is_client(address):
            return 'address not allowed'
        if (len(self._tasks) >= MAX_CONNECTIONS
                or self._of_address[address] >= MAX_OF_ADDRESS):
            return 'too many connections'
        return None

    async def _connect(self, connection, address):
        """Shake hands on a new connection, give it to the HTTP server, and wait for its end."""
        context = self._settings.context
        if contains(self._settings.old_clients, address):
            context = self._settings.old_context
        loop = asyncio.get_running_loop()
        protocol = self._server()
        self._timers[protocol] = loop.call_later(HEAD_TIME, protocol.force_close)
        try:
            await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=HANDSHAKE_TIME)
            while protocol.transport is not None:  # until the connection is lost, and hardly
                await asyncio.sleep(0.1)           # longer: megabytes of requests may be held
        except OSError as error:
            self._log.write(client=address, outcome='no TLS: %s'
                            % (getattr(error, 'reason', None) or error))
        finally:
            self._timers.pop(protocol).cancel()
            self._of_address -= {address: 1}  # drops the address with its last connection


def _cli_users(settings):
    """Return {login_id: CliUser}. Users of the gateway with the same login share its connection."""
    return {user.login_id: CliUser(settings.tpams, user.login, settings.limits)
            for user in settings.users.values()}


def _listen(address):
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
    if settings.old_context is not None:
        found.append('minimum_tls: TLS 1.0 or 1.1 with weak ciphers is allowed for %s'
                     % ', '.join(str(network) for network in settings.old_clients))
    if settings.limits.old_algorithms:
        found.append('old_algorithms: SSH with SHA-1 and CBC is allowed to TPAM')
    return found


def _refusal(text):
    return {'returnCode': commands.REFUSED, 'message': text}


def _peer(request):
    """Return the address of the client; it may have gone already."""
    if request.transport is None:
        return '0.0.0.0'
    return request.transport.get_extra_info('peername')[0]


def _is_open(request):
    return request.transport is not None and not request.transport.is_closing()


async def _read_body(request):
    """Return the body of a request. Raises HttpError if it is too long or too slow."""
    async def read():
        blocks, size = [], 0
        async for block in request.content.iter_any():
            blocks.append(block)
            size += len(block)
            if size > MAX_BODY:
                raise HttpError(413, 'body too long')
        return b''.join(blocks)
    try:
        return await asyncio.wait_for(read(), BODY_TIME)
    except asyncio.TimeoutError:
        raise HttpError(408, 'body too slow')
    except (aiohttp.ClientError, OSError):
        raise HttpError(400, 'body incomplete')


async def _send(request, response):
    """Send a response; drop a client that does not read it."""
    async def send():
        await response.prepare(request)
        await response.write_eof()
    try:
        await asyncio.wait_for(send(), SEND_TIME)
    except (asyncio.TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    return response


def _without_texts(text, options):
    """Return a text of TPAM for the log, without the texts of the caller that it may repeat."""
    for name in commands.FREE_TEXTS:
        if name in options:
            text = text.replace(str(options[name]), '...')
    return text


# ---- the program ---------------------------------------------------------------------------------

def serve(options):
    """Serve until a signal. Return the exit status."""
    settings = read_settings(options.config)
    for warning in warnings_of(settings):
        print('WARNING: ' + warning, file=sys.stderr, flush=True)
    log = Log(settings.log)
    logging.basicConfig(handlers=[LogHandler(log)])
    logging.getLogger('asyncssh').setLevel(logging.CRITICAL)

    async def run():
        await Gateway(options.config, settings, log).serve()
    try:
        asyncio.run(run())
    finally:
        log.close()
    return 0


def check(options):
    """Try the configuration and each TPAM. Return the exit status."""
    settings = read_settings(options.config)
    print('ok     the configuration and its files')
    for warning in warnings_of(settings):
        print('NOTE   ' + warning)
    with open(settings.certificate, 'rb') as pem:
        certificate = x509.load_pem_x509_certificate(pem.read())
    print('ok     certificate %s until %s UTC' % (
        certificate.subject.rfc4514_string(), certificate.not_valid_after_utc.strftime('%F %T')))
    return asyncio.run(_try_tpams(settings))


async def _try_tpams(settings):
    status = 0
    logins = {user.login_id: user.login for user in settings.users.values()}
    for login in logins.values():
        for tpam in settings.tpams:
            node = Node(tpam, login, settings.limits)
            about = '%s at %s' % (login.name, node.name)
            try:
                began = time.monotonic()
                options = {'MaxRows': 1}
                output = await node.run(commands.command_line('ListSystems', options))
                answer = commands.answer('ListSystems', options, output)
                print('ok     %s: ListSystems answered with %d rows in %.2f s'
                      % (about, answer['count'], time.monotonic() - began))
            except Refused as refusal:
                print('NOTE   %s: the log-in works; ListSystems is refused: %s' % (about, refusal))
            except Exception as error:
                status = 1
                print('WRONG  %s: %s' % (about, error))
            node.close()
    return status


def hash_command(options):
    """Ask for a password, and print its hash. Return the exit status."""
    if sys.stdin.isatty():
        password = getpass.getpass('Password: ')
        if getpass.getpass('Once more: ') != password:
            raise Mistake('the two passwords differ')
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
