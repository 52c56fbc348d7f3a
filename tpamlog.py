# -*- coding: utf-8 -*-
"""The log of one hook call: one line for each event on stdout, with every known secret masked.

Python 2.6.5 code. A line is made in this order: secrets are masked in each part, values are
escaped and cut, and the line is written if stdout accepts it.
"""
import binascii
import re
import select
import sys

from tpamconfig import LOG_LEVELS
from tpamerrors import describe, escaped, native, text

MASK = u'********'
MAX_SEARCHED = 8192   # characters of a part that are searched for secrets; far fewer are shown
PREFIX = 64           # bytes at the start of a secret that are searched for
WRITE_SECONDS = 0.2   # that a line waits for a full pipe
PIECE = 1000          # characters written at once: 4 bytes each, and a ready pipe takes 4096


class Log(object):
    """Writes lines of a level (one of LOG_LEVELS) or above, each with the id of the session."""

    def __init__(self, level, session_id):
        self._least, self._session_id = LOG_LEVELS.index(level), session_id
        self._secrets = []

    def add_secret(self, secret):
        """Mask a secret (text) from now on. A secret of up to three characters is not
        masked, because it would mask half of the log."""
        if len(secret) > 3:
            self._secrets.append(_encoded(secret))
            self._secrets.sort(key=len, reverse=True)  # one secret may begin like another

    def write(self, level, message, **details):
        """Write one line to stdout, which SPS logs."""
        if LOG_LEVELS.index(level) < self._least:
            return
        line = self.line(message, **details)
        end = u"session_id='%s'" % escaped(self._session_id)
        _write_line(u'%s %s%s%s\n' % (level.upper(), line, u', ' if details else u'; ', end))

    def line(self, message, **details):
        """Return a message and its details as one line without a secret."""
        masked = dict((name, self.masked(text(value))) for name, value in details.items())
        return describe(self.masked(message), **masked)

    def masked(self, part):
        """Return a text with every secret masked, as it is and as URLs, JSON and XML write it.

        A long text is cut first. This may leave the beginning of a secret at its end; everything
        after the last mask is therefore dropped.
        """
        masked = part[:MAX_SEARCHED]
        for secret in self._secrets:
            masked = _mask(masked, secret, _as_written)
            if re.search(u'[%&+\\\\]', masked):
                masked = _mask(masked, secret, _decoded)
                masked = _mask(masked, secret, _decoded_form)
        if len(part) > MAX_SEARCHED and MASK in masked:
            masked = masked.rpartition(MASK)[0] + MASK
        return masked


# ---- secrets in any spelling ---------------------------------------------------------------------

# A text is searched in units: (bytes in UTF-8 that a piece of the text stands for, its end in the
# text). Searching takes time in proportion to its length. A pattern made of a secret could take
# far longer, and a user or a server may have chosen the secret.

_UNIT = re.compile(u'%([0-9A-Fa-f]{2})|((?:\\\\u[0-9A-Fa-f]{4})+)|\\\\(["\'\\\\/bfnrt])'
                   u'|&#0{0,20}([0-9]{1,7});|&#[xX]0{0,20}([0-9A-Fa-f]{1,6});'
                   u'|&(amp|lt|gt|quot|apos);')
_CONTROLS = {u'b': b'\b', u'f': b'\f', u'n': b'\n', u'r': b'\r', u't': b'\t'}
_NAMED = {u'amp': b'&', u'lt': b'<', u'gt': b'>', u'quot': b'"', u'apos': b"'"}


def _mask(part, secret, decode):
    """Return a text with a secret (UTF-8) masked in one decoding of it.

    If only the beginning of a long secret is found, the rest of the text may be more of it, cut or
    folded, and is masked, too.
    """
    octets, starts, ends = decode(part)
    masked, done, at = u'', 0, octets.find(secret[:PREFIX])
    while at >= 0:
        end = len(octets)
        if octets.startswith(secret, at):
            end = at + len(secret)
        masked += part[done:starts[at]] + MASK
        done = ends[end - 1]
        at = octets.find(secret[:PREFIX], end)
    return masked + part[done:]


def _as_written(part):
    """Return (bytes, starts, ends) of a text. starts and ends have, for each byte, the position of
    the beginning and the end of its character."""
    octets = _encoded(part)
    if len(octets) == len(part):  # ASCII: a byte for each character
        return octets, range(len(part)), range(1, len(part) + 1)
    return _joined((_encoded(char), number, number + 1) for number, char in enumerate(part))


def _decoded(part, plus=b'+'):
    """Return the same, with the escapes of URLs, JSON and XML decoded."""
    return _joined(_units(part, plus))


def _decoded_form(part):
    """Return the same, with `+` decoded as a space, as in forms."""
    return _decoded(part, b' ')


def _joined(units):
    octets, starts, ends = [], [], []
    for piece, start, end in units:
        octets.append(piece)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
    return b''.join(octets), starts, ends


def _units(part, plus):
    done = 0
    for found in _UNIT.finditer(part):
        for number in range(done, found.start()):
            yield _plain(part[number], plus), number, number + 1
        yield _value(found), found.start(), found.end()
        done = found.end()
    for number in range(done, len(part)):
        yield _plain(part[number], plus), number, number + 1


def _plain(char, plus):
    return plus if char == u'+' else _encoded(char)


def _value(found):
    """Return the bytes that one escape stands for."""
    octet, code, char, decimal, hexadecimal, name = found.groups()
    if octet is not None:
        return bytes(bytearray([int(octet, 16)]))
    if code is not None:  # a run of them, since a pair of surrogates is one character
        units = binascii.unhexlify(code.replace(u'\\u', u'').encode('ascii'))
        return _encoded(units.decode('utf-16-be', 'replace'))
    if char is not None:
        return _CONTROLS.get(char) or _encoded(char)
    if name is not None:
        return _NAMED[name]
    if decimal is not None:
        return _encoded_code(int(decimal))
    return _encoded_code(int(hexadecimal, 16))


def _encoded_code(code):
    if code > 0x10ffff:
        return b'?'
    return _encoded((u'\\U%08x' % code).encode('ascii').decode('unicode-escape'))


def _encoded(chars):
    """Return text in UTF-8; on Python 3, half of a surrogate pair becomes a question mark."""
    try:
        return chars.encode('utf-8')
    except UnicodeError:
        return b'?'


# ---- stdout --------------------------------------------------------------------------------------

def _write_line(line):
    """Write a line if stdout accepts it; otherwise drop it.

    A full pipe, a closed log, or an object that replaces stdout must not stop a check-in.
    """
    try:
        for start in range(0, len(line), PIECE):
            if not _is_writable(sys.stdout):
                return
            write_piece(line[start:start + PIECE])
    except Exception:
        pass  # also TpamTimeout, if stdout blocked although it was ready


def write_piece(piece):
    """Write to a stdout that takes text or the interpreter's own str, in any encoding."""
    plain = piece.encode('ascii', 'backslashreplace')
    for form in (native(piece), piece, native(plain), text(plain)):
        try:
            sys.stdout.write(form)
            break
        except (TypeError, UnicodeError):
            pass
    sys.stdout.flush()


def _is_writable(stream):
    try:
        descriptor = int(stream.fileno())
    except Exception:  # no descriptor: not a pipe
        return True
    for _ in range(2):
        try:
            return bool(select.select([], [descriptor], [], WRITE_SECONDS)[1])
        except select.error:  # the alarm interrupts the first wait at most
            pass
    return False
