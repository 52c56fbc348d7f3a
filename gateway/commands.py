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
MAX_TEXT = 1000                                # characters of a refusal that count
MAX_ROWS = 1000                                # of a table; the plugin asks for no more

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
    for text in (value, unicodedata.normalize('NFKC', value)):
        if any(char in _QUOTES or unicodedata.category(char) in _UNSEEN for char in text):
            raise Fault(BAD_OPTIONS, 'option %s contains a double quote, a backtick, or a control '
                                     'character' % option)
        if text[0] in _HYPHENS or unicodedata.category(text[0]) == 'Pd':
            raise Fault(BAD_OPTIONS, 'option %s begins with a hyphen' % option)
        if text[-1] == '\\':  # it could escape the quotation mark behind it
            raise Fault(BAD_OPTIONS, 'option %s ends in a backslash' % option)
    return value


# ---- the output: one function for each kind of answer ------------------------------------------

# What Retrieve may answer in place of a password; any other text could contain one.
_REFUSALS = re.compile(
    'not authorized|no permission exists|do not have permissions|is (?:currently )?locked|'
    'reason codes? .*(?:are required|failed validation)|requires a ticket|'
    'ticket (?:number and ticket system are required|'
    '.*(?:not found|failed (?:manual )?validation))|'
    'exceeds account maximum|default initial password|usage: retrieve|' + REPLICA, re.I)
# A word that is no password. It is not passed on, because it could be one after all.
_NO_PASSWORD = re.compile(
    '(?:denied|unauthorized|forbidden|failed|failure|error|timeout|password|login)[.:!]?', re.I)


def answer(name, options, output):
    """Return the answer (dict) to a command. Raises Refused and OutcomeUnknown."""
    if not _text(output) and COMMANDS[name].changes:
        raise OutcomeUnknown('TPAM printed nothing')
    return COMMANDS[name].read(output, options)


def _lines(printed):
    """Return the lines (text) of what was printed, without those that are blank."""
    lines = printed.decode('utf-8', 'replace').split('\n')
    return [line.rstrip('\r') for line in lines if line.strip()]


def _text(output):
    """Return what was printed as one line, for a message. A refusal is cut by its reader."""
    lines = _lines(output.stdout[:64 * 1024]) + _lines(output.stderr[:64 * 1024])
    return ' '.join(line.strip() for line in lines)


def _is_clean(output):
    return output.status == 0 and not output.stderr.strip()


def _read_password(output, options):
    """Read the password of Retrieve: one word on one line, as TPAM's own passwords are.

    Text that may contain a password is not repeated, because a refusal is logged.
    """
    lines = _lines(output.stdout) + _lines(output.stderr)
    refusals = [line.strip() for line in lines if _REFUSALS.search(line[:MAX_TEXT])]
    if _is_clean(output) and lines and lines == lines[0].split():
        word = lines[0]
        if word.isprintable() and '\ufffd' not in word and not _NO_PASSWORD.fullmatch(word):
            return {'returnCode': 0, 'message': word}
    if refusals:
        raise Refused(' '.join(refusals))
    if not lines:
        raise Refused('TPAM printed nothing')
    raise Refused('TPAM printed neither one word that can be a password nor a refusal that the '
                  'gateway knows. The text is not shown, because it may contain a password; run '
                  'Retrieve as the CLI user')


def _read_new_request(output, options):
    """Read the line that names the request. It must name the account of this call, and begin with
    the id: a refusal may quote a ticket number that imitates the line."""
    lines = _lines(output.stdout)
    account = '%s/%s' % (options['SystemName'], options['AccountName'])
    expected = (r'RequestID:\s*([0-9]+(?:-[0-9]+)?) for password release of %s has been submitted.*'
                % re.escape(account))
    for line in lines:
        found = re.fullmatch(expected, line.strip(), re.I)
        if found:
            return {'returnCode': 0, 'message': found.group(), 'id': found.group(1)}
    if any(re.match('RequestID:|.*has been submitted', line, re.I) for line in lines):
        raise OutcomeUnknown('TPAM submitted a request, and its id cannot be read')
    raise Refused(_text(output))


def _read_done(done, other='(?!)'):
    """Return a function that knows success by a line that is `done`. Every other line must be
    `other`, or it could tell of a failure. Both are patterns, in which {number} stands for the
    number of the request, and {SystemName} for the value of that option."""
    def read(output, options):
        names = {name: re.escape(str(value)) for name, value in options.items()}
        names['number'] = str(options.get('RequestID')).partition('-')[0]
        lines = [line.strip() for line in _lines(output.stdout)]
        others = [line for line in lines if not re.fullmatch(done.format(**names), line, re.I)]
        unknown = [line for line in others if not re.fullmatch(other.format(**names), line, re.I)]
        if len(others) == len(lines) or unknown or not _is_clean(output):
            raise Refused(_text(output))
        return {'returnCode': 0, 'message': _text(output)[:MAX_TEXT]}
    return read


def _read_table(*required):
    """Return a function that reads a table with these columns.

    They must be in each row. Text that a user typed may contain line feeds: it must not look like
    another row.
    """
    def read(output, options):
        text = _text(output)
        if re.fullmatch('No (?:Systems|Accounts|Requests|Permissions) to list[.!]?', text):
            return {'returnCode': 0, 'message': text, 'count': 0, 'rows': []}
        lines = _lines(output.stdout)
        names = [name.strip() for name in lines[0].split('\t')] if lines else []
        if len(names) < 2:
            raise Refused(text or 'TPAM printed nothing')
        if not _is_clean(output):
            raise Refused(_text(output._replace(stdout=b'')) or
                          'TPAM printed a table, and ended with an error')
        if not set(required) <= set(names):
            raise Refused('TPAM printed no table with the columns %s' % ', '.join(required))
        if any(names.count(name) > 1 for name in names if name):
            raise Refused('TPAM printed a table with two columns of one name')
        if len(lines) > 1 + MAX_ROWS:
            raise Refused('the list is too long; ask for fewer rows')
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

# forms: the sets of options, those in brackets optional. read: function of (output, options).
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
    'Cancel': Command(
        ('RequestID [Comment]',),
        _read_done('The response for (?:Password )?RequestID: {number}(?:-[0-9]+)?'
                   r'(?: for (?:[^:"]|:\S)+)? was submitted successfully[.!]?'), True),
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
        _read_done('(?:TPAM has|Successfully) processed the password change'
                   '(?: for {AccountName} on {SystemName})?[.!]?|'
                   'The password was successfully changed[.!]?',
                   'Connecting to {SystemName}[.]*'), True),
}


def is_repeatable(name, options):
    """Return whether a command may be carried out twice. A request releases its password once."""
    if name == 'Retrieve':
        return 'RequestID' not in options
    return not COMMANDS[name].changes
