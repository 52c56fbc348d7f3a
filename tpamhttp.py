# -*- coding: utf-8 -*-
"""One HTTP request and its answer, over a socket that somebody else opens and closes.

Python 2.6.5 code. 2.6 has no deadline for a whole exchange and no bounds on what a server may send;
this module adds them. The rest is httplib, and a urllib2 opener that is put together by hand.
"""
import httplib
import io
import re
import select
import socket
import urllib2

from tpamerrors import BadAnswer, TpamTimeout, in_thread, native, text

MAX_HEADERS = 64 * 1024      # bytes of status line and headers of one answer
MAX_BODY = 16 * 1024 * 1024  # bytes of one answer
BLOCK = 64 * 1024            # bytes that are read in one call


# ---- the socket ----------------------------------------------------------------------------------

class Wire(io.RawIOBase):
    """A socket as httplib sees it, for one request and its answer.

    Every wait ends with the deadline. All received bytes count against a budget, because 2.6 bounds
    neither lines nor headers. is_sent: whether a byte of the request may have been sent; received:
    the number of bytes received. httplib closes the wire when it has finished; Connection closes
    the socket.
    """

    def __init__(self, sock, deadline, budget):
        io.RawIOBase.__init__(self)
        self._sock, self._deadline, self.budget = sock, deadline, budget
        self._request, self._reader = [], None
        self.is_sent, self._has_ended, self.received = False, False, 0
        self._is_busy, self._is_abandoned = False, False

    def sendall(self, data):
        """Collect a part of the request. httplib calls this."""
        self._request.append(data)

    def send_request(self):
        """Send the request in one write. Head and body in two writes would cost 40 ms, because of
        Nagle's algorithm and delayed acknowledgement."""
        self._sock.settimeout(self._deadline.left())
        self.is_sent = True
        self.in_thread(self._sock.sendall, b''.join(self._request))

    def in_thread(self, function, *arguments):
        """Call a function that uses the socket. OpenSSL 0.9.8 stays in one call for as long as the
        peer sends empty records, or to compute with its numbers: any call may shake hands again."""
        self._is_busy = True
        return in_thread(lambda: self._call(function, arguments), self._deadline)

    def _call(self, function, arguments):
        try:
            return function(*arguments)
        finally:
            self._is_busy = False
            if self._is_abandoned:
                self._sock.close()

    def abandon(self):
        """Return whether a thread uses the socket. It will close it: if somebody else did, another
        connection would get the descriptor that the thread reads."""
        self._is_abandoned = True  # first, so that one of the two closes the socket in any case
        return self._is_busy

    def makefile(self, mode='rb', bufsize=-1):
        """Return a file to read the answer from. httplib calls this."""
        self._reader = _Reader(self)
        return self._reader

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._has_ended:  # 2.6 would wait for more after the end of a TLS stream
            return 0
        self._sock.settimeout(self._deadline.left())
        data = self.in_thread(self._sock.recv, len(buffer))
        self._has_ended = not data
        self.received += len(data)
        if self.received > self.budget:
            raise BadAnswer('more than %d bytes' % self.budget)
        buffer[:len(data)] = data
        return len(data)

    def has_unread_bytes(self):
        """Return whether the server sent more than the answer that was read.

        select() does not see bytes in the buffer or inside OpenSSL. They would be taken for the
        answer to the next call.
        """
        self._has_ended = True  # peek() must not wait for more
        return bool(self._reader.peek(1)) or is_readable(self._sock)

    def close(self):
        pass


class _Reader(io.BufferedReader):
    """A buffer that httplib cannot close, because has_unread_bytes() reads it when httplib has
    finished."""

    def close(self):
        pass


def is_readable(sock):
    """Return whether bytes or the end of the connection are waiting, in the socket or OpenSSL."""
    pending = getattr(sock, 'pending', None)  # a socket without TLS has no pending()
    if pending is not None and pending():
        return True
    ready, _, _ = select.select([sock], [], [], 0)
    return sock in ready


def hang_up(sock):
    """End a connection for the peer and for each thread that uses it. Its socket stays open."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's would take its TLS away first
    except EnvironmentError:  # it is not connected
        pass


# ---- a request -----------------------------------------------------------------------------------

def exchange(wire, method, target, body, headers):
    """Send one request, and return the httplib response up to its headers.

    target: text; body: bytes or None; headers: {name: value}, native.
    """
    connection = httplib.HTTPConnection('', strict=True)  # else 2.6 takes any bytes for a 200
    connection.auto_open, connection.sock = 0, wire
    connection.request(method, native(target), body, headers)  # which the wire collects
    wire.send_request()
    return connection.getresponse()


def connect(wire, target, headers):
    """Ask a proxy to connect to a target (host and port, text). Return None, or its answer
    (text) if it refuses."""
    try:
        status = exchange(wire, 'CONNECT', target, None, headers).status
    except (httplib.HTTPException, ValueError) as error:
        return reason_of(error)
    if not 200 <= status < 300:  # RFC 9110, 9.3.6
        return status_text(status)
    return None


def post(wire, url, path, body, headers):
    """Send a POST request through urllib2. Return (content of the answer, whether the connection
    can be used again).

    Only one handler of the opener opens anything. The opener therefore follows no redirect, uses no
    proxy from the environment, and opens no second, unverified connection. Raises
    urllib2.HTTPError for any status but 2xx, BadAnswer, and whatever httplib and the socket raise.
    """
    handler = _WireHandler(wire, path)
    opener = urllib2.OpenerDirector()
    opener.add_handler(handler)
    opener.add_handler(urllib2.HTTPErrorProcessor())
    opener.add_handler(urllib2.HTTPDefaultErrorHandler())
    content = opener.open(urllib2.Request(native(url), body, headers)).read()
    return content, handler.is_reusable


class _WireHandler(urllib2.BaseHandler):
    """Opens http and https URLs over one wire. is_reusable: whether the connection can be used
    again after the answer."""

    def __init__(self, wire, path):
        self._wire, self._path = wire, path
        self.is_reusable = False

    def http_open(self, request):
        """Send a request, and return its answer. urllib2 calls this."""
        headers = dict(request.header_items())
        response = exchange(self._wire, 'POST', self._path, request.data, headers)
        content = io.BytesIO()
        if response.status == 200:
            content = self._read_body(response)
            self.is_reusable = not response.will_close and not self._wire.has_unread_bytes()
        answer = urllib2.addinfourl(content, response.msg, request.get_full_url(), response.status)
        answer.msg = response.reason
        return answer

    https_open = http_open

    def _read_body(self, response):
        encoding = response.getheader('Content-Encoding') or 'identity'
        if encoding.lower() != 'identity':
            raise BadAnswer('a Content-Encoding that was not asked for')
        _check_length(response)
        self._wire.budget += 2 * MAX_BODY  # the framing of the chunks counts, too
        content = io.BytesIO()
        block = response.read(BLOCK)
        while block:
            content.write(block)
            if content.tell() > MAX_BODY:
                raise BadAnswer('more than %d bytes' % MAX_BODY)
            block = response.read(BLOCK)
        if response.length:
            raise httplib.IncompleteRead(b'')
        content.seek(0)
        return content


def _check_length(response):
    """Check the Content-Length of a response (RFC 9112, 6.3), and repair `length` if it came twice.

    httplib accepts a negative number, and waits for the end of the connection if there are two
    equal headers.
    """
    written = response.getheader('Content-Length')
    if written is None or response.chunked:
        return
    lengths = set(part.strip() for part in written.split(','))
    if len(lengths) > 1 or not re.match('[0-9]{1,12}\\Z', min(lengths)):
        raise BadAnswer('an invalid Content-Length')
    response.length = int(min(lengths))


# ---- words for the log ---------------------------------------------------------------------------

def reason_of(error):
    """Return why something failed (text), without the words of the server, which libraries quote in
    the texts of their exceptions."""
    if isinstance(error, httplib.HTTPException):
        return u'an answer that is cut short or is not HTTP'
    if isinstance(error, TpamTimeout):
        return u'timed out'
    if isinstance(error, (EnvironmentError, BadAnswer)) and error.args and error.args[-1]:
        return text(error.args[-1])
    return text(type(error).__name__)


def status_text(code):
    """Return u'401 Unauthorized' for 401. The words of the server could repeat what it was sent."""
    return u'%d %s' % (code, text(httplib.responses.get(code)))


SEE_SERVER = u'see the log of the server'
WITHOUT_TLS = u'; is this a TLS port? then set [tls] enabled=yes'  # it sends an alert, or 400
_REMEDIES = {401: u'check [tpam] username and password', 404: u'check [tpam] path',
             403: u'check the permissions of the API user, and [tls] client_cert'}


def status_remedy(code, has_tls):
    """Return the remedy for an HTTP status."""
    if code == 400 and not has_tls:
        return SEE_SERVER + WITHOUT_TLS
    return _REMEDIES.get(code, SEE_SERVER)
