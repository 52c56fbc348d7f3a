"""TPAM's commands: from the options of a call to a command line, and from its output to an answer.

docs/protocol.md describes the calls and the answers. The command line has no error codes: success
is known by its words or by its table, and everything else is a refusal.
"""
import re
import unicodedata
from collections import namedtuple

UNKNOWN_COMMAND, BAD_OPTIONS = -32601, -32602  # fault codes
REFUSED = 1                                    # the returnCode of every refusal
REPLICA = 'not available on a failed over replica'
MAX_TEXT = 1000                                # characters of TPAM's text in an answer

# What a command printed: bytes, bytes, and int or None.
Output = namedtuple('Output', 'stdout stderr status')


class Fault(Exception):
    """The call is wrong, and nothing was sent."""

    def __init__(self, code, text):
        Exception.__init__(self, text)
        self.code = code


class Refused(Exception):
    """TPAM, or this gateway, refuses the command; the text says why."""


class OutcomeUnknown(Exception):
    """The command was sent, and nobody knows whether it was carried out."""


# ---- the command line --------------------------------------------------------------------------

_NUMBER = '[0-9]{1,9}'
_PATTERNS = {  # option: the values that it takes. Every other option takes any text.
    'RequestID': '[0-9]{1,18}(?:-[0-9]{1,9})?',
    'MaxRows': _NUMBER,
    'ReleaseDuration': _NUMBER,
    'TimeRequired': _NUMBER,
    'RequestImmediate': 'Y',  # for N, TPAM needs a date, which the protocol does not have
    'AllOrEffectiveFlag': 'E',
    'PermissionType': 'Pwd',
    'Status': 'ACTIVE|OPEN',
}
# TPAM does this unless it is told otherwise, and the name of its option was never seen.
_NOT_SENT = ('RequestImmediate',)
FREE_TEXTS = ('ReasonText', 'RequestNotes', 'Comment', 'TicketNumber')  # not for the log

# No way to escape a quotation mark is known. TPAM runs on Windows, whose conversion to an 8-bit
# character set turns look-alikes into quotation marks, backticks and hyphens.
_QUOTES = '"`“”„‟″‶〃〝〞〟＂｀ʺ˝ˮˋ̀̎‵‛'
_HYPHENS = '-−˗­⁃'
_UNSEEN = ('Cc', 'Cf', 'Cn', 'Co', 'Cs', 'Zl', 'Zp')


def command_line(name, options):
    """Return the command line for a call. Raises Fault for a command or an option that the protocol
    does not have, and for a value that could change the command.

    options: {name: text or int}.
    """
    if name not in COMMANDS:
        raise Fault(UNKNOWN_COMMAND, 'unknown command %s' % name[:100])
    if not isinstance(options, dict):
        raise Fault(BAD_OPTIONS, '%s takes one struct of options' % name)
    for form in COMMANDS[name].forms:
        required, _, optional = form.partition('[')
        known = form.replace('[', '').replace(']', '').split()
        if set(required.split()) <= set(options) <= set(known):
            words = [name]
            for option in known:
                if option in options:
                    value = checked_value(option, options[option])
                    if option not in _NOT_SENT:
                        words.append('--%s "%s"' % (option, value))
            return ' '.join(words)
    raise Fault(BAD_OPTIONS, '%s takes the options %s' % (name, ', or '.join(COMMANDS[name].forms)))


def checked_value(option, value):
    """Return the value of an option as text that can stand between quotation marks. Raises Fault
    naming the option; the value may be a secret that was put into the wrong option."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = '%d' % value
    if not isinstance(value, str) or not value:
        raise Fault(BAD_OPTIONS, 'option %s is empty, or is neither text nor a number' % option)
    pattern = _PATTERNS.get(option)
    if pattern is not None and re.fullmatch(pattern, value) is None:
        raise Fault(BAD_OPTIONS, 'option %s has a value that is not allowed' % option)
    if any(char in _QUOTES or unicodedata.category(char) in _UNSEEN for char in value):
        raise Fault(BAD_OPTIONS, 'option %s contains a double quote, a backtick, or a control '
                                 'character' % option)
    if value[0] in _HYPHENS or unicodedata.category(value[0]) == 'Pd':
        raise Fault(BAD_OPTIONS, 'option %s begins with a hyphen' % option)
    if value[-1] in '\\＼':  # it could escape the quotation mark behind it
        raise Fault(BAD_OPTIONS, 'option %s ends in a backslash' % option)
    return value


# ---- the output: one function for each kind of answer ------------------------------------------

def answer(name, output):
    """Return the answer (dict) to a command that printed `output`. Raises Refused, OutcomeUnknown.
    """
    text = _text(output.stdout) or _text(output.stderr)
    if not text and COMMANDS[name].changes:
        raise OutcomeUnknown('TPAM printed nothing')
    return COMMANDS[name].read(output, text)


def is_refused_by_replica(output):
    """Return whether another TPAM should be asked."""
    return REPLICA in _text(output.stdout + output.stderr).lower()


def _text(printed):
    """Return what was printed as one line: without a blank at either end."""
    lines = printed[:64 * 1024].decode('utf-8', 'replace').splitlines()
    return ' '.join(line.strip() for line in lines if line.strip())[:MAX_TEXT]


def _read_password(output, text):
    """Read the password of Retrieve: one word on one line, as TPAM's own passwords are.

    Text that may contain a password is not repeated, because a refusal is logged.
    """
    lines = [line.rstrip(b'\r') for line in output.stdout.split(b'\n') if line.strip()]
    if not lines:
        raise Refused(text or 'TPAM printed nothing')
    words = output.stdout.split()
    is_answer = not output.stderr.strip() and output.status in (None, 0)
    if is_answer and lines == words[:1]:
        try:
            return {'returnCode': 0, 'message': words[0].decode('utf-8')}
        except UnicodeDecodeError:
            raise Refused('the password is not UTF-8 text')
    if len(lines) == 1 and len(words) > 2 and b'\t' not in lines[0]:
        raise Refused(text)
    raise Refused('TPAM printed neither one word nor a sentence; it is not shown, because it may '
                  'contain a password')


def _read_new_request(output, text):
    found = re.search(r'RequestID:\s*([0-9]+(?:-[0-9]+)?)\s.*submitted.*', text, re.I)
    if found:
        return {'returnCode': 0, 'message': found.group(), 'id': found.group(1)}
    if re.match('RequestID:', text, re.I) or 'has been submitted' in text:
        raise OutcomeUnknown('TPAM submitted a request, and its id cannot be read')
    raise Refused(text)


def _read_phrase(done, failed='$^'):
    """Return a function that knows success by a phrase, unless another one is there."""
    def read(output, text):
        if re.search(done, text, re.I) and not re.search(failed, text, re.I):
            return {'returnCode': 0, 'message': text}
        raise Refused(text)
    return read


def _read_table(*required):
    """Return a function that reads a table with these columns.

    They must be in each row. Text that a user typed may contain line feeds: it must not look like
    another row.
    """
    def read(output, text):
        if re.fullmatch('No [A-Za-z ]+ to list[.!]?', text):
            return {'returnCode': 0, 'message': text, 'count': 0, 'rows': []}
        lines = [line.rstrip('\r')
                 for line in output.stdout.decode('utf-8', 'replace').split('\n')]
        lines = [line for line in lines if line]
        names = [name.strip() for name in lines[0].split('\t')] if lines else []
        if len(names) < 2:
            raise Refused(text or 'TPAM printed nothing')
        if not set(required) <= set(names):
            raise Refused('TPAM printed no table with the columns %s' % ', '.join(required))
        least = max(names.index(name) for name in required) + 1
        rows = []
        for line in lines[1:]:
            cells = line.split('\t')
            if not least <= len(cells) <= len(names):
                raise Refused('TPAM printed a row whose cells do not match the header')
            cells += [''] * (len(names) - len(cells))
            rows.append({name: _cell(value) for name, value in zip(names, cells) if name})
        message = '%d rows' % len(rows)
        return {'returnCode': 0, 'message': message, 'count': len(rows), 'rows': rows}
    return read


def _cell(value):
    """Return a cell as text. Numbers are padded with spaces on the left."""
    return value.strip() if re.fullmatch(' +[0-9]+ *', value) else value


# ---- the commands of the protocol --------------------------------------------------------------

# forms: the sets of options, those in brackets optional. read: function of (output, its text).
# changes: True if a second execution does harm, so that a missing answer is reported as outcome
# unknown.
Command = namedtuple('Command', 'forms read changes')

_REASON = 'ReasonCode TicketSystemName TicketNumber'
COMMANDS = {
    'Retrieve': Command(
        ('RequestID', 'SystemName AccountName [ReasonText TimeRequired %s]' % _REASON),
        _read_password, False),
    'AddPwdRequest': Command(
        ('SystemName AccountName [RequestNotes RequestImmediate ReleaseDuration '
         'AccessPolicyName %s]' % _REASON,), _read_new_request, True),
    'GetPwdRequest': Command(('RequestID',), _read_table('RequestID', 'RequestStatus'), False),
    'Cancel': Command(('RequestID [Comment]',), _read_phrase('submitted successfully'), True),
    'ListRequestDetails': Command(
        ('[RequestorName SystemName AccountName Status MaxRows]',),
        _read_table('RequestID', 'UserName', 'SystemName', 'AccountName', 'Status'), False),
    'ListAssignedPolicies': Command(
        ('[UserName SystemName AccountName AllOrEffectiveFlag PermissionType]',),
        _read_table('UserName', 'AccessPolicyName', 'EffectiveFl'), False),
    'ListAccounts': Command(
        ('[SystemName AccountName MaxRows]',), _read_table('SystemName', 'AccountName'), False),
    'ListSystems': Command(
        ('[NetworkAddress SystemName MaxRows]',), _read_table('SystemName'), False),
    'ForceReset': Command(
        ('SystemName AccountName',),
        _read_phrase('processed the password change|successfully changed|successful',
                     'fail|unsuccessful|not successful'), True),
}


def is_repeatable(name, options):
    """Return whether a command may be carried out twice. A request releases its password once."""
    if name == 'Retrieve':
        return 'RequestID' not in options
    return not COMMANDS[name].changes
