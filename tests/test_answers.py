# -*- coding: utf-8 -*-
"""Answers that must not be used, and answers that must not keep a hook busy."""
from __future__ import unicode_literals

import contextlib
import os
import threading

import pytest

import bad_server
from bad_server import DONE, GOOD, array, member, response, struct
from certs import make
from conftest import PASSWORD, SLACK, at_most
from fake_tpam import ACTIVE, EXPIRED, Fault, Refusal, done
from test_policy import (APPROVED, BY_REQUEST, RESET, answers, approvers, broken,  # noqa: F401
                         lines, quick, refusing, session, trail)

try:
    from xmlrpc.server import SimpleXMLRPCServer
except ImportError:
    from SimpleXMLRPCServer import SimpleXMLRPCServer

NO_USABLE_ANSWER = 'No usable answer'


# ---- rows that were not asked for

def gives_password(world):
    """The server gives the password for every request: only the plugin can refuse."""
    world.tpam.do_Retrieve = lambda user, options: done(PASSWORD)


@pytest.mark.parametrize('row', [
    {'RequestID': '1002'}, {'RequestID': '10010'}, {'RequestID': ''}, {}])
def test_a_request_is_not_approved_by_the_row_of_another(quick, row):  # noqa: F811
    approvers(quick)
    gives_password(quick)
    answers(quick, 'GetPwdRequest', dict(row, RequestStatus=ACTIVE))
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials is None
    assert NO_USABLE_ANSWER in result.raised['message']
    assert quick.tpam.commands() == ['AddPwdRequest', 'GetPwdRequest', 'Cancel']
    assert quick.tpam.active() == []


@pytest.mark.parametrize('other', [{'SystemName': 'DB01'}, {'AccountName': 'oracle'}])
def test_a_request_is_not_approved_by_a_row_about_another_account(quick, other):  # noqa: F811
    approvers(quick)
    gives_password(quick)
    row = {'RequestID': '1001', 'RequestStatus': ACTIVE, 'SystemName': 'WEB01', 'AccountName': 'root'}
    answers(quick, 'GetPwdRequest', dict(row, **other))
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials is None
    assert NO_USABLE_ANSWER in result.raised['message']
    assert quick.tpam.active() == []


@pytest.mark.parametrize('number', ['1001', 1001])
def test_a_request_is_approved_by_its_own_row(quick, number):  # noqa: F811
    approvers(quick)
    gives_password(quick)
    answers(quick, 'GetPwdRequest', {'RequestID': number, 'RequestStatus': ACTIVE})
    assert session(quick, tpam=BY_REQUEST).call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('row', [{'RequestID': '1002'}, {}])
def test_a_request_is_not_closed_by_the_row_of_another(quick, row):  # noqa: F811
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    answers(quick, 'GetPwdRequest', dict(row, RequestStatus=EXPIRED))
    with refusing(quick, 'Cancel'):
        ended = played.call('session_ended')
    assert "check_in='failed'" in ended.log


@pytest.mark.parametrize('number', [None, ''])
def test_an_approved_request_without_an_id_is_not_used(quick, number):  # noqa: F811
    row = dict(APPROVED, RequestID=number)
    if number is None:
        del row['RequestID']
    answers(quick, 'ListRequestDetails', row)
    played = session(quick, tpam={'authorization': 'approval'})
    assert played.call('get_password_list').credentials == []
    assert quick.tpam.commands() == ['ListRequestDetails']


def test_an_approved_request_behind_one_without_an_id_is_used(quick):  # noqa: F811
    nameless = dict((name, value) for name, value in APPROVED.items() if name != 'RequestID')
    answers(quick, 'ListRequestDetails', nameless, APPROVED)
    played = session(quick, tpam={'authorization': 'approval'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert 'ReasonText=jdoe,SPS,approval,7,session-1' in trail(quick)[-1]


OWN_ROW = {'UserName': 'sps', 'SystemName': 'WEB01', 'AccountName': 'root', 'Status': ACTIVE,
           'RequestNotes': 'jdoe,SPS,request,session-1'}


def test_a_scheduled_request_without_an_id_is_not_used(quick):  # noqa: F811
    quick.tpam.add_request('sps', 'WEB01', 'root')
    answers(quick, 'ListRequestDetails', dict(OWN_ROW, RequestNotes=''))
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials == []
    assert quick.tpam.commands() == ['AddPwdRequest', 'ListRequestDetails']


def test_a_request_that_is_looked_for_is_not_found_in_a_row_without_an_id(quick):  # noqa: F811
    gives_password(quick)
    answers(quick, 'ListRequestDetails', OWN_ROW)
    with broken(quick, 'AddPwdRequest'):
        result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert 'TpamOutcomeUnknown' in result.raised['type']
    assert set(quick.tpam.commands()) == set(['ListRequestDetails'])


# ---- texts that take time

LONG = 100 * 1024   # characters
FRAGMENTS = [
    'ticket ', 'Ticket "', 'ticket number and ticket system ', 'requires a ', 'reason code ',
    'Reason Codes are ', 'reason code failed ', 'exceeds account ', 'not author', 'no permission ',
    'do not have ', 'locke', 'method "', 'method ', 'command ', 'unknown ', 'unrecognized ',
    'no such ', 'not supported ', 'No Systems to ', 'No Requests ', 'is already ',
    'not available on a ', 'status is ', 'active/', 'password of the ', ' ', '\n', '.', '"', "'",
    '\\', '********', '%', '=', '\u202e']


def long_text(fragment):
    return fragment * (LONG // len(fragment))


def has_server_say(world, message):
    """The server refuses everything that has to do with a credential, in these words."""
    def refuse(user, options):
        raise Refusal(message)
    for command in ('Retrieve', 'RetrieveKey', 'AddPwdRequest'):
        setattr(world.tpam, 'do_' + command, refuse)


@pytest.mark.parametrize('dialect', ['plain', 'faults'])
@pytest.mark.parametrize('fragment', ['ticket ', 'reason code '])
def test_a_hook_is_not_kept_busy_by_the_text_of_a_refusal(world, fragment, dialect):
    world.serve(dialect=dialect)
    has_server_say(world, long_text(fragment))
    played = session(world, timeout=120)
    with at_most(10):
        result = played.call('get_password_list')
    assert not result.killed
    assert result.credentials == []
    line, = result.lines
    assert line.startswith('WARNING No credential')
    assert len(line) < 2000


@pytest.mark.parametrize('hook, options', [
    ('get_password_list', {}), ('get_private_key_list', {}), ('get_password_list', BY_REQUEST)])
@pytest.mark.parametrize('fragment', FRAGMENTS)
def test_no_text_of_a_refusal_takes_long_to_look_at(quick, fragment, hook, options):  # noqa: F811
    has_server_say(quick, long_text(fragment))
    with at_most(5):
        result = session(quick, tpam=options).call(hook)
    assert result.credentials == []
    assert len(lines(result)) == 1


@pytest.mark.parametrize('fragment', FRAGMENTS)
def test_no_text_of_a_refused_list_takes_long_to_look_at(quick, fragment):  # noqa: F811
    def refuse(user, options):
        raise Refusal(long_text(fragment))
    quick.tpam.do_ListSystems = quick.tpam.do_ListRequestDetails = refuse
    quick.tpam.add_request('sps', 'WEB01', 'root')
    with at_most(10):
        for options in ({'system_name_resolver': 'tpam'}, {'authorization': 'approval'}, BY_REQUEST):
            assert session(quick, tpam=options).call('get_password_list').credentials == []


# ---- the length of an answer

BODY = GOOD.encode('utf-8')
LENGTH = '%d' % len(BODY)


def serving(answer):
    """A TLS server that gives this answer (bytes) to each request and ends no connection."""
    def behave(connection):
        while True:
            server.requests.append(bad_server.read_request(connection))
            connection.sendall(answer)
    server = bad_server.Server(behave, make.path('good'))
    return server


def http_answer(body, *headers):
    head = ('HTTP/1.1 200 OK', 'Content-Type: text/xml') + headers + ('', '')
    return '\r\n'.join(head).encode('ascii') + body


def asking(world, server, **options):
    return session(world, tpam=dict(options, server='localhost:%d' % server.port))


@pytest.mark.parametrize('lengths', [
    ['-5'], ['+' + LENGTH], [LENGTH + 'x'], ['%s, %d' % (LENGTH, len(BODY) + 1)], [''],
    [LENGTH[:-1] + '_' + LENGTH[-1]], ['99999999999999999999'], ['0x10'], [LENGTH + '.0'],
    [LENGTH, '%d' % (len(BODY) + 1)], [LENGTH, ''],
], ids=str)
def test_an_answer_of_an_invalid_length_is_an_error_at_once(world, lengths):
    with serving(http_answer(BODY, *['Content-Length: ' + length for length in lengths])) as server:
        result = asking(world, server).call('get_password_list')
    assert result.credentials is None
    assert 'TpamTimeout' not in result.raised['type']
    assert result.raised['message'].startswith(NO_USABLE_ANSWER)


@pytest.mark.parametrize('lengths', [
    [LENGTH], ['%s, %s' % (LENGTH, LENGTH)], [LENGTH, LENGTH]], ids=str)
def test_an_answer_that_says_its_length_twice_is_taken_at_once(world, lengths):
    with serving(http_answer(BODY, *['Content-Length: ' + length for length in lengths])) as server:
        result = asking(world, server).call('get_password_list')
    assert result.credentials == [bad_server.PASSWORD]


# ---- answers of another shape

REFUSED = member('returnCode', '<int>1</int>')


def served(*members):
    body = response(struct(*members)).encode('utf-8')
    return serving(http_answer(body, 'Content-Length: %d' % len(body)))


@pytest.mark.parametrize('members', [
    [], [member('message', '<int>5</int>')], [member('message', '<boolean>1</boolean>')],
    [member('message', '<boolean>0</boolean>')], [member('message', '<int>0</int>')],
    [member('message', '<double>0.0</double>')], [member('message', '<nil/>')],
    [member('message', '<struct></struct>')], [member('message', array())],
    [member('Message', 'x')],
])
@pytest.mark.parametrize('code', [DONE, REFUSED])
def test_an_answer_without_a_message_is_an_error(world, code, members):
    with served(code, *members) as server:
        result = asking(world, server).call('get_password_list')
    assert result.credentials is None
    assert result.raised['message'].startswith(NO_USABLE_ANSWER)


def test_an_empty_message_is_an_empty_credential(world):
    with served(DONE, member('message', '')) as server:
        result = asking(world, server).call('get_password_list')
    assert result.credentials == []
    assert 'empty credential' in result.log


@pytest.mark.parametrize('members', [
    [], [member('count', '<int>1</int>')], [member('count', '1')], [member('count', '')],
    [member('count', 'none')], [member('count', '<nil/>')],
    [member('rows', '<nil/>')], [member('rows', '')], [member('rows', '<int>0</int>')],
    [member('rows', '<struct></struct>')],
    [member('count', '<int>1</int>'), member('rows', array())],
])
def test_a_list_without_rows_is_an_error(world, members):
    with served(DONE, member('message', 'x'), *members) as server:
        result = asking(world, server, system_name_resolver='tpam').call('get_password_list')
    assert result.credentials is None
    assert result.raised['message'].startswith(NO_USABLE_ANSWER)
    assert len(server.requests) == 1


@pytest.mark.parametrize('members', [
    [member('count', '<int>0</int>')], [member('count', '0')],
    [member('count', '<int>0</int>'), member('rows', array())],
    [member('count', '0'), member('rows', array())],
])
def test_a_list_of_no_rows_is_empty(world, members):
    with served(DONE, member('message', 'x'), *members) as server:
        result = asking(world, server, system_name_resolver='tpam').call('get_password_list')
    assert result.credentials == []
    assert 'no resolver found the name of the system' in result.log
    assert "remedy='check that the server lists" in result.log


# ---- commands that the server does not know

@pytest.mark.parametrize('text', [
    'method "RetrieveKey" is not supported',
    "<class 'Exception'>:method \"RetrieveKey\" is not supported",
    "<type 'exceptions.Exception'>:method \"RetrieveKey\" is not supported",
    'METHOD "tpam.RetrieveKey" IS NOT SUPPORTED',
])
def test_a_method_that_is_not_supported_is_an_unknown_command(quick, text):  # noqa: F811
    def refuse(user, options):
        raise Fault(1, text)
    quick.tpam.do_RetrieveKey = refuse
    result = session(quick).call('get_private_key_list')
    assert result.credentials == []
    line, = lines(result)
    assert line.startswith('INFO The server gives out no private keys')


@pytest.mark.parametrize('text', [
    'method "Password" is not supported for root', 'this system is not supported',
    'the method of the ticket was not found'])
def test_a_refusal_in_other_words_is_not_an_unknown_command(quick, text):  # noqa: F811
    def refuse(user, options):
        raise Fault(1, text)
    quick.tpam.do_RetrieveKey = refuse
    line, = lines(session(quick).call('get_private_key_list'))
    assert line.startswith('WARNING No credential')


@contextlib.contextmanager
def python_server(**functions):
    """Python's own XML-RPC server with these functions."""
    server = SimpleXMLRPCServer(('127.0.0.1', 0), logRequests=False)
    for name, function in functions.items():
        server.register_function(function, str(name))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_pythons_own_server_without_keys_is_asked_for_the_password(quick):  # noqa: F811
    with python_server(Retrieve=lambda options: {'returnCode': 0, 'message': PASSWORD}) as port:
        played = session(quick, tpam={'server': '127.0.0.1:%d' % port})
        keys = played.call('get_private_key_list')
        assert keys.credentials == []
        assert 'INFO The server gives out no private keys' in keys.log
        assert len(played.call('get_password_list').credentials) == 1


# ---- ids of requests as a TPAM writes them

def test_a_session_by_request_works_with_ids_that_are_text(world):
    world.tpam.request_ids = 'tpam'
    world.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1, approve_after=0.5)
    played = session(world, tpam={'authorization': 'request'}, request={'poll_interval': '1'},
                     check_in={'force_reset': 'yes'})
    for _ in range(2):
        assert played.call('get_password_list').credentials == [PASSWORD]
    ended = played.call('session_ended')
    assert trail(world)[1:] == [
        'GetPwdRequest RequestID=1001-1', 'Retrieve RequestID=1001-1', 'Retrieve RequestID=1001-1',
        'Cancel Comment=jdoe,SPS,check-in,session-1 RequestID=1001-1', RESET]
    assert "request='1001-1'" in ended.log
    assert "check_in='done'" in ended.log
    assert world.tpam.active() == []


def test_a_request_whose_id_is_text_is_found_again_when_the_answer_was_lost(quick):  # noqa: F811
    quick.tpam.request_ids = 'tpam'
    played = session(quick, tpam=BY_REQUEST)
    with broken(quick, 'AddPwdRequest', after=True):
        assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert quick.tpam.active() == []


def test_an_approved_request_whose_id_is_text_is_named_in_the_reason_text(quick):  # noqa: F811
    quick.tpam.request_ids = 'tpam'
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    played = session(quick, tpam={'authorization': 'approval'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert 'ReasonText=jdoe,SPS,approval,1001-1,session-1' in trail(quick)[-1]


# ---- answers that are long

KIB = 1024


@pytest.mark.parametrize('size', [64 * KIB + 1, 100 * KIB, 3 * KIB * KIB])
def test_a_credential_of_more_than_64_kib_is_refused_in_time_and_checked_in(world, size):
    """It would be searched for in every line of the log."""
    world.tpam.account('WEB01', 'root').password = 'A' * size
    answers(world, 'ListSystems', {'SystemName': 'WEB01', 'NetworkAddress': '10.0.0.5'})
    played = world.session({'gateway_username': 'AAAAAAAA%'}, timeout=120, tpam={'authorization': 'request'})
    with at_most(20):
        result = played.call('get_password_list')
    assert not result.killed
    assert result.credentials == []
    assert 'a credential of more than 65536 characters' in result.log
    ended = played.call('session_ended')
    assert "check_in='done'" in ended.log
    assert world.tpam.active() == []


def test_a_key_of_more_than_64_kib_is_refused_in_time_and_leaves_the_password_its_turn(world):
    world.tpam.account('WEB01', 'root').key = 'A' * 3 * KIB * KIB
    played = session(world, timeout=120)
    with at_most(20):
        result = played.call('get_private_key_list')
    assert not result.killed
    assert result.credentials == []
    assert played.call('get_password_list').credentials == [PASSWORD]


def test_a_credential_of_64_kib_is_given_in_time(world):
    password = '%' * 64 * KIB
    world.tpam.account('WEB01', 'root').password = password
    played = session(world, {'gateway_username': '%%%%%%%%'}, timeout=120, tpam={'authorization': 'request'})
    with at_most(20):
        result = played.call('get_password_list')
    assert result.credentials == [password]
    assert "check_in='done'" in played.call('session_ended').log


MEGABYTES = 'x' * 9500000


def test_a_network_address_of_megabytes_is_refused_in_time(world):
    answers(world, 'ListSystems', {'SystemName': 'WEB01', 'NetworkAddress': MEGABYTES})
    result = world.session(timeout=120, tpam={'timeout': '5'}).call('get_password_list')
    assert not result.killed
    assert result.inside < 5 + SLACK
    assert not result.credentials
    assert 'Retrieve' not in world.tpam.commands()


def seconds_for(world, row):
    """The CPU time of a hook whose look-up of the system is answered by this row."""
    answers(world, 'ListSystems', row)
    played = session(world, tpam={'system_name_resolver': 'tpam'})
    began = sum(os.times()[:2])
    played.call('get_password_list')
    return sum(os.times()[:2]) - began


def test_a_network_address_of_megabytes_takes_no_longer_than_any_other_column(quick):  # noqa: F811
    row = {'SystemName': 'WEB01', 'NetworkAddress': '10.0.0.5', 'PlatformName': 'x'}
    unread = min(seconds_for(quick, dict(row, PlatformName=MEGABYTES)) for _ in range(2))
    compared = min(seconds_for(quick, dict(row, NetworkAddress=MEGABYTES)) for _ in range(2))
    assert compared < 2 * unread + 0.5


def test_a_status_of_megabytes_ends_the_wait_in_time_and_the_request_is_cancelled(world):
    approvers(world)
    row = {'RequestID': '1001', 'RequestStatus': MEGABYTES}
    answers(world, 'GetPwdRequest', row)
    played = session(world, timeout=120, tpam={'authorization': 'request'},
                     request={'poll_interval': '1', 'approval_timeout': '3'})
    result = played.call('get_password_list')
    assert not result.killed
    assert result.inside < 3 + SLACK
    assert not result.credentials
    assert world.tpam.active() == []
    assert 'x' * 501 not in result.log


@pytest.mark.parametrize('column', ['UserName', 'SystemName', 'AccountName', 'Status',
                                    'RequestNotes', 'RequestID'])
def test_a_column_of_megabytes_in_a_list_of_requests_ends_in_time(world, column):
    answers(world, 'ListRequestDetails', dict(APPROVED, **{str(column): MEGABYTES}))
    played = session(world, timeout=120, tpam={'authorization': 'approval', 'timeout': '5'})
    result = played.call('get_password_list')
    assert not result.killed
    assert result.inside < 5 + SLACK


# ---- a command that the server does not know

def test_another_command_that_the_server_does_not_know_is_not_taken_for_the_one_of_keys(quick):  # noqa: F811
    def list_systems(user, options):
        raise Fault(-32601, 'unknown command ListSystems')
    quick.tpam.do_ListSystems = list_systems
    played = session(quick, tpam={'system_name_resolver': 'tpam'})
    result = played.call('get_private_key_list')
    assert 'No credential' in result.log
    assert 'gives out no private keys' not in result.log
    assert played.cookie['SPS_TPAM_XMLRPC']['keyless'] == ''


# ---- very many or very long

def test_an_answer_of_very_many_structs_does_not_keep_a_hook_busy(world):
    rows = array(*['<value><struct/></value>'] * 150000)
    world.serve()
    world.server.answer = lambda user, body: response(
        struct(member('returnCode', '<int>0</int>'), member('message', 'x'), member('rows', rows))).encode('utf-8')
    with at_most(20):
        result = world.session().call('get_password_list')
    assert NO_USABLE_ANSWER in result.raised['message']


@pytest.mark.parametrize('length, is_taken', [(256, True), (257, False), (4 * 1024 * 1024, False)])
def test_the_name_of_a_system_from_the_server_is_taken_up_to_256_characters(quick, length, is_taken):  # noqa: F811
    quick.tpam.add_system('S' * length, '10.0.0.9')
    quick.tpam.add_account('S' * length, 'root', PASSWORD)
    with at_most(10):
        result = session(quick, {'server_ip': '10.0.0.9'}, tpam={'system_name_resolver': 'tpam'}).call(
            'get_password_list')
    assert result.credentials == ([PASSWORD] if is_taken else [])
    assert len(result.returned['cookie'].__repr__()) < 5000


def test_the_name_of_a_real_account_from_the_server_is_not_taken_at_any_length(quick):  # noqa: F811
    quick.tpam.add_account('WEB01', 'alias', custom1='a' * 257, custom2='WEB01')
    result = session(quick, {'server_username': 'alias'}, tpam={'system_maptoreal': 'yes'}).call('get_password_list')
    assert result.credentials == []
    assert 'more than 256 characters' in result.log


def test_a_user_name_of_any_length_is_refused_before_anything_is_sent(quick):  # noqa: F811
    with at_most(10):
        result = session(quick, {'server_username': 'x' * 250000}).call('get_password_list')
    assert result.credentials == []
    assert quick.tpam.commands() == []
