# -*- coding: utf-8 -*-
"""Shared by all other modules: errors, text for logs and XML, and the deadline.

Python 2.6.5 code, like all that ships. This module imports nothing of the plugin.
"""
import base64
import os
import select
import unicodedata

MAX_SHOWN = 500     # characters of one value in a log line
MAX_ID = 100        # characters of the id of a request
MAX_NAME = 256      # characters of the name of a system or an account
MAX_MATCHED = 1000  # characters of a server's text that a pattern is tried on
_NOTICE = 0.2       # seconds that a thread has to end by itself when its time is over


# ---- errors: one class for each thing that a caller can do about it ------------------------------

class TpamError(Exception):
    """The server cannot be asked, or its answer cannot be used: the hook fails.

    message (text): one sentence. remedy (text or None): what the reader of the log can do.
    details ({name: value}): the facts of the case. All three may contain secrets that a server
    repeats, at any length. The log masks, escapes and cuts them, in this order. str() is the
    message, until Plugin replaces it by the line of the log.
    """

    def __init__(self, message, remedy=None, **details):
        Exception.__init__(self, message)
        self.message, self.remedy, self.details = message, remedy, details

    def fields(self):
        """Return the details and the remedy as the fields of a log line (dict)."""
        if self.remedy is None:
            return dict(self.details)
        return dict(self.details, remedy=self.remedy)


class TpamRefused(TpamError):
    """The server, or the configured authorization, refuses a credential: SPS gets an empty list.

    message is in the words of the server or of the plugin; code (int, text or None) is the
    returnCode or faultCode of the server; is_fault: whether it came as a fault; command (text or
    None): the command that the server refused.
    """

    def __init__(self, message, code=None, is_fault=False, remedy=None, **details):
        TpamError.__init__(self, message, remedy, **details)
        self.code, self.is_fault, self.command = code, is_fault, None


class TpamUnavailable(TpamError):
    """It is safe to ask the next server: the call was not carried out, or may be repeated."""


class TpamOutcomeUnknown(TpamError):
    """The call may have been carried out: look for its outcome, and do not send it again."""


class TpamConnectionEnded(TpamOutcomeUnknown):
    """A kept connection ended before the first byte of the answer.

    The server had most likely closed it while it was idle. Send the call again only after a
    look-up has shown that it was not carried out.
    """


class TpamTimeout(TpamError):
    """The time of the whole hook is over, or a signal ended it. details say what the hook was
    waiting for, and name the signal."""

    def __init__(self, **details):
        message = (u'The hook has reached its time limit; find out why the server is slow, or '
                   u'increase [tpam] timeout')
        if 'signal' in details:
            message = u'A signal ended the hook'
        TpamError.__init__(self, message, **details)


class BadAnswer(ValueError):
    """The answer is not XML-RPC. str() says why, and quotes nothing of the answer."""


# ---- text ----------------------------------------------------------------------------------------

def text(value):
    """Return bytes in UTF-8, unicode, a number or None as unicode.

    Bytes that are not UTF-8 become U+FFFD: they are shown rather than lost.
    """
    if isinstance(value, bytes):
        return value.decode('utf-8', 'replace')
    if value is None:
        return u''
    return value if isinstance(value, type(u'')) else u'%s' % (value,)


def native(value):
    """Return text as the interpreter's own str, in UTF-8 where that is bytes, for SPS and
    httplib."""
    value = text(value)
    return value if isinstance(value, str) else value.encode('utf-8')


def is_text(value):
    """Return whether a value is a string: unicode, or the str that lxml and SPS use for ASCII."""
    return isinstance(value, (str, type(u'')))


def is_number(value):
    """Return whether a value is an integer of any size, and not a boolean."""
    return isinstance(value, (int, type(2 ** 64))) and not isinstance(value, bool)


def column(row, name):
    """Return one column of a row ({name: value}) as text, u'' where it is missing."""
    return text(row.get(name))


def folded(name):
    """Return a name (text) in the form in which names are compared: without regard to case.

    A letter is folded only if its lower case leads back to it. The Kelvin sign (U+212A), the dotted
    capital I (U+0130) and their like would otherwise become ASCII letters, and two users would
    become one.
    """
    return u''.join(_folded(char) for char in text(name))


def _folded(char):
    lower = char.lower()
    return lower if lower.upper() == char else char


def same_name(one, other):
    """Return whether two names (text) are the same without regard to case.

    The lengths are compared first: folding megabytes from a server would exceed the deadline.
    """
    one, other = text(one), text(other)
    return len(one) == len(other) and folded(one) == folded(other)


def describe(message, **details):
    """Return one line: describe(u'Called', hook=u'x') is u"Called; hook='x'"."""
    fields = [u"%s='%s'" % (name, escaped(value)) for name, value in sorted(details.items())]
    if not fields:
        return message
    return u'%s; %s' % (message, u', '.join(fields))


def escaped(value):
    """Return a value in the form for a log line, at most MAX_SHOWN characters of it.

    Quotes, control characters and characters that change the direction of writing are escaped,
    so that the words of a user or a server cannot forge a line or a field.
    """
    value = text(value)
    shown = u''.join(_escaped(char) for char in value[:MAX_SHOWN])
    return shown + u'…' if len(value) > MAX_SHOWN else shown


# Controls; formats, such as a change of direction; characters that this Python does not know (2.6
# lacks some changes of direction); surrogates; separators of lines.
_UNSEEN = ('Cc', 'Cf', 'Cn', 'Cs', 'Zl', 'Zp')


def _escaped(char):
    if char in u"'\\":
        return u'\\' + char
    if unicodedata.category(char) not in _UNSEEN:
        return char
    return (u'\\x%02x' if ord(char) < 256 else u'\\u%04x') % ord(char)


def basic(username, password):
    """Return the value of an Authorization header (RFC 7617), native."""
    pair = u'%s:%s' % (text(username), text(password))
    return native(u'Basic ' + text(base64.b64encode(pair.encode('utf-8', 'replace'))))


# ---- time ----------------------------------------------------------------------------------------

class Deadline(object):
    """The moment by which every wait must end.

    It is measured with times(2), which NTP does not change: 2.6 has no time.monotonic(). The
    timeout of a socket limits only one operation, so that a server that sends byte by byte never
    exceeds it.
    """

    def __init__(self, seconds, within=None):
        self._at = os.times()[4] + seconds
        if within is not None:
            self._at = min(self._at, within._at)

    def extend(self, seconds):
        """Add seconds that were reserved."""
        self._at += seconds

    def left(self):
        """Return the seconds that are left, always more than 0. Raises TpamTimeout.

        times(2) has a resolution of 10 ms: the last two ticks count as expired. settimeout(0)
        would make 2.6 spin.
        """
        left = self._at - os.times()[4]
        if left <= 0.02:
            raise TpamTimeout()
        return left


def in_thread(function, deadline):
    """Return what a function returns, or raise what it raises, within the deadline. Raises
    TpamTimeout.

    No signal ends C code. It runs in a thread, which is abandoned if it is late.
    """
    import thread  # the tools use the rest of this module where there is none
    returned, failed = [], []
    reader, writer = os.pipe()

    def run():
        try:
            returned.append(function())
        except Exception as error:
            failed.append(error)
        os.write(writer, b'.')
    thread.start_new_thread(run, ())
    ready, _, _ = select.select([reader], [], [], deadline.left() + _NOTICE)
    if reader not in ready:
        raise TpamTimeout()  # the pipe stays open, because the thread may still write to it
    os.close(reader)
    os.close(writer)
    for error in failed:
        raise error
    return returned[0]
