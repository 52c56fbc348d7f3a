"""Servers on loopback that misbehave, each in one known way, as context managers::

    with bad_server.serve('dripping_body', certfile=make.path('good')) as server:
        ...talk to localhost, server.port...
    assert server.connections == 1

``BEHAVIOURS`` names all of them and ``GOOD_BEHAVIOURS`` the few whose answer a client may take. That answer is an
XML-RPC struct with ``returnCode`` 0 and ``PASSWORD`` as its ``message``. The others carry ``PASSWORD`` too wherever
they can: a client that returns it has believed what it should not.

``tunnel`` is a proxy, ``link`` a slow line. Python 2.7 and 3.6 or newer, Linux.
"""

import base64
import collections
import functools
import itertools
import json
import select
import socket
import ssl
import threading
import time
import zlib

LOOPBACK = '127.0.0.1'
PASSWORD = 'Tr0ub4dor-of-root'
DRIP_SECONDS = 0.1
MIB = 1024 * 1024

# What a client asked: the request line (text), the headers (dict of text, names in lower case), the body (bytes).
Request = collections.namedtuple('Request', 'line headers body')


class Port(object):
    """A port of loopback on which nobody listens: connections are refused.

    Attributes: ``port`` (int), ``connections`` (int: TCP connections accepted), ``requests`` (list of ``Request``:
    those that came in whole).
    """

    def __init__(self, host=LOOPBACK):
        self._listener = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
        self._listener.bind((host, 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.requests = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()


class FullPort(Port):
    """A port whose queue of connections is full: Linux drops what else comes, as a network without a route does."""

    def __enter__(self):
        self._listener.listen(0)
        self._queue = []
        for _ in range(4):
            client = socket.socket(self._listener.family)
            client.setblocking(False)
            client.connect_ex(self._listener.getsockname())
            self._queue.append(client)
        return self

    def __exit__(self, *_):
        for client in self._queue:
            client.close()
        self._listener.close()


class Server(Port):
    """A server that gives each connection to ``behave(connection)`` in a thread of its own, and then closes it.

    With ``certfile`` (PEM, certificates and key) it speaks TLS 1.0 and newer; with ``client_ca`` (a PEM file) it asks
    for a client certificate of that CA. On exit every connection is closed, whatever its thread was waiting for.
    """

    def __init__(self, behave, certfile=None, client_ca=None, host=LOOPBACK):
        Port.__init__(self, host)
        self._behave = behave
        self._context = tls_context(certfile, client_ca) if certfile else None
        self._handles = []
        self._threads = []

    def __enter__(self):
        self._listener.listen(16)
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        hang_up(self._listener)
        self._threads[0].join()
        for handle in self._handles:
            hang_up(handle)
            handle.close()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _start(self, run, *arguments):
        thread = threading.Thread(target=run, args=arguments)
        thread.daemon = True
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                connection = self._listener.accept()[0]
            except socket.error:    # hung up by __exit__
                return
            self.connections += 1
            # A second handle: it hangs up the connection from any thread, also in the middle of a TLS handshake.
            handle = socket.fromfd(connection.fileno(), connection.family, socket.SOCK_STREAM)
            self._handles.append(handle)
            self._start(self._converse, connection, handle)

    def _converse(self, connection, handle):
        try:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._behave(connection)
        except (socket.error, EOFError):    # the client has had enough, or __exit__ has
            pass
        finally:
            hang_up(handle)
            connection.close()


def tls_context(certfile, client_ca):
    context = ssl.SSLContext(getattr(ssl, 'PROTOCOL_TLS_SERVER', ssl.PROTOCOL_SSLv23))
    if hasattr(context, 'minimum_version'):     # Python 3.7
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers('DEFAULT:@SECLEVEL=0')  # OpenSSL 3 has TLS 1.0 at this level only
    context.load_cert_chain(certfile)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def hang_up(connection):
    """Ends a connection. Closing it would not: another handle may be open, a thread that waits for it would wait on."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except socket.error:    # it has ended already
        pass


def receive(connection):
    received = connection.recv(65536)
    if not received:
        raise EOFError
    return received


def read_request(connection):
    """Reads one HTTP request whole; EOFError if it ends early."""
    received = b''
    while b'\r\n\r\n' not in received:
        received += receive(connection)
    head, _, body = received.partition(b'\r\n\r\n')
    lines = head.decode('latin-1').split('\r\n')
    fields = [line.partition(':') for line in lines[1:]]
    headers = dict((name.lower(), value.strip()) for name, _, value in fields)
    while len(body) < int(headers.get('content-length', 0)):
        body += receive(connection)
    return Request(lines[0], headers, body)


def send(answer, connection):
    """Sends an answer and ends TLS in order (close_notify, RFC 8446 6.1): the last thing that a behaviour does."""
    connection.sendall(answer)
    if isinstance(connection, ssl.SSLSocket):
        connection.setblocking(False)   # to wait for the client's close_notify would be to wait for its goodwill
        connection.unwrap()


def keep_open(connection):
    while True:
        receive(connection)


def drip(connection, octets):
    for octet in octets:
        connection.sendall(octet)
        time.sleep(DRIP_SECONDS)


# XML-RPC, as text

def member(name, value):
    return '<member><name>%s</name><value>%s</value></member>' % (name, value)


def struct(*members):
    return '<struct>%s</struct>' % ''.join(members)


def array(*values):
    return '<array><data>%s</data></array>' % ''.join(['<value>%s</value>' % value for value in values])


def document(content, encoding='UTF-8', doctype=''):
    return '<?xml version="1.0" encoding="%s"?>%s<methodResponse>%s</methodResponse>' % (encoding, doctype, content)


def response(value, **options):
    return document('<params><param><value>%s</value></param></params>' % value, **options)


def fault(*members):
    return document('<fault><value>%s</value></fault>' % struct(*members))


SECRET = '<string>%s</string>' % PASSWORD
DONE = member('returnCode', '<int>0</int>')
REFUSED = struct(member('returnCode', '<int>1</int>'), member('message', '<string>not authorized</string>'))
RESULT = struct(DONE, member('message', SECRET))
GOOD = response(RESULT)


def with_doctype(declarations):
    return response(struct(DONE, member('message', '<string>%s&x;</string>' % PASSWORD)),
                    doctype='<!DOCTYPE methodResponse [%s]>' % declarations)


def laughs():
    entities = ['<!ENTITY x0 "ha">']
    entities += ['<!ENTITY x%d "%s">' % (level, '&x%d;' % (level - 1) * 10) for level in range(1, 10)]
    return with_doctype(''.join(entities + ['<!ENTITY x "&x9;">']))


# HTTP, as bytes

def head(status, *headers):
    return '\r\n'.join(('HTTP/1.1 ' + status, 'Connection: close') + headers + ('', '')).encode('ascii')


def http(body, status='200 OK', *headers, **options):
    """An answer with a body (text, which goes as UTF-8, or bytes).

    Options: ``length`` and ``type``, the Content-Length and -Type where they are not the body's and ``text/xml``.
    """
    octets = body if isinstance(body, bytes) else body.encode('utf-8')
    return head(status, 'Content-Type: ' + options.get('type', 'text/xml'),
                'Content-Length: %d' % options.get('length', len(octets)), *headers) + octets


def chunked(*chunks):
    """An answer in chunks, each given as (what its size line says, text)."""
    lines = ['%s\r\n%s\r\n' % chunk for chunk in chunks]
    return head('200 OK', 'Content-Type: text/xml', 'Transfer-Encoding: chunked') + ''.join(lines).encode('utf-8')


def gzipped(text):
    compressor = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return compressor.compress(text.encode('utf-8')) + compressor.flush()


OPEN_HEAD = head('200 OK', 'Content-Type: text/xml')
HTML = '<html><body><h1>Internal Server Error</h1><p>%s</p></body></html>' % PASSWORD
GARBAGE = bytes(bytearray(range(255, -1, -1))) * 4
SIZE = '%x' % len(GOOD)
LAST = ('0', '')

# The behaviours that differ in nothing but the bytes of their answer.
ANSWERS = {
    'good': http(GOOD),
    'bom': http(b'\xef\xbb\xbf' + GOOD.encode('utf-8')),
    'chunked': chunked(('%x;extension=1' % 50, GOOD[:50]), ('%X' % (len(GOOD) - 50), GOOD[50:]), LAST),
    'no_content_length': OPEN_HEAD + GOOD.encode('utf-8'),
    'http_100_continue': b'HTTP/1.1 100 Continue\r\n\r\n' + http(GOOD),
    # Promises to stay, and goes: the next call finds the connection closed.
    'close_after_answer': http(GOOD).replace(b'Connection: close', b'Connection: keep-alive'),

    'http_0_9': GOOD.encode('utf-8'),
    'garbage': GARBAGE + GOOD.encode('utf-8'),
    'upgrade': head('101 Switching Protocols', 'Upgrade: tpam') + GARBAGE + GOOD.encode('utf-8'),
    'status_204': head('204 No Content'),
    'status_401': http(GOOD, '401 Unauthorized', 'WWW-Authenticate: Basic realm="tpam"'),
    'status_403': http(GOOD, '403 Forbidden'),
    'status_404': http(GOOD, '404 Not Found'),
    'status_500_html': http(HTML, '500 Internal Server Error', type='text/html'),
    'status_502': http(GOOD, '502 Bad Gateway'),
    'status_503': http(GOOD, '503 Service Unavailable'),
    'status_504': http(GOOD, '504 Gateway Timeout'),
    'gzip': http(gzipped(GOOD), '200 OK', 'Content-Encoding: gzip'),
    'lying_content_length_short': http(GOOD, length=len(GOOD) - 10),
    'bad_chunk_size': chunked(('zz', GOOD), LAST),
    'negative_chunk_size': chunked(('-1', GOOD), LAST),
    'huge_chunk_size': chunked(('f' * 16, GOOD), LAST),
    'no_last_chunk': chunked((SIZE, GOOD)),

    'empty_body': http(''),
    'json': http(json.dumps({'returnCode': 0, 'message': PASSWORD}), type='application/json'),
    'wrong_root': http(GOOD.replace('methodResponse', 'methodCall')),
    'nul_byte': http(GOOD.replace(PASSWORD, PASSWORD + '\0')),
    'utf_16': http(response(RESULT, encoding='UTF-16').encode('utf-16')),
    # Python's codec leaves < and > as they are, which RFC 2152 allows; to hide them is the point
    'utf_7': http('<?xml version="1.0" encoding="UTF-7"?>'
                  + GOOD.partition('?>')[2].replace('<', '+ADw-').replace('>', '+AD4-')),
    'billion_laughs': http(laughs()),
    'external_entity_file': http(with_doctype('<!ENTITY x SYSTEM "file:///etc/passwd">')),

    'fault_extra_members': http(fault(member('faultCode', '<int>1</int>'), member('faultString', '<string>no</string>'),
                                      member('self', '<int>1</int>'), DONE, member('message', SECRET))),
    'fault_wrong_types': http(fault(member('faultCode', array('<int>1</int>')), member('faultString', RESULT))),
    'return_code_text': http(GOOD.replace('<int>0</int>', '<string>0</string>')),
    'return_code_boolean': http(GOOD.replace('<int>0</int>', '<boolean>0</boolean>')),
    'return_code_missing': http(response(struct(member('message', SECRET)))),
    'rows_no_structs': http(response(struct(DONE, member('count', '<int>2</int>'),
                                            member('rows', array(SECRET, SECRET))))),
    'two_values': http(response(REFUSED + '</value><value>' + RESULT)),
    'two_params': http(response(REFUSED + '</value></param><param><value>' + RESULT)),
    'comment_of_hyphens': http(GOOD + '<!--' + '-' * 2 ** 20 + '-->'),
    'comment_of_hyphens_behind_another': http('<?x <!-- ?><!-->' + '-' * 2 ** 20 + '-->' + GOOD),
}

GOOD_BEHAVIOURS = ('bom', 'chunked', 'close_after_answer', 'good', 'http_100_continue', 'no_content_length')


# The behaviours that come before or instead of a TLS handshake, and never speak TLS

def silent(connection):
    keep_open(connection)


def half_handshake(connection):
    receive(connection)
    connection.sendall(b'\x16\x03\x01\x00\x7a' b'\x02\x00\x00\x76\x03\x01')  # six of 122 bytes
    keep_open(connection)


def plain_http_on_tls_port(connection):
    receive(connection)
    connection.sendall(http(GOOD))


def alert_protocol_version(connection):
    """As a server that accepts only newer versions of TLS than the client offers (RFC 2246 7.2.2, alert 70)."""
    connection.recv(65536)
    connection.sendall(b'\x15\x03\x01\x00\x02\x02\x46')


def close_before_handshake(_):
    pass


# The behaviours that come when the request was read

def no_answer(connection):
    keep_open(connection)


def close_before_answer(_):
    pass


def half_answer(connection):
    connection.sendall(http(GOOD).partition(b'</params>')[0])


def lying_content_length_long(connection):
    connection.sendall(http(GOOD, length=len(GOOD) + 1))
    keep_open(connection)


def dripping_headers(connection):
    connection.sendall(b'HTTP/1.1 200 OK\r\n')
    drip(connection, itertools.cycle([b'X', b':', b'x', b'\r\n']))


def dripping_body(connection):
    body = GOOD.encode('ascii')
    connection.sendall(http(b'', length=MIB))
    drip(connection, itertools.chain([body[i:i + 1] for i in range(len(body))], itertools.repeat(b' ')))


def endless_headers(connection):
    connection.sendall(b'HTTP/1.1 200 OK\r\n')
    while True:
        connection.sendall(b'X-Endless: x\r\n' * 4096)


def one_endless_header_line(connection):
    connection.sendall(b'HTTP/1.1 200 OK\r\nX-Endless: ')
    while True:
        connection.sendall(b'x' * 65536)


def endless_body(connection):
    connection.sendall(OPEN_HEAD + GOOD.encode('ascii'))
    while True:
        connection.sendall(b' ' * 65536)


def endless_chunks(connection):
    connection.sendall(chunked((SIZE, GOOD)))
    drip(connection, itertools.repeat(b'1\r\n \r\n' * 1024))     # so slowly that no limit but that of time is reached


def endless_100_continue(connection):
    # httplib reads on for ever (CVE-2021-3737)
    while True:
        connection.sendall(b'HTTP/1.1 100 Continue\r\n\r\n' * 4096)


def large_answer(connection):
    rows = '<string>%s</string>' % ('x' * 20 * MIB)
    send(http(response(struct(DONE, member('message', SECRET), member('rows', rows)))), connection)


def deep_nesting(connection):
    levels = 100000
    rows = '<array><data><value>' * levels + '</value></data></array>' * levels
    send(http(response(struct(DONE, member('message', SECRET), member('rows', rows)))), connection)


def own_url(connection):
    """Where a client that follows it is counted in ``connections``."""
    return 'http://%s:%d/' % (LOOPBACK, connection.getsockname()[1])


def redirect_301(connection):
    send(http(GOOD, '301 Moved Permanently', 'Location: ' + own_url(connection)), connection)


def external_entity_url(connection):
    send(http(with_doctype('<!ENTITY x SYSTEM "%s">' % own_url(connection))), connection)


def by_name(*functions):
    return dict((function.__name__, function) for function in functions)


NOT_LISTENING = {'refused': Port, 'unroutable': FullPort}
BEFORE_TLS = by_name(silent, half_handshake, plain_http_on_tls_port, close_before_handshake,
                     alert_protocol_version)
AFTER_REQUEST = by_name(
    no_answer, close_before_answer, half_answer, lying_content_length_long, dripping_headers, dripping_body,
    endless_headers, one_endless_header_line, endless_body, endless_chunks, endless_100_continue, large_answer,
    deep_nesting, redirect_301, external_entity_url)
AFTER_REQUEST.update((name, functools.partial(send, answer)) for name, answer in ANSWERS.items())

BEHAVIOURS = sorted(itertools.chain(NOT_LISTENING, BEFORE_TLS, AFTER_REQUEST))


def serve(name, certfile=None, client_ca=None, host=LOOPBACK):
    """A server that behaves as ``name`` says, one of ``BEHAVIOURS``: a context manager with the attributes of ``Port``.

    Each connection gets one answer. ``certfile`` and ``client_ca`` are those of ``Server``; the behaviours that never
    get to the end of a handshake take no notice of them. ``host`` is ``127.0.0.1`` or ``::1``.
    """
    if name in NOT_LISTENING:
        return NOT_LISTENING[name](host)
    if name in BEFORE_TLS:
        return Server(BEFORE_TLS[name], host=host)

    def behave(connection):
        server.requests.append(read_request(connection))
        AFTER_REQUEST[name](connection)
    server = Server(behave, certfile, client_ca, host)
    return server


def tunnel(credentials=None, refusal=None, delay=0):
    """An HTTP proxy that knows CONNECT (RFC 9110 9.3.6): a context manager with the attributes of ``Port``.

    Whatever host is asked for, it connects to that port of loopback: a test may use any name, and nothing leaves the
    machine.

    :param credentials: ``user:password`` without which it answers 407.
    :param refusal: a status such as ``403 Forbidden`` with which it answers every request.
    :param delay: seconds that every byte takes, in each direction.
    """
    def behave(connection):
        request = read_request(connection)
        proxy.requests.append(request)
        time.sleep(2 * delay)
        if refusal:
            return send(http('', refusal), connection)
        if credentials and request.headers.get('proxy-authorization') != expected:
            challenge = 'Proxy-Authenticate: Basic realm="proxy"'
            return send(http('', '407 Proxy Authentication Required', challenge), connection)
        port = int(request.line.split()[1].rpartition(':')[2])
        try:
            target = socket.create_connection((LOOPBACK, port))
        except socket.error:
            return send(http('', '502 Bad Gateway'), connection)
        connection.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
        relay(connection, target, delay)

    expected = 'Basic ' + base64.b64encode((credentials or '').encode('utf-8')).decode('ascii')
    proxy = Server(behave)
    return proxy


def link(port, delay):
    """A slow line to a port of loopback: every byte takes ``delay`` seconds in each direction.

    TCP's own handshake takes none: the kernel answers it at this end of the line.
    """
    def behave(connection):
        relay(connection, socket.create_connection((LOOPBACK, port)), delay)
    return Server(behave)


def relay(connection, target, delay):
    """Carries what comes from each to the other, ``delay`` seconds later, until both have ended. Closes the target."""
    opposite = {connection: target, target: connection}
    reading = [connection, target]
    under_way = collections.deque()     # (when it arrives, where, bytes), in order: the delay is the same for all
    for each in opposite:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while reading or under_way:
            wait = max(0, under_way[0][0] - time.time()) if under_way else None
            for source in select.select(reading, [], [], wait)[0]:
                received = source.recv(65536)
                under_way.append((time.time() + delay, opposite[source], received))
                if not received:
                    reading.remove(source)
            while under_way and under_way[0][0] <= time.time():
                _, sink, octets = under_way.popleft()
                if octets:
                    sink.sendall(octets)
                else:
                    sink.shutdown(socket.SHUT_WR)
    finally:
        target.close()
