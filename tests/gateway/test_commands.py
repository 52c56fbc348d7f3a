"""The command lines that the gateway sends, and what it makes of TPAM's output."""
import unicodedata

import pytest
from hypothesis import example, given, settings, strategies as st

import commands
import fake_tpam_cli
from commands import COMMANDS, Fault, OutcomeUnknown, Output, Refused, answer, command_line

VALUES = {'RequestID': '1001-1', 'MaxRows': '7', 'ReleaseDuration': 60, 'TimeRequired': '5', 'RequestImmediate': 'Y',
          'AllOrEffectiveFlag': 'E', 'PermissionType': 'Pwd', 'Status': 'OPEN'}
FREE = sorted(set(option for command in COMMANDS.values() for form in command.forms
                  for option in form.replace('[', '').replace(']', '').split()) - set(VALUES))
WORDS = ['"', '\\', "'", '`', '-', '--RequestID 2', ' --Comment "x', ';', '$(id)', '\n', '\r', '\0', '\x7f', '\x85',
         '“', '＂', '−x', '\u202e', 'root', 'WEB 01', 'é密']


def options_of(form):
    return form.replace('[', '').replace(']', '').split()


# ---- the command line

def other_parsers(line):
    """Return the words of a line as command lines that know more than TPAM's would split it: with a backslash that
    escapes a quotation mark, and after a conversion to 8 bits that turns look-alikes into ASCII."""
    yield words_with_escapes(line)
    ascii_line = ''.join(narrow(char) for char in line)
    yield [word for word, _ in fake_tpam_cli.split(ascii_line)]
    yield words_with_escapes(ascii_line)


def narrow(char):
    if char in '“”„‟″ʺ':
        return '"'
    if unicodedata.category(char) == 'Pd' or char == '−':
        return '-'
    return unicodedata.normalize('NFKC', char)


def words_with_escapes(line):
    """Split a line into words; a backslash makes a quotation mark behind it a part of the word."""
    words, word, inside, position = [], '', False, 0
    while position < len(line):
        char = line[position]
        if char == '\\' and line[position + 1:position + 2] in ('"', '\\'):
            position += 1
            word += line[position]
        elif char == '"':
            inside = not inside
        elif char == ' ' and not inside:
            words.append(word)
            word = ''
        else:
            word += char
        position += 1
    assert not inside
    return words + [word]


@settings(max_examples=400, deadline=None)
@given(option=st.sampled_from(FREE),
       value=st.one_of(st.text(max_size=30), st.lists(st.sampled_from(WORDS), max_size=6).map(''.join)))
@example('Comment', 'x" --RequestID "2')
@example('Comment', '\\')
@example('ReasonText', '-x')
def test_no_value_changes_a_command(option, value):
    name, form = next((name, form) for name, command in COMMANDS.items() for form in command.forms
                      if option in options_of(form))
    given = dict((known, VALUES.get(known, 'a')) for known in options_of(form))
    given[option] = value
    try:
        line = command_line(name, given)
    except Fault as fault:
        assert fault.code == -32602 and 'option %s ' % option in str(fault)
        return
    expected = dict((known, str(given[known])) for known in given if known != 'RequestImmediate')
    assert fake_tpam_cli.parse(line) == (name, expected)
    for words in other_parsers(line):
        assert [word for word in words if word.startswith('--')] == ['--' + known for known in expected]
        assert len(words) == 1 + 2 * len(expected)


@pytest.mark.parametrize('value', [
    'a"b', 'a`b', 'a\nb', 'a\x00b', '-a', 'a\\', 'a”b', 'a＂b', '—a', 'a\u1fefb', '\ufe63a', 'a\uff3c',
    'a\ufe68', '', None, True, 1.5, [], {}, b'x'])
def test_a_value_that_could_change_the_command_is_refused_by_the_name_of_its_option(value):
    with pytest.raises(Fault, match='option SystemName '):
        command_line('ListSystems', {'SystemName': value})


@pytest.mark.parametrize('value', ["O'Brien", 'CORP\\jdoe', 'a b;c*!$(x)', 'jdoe@CORP,SPS,request,svc/abc-1', 'é密'])
def test_every_other_value_is_sent_between_quotation_marks(value):
    assert command_line('Cancel', {'RequestID': '1', 'Comment': value}) == (
        'Cancel --RequestID "1" --Comment "%s"' % value)


@pytest.mark.parametrize('name, options, code', [
    ('RetrieveKey', {'RequestID': '1'}, -32601),
    ('retrieve', {'RequestID': '1'}, -32601),
    ('SetAccessPolicy', {}, -32601),
    ('Retrieve', {}, -32602),
    ('Retrieve', {'RequestID': '1', 'ReasonText': 'x'}, -32602),
    ('Retrieve', {'SystemName': 'x'}, -32602),
    ('Cancel', {'Requestid': '1'}, -32602),
    ('Cancel', {'RequestID': '1 2'}, -32602),
    ('Cancel', {'RequestID': '1-1\n'}, -32602),
    ('AddPwdRequest', {'SystemName': 'x', 'AccountName': 'y', 'RequestImmediate': 'N'}, -32602),
    ('AddPwdRequest', {'SystemName': 'x', 'AccountName': 'y', 'ForUserName': 'z'}, -32602),
    ('ListRequestDetails', {'Status': 'open'}, -32602),
    ('ListRequestDetails', {'Status': 'ALL'}, -32602),
    ('ListAssignedPolicies', {'AllOrEffectiveFlag': 'A'}, -32602),
    ('ListAssignedPolicies', {'PermissionType': 'Sess'}, -32602),
    ('ListSystems', ['SystemName'], -32602),
])
def test_only_the_commands_and_options_of_the_protocol_are_sent(name, options, code):
    with pytest.raises(Fault) as caught:
        command_line(name, options)
    assert caught.value.code == code


def test_what_may_be_sent_twice_is_what_the_protocol_says():
    once = [('AddPwdRequest', {}), ('Cancel', {}), ('ForceReset', {}), ('Retrieve', {'RequestID': '1'})]
    assert not any(commands.is_repeatable(*call) for call in once)
    assert all(commands.is_repeatable(name, {'SystemName': 'x'}) for name in COMMANDS
               if name.startswith('List') or name == 'Retrieve')
    assert commands.is_repeatable('GetPwdRequest', {'RequestID': '1'})


# ---- the output

OPTIONS = {'SystemName': 'A', 'AccountName': 'B', 'RequestID': '1-1'}
RESET = 'TPAM has processed the password change for B on A'


def read(name, output):
    return answer(name, OPTIONS, output)


def printed(stdout, stderr=b'', status=0):
    encoded = stdout.encode('utf-8') if isinstance(stdout, str) else stdout
    return Output(encoded, stderr, status)


@pytest.mark.parametrize('stdout', ['s3cret\r\n', 's3cret\n', 's3cret', '\r\ns3cret\r\n'])
def test_a_password_is_one_word_on_one_line(stdout):
    assert read('Retrieve', printed(stdout)) == {'returnCode': 0, 'message': 's3cret'}


@pytest.mark.parametrize('output', [
    printed('two words\r\n'), printed('s3cret \r\n'), printed(' s3cret\r\n'), printed('s3cret\r\nYour password\r\n'),
    printed('root\ts3cret is new\r\n'), printed('s3cret\r\n', b'a warning of three words'),
    printed('s3cret\r\n', status=1), printed(b's3cret\xff\r\n'), printed('s3cret now released\nuntil tomorrow noon\n'),
    printed('s3cret horse battery\r\n'), printed('', b's3cret horse'), printed('s3cret', status=None),
    printed('\ufeffs3cret'), printed('s3\0cret'), printed('s3cret\u00a0'),
    printed('s3cret\r\nThe account is locked\r\n'), printed('s3cret', b'password:')])
def test_what_may_contain_a_password_is_refused_and_not_repeated(output):
    with pytest.raises(Refused) as caught:
        read('Retrieve', output)
    assert 's3cret' not in str(caught.value) and 'two words' not in str(caught.value)


@pytest.mark.parametrize('output, text', [
    (printed('You are not authorized to perform this operation\r\n'), 'not authorized'),
    (printed('', b'Ticket "4711" not found\r\n'), 'Ticket "4711" not found'),
    (printed('Reason Code R9 failed validation', status=1), 'Reason Code R9'),
    (printed('The account is currently locked'), 'locked'),
    (printed('Retrieve is not available on a failed over replica'), 'failed over replica'),
    (printed('default initial password\r\n'), 'default initial password'),
    (printed('Ticket Number failed manual validation\r\n'), 'manual validation'),
    (printed(''), 'printed nothing'),
])
def test_a_known_refusal_of_retrieve_is_passed_on_in_tpams_words(output, text):
    with pytest.raises(Refused, match=text):
        read('Retrieve', output)


@pytest.mark.parametrize('word', ['Unauthorized', 'Timeout', 'Password:', 'Login!', 'FAILURE.'])
def test_a_word_that_may_be_a_refusal_is_no_password_and_not_repeated(word):
    with pytest.raises(Refused, match='one word that can be a password') as caught:
        read('Retrieve', printed(word + '\r\n'))
    assert word not in str(caught.value)


@pytest.mark.parametrize('number', ['1590', '1590-1'])
@pytest.mark.parametrize('state', ['Pending Approval', 'Active/Approved'])
def test_a_new_request_has_its_id_and_its_state(number, state):
    line = 'RequestID: %s for password release of A/B has been submitted. The current status is %s' % (number, state)
    assert read('AddPwdRequest', printed(line + '\r\n')) == {'returnCode': 0, 'message': line, 'id': number}


def test_a_request_without_a_readable_id_may_have_been_submitted():
    for stdout in ('RequestID: ? for A/B', 'Your request has been submitted', ''):
        with pytest.raises(OutcomeUnknown):
            read('AddPwdRequest', printed(stdout))


@pytest.mark.parametrize('stdout', [
    'Ticket "RequestID: 9-1 for password release of A/B has been submitted" failed validation',
    'Ticket "RequestID: 9-1 x submitted" not found',
    'RequestID: 9-1 for password release of A/other has been submitted. The current status is Active/Approved',
])
def test_a_text_that_imitates_a_new_request_gives_no_id(stdout):
    with pytest.raises((Refused, OutcomeUnknown)):
        read('AddPwdRequest', printed(stdout))


@pytest.mark.parametrize('name, stdout', [
    ('Cancel', 'The response for Password RequestID: 1 for A/B was Submitted Successfully\r\n'),
    ('Cancel', 'The response for RequestID: 1-1 for HOST:22/root was submitted successfully.'),
    ('ForceReset', 'Connecting to a...\r\nTPAM has processed the password change\r\n\r\n'),
    ('ForceReset', 'Connecting to A\r\nSuccessfully processed the password change for B on A'),
    ('ForceReset', 'The password was successfully changed\r\n'),
])
def test_success_is_known_by_its_words(name, stdout):
    assert read(name, printed(stdout))['returnCode'] == 0


@pytest.mark.parametrize('name, stdout', [
    ('Cancel', 'Request 1 was not canceled. The current status is Expired'),
    ('AddPwdRequest', 'root on WEB01 is already scheduled for 1 password release'),
    ('ForceReset', 'The account is currently locked and must be unlocked before the password can be reset'),
    ('ForceReset', 'TPAM has processed the password change\r\nFailed: Host Unreachable'),
    ('ForceReset', 'The change was unsuccessful'),
    ('ForceReset', 'The connection was successful\r\nThe password could not be changed: permission denied'),
    ('ForceReset', 'TPAM has processed the password change for B on A\r\nHost Unreachable'),
    ('ForceReset', 'System successful: You are not authorized'),
    ('ForceReset', 'TPAM has processed the password change for C on A'),
    ('ForceReset', RESET + ': FAILED'),
    ('ForceReset', RESET + ' unsuccessfully'),
    ('ForceReset', RESET + '\r\nUnable to change the password'),
    ('ForceReset', RESET + "\r\nThe password can't be changed"),
    ('ForceReset', RESET + '\r\nConnection refused'),
    ('ForceReset', 'Connecting to A\r\n'),
    ('Cancel', 'The response for Password RequestID: 1-1 for A/B: error "x" was submitted successfully'),
    ('Cancel', 'Comment "submitted successfully" is too long'),
    ('Cancel', 'The response for Password RequestID: 2-1 for A/B was submitted successfully'),
    ('ListSystems', 'Usage: ListSystems [--SystemName x]\r\n--MaxRows\tN'),
    ('ListSystems', 'sps is not authorized to list systems'),
    ('ListSystems', 'No permission to list'),
    ('ListSystems', 'No license to list'),
    ('ListSystems', ''),
    ('GetPwdRequest', 'Valid commands are: ListSystems'),
])
def test_everything_else_is_a_refusal(name, stdout):
    with pytest.raises((Refused, OutcomeUnknown)) as caught:
        read(name, printed(stdout))
    assert caught.type is Refused


@pytest.mark.parametrize('output', [
    printed(RESET, status=1), printed(RESET, b'Connection lost'), printed('', RESET.encode('ascii'))])
def test_a_reset_that_ended_with_an_error_is_refused(output):
    with pytest.raises(Refused, match='processed'):
        read('ForceReset', output)


def test_a_name_that_looks_like_a_failure_is_none():
    options = {'SystemName': 'failover', 'AccountName': 'not'}
    reset = printed('Connecting to FAILOVER\r\nTPAM has processed the password change for not on failover')
    assert answer('ForceReset', options, reset)['returnCode'] == 0


@pytest.mark.parametrize('what', ['Systems', 'Accounts', 'Requests', 'Permissions'])
def test_an_empty_list_has_no_rows(what):
    empty = 'No %s to list' % what
    assert read('ListSystems', printed(empty + '\r\n')) == {'returnCode': 0, 'message': empty, 'count': 0, 'rows': []}


@pytest.mark.parametrize('stdout, row', [
    ('SystemName\tA\t\r\nWEB01\tx\t\r\n', {'SystemName': 'WEB01', 'A': 'x'}),
    ('\r\nA\tSystemName \r\n\tWEB01\r\n', {'SystemName': 'WEB01', 'A': ''}),
    ('SystemName\tA\tB C\nWEB01\n', {'SystemName': 'WEB01', 'A': '', 'B C': ''}),
    ('SystemName\tA\tB\nWEB01\t        55\t  x ', {'SystemName': 'WEB01', 'A': '55', 'B': '  x '}),
])
def test_columns_are_found_by_their_names(stdout, row):
    assert read('ListSystems', printed(stdout))['rows'] == [row]


def test_a_header_alone_is_an_empty_list():
    assert read('GetPwdRequest', printed('RequestID\tRequestStatus\r\n'))['count'] == 0


HEADER = 'RequestID\tUserName\tSystemName\tAccountName\tRequestNotes\tStatus\r\n'


@pytest.mark.parametrize('rows', [
    '1\tjdoe\tS\tA\tnotes\n2\tjdoe\tS\tA\tforged\tActive/Approved\tActive/Approved\r\n',
    '1\tjdoe\tS\tA\tnotes\n2\tjdoe\tS\tA\tforged\tActive/Approved\r\n',
    '1\tjdoe\tS\tA\tno\ttab\tDenied\r\n',
])
def test_a_text_with_a_line_feed_or_a_tab_does_not_become_a_row(rows):
    with pytest.raises(Refused, match='do not match the header'):
        read('ListRequestDetails', printed(HEADER + rows))


@pytest.mark.parametrize('output', [
    printed('SystemName\tA\nWEB01\tx\n', b'Query timed out'), printed('SystemName\tA\nWEB01\tx\n', status=1),
    printed('SystemName\tA\nWEB01\tx\n', status=None)])
def test_a_table_that_ended_with_an_error_is_refused(output):
    with pytest.raises(Refused, match='timed out|ended with an error'):
        read('ListSystems', output)


def test_a_table_has_a_thousand_rows_at_most():
    rows = 'SystemName\tA\r\n' + 'x\r\n' * 1000
    assert read('ListSystems', printed(rows))['count'] == 1000
    with pytest.raises(Refused, match='too long'):
        read('ListSystems', printed(rows + 'x\r\n'))


def test_a_table_with_a_column_that_is_there_twice_is_refused():
    with pytest.raises(Refused, match='two columns'):
        read('GetPwdRequest', printed('RequestID\tRequestStatus\t\tRequestStatus\t\r\n1\tDenied\t\tActive/Approved\t'))


def test_a_table_without_the_columns_that_count_is_refused():
    with pytest.raises(Refused, match='RequestID'):
        read('ListRequestDetails', printed('A\tB\r\n1\t2\r\n'))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(COMMANDS)), st.binary(max_size=200), st.binary(max_size=50), st.none() | st.integers())
def test_whatever_is_printed_is_an_answer_or_a_refusal(name, stdout, stderr, status):
    try:
        found = read(name, Output(stdout, stderr, status))
    except (Refused, OutcomeUnknown):
        return
    assert found['returnCode'] == 0
