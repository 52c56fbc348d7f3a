# -*- coding: utf-8 -*-
"""TPAM's commands over XML-RPC over verified TLS: all that is on the wire.

Python 2.6.5 code (the interpreter of SPS plugins without an entry_point). Nothing here knows a hook or a cookie.
What 2.6 leaves no library for is written out: a deadline for the whole conversation, the names in a certificate
and their comparison (RFC 6125), and bounds on what a server may send. The rest is httplib, urllib2, xmlrpclib, lxml.
"""
import base64
import binascii
import hashlib  # also registers SHA-256 with an old OpenSSL, before any certificate is checked (bpo-8484)
import httplib
import io
import os
import re
import select
import socket
import ssl
import struct
import tempfile
import thread
import time
import unicodedata
import urllib2
import xmlrpclib

from lxml import etree

USER_AGENT = 'SPS_TPAM_XMLRPC/1.0.0'
MAX_HEADERS = 64 * 1024          # bytes of status line and headers of one answer
MAX_BODY = 16 * 1024 * 1024      # bytes of one answer
MAX_DEPTH = 16                   # structs inside one another, and arrays
MAX_SHOWN = 500                  # characters of one value in a log line
MAX_MATCHED = 1000               # characters of a server's text that a pattern is tried on


class TpamError(Exception):
    """The server cannot be asked or its answer cannot be used; str() is one line that a person can act on."""


class TpamRefused(TpamError):
    """Asked and answered: there is no credential to be had. str() is why, in the server's words or ours; `code` its
    returnCode or faultCode; `details` {name: value} what it is about."""

    def __init__(self, message, code=None, **details):
        TpamError.__init__(self, message)
        self.code, self.details = code, details


class TpamUnavailable(TpamError):
    """This server did not take the call, which was certainly not carried out: the next server may be asked."""


class TpamOutcomeUnknown(TpamError):
    """The call went out and may have been carried out: it must not be sent again, only looked for."""


class TpamConnectionEnded(TpamOutcomeUnknown):
    """A kept connection ended before the first byte of the answer: the server had most likely closed it while it was
    idle. The call may be sent again if a look-up shows that it was not carried out."""


class TpamTimeout(TpamError):
    """The time of the whole hook is over; `details` {name: value} say what was waited for."""

    def __init__(self, **details):
        TpamError.__init__(self, describe(u'Time is over; see [tpam] timeout, and why the server is slow', **details))
        self.details = details


class BadAnswer(ValueError):
    """What came is no XML-RPC answer; str() repeats nothing of it."""


# ---- text ----------------------------------------------------------------------------------------------------------

def text(value):
    """bytes in UTF-8, unicode, a number or None -> unicode; bytes that are no UTF-8 are shown, not lost."""
    if isinstance(value, bytes):
        return value.decode('utf-8', 'replace')
    return value if isinstance(value, type(u'')) else u'' if value is None else u'%s' % (value,)


def native(value):
    """Text -> the interpreter's own `str`, in UTF-8 where that is bytes: what SPS and httplib take."""
    value = text(value)
    return value if isinstance(value, str) else value.encode('utf-8')


def folded(name):
    """Return a name (text) in the form in which names are compared: without regard to case.

    A letter is folded only if its lower case leads back to it. The Kelvin sign (U+212A), the dotted capital I
    (U+0130) and their like would otherwise become ASCII letters, and two users would become one.
    """
    return u''.join(_folded(char) for char in text(name))


def _folded(char):
    lower = char.lower()
    return lower if lower.upper() == char else char


def describe(message, **details):
    """'Message', account=u'root' -> u"Message; account='root'"."""
    shown = [u"%s='%s'" % (name, escaped(value)) for name, value in sorted(details.items())]
    return u'; '.join([message] + ([u', '.join(shown)] if shown else []))


def escaped(value):
    """A value as a log line may hold it: what a user or a server chose forges neither another line nor another field.
    Quotes, control and direction characters are escaped, and nothing is longer than MAX_SHOWN characters."""
    value = text(value)
    shown = [_escape(char) if char in u"'\\" or unicodedata.category(char) in _UNSEEN else char
             for char in value[:MAX_SHOWN]]
    return u''.join(shown) + (u'…' if len(value) > MAX_SHOWN else u'')


# Controls, formats such as a change of direction, what this Python's Unicode does not know (2.6 not all directions),
# surrogates, separators of lines.
_UNSEEN = ('Cc', 'Cf', 'Cn', 'Cs', 'Zl', 'Zp')


def _escape(char):
    return u'\\' + char if char in u"'\\" else (u'\\x%02x' if ord(char) < 256 else u'\\u%04x') % ord(char)


# ---- time ----------------------------------------------------------------------------------------------------------

class Deadline(object):
    """A moment that every wait asks how far away it is. Counted by times(2), which no NTP step moves: 2.6 has no
    time.monotonic, and a socket's own timeout is for one operation only, so that a dripping server outlives it."""

    def __init__(self, seconds, within=None):
        self._at = os.times()[4] + seconds
        if within is not None:
            self._at = min(self._at, within._at)

    def extend(self, seconds):
        """Adds what was kept back of the whole time."""
        self._at += seconds

    def left(self):
        """Seconds until then, more than 0 (settimeout(0) makes 2.6 spin); raises TpamTimeout when it is over. That
        clock ticks 100 times a second: a wait or an alarm that has ended may look a tick early."""
        left = self._at - os.times()[4]
        if left <= 0.02:
            raise TpamTimeout()
        return left


# ---- names ---------------------------------------------------------------------------------------------------------

def packed_address(host):
    """'10.0.0.1' or 'fd00::1' -> its 4 or 16 bytes, anything else -> None."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, native(host))
        except (socket.error, ValueError, TypeError):  # TypeError: 2.x, for a NUL
            pass
    return None


def canonical_address(host):
    """An IP address in any spelling -> the one that all systems write (IPv4 for IPv4-mapped); else None."""
    packed = packed_address(text(host).strip(u'[]').partition(u'%')[0])
    if packed and packed.startswith(b'\0' * 10 + b'\xff\xff'):
        packed = packed[12:]
    return packed and _shown_address(packed)


def _shown_address(packed):
    family = {4: socket.AF_INET, 16: socket.AF_INET6}.get(len(packed))
    return text(socket.inet_ntop(family, packed)) if family is not None else u'?'


def _addresses(host, port, deadline):
    """getaddrinfo within the deadline: it has no time limit, and no signal ends it, so that a name is looked up in a
    thread that is left behind when it is late."""
    if packed_address(host):
        return socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    found, failed = [], []
    reader, writer = os.pipe()

    def look_up():
        try:
            found.extend(socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM))
        except Exception as error:
            failed.append(error)
        os.write(writer, b'.')
    thread.start_new_thread(look_up, ())
    if not select.select([reader], [], [], deadline.left())[0]:
        raise TpamTimeout()  # the pipe stays open: the thread may still write to it
    os.close(reader)
    os.close(writer)
    if failed:
        raise failed[0]
    return found


def look_up(name, kind, deadline):
    """DNS records of an absolute name (RFC 1035) -> dnspython's records, [] where the name has none; raises
    TpamUnavailable. dnspython takes as long to import as xmlrpclib, hence only here."""
    import dns.exception
    import dns.resolver
    try:
        resolver = dns.resolver.get_default_resolver()
        resolver.lifetime = deadline.left()
        return list(resolver.query(native(name).rstrip('.') + '.', kind))
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, EnvironmentError, LookupError, ValueError, struct.error) as error:
        # dnspython 1.7 lets the last three out for a damaged answer
        raise TpamUnavailable(describe(u'DNS does not answer', name=name, type=kind, reason=type(error).__name__))


# ---- certificates --------------------------------------------------------------------------------------------------
# 2.6.5's getpeercert() misses a subjectAltName that comes first (bpo-13034) and cuts names at a NUL (CVE-2013-4238):
# names are read from the DER, which is whole.

_ATTRIBUTES = {b'\x55\x04\x03': u'CN', b'\x55\x04\x06': u'C', b'\x55\x04\x07': u'L', b'\x55\x04\x08': u'ST',
               b'\x55\x04\x0a': u'O', b'\x55\x04\x0b': u'OU'}
_SUBJECT_ALT_NAME = b'\x55\x1d\x11'
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87


def _elements(der):
    """DER bytes -> [(tag, contents)] of the elements that stand side by side in them (X.690); raises ValueError."""
    der, at, found = bytearray(der), 0, []
    while at < len(der):
        if at + 2 > len(der) or at + 2 + (der[at + 1] & 127) > len(der) and der[at + 1] > 127:
            raise ValueError('cut short')
        tag, length, at = der[at], der[at + 1], at + 2
        if tag & 31 == 31 or length == 128:
            raise ValueError('a tag of several bytes, or an indefinite length, which is not DER')
        if length > 127:
            octets, at = bytes(der[at:at + (length & 127)]), at + (length & 127)
            length = int(binascii.hexlify(octets), 16)
        if at + length > len(der):
            raise ValueError('cut short')
        found.append((tag, bytes(der[at:at + length])))
        at += length
    return found


def _distinguished_name(der):
    """DER of a Name -> [(attribute, value)] of those attributes that people read."""
    pairs = []
    for _, relative in _elements(der):
        for _, attribute in _elements(relative):
            (_, oid), (tag, value) = _elements(attribute)
            if oid in _ATTRIBUTES:
                pairs.append((_ATTRIBUTES[oid], value.decode('utf-16-be' if tag == 0x1e else 'utf-8', 'replace')))
    return pairs


def _moment(tag, value):
    """UTCTime or GeneralizedTime (RFC 5280, 4.1.2.5) -> u'2026-11-23 15:33:47', which sorts as time does."""
    digits = value.decode('ascii').rstrip(u'Z')
    if tag == 0x17:
        digits = (u'19' if digits[:2] >= u'50' else u'20') + digits
    return u'%s-%s-%s %s:%s:%s' % tuple([digits[:4]] + [digits[at:at + 2] for at in range(4, 14, 2)])


def certificate(der):
    """DER certificate -> dict: subject, issuer (text), common_names (list of text), not_before, not_after (text in
    UTC), alternative_names (list of (tag, bytes), or None without that extension), sha256 (hex). Raises ValueError."""
    try:
        return _certificate(der)
    except IndexError:
        raise ValueError('no certificate')


def _certificate(der):
    (_, signed), = _elements(der)
    fields = _elements(_elements(signed)[0][1])
    if fields[0][0] == 0xa0:
        del fields[0]  # the version, absent in version 1
    alternative_names = None
    for _, extensions in [field for field in fields[6:] if field[0] == 0xa3]:
        for _, extension in _elements(_elements(extensions)[0][1]):
            parts = _elements(extension)
            if parts[0][1] == _SUBJECT_ALT_NAME:
                if alternative_names is not None:
                    raise ValueError('an extension twice')
                alternative_names = _elements(_elements(parts[-1][1])[0][1])
    issuer, subject = _distinguished_name(fields[2][1]), _distinguished_name(fields[4][1])
    not_before, not_after = [_moment(*element) for element in _elements(fields[3][1])]
    return {'subject': u', '.join(u'%s=%s' % pair for pair in subject),
            'issuer': u', '.join(u'%s=%s' % pair for pair in issuer),
            'common_names': [value for attribute, value in subject if attribute == u'CN'],
            'not_before': not_before, 'not_after': not_after, 'alternative_names': alternative_names,
            'sha256': text(hashlib.sha256(der).hexdigest())}


def names_of(peer):
    """certificate() -> the texts of the names that it is for, as the rules of matches() see them."""
    if peer['alternative_names'] is None:
        return peer['common_names']
    return [value.decode('latin-1') if tag == _DNS_NAME else _shown_address(value)
            for tag, value in peer['alternative_names'] if tag in (_DNS_NAME, _IP_ADDRESS)]


def matches(peer, host):
    """Is this certificate() for this host name or address (RFC 6125, RFC 2818)? Alternative names alone where there
    are any; an address only in packed form; `*` only as the whole left-most label, for one label; no wildcard for an
    address; the common name only without that extension."""
    address = packed_address(host)
    alternative_names = peer['alternative_names']
    if address and alternative_names is not None:
        return (_IP_ADDRESS, address) in alternative_names
    if address:
        return address in [packed_address(name) for name in peer['common_names']]
    names = peer['common_names']
    if alternative_names is not None:
        names = [value.decode('latin-1') for tag, value in alternative_names if tag == _DNS_NAME]
    return any(_same_name(name, text(host)) for name in names if _HOST_NAME.match(name))


_HOST_NAME = re.compile(r'[A-Za-z0-9*._-]+\Z')  # no NUL, and no letter that lower() turns into an ASCII one


def _same_name(pattern, host):
    pattern, host = [(name[:-1] if name.endswith(u'.') else name).lower() for name in (pattern, host)]
    label, _, rest = pattern.partition(u'.')
    if label == u'*' and rest and u'*' not in rest:
        return host.partition(u'.')[0] != u'' and host.partition(u'.')[2] == rest
    return u'*' not in pattern and pattern == host


# ---- XML-RPC -------------------------------------------------------------------------------------------------------

_PROLOG = re.compile(b'(?:\xef\xbb\xbf)?\\s*<(?:\\?xml[^>]*?encoding\\s*=\\s*["\']([^"\']*)["\'])?')
# libxml2 2.7 takes time by the square of their number, in one call of C code that no signal ends. They may hold a `>`.
_MANY_ATTRIBUTES = re.compile(b'<[^\\s<>/!?]+\\s[^<]{1024}')
_ENCODINGS = (b'', b'utf-8', b'iso-8859-1', b'us-ascii', b'ascii')
_EXTENSIONS = b'http://ws.apache.org/xmlrpc/namespaces/extensions'


def encode_call(method, options):
    """Method name and {option: text or int} -> the body of the call (bytes); None and '' are left out. Raises TpamError
    for what XML cannot carry. xmlrpclib writes a carriage return raw, which a parser reads as a line feed."""
    present = {}
    for name, value in options.items():
        if isinstance(value, int) and -2 ** 31 <= value < 2 ** 31:  # more is no <int>
            present[name] = value
        elif value:
            present[name] = text(value)
            if not _is_xml(present[name]):
                raise TpamError(describe(u'A character that XML cannot carry; nothing was sent', option=name,
                                         value=value))
    return xmlrpclib.dumps((present,), native(method), encoding='utf-8').replace(b'\r', b'&#13;')


def _is_xml(value):
    odd = [char for char in value if char < u' ' and char not in u'\t\n\r' or char in u'\ufffe\uffff']
    surrogates = [char for char in value if u'\ud7ff' < char < u'\ue000']
    return not odd and not (surrogates and (len(u'\U00010000') == 1 or re.search(_LONE_SURROGATE, value)))


# A narrow Python has pairs of them in its strings. Not compiled before it is needed: 2.6 takes 7 ms for that.
_LONE_SURROGATE = u'[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]'


def decode_answer(body):
    """The body of an answer (bytes) -> its one value: dict, list, text, int, float, bool or None. Raises TpamRefused
    for a fault and BadAnswer for anything that is no XML-RPC answer, with a reason that repeats nothing of it."""
    prolog = _PROLOG.match(body)
    if not prolog or b'\0' in body:
        raise BadAnswer('no XML' if body else 'an empty body')
    encoding = (prolog.group(1) or b'').lower()
    if encoding not in _ENCODINGS or body.startswith(b'\xef\xbb\xbf') and encoding not in (b'', b'utf-8'):
        raise BadAnswer('an encoding other than UTF-8, ISO-8859-1 and US-ASCII')
    if _MANY_ATTRIBUTES.search(body):
        raise BadAnswer('an element with attributes, which XML-RPC has none of')
    # Nothing in XML-RPC needs a DOCTYPE, and the iterparse of lxml 2.2 knows no resolve_entities. Looked for
    # everywhere, since a comment or CDATA could be made to hide where the root begins.
    if b'<!DOCTYPE' in body or b'<!ENTITY' in body:
        raise BadAnswer('a document type declaration')
    if b'<ex:' in body and b'xmlns:ex' not in body:  # some write the prefix without declaring it
        body = body.replace(b'<methodResponse', b'<methodResponse xmlns:ex="' + _EXTENSIONS + b'"', 1)
    return _Decoder().response(body)


class _Source(object):
    """A body to be parsed. Python code, so that between two blocks a signal has its turn; BytesIO is none."""

    def __init__(self, body):
        self._body, self._at = body, 0

    def read(self, size):
        block = self._body[self._at:self._at + size]
        self._at += len(block)
        return block


class _Decoder(object):
    """One answer. A struct is decoded when its element ends, and its part of the tree is freed then: a list of 5,000
    rows never stands in memory as a tree. Names of members are shared between the rows."""

    def __init__(self):
        self._structs = {}  # struct element -> its dict
        self._names = {}

    def response(self, body):
        events = etree.iterparse(_Source(body), ('start', 'end'), tag='struct', remove_comments=True,
                                 remove_pis=True)
        depth = 0
        try:
            for event, element in events:
                depth += 1 if event == 'start' else -1
                if depth > MAX_DEPTH:
                    raise BadAnswer('an element out of place or too deep')
                if event == 'end':
                    self._structs[element] = self._struct(element)
                    element.clear()
        except etree.XMLSyntaxError:
            raise BadAnswer('XML that is not well-formed')  # lxml's own text can quote the bytes around
        root = events.root
        if root.tag != 'methodResponse' or len(root) != 1:
            raise BadAnswer('no methodResponse')
        if root[0].tag == 'fault' and len(root[0]) == 1:
            fault = self._value(root[0][0])
            if not isinstance(fault, dict) or not is_text(fault.get('faultString')):
                raise BadAnswer('a fault without a faultString')
            raise TpamRefused(text(fault['faultString']), fault.get('faultCode'))
        if root[0].tag != 'params' or len(root[0]) != 1 or root[0][0].tag != 'param' or len(root[0][0]) != 1:
            raise BadAnswer('no params with one value')
        return self._value(root[0][0][0])

    def _value(self, element, depth=0):
        return self._content(element, element[0] if len(element) else None, depth)

    def _content(self, value, typed, depth=0):
        """A <value> and its first child, or None -> what it holds."""
        if value.tag != 'value' or len(value) > 1 or depth > MAX_DEPTH:
            raise BadAnswer('an element out of place or too deep')
        if typed is None:
            return value.text or u''
        kind, before, after = typed.tag, value.text, typed.tail
        if before and before.strip() or after and after.strip():
            raise BadAnswer('a value of two types')
        if kind == 'string' and not len(typed):  # nearly all of a long list
            return typed.text or u''
        if kind == 'struct':
            return self._structs.pop(typed)  # lxml is slow to free elements that are kept until the end
        if kind == 'array':
            if len(typed) != 1 or typed[0].tag != 'data':
                raise BadAnswer('an array without data')
            return [self._value(child, depth + 1) for child in typed[0]]
        if len(typed) or kind not in _SCALARS:
            raise BadAnswer('an unknown type')
        try:
            return _SCALARS[kind](typed.text or u'')
        except (ValueError, TypeError):
            raise BadAnswer('a value that is not of its type')

    def _struct(self, element):
        # In document order, in which lxml hands out elements fastest: the numbers of children say where each stands.
        members, nodes = {}, element.iter()
        next(nodes)
        for member in nodes:
            if member.tag != 'member' or len(member) != 2:
                raise BadAnswer('a struct of something other than members')
            name, value = next(nodes), next(nodes)
            if name.tag != 'name' or len(name):
                raise BadAnswer('a member without a name')
            typed = next(nodes) if len(value) else None
            key = name.text or u''
            members[self._names.setdefault(key, key)] = self._content(value, typed)
            if typed is not None and len(typed):
                for _ in list(typed.iter())[1:]:
                    next(nodes)
        if len(members) != len(element):
            raise BadAnswer('a struct with a member twice')
        return members


def is_text(value):
    """True for what a string of an answer comes as: unicode, or str where lxml gives that for ASCII."""
    return isinstance(value, (str, type(u'')))


def _integer(content):
    if not re.match(r'\s*[+-]?[0-9]{1,19}\s*\Z', content):  # int() takes 16 MiB of digits, and minutes for them
        raise ValueError('no int')
    return int(content)


def _boolean(content):
    if content.strip() not in ('0', '1'):
        raise ValueError('no boolean')
    return content.strip() == '1'


def _base64(content):
    content = u''.join(text(content).split())
    # b64decode() leaves out what it does not know: a damaged password
    if len(content) % 4 or not re.match(u'[A-Za-z0-9+/]*={0,2}\\Z', content):
        raise ValueError('no base64')
    return base64.b64decode(content.encode('ascii')).decode('utf-8')


_SCALARS = {'dateTime.iso8601': lambda content: content, 'boolean': _boolean, 'double': float,
            'nil': lambda content: None, 'base64': _base64}
_SCALARS.update((name, _integer) for name in ('int', 'i1', 'i2', 'i4', 'i8'))
_SCALARS.update([('{%s}%s' % (native(_EXTENSIONS), name), _SCALARS[name]) for name in ('nil', 'i1', 'i2', 'i8')])


# ---- one connection ------------------------------------------------------------------------------------------------

class _Wire(io.RawIOBase):
    """A socket as httplib sees it. Every wait ends with the deadline, all that comes in counts against a budget (2.6
    bounds neither lines nor headers), and a request leaves in one write: two small ones cost 40 ms (Nagle's algorithm
    and delayed acknowledgement). httplib closes it when *it* is done; the socket itself is closed by who made it."""

    def __init__(self, sock, deadline, budget):
        io.RawIOBase.__init__(self)
        self._sock, self._deadline, self.budget, self._out = sock, deadline, budget, []
        self.sent = self.received = 0
        self._ended = False
        self._reader = None

    def sendall(self, data):
        self._out.append(data)

    def makefile(self, mode='rb', bufsize=-1):
        request, self._out = b''.join(self._out), []
        self._sock.settimeout(self._deadline.left())
        self.sent = len(request)
        self._sock.sendall(request)
        self._reader = _Reader(self)
        return self._reader

    def has_unread_bytes(self):
        """Return whether the server sent more than the answer that was read. What lies in this buffer or inside
        OpenSSL is not seen by select(), and would be taken as the answer to the next call."""
        self._ended = True  # peek() must not wait for more
        return bool(self._reader.peek(1)) or is_readable(self._sock)

    def readable(self):
        return True

    def readinto(self, buffer):
        if self._ended:  # 2.6 would wait for more after the end of a TLS stream
            return 0
        self._sock.settimeout(self._deadline.left())
        data = self._sock.recv(len(buffer))
        self._ended = not data
        self.received += len(data)
        if self.received > self.budget:
            raise BadAnswer('more than %d bytes' % self.budget)
        buffer[:len(data)] = data
        return len(data)

    def close(self):
        pass


class _Reader(io.BufferedReader):
    """A buffer that httplib cannot close: the bytes behind the answer are counted after httplib is done with it."""

    def close(self):
        pass


def is_readable(sock):
    """Return whether bytes or the end of the connection wait to be read, on the socket or inside OpenSSL."""
    pending = getattr(sock, 'pending', None)  # sockets without TLS have none
    if pending is not None and pending():
        return True
    return bool(select.select([sock], [], [], 0)[0])


def _pem_file(pem):
    """PEM text -> (file, name): wrap_socket takes file names only. Readable by the owner only; without a directory
    entry where /proc gives a name to an open file, so that not even SIGKILL leaves it behind."""
    if os.path.isdir('/proc/self/fd'):
        pem_file = tempfile.TemporaryFile()
        name = '/proc/self/fd/%d' % pem_file.fileno()
    else:
        pem_file = tempfile.NamedTemporaryFile()
        name = pem_file.name
    pem_file.write(text(pem).encode('utf-8'))
    pem_file.flush()
    return pem_file, name


_TIMED_OUT = u'timed out; see [tpam] connect_timeout'
_HTTP_REMEDIES = {401: u'check [tpam] username and password', 403: u'check what this user may do, and client_cert',
                  404: u'check [tpam] path'}


class _Server(urllib2.BaseHandler):
    """One server and the one connection that is kept to it. As the only handler of a urllib2 opener that can open
    anything it leaves no redirect, no proxy out of the environment and no second, unverified connection."""

    def __init__(self, host, port, settings, deadline):
        self.name = (u'[%s]:%d' if u':' in host else u'%s:%d') % (host, port)
        self._host, self._port, self._settings, self._deadline = native(host), port, settings, deadline
        self._tls, self._proxy = settings['tls'], settings['proxy']
        self._sock = self._wire = None
        self._is_used = False
        self.waiting_for = None  # for the message of a timeout
        self._opener = urllib2.OpenerDirector()
        for handler in (self, urllib2.HTTPErrorProcessor(), urllib2.HTTPDefaultErrorHandler()):
            self._opener.add_handler(handler)

    def ask(self, command, body, repeatable, resend, fresh):
        """Send a call and return its decoded answer (dict).

        command: name for messages; body: the call (bytes); repeatable: carrying the call out twice changes nothing;
        resend: send the call once more if a kept connection ended before the first byte of the answer, because the
        server had most likely closed it while it was idle; fresh: use a new connection.

        Raises TpamUnavailable if the call cannot have been carried out, TpamOutcomeUnknown if it may have been and is
        not `repeatable`, TpamConnectionEnded if it is not to be resent, else TpamError, TpamRefused or TpamTimeout.
        """
        kept = not fresh and self._is_idle()
        if not kept:
            self.close()
            self._connect(Deadline(self._settings['connect_timeout'], self._deadline))
        self.waiting_for = u'the answer to ' + text(command)
        self._wire = _Wire(self._sock, self._deadline, MAX_HEADERS)
        self._is_used = True  # until its answer was read: the alarm may strike at any line
        try:
            answer = _checked(decode_answer(self._post(body)))
            self._is_used = False
            return answer
        except TpamRefused:
            self._is_used = False
            raise
        except Exception as error:  # httplib lets many kinds out, and the call may have been carried out after any
            failure = error  # nothing is raised here: Python 3 would show this one too, which may quote the server
        self.close()
        if isinstance(failure, urllib2.HTTPError):
            raise self._failed_by_status(failure.code, repeatable)
        if kept and not self._wire.received and not isinstance(failure, TpamTimeout):
            self._deadline.left()
            if resend:
                return self.ask(command, body, repeatable, resend, fresh)
            raise TpamConnectionEnded(self._error(u'The connection ended before the answer', command=command))
        raise self._failed(failure, repeatable)

    def _is_idle(self):
        """Return whether there is a connection whose last answer was read, and on which nothing came since then."""
        return self._sock is not None and not self._is_used and not is_readable(self._sock)

    def _failed_by_status(self, code, repeatable):
        failure = self._error(u'The server answers with an error', status=_status(code),
                              remedy=_HTTP_REMEDIES.get(code, u'see the log of the server'))
        if not repeatable and not 300 <= code < 500:
            return TpamOutcomeUnknown(failure + u'; whether the call was carried out is unknown')
        return (TpamUnavailable if code in (502, 503, 504) else TpamError)(failure)

    def _failed(self, error, repeatable):
        remedy = u'see the log of the server'
        if self._tls and not self._wire.received:  # TLS 1.3 refuses a client certificate only now
            remedy += u'; does it want another client_cert?'
        failure = self._error(u'No usable answer', reason=_reason(error), remedy=remedy)
        if self._wire.sent and not repeatable:
            return TpamOutcomeUnknown(failure + u'; whether the call was carried out is unknown')
        if isinstance(error, TpamTimeout):
            return error
        self._deadline.left()
        return (TpamError if self._wire.sent else TpamUnavailable)(failure)

    def close(self):
        if self._sock is not None:
            self._sock.close()
        self._sock = None

    def _error(self, message, **details):
        return describe(message, server=self.name, **details)

    def _post(self, body):
        headers = {'Content-Type': 'text/xml; charset=utf-8', 'Host': native(self.name), 'User-Agent': USER_AGENT}
        username, password = self._settings['credential']
        if username:
            headers['Authorization'] = basic(username, password)
        url = '%s://%s%s' % (self._tls and 'https' or 'http', self.name, self._settings['path'])
        return self._opener.open(urllib2.Request(native(url), body, headers)).read()

    def http_open(self, request):
        """What urllib2 calls to have a request answered (its handler protocol), for http and https."""
        response = _exchange(self._wire, 'POST', self._settings['path'], request.data, dict(request.header_items()))
        content = io.BytesIO()
        if response.status == 200:
            if (response.getheader('Content-Encoding') or 'identity').lower() != 'identity':
                raise BadAnswer('a Content-Encoding, which was not asked for')
            _check_length(response)
            self._wire.budget += 2 * MAX_BODY  # what frames the chunks counts too
            block = response.read(65536)
            while block:
                content.write(block)
                if content.tell() > MAX_BODY:
                    raise BadAnswer('more than %d bytes' % MAX_BODY)
                block = response.read(65536)
            if response.length:
                raise httplib.IncompleteRead(b'')
            if response.will_close or self._wire.has_unread_bytes():
                self.close()
        content.seek(0)
        answer = urllib2.addinfourl(content, response.msg, request.get_full_url(), response.status)
        answer.msg = response.reason
        return answer

    https_open = http_open

    def _connect(self, deadline, verify=True):
        """A connected socket as self._sock, over TLS to a peer that was verified; without `verify` it is good for a
        look at the certificate only. Every other way out raises, and leaves no socket."""
        host, port = self._proxy and self._proxy['address'] or (self._host, self._port)
        reason, usable = u'the name has no address', False
        try:
            self.waiting_for = u'the look-up of the name'
            addresses = _addresses(host, port, deadline)
            for index, (family, kind, protocol, _, address) in enumerate(addresses):
                self.close()
                share = Deadline(deadline.left() / (len(addresses) - index))
                try:
                    self.waiting_for = u'connecting'
                    self._sock = socket.socket(family, kind, protocol)
                    self._sock.settimeout(share.left())
                    self._open(address, share, verify)
                    if self._tls:
                        self._shake_hands(share, verify)
                    usable = True
                    return
                except EnvironmentError as error:
                    reason = _reason(error)
                except TpamTimeout:
                    deadline.left()
                    reason = _TIMED_OUT
        except TpamTimeout:
            reason = _TIMED_OUT
        except (EnvironmentError, UnicodeError) as error:  # of the look-up: Python 3 puts the name into IDNA
            reason = _reason(error)
        finally:
            if not usable:  # also after what a signal handler raises
                self.close()
        self._deadline.left()
        details = {'address': u'%s, port %d' % (text(host), port), 'reason': reason}
        if 'timed out' in reason:
            details['waiting_for'] = self.waiting_for
        raise TpamUnavailable(self._error(u'Cannot connect to the server', **details))

    def _open(self, address, deadline, verify):
        """Connects to the address of the server or its proxy and makes a TLS socket of it. It is wrapped before it
        connects: a connected one may lose its timeout (bpo-5103), and goes on in plain text if the peer has closed
        it (bpo-13721), which _shake_hands() refuses after a proxy's CONNECT, where there is no other way."""
        files = []
        try:
            if self._tls and not self._proxy:
                self._sock = self._wrap(files, verify)
            self._sock.connect(address)
            if self._proxy:
                self._tunnel(deadline)
                if self._tls:
                    self._sock = self._wrap(files, verify)
        except ssl.SSLError as error:  # no handshake has begun: it is about the files
            raise TpamError(describe(u'[tls] ca_cert or client_cert cannot be loaded', reason=_reason(error),
                                     remedy=u'client_cert takes a certificate and its unencrypted key'))
        finally:
            for pem_file in files:
                pem_file.close()

    def _wrap(self, files, verify):
        names = {}
        for option in ('ca_cert', 'client_cert'):
            if self._tls[option] and verify:
                pem_file, names[option] = _pem_file(self._tls[option])
                files.append(pem_file)
        # Where there are protocol options (2.7.9), SSLv23 negotiates the newest and rules SSLv3 out by itself.
        negotiate = self._tls['protocol'] == 'negotiate' or hasattr(ssl, 'OP_NO_SSLv3')
        return ssl.wrap_socket(self._sock, keyfile=names.get('client_cert'), certfile=names.get('client_cert'),
                               cert_reqs=verify and 'ca_cert' in names and ssl.CERT_REQUIRED or ssl.CERT_NONE,
                               ca_certs=names.get('ca_cert'), do_handshake_on_connect=False,
                               ssl_version=negotiate and ssl.PROTOCOL_SSLv23 or ssl.PROTOCOL_TLSv1)

    def _tunnel(self, deadline):
        self.waiting_for = u'the answer of the proxy'
        target = native(u'[%s]:%d' % (self._host, self._port) if ':' in self._host else self.name)
        headers = {'Host': target, 'User-Agent': USER_AGENT}
        if self._proxy['username']:
            headers['Proxy-Authorization'] = basic(self._proxy['username'], self._proxy['password'])
        status = None
        try:
            status = _exchange(_Wire(self._sock, deadline, MAX_HEADERS), 'CONNECT', target, None, headers).status
            answer = _status(status)
        except (httplib.HTTPException, ValueError) as error:
            answer = _reason(error)
        if status != 200:
            raise TpamUnavailable(self._error(u'The proxy does not connect to the server', answer=answer,
                                              remedy=u'see [https-proxy] and the log of the proxy'))

    def _shake_hands(self, deadline, verify):
        try:
            self._handshake(deadline)
            self.peer = certificate(self._sock.getpeercert(True) or b'')
            _, protocol, bits = self._sock.cipher() or (None, None, 0)
            reason = u'a protocol or cipher too weak' if bits < 112 or protocol == 'SSLv2' else u''
        except EnvironmentError as error:
            reason = _reason(error)
        except (ValueError, AttributeError):  # there is no TLS object: see _open()
            reason = u'no certificate'
        if reason:
            seen = verify and self._look(deadline) or {}
            raise TpamUnavailable(self._error(u'TLS cannot be set up with the server', reason=reason,
                                              remedy=_tls_remedy(seen), **_shown(seen)))
        if verify:
            self._verify(self.peer)

    def _handshake(self, deadline):
        """do_handshake() step by step: the socket's own timeout would be for each read, of which there may be many."""
        self.waiting_for = u'the TLS handshake'
        self._sock.setblocking(False)
        while True:
            waiting = [[self._sock], []]
            try:
                return self._sock.do_handshake()
            except ssl.SSLError as error:
                if error.args[0] not in (ssl.SSL_ERROR_WANT_READ, ssl.SSL_ERROR_WANT_WRITE):
                    raise
                if error.args[0] == ssl.SSL_ERROR_WANT_WRITE:
                    waiting.reverse()
            select.select(waiting[0], waiting[1], [], deadline.left())

    def _look(self, deadline):
        """certificate() that a server shows whose handshake failed, for the log line: on a connection of its own, over
        which nothing is sent."""
        other = _Server(text(self._host), self._port, self._settings, self._deadline)
        try:
            other._connect(deadline, verify=False)
            return other.peer
        except TpamError:
            return None
        finally:
            other.close()

    def _verify(self, peer):
        """What OpenSSL leaves to us: the pin, and the host name. With a pin and no ca_cert the pin is the name."""
        pins = self._tls['server_fingerprint']
        if pins and peer['sha256'] not in pins:
            raise TpamError(self._error(u'The certificate of the server is not the pinned one', remedy=(
                u'find out why it changed; if that was meant, put its SHA-256 into [tls] server_fingerprint'),
                **_shown(peer)))
        if self._tls['ca_cert'] and self._tls['check_host_name'] and not matches(peer, self._host):
            raise TpamUnavailable(self._error(u'The certificate of the server is for another name', names=u', '.join(
                names_of(peer)), remedy=u'name the server in [tpam] server as its certificate does', **_shown(peer)))


def _checked(answer):
    """The shape that every answer has: a struct of returnCode (int) and message, which becomes text."""
    if not isinstance(answer, dict):
        raise BadAnswer('no struct of returnCode and message')
    code = answer.get('returnCode')
    if not isinstance(code, int) or isinstance(code, bool):
        raise BadAnswer('no returnCode, or one that is not an int')
    if not is_text(answer.get('message')):
        raise BadAnswer('no message, or one that is not a string')
    answer['message'] = text(answer['message'])
    return answer


def _exchange(wire, method, target, body, headers):
    connection = httplib.HTTPConnection('', strict=True)  # else 2.6 takes any bytes for a 200 answer
    connection.auto_open, connection.sock = 0, wire
    connection.request(method, native(target), body, headers)
    return connection.getresponse()


def _check_length(response):
    """Check the Content-Length of a httplib response (RFC 9112, 6.3), and repair `length` where it came twice.

    httplib takes a negative number, and waits for the end of the connection where two equal headers came.
    """
    written = response.getheader('Content-Length')
    if written is None or response.chunked:
        return
    lengths = set(part.strip() for part in written.split(','))
    length = lengths.pop()
    if lengths or not re.match('[0-9]{1,12}\\Z', length):
        raise BadAnswer('an invalid Content-Length')
    response.length = int(length)


def basic(username, password):
    """The value of an Authorization header (RFC 7617), native."""
    pair = (u'%s:%s' % (text(username), text(password))).encode('utf-8')
    return native(u'Basic ' + text(base64.b64encode(pair)))


def _reason(error):
    """What to say of an exception without repeating what a server sent: libraries quote it in theirs."""
    if isinstance(error, httplib.HTTPException):
        return u'an answer that is cut short or is not HTTP'
    if isinstance(error, TpamTimeout):
        return u'timed out'
    if isinstance(error, (EnvironmentError, BadAnswer)):
        return error.args and text(error.args[-1]) or text(type(error).__name__)
    return text(type(error).__name__)


def _status(code):
    """401 -> u'401 Unauthorized'; the server's own words could repeat what it was sent."""
    return u'%d %s' % (code, text(httplib.responses.get(code)))


def _shown(peer):
    return dict((name, peer[name]) for name in peer and ('subject', 'issuer', 'not_before', 'not_after', 'sha256'))


def _tls_remedy(peer):
    now = text(time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime()))
    if not peer:
        return u'is this a TLS port, and does the server want another client_cert or protocol?'
    if now > peer['not_after']:
        return u'the certificate has expired: renew it on the server'
    if now < peer['not_before']:
        return u'the certificate is not yet valid: check the clocks'
    return u'if the certificate is right, put the CA that issued it into [tls] ca_cert; else check client_cert'


# ---- TPAM ----------------------------------------------------------------------------------------------------------

_REPLICA = u'not available on a failed over replica'
_NOTHING_TO_LIST = re.compile(u'No (Systems|Accounts|Requests|Permissions) to list', re.I)
_NEVER_INITIALISED = u'default initial password'


class TpamClient(object):
    """TPAM's commands, one method each, with options named as its CLI names them; absent (None, '') ones are left out.

    settings: servers ([(host, port)], or [('srv:name', None)]), path, method_prefix, credential (username, password),
    connect_timeout (s), proxy (None or dict of address (host, port), username, password), tls (None: plain HTTP, or
    dict of ca_cert and client_cert (PEM or None), server_fingerprint (list of hex), check_host_name, protocol).
    deadline: Deadline of the whole hook. log: function of a line about a server that had to be left out.
    first: name of the server to ask first. Every method raises TpamError or its kinds.
    """

    def __init__(self, settings, deadline, log, first=None):
        self._settings, self._deadline, self._log, self._first = settings, deadline, log, first
        self._servers = None
        self.server = None  # the name of the server that answered last

    def close(self):
        for server in self._servers or ():
            server.close()

    def retrieve(self, **options):
        """-> the password (text). RequestID, or SystemName, AccountName, ReasonText, TimeRequired (minutes), …"""
        return self._credential('Retrieve', options)

    def retrieve_key(self, **options):
        """-> the private key (PEM text); options as retrieve()."""
        return self._credential('RetrieveKey', options)

    def _credential(self, command, options):
        # What was released by request is released once; an ISA may ask again.
        secret = self.call(command, options, repeatable='RequestID' not in options)['message']
        if not secret:
            raise TpamRefused(u'the server gave an empty credential')
        if _NEVER_INITIALISED in folded(secret[:MAX_MATCHED]):
            raise TpamRefused(u'the account was never initialised: its password is the placeholder of the server')
        return secret

    def call(self, command, options, repeatable=True, resend=True, fresh=False):
        """-> the answer struct, with `message` as text and returnCode 0. repeatable, resend, fresh: see
        _Server.ask()."""
        body = encode_call(self._settings['method_prefix'] + text(command), options)
        failures = []
        for server in self._in_order():
            try:
                answer = server.ask(command, body, repeatable, resend, fresh)
                if answer['returnCode'] != 0:
                    raise TpamRefused(answer['message'], answer['returnCode'])
            except TpamRefused as refusal:
                if _REPLICA not in folded(text(refusal)[:MAX_MATCHED]):
                    raise
                failure = TpamUnavailable(describe(u'The server is a replica', reason=_REPLICA, server=server.name))
            except TpamUnavailable as error:
                failure = error
            except TpamTimeout:
                raise TpamTimeout(server=server.name, waiting_for=server.waiting_for)
            else:
                # The server that answered is asked first from now on. One assignment: an alarm between two steps
                # would leave the list without it.
                self._servers = [server] + [other for other in self._servers if other is not server]
                self.server = server.name
                return answer
            failures.append(failure)
            if len(failures) < len(self._servers):
                self._log(text(failure))
        raise failures[-1]

    def _in_order(self):
        """The servers, in the order in which they are to be asked; what `srv:` names is looked up once."""
        if self._servers is None:
            addresses, failures = [], []
            for host, port in self._settings['servers']:
                limit = Deadline(self._settings['connect_timeout'], self._deadline)
                try:
                    if host.startswith(u'srv:'):
                        addresses += self._service(host[len(u'srv:'):], limit)
                    else:
                        addresses.append((host, port))
                except TpamUnavailable as error:
                    failures.append(error)
                except TpamTimeout:
                    raise TpamTimeout(waiting_for=u'the look-up of the name', name=host)
            if not addresses:
                raise failures[-1]
            for failure in failures:
                self._log(text(failure))
            servers = [_Server(host, port, self._settings, self._deadline) for host, port in addresses]
            self._servers = sorted(servers, key=lambda server: server.name != self._first)
        return list(self._servers)

    def _service(self, name, deadline):
        """Return [(host, port)] of an SRV name: by priority, then by chance in proportion to weight (RFC 2782).

        The answer of DNS is not authenticated, and its names are those that certificates are checked for. RFC 6125
        (1.7.2) therefore forbids to take them as they are: they must lie in the domain of the SRV name, which stands in
        the configuration. A pinned certificate needs no name.
        """
        import random
        records = [record for record in look_up(name, 'SRV', deadline) if record.target.to_text() != '.']
        order = sorted(records, key=lambda record: (record.priority,
                                                    -random.random() ** (1.0 / (record.weight or 0.01))))
        failure = TpamUnavailable(describe(u'DNS has no servers under this name', name=name,
                                           remedy=u'check [tpam] server'))
        pinned = self._settings['tls'] and self._settings['tls']['server_fingerprint']
        found, outside = [], []
        for record in order:
            host = text(record.target.to_text()).rstrip(u'.')
            if pinned or is_in_domain(host, service_domain(name)):
                found.append((host, record.port))
            else:
                outside.append(TpamUnavailable(describe(
                    u'The DNS answer names a server outside the domain of the SRV name', name=name, server=host,
                    remedy=u'check DNS; name the server itself in [tpam] server, or pin its certificate')))
        if not found:
            raise (outside or [failure])[-1]
        for refused in outside:
            self._log(text(refused))
        return found

    def add_pwd_request(self, fresh=False, **options):
        """SystemName, AccountName, RequestNotes, ReleaseDuration (minutes), … -> (request id, message). fresh: on a new
        connection."""
        answer = self.call('AddPwdRequest', options, repeatable=False, resend=False, fresh=fresh)
        if not answer.get('id'):
            raise TpamOutcomeUnknown(u'The server filed a request and did not say its id')
        return answer['id'], answer['message']

    def get_pwd_request(self, request_id):
        """Return the row of one request, or None where the server lists none. Raises TpamError for another row."""
        rows = self._rows('GetPwdRequest', {'RequestID': request_id})
        if not rows:
            return None
        if len(rows) > 1 or column(rows[0], 'RequestID').strip() != text(request_id).strip():
            raise TpamError(describe(u'No usable answer', server=self.server,
                                     reason=u'a row of another request than the one asked for'))
        return rows[0]

    def cancel(self, request_id, comment):
        """Gives an active request back, withdraws a pending one."""
        self.call('Cancel', {'RequestID': request_id, 'Comment': comment}, repeatable=False)

    def force_reset(self, system, account):
        """Has the password of the account changed."""
        self.call('ForceReset', {'SystemName': system, 'AccountName': account}, repeatable=False)

    def list_request_details(self, **options):
        """-> rows ({column: text}) of requests; a row without a RequestID is about none."""
        return [row for row in self._rows('ListRequestDetails', options) if column(row, 'RequestID').strip()]

    def list_assigned_policies(self, **options):
        """-> rows of the policies that a user holds."""
        return self._rows('ListAssignedPolicies', options)

    def list_accounts(self, **options):
        """-> rows of accounts."""
        return self._rows('ListAccounts', options)

    def list_systems(self, **options):
        """-> rows of systems."""
        return self._rows('ListSystems', options)

    def _rows(self, command, options):
        try:
            answer = self.call(command, options)
        except TpamRefused as refusal:
            if _NOTHING_TO_LIST.search(text(refusal)[:MAX_MATCHED]):
                return []
            raise
        rows, count = answer.get('rows'), text(answer.get('count')).strip()
        if rows is None and count == u'0':
            return []
        if not isinstance(rows, list) or [row for row in rows if not isinstance(row, dict)] \
                or not rows and count not in (u'', u'0'):
            raise TpamError(describe(u'No usable answer', server=self.server, reason=u'no rows, or rows that are none'))
        return rows


def column(row, name):
    """One column of a row as text; u'' where it is missing."""
    return text(row.get(name))


def service_domain(name):
    """Return the domain that an SRV name is about: _tpam._tcp.example.com -> example.com (RFC 2782)."""
    labels = name.split(u'.')
    while labels and labels[0].startswith(u'_'):
        del labels[0]
    return u'.'.join(labels)


def is_in_domain(host, domain):
    """Return whether a host name is the domain or lies inside it. A name with other characters than those of host names
    is no name: dnspython writes a dot inside a label as `\\.`."""
    if not re.match(u'[A-Za-z0-9_.-]+\\Z', host):
        return False
    return (u'.' + host.lower()).endswith(u'.' + domain.rstrip(u'.').lower())
