# -*- coding: utf-8 -*-
"""Nothing stays checked out unsaid: cookies that cannot be read, requests whose fate is unknown,
configurations that break during a session, and an alarm that strikes at any line.
"""
from __future__ import unicode_literals

import json
import os
import re
import signal
import socket
import sys
import threading
import time

import pytest

import bad_server
import main
import tpamauthorize
import tpamcall
import tpamcheckout
import tpamtarget
import test_policy
from conftest import API_PASSWORD, PASSWORD, at_most
from fake_tpam import ACTIVE, PENDING, Fault, Handler, Refusal, socketserver
from test_log import PID, child, hook_of
from test_policy import BY_REQUEST, OWN_OPEN, approvers, broken, lines, refusing, session, trail
from test_transport import answers, through

quick = test_policy.quick  # the fixture

KEY = 'SPS_TPAM_XMLRPC'
HOOKS = ['get_password_list', 'get_private_key_list', 'get_remote_app_credentials',
         'authentication_completed', 'session_ended']


def errors(result, fragment=''):
    """The ERROR lines of a call with this text inside."""
    return [line for line in result.lines if line.startswith('ERROR') and fragment in line]


def check_in(result):
    """What the summary of the session says about the check-in."""
    return re.search("check_in='([^']*)'", result.log).group(1)


def remembered(played):
    """The plugin's part of the cookie."""
    return played.cookie[KEY]


def numbers(requests):
    return ['%s' % request.id for request in requests]


def cancelled(world):
    """The ids of the requests that were cancelled, in order."""
    return ['%s' % entry.options['RequestID'] for entry in world.tpam.audit
            if entry.command == 'Cancel' and entry.return_code == 0]


def checked_out(world, **sections):
    """A session that has filed a request and retrieved the password of root."""
    sections['tpam'] = dict(BY_REQUEST, **sections.get('tpam', {}))
    played = session(world, **sections)
    assert played.call('get_password_list').credentials == [PASSWORD]
    return played


# ---- cookies whose strings are of either type

NATIVE_STRINGS = """
import json
load = json.load
def native(value, name='', is_key=False):
    if isinstance(value, dict):
        return dict((native(key, is_key=True), native(item, key)) for key, item in value.items())
    if isinstance(value, list):
        return [native(item, name) for item in value]
    if isinstance(value, type(u'')) and not isinstance(value, str) and (%s):
        return value.encode('utf-8')
    return value
json.load = lambda stream: native(load(stream))
"""


@pytest.mark.parametrize('are_native', ['True', "name == 'server'", 'is_key', 'not is_key'])
def test_a_cookie_is_read_whatever_the_type_of_its_strings(world, tmpdir, are_native):
    """On Python 2, SPS may pass str or unicode, and on any Python the arguments are the same."""
    tmpdir.join('sitecustomize.py').write(NATIVE_STRINGS % are_native)
    played = checked_out(world, environment={'PYTHONPATH': str(tmpdir)})
    assert len(world.tpam.active()) == 1
    ended = played.call('session_ended')
    assert world.tpam.active() == []
    assert check_in(ended) == 'done'
    assert errors(ended) == []


# ---- cookies that cannot be read

NO_COOKIES = ['x', ['x'], 5]
NOT_OURS = ['x', ['x'], 5]
NO_LISTS = [5, 'x', {'command': 'Cancel'}]
NO_ENTRIES = [
    5, None, 'x', [], ['Cancel', 'WEB01', 'root', 7], {}, {'command': 'Cancel'},
    {'command': 'Cancel', 'system': 'WEB01', 'account': 'root'},
    {'command': 'Cancel', 'system': 'WEB01', 'account': 'root', 'request': ['7']},
    {'command': 'Explode', 'system': 'WEB01', 'account': 'root', 'request': '7'},
    {'command': None, 'system': 'WEB01', 'account': 'root', 'request': '7'},
    {'command': ['Cancel'], 'system': 'WEB01', 'account': 'root', 'request': '7'},
]
UNREADABLE = (NO_COOKIES + [{KEY: part} for part in NOT_OURS]
              + [{KEY: {'open': entries}} for entries in NO_LISTS]
              + [{KEY: {'open': [entry]}} for entry in NO_ENTRIES])


@pytest.mark.parametrize('cookie', UNREADABLE, ids=json.dumps)
def test_a_cookie_that_cannot_be_read_is_an_error_in_every_hook(quick, cookie):
    for hook in HOOKS:
        played = session(quick, {'asset': 'WEB01'}, tpam=BY_REQUEST)
        result = played.call(hook, cookie=cookie)
        assert result.raised is None
        assert len(errors(result, 'cannot be read')) == 1
        if hook == 'session_ended':
            assert check_in(result) == 'unknown'
        played.call('session_ended')


def test_a_cookie_that_cannot_be_read_is_an_error_end_to_end(world):
    played = checked_out(world)
    remembered(played)['open'][0] = 'x'
    ended = played.call('session_ended')
    assert ended.raised is None
    assert len(errors(ended, 'cannot be read')) == 1
    assert check_in(ended) == 'unknown'


@pytest.mark.parametrize('cookie', NO_COOKIES + [{KEY: part} for part in NOT_OURS]
                         + [{KEY: {'open': [5]}}], ids=json.dumps)
@pytest.mark.parametrize('hook', ['get_password_list', 'session_ended'])
def test_where_nothing_is_known_the_error_names_the_notes_to_look_for(quick, hook, cookie):
    result = session(quick, tpam=BY_REQUEST).call(hook, cookie=cookie)
    line, = errors(result, 'cannot be read')
    assert 'SPS,request,session-1' in line


@pytest.mark.parametrize('cookie', [None, '', {}, {'other': 'x'}], ids=json.dumps)
@pytest.mark.parametrize('hook', HOOKS)
def test_no_cookie_is_no_error(quick, hook, cookie):
    result = session(quick, {'asset': 'WEB01'}, tpam=BY_REQUEST).call(hook, cookie=cookie)
    assert result.raised is None
    assert errors(result) == []
    if hook == 'session_ended':
        assert check_in(result) not in ('unknown', 'failed')


def test_what_can_be_read_of_a_damaged_entry_is_named(quick):
    entry = {'command': 'Explode', 'system': 'DB01', 'account': 'adm', 'request': 4711}
    result = session(quick, tpam=BY_REQUEST).call('session_ended', cookie={KEY: {'open': [entry]}})
    line, = errors(result, 'cannot be read')
    for named in ("account='adm'", "request='4711'", "system='DB01'"):
        assert named in line


@pytest.mark.parametrize('damage', ['y' * 100000, {'y': 'y'}, [['y']], None, True, 1e300])
@pytest.mark.parametrize('name', ['account', 'system', 'request', 'command'])
def test_whatever_is_in_a_damaged_entry_nothing_raises_and_the_line_is_short(quick, name, damage):
    entry = {'command': 'Explode', 'system': 'DB01', 'account': 'adm', 'request': 4711}
    entry[name] = damage
    result = session(quick, tpam=BY_REQUEST).call('session_ended', cookie={KEY: {'open': [entry]}})
    assert result.raised is None
    line, = errors(result, 'cannot be read')
    assert 'y' * 501 not in line
    assert len(line) < 2500


def test_a_damaged_entry_forges_no_line(quick):
    forged = "x'\nINFO Session ended; check_in='done"
    entry = {'command': 'Explode', 'account': forged, 'request': 7}
    result = session(quick, tpam=BY_REQUEST).call('session_ended', cookie={KEY: {'open': [entry]}})
    assert len([line for line in result.lines if line.startswith('INFO')]) == 1
    assert check_in(result) == 'unknown'


@pytest.mark.parametrize('damaged', NO_ENTRIES, ids=json.dumps)
def test_what_can_be_read_is_checked_in_beside_what_cannot(quick, damaged):
    played = checked_out(quick)
    remembered(played)['open'].insert(0, damaged)
    ended = played.call('session_ended')
    assert quick.tpam.active() == []
    assert len(errors(ended, 'cannot be read')) == 1
    assert check_in(ended) == 'unknown'


@pytest.mark.parametrize('name, value', [
    ('hooks', 5), ('hooks', [5, None]), ('given', 'x'), ('given', None), ('returned', 'x'),
    ('returned', [1]), ('denied', []), ('denied', 'x'), ('server', 7), ('server', ['x']),
    ('user', {'x': 1}), ('protocol', 22), ('protocol', ['ssh']), ('account', 5), ('system', [5]),
    ('request', {'x': 1}), ('mode', None),
])
@pytest.mark.parametrize('trigger', ['session-ended', 'authentication-completed'])
def test_damage_elsewhere_in_the_cookie_leaves_nothing_checked_out(quick, name, value, trigger):
    played = checked_out(quick, check_in_trigger={'default': trigger})
    remembered(played)[name] = value
    for hook in ('authentication_completed', 'session_ended'):
        assert played.call(hook).raised is None
    assert quick.tpam.active() == []
    assert len(cancelled(quick)) == 1


@pytest.mark.parametrize('part', [
    {'hooks': [1]}, {'hooks': [None]}, {'hooks': [['x']]}, {'protocol': ['ssh']}, {'protocol': {}},
    {'protocol': 5}, {'user': {'a': 1}}, {'user': ['jdoe']}, {'denied': {'jdoe/web01/root': 5}},
    {'denied': {'jdoe/web01/root': {}}}, {'given': True}, {'given': 1.5}, {'mode': []},
    {'server': 9}, {'request': {}}, {'unknown': 'x'}, {'returned': None}, {'names': []},
    {'names': 'x'}, {'keyless': 5}, {'keyless': []}, {'system': {}}, {'account': [1]},
    {'open': [[]]}, {'open': [{'command': []}]}, {'open': [{'command': {}}]},
], ids=json.dumps)
def test_whatever_the_elements_of_a_cookie_are_no_hook_fails_unexpectedly(quick, part):
    good = {'hooks': ['get_password_list'], 'open': [], 'denied': {}, 'server': '', 'given': 1,
            'returned': 0, 'unknown': 0}
    for hook in HOOKS:
        played = session(quick, {'asset': 'WEB01'}, tpam=BY_REQUEST)
        result = played.call(hook, cookie={KEY: dict(good, **part)})
        assert 'Unexpected' not in result.log
        assert result.raised is None
        if hook == 'session_ended':
            assert check_in(result)
        played.call('session_ended')


@pytest.mark.parametrize('name', ['hooks', 'given', 'returned', 'denied', 'server', 'user',
                                  'protocol', 'account', 'system', 'request', 'mode'])
def test_a_cookie_with_a_part_missing_leaves_nothing_checked_out(quick, name):
    played = checked_out(quick)
    del remembered(played)[name]
    assert played.call('session_ended').raised is None
    assert quick.tpam.active() == []


def test_a_damaged_cookie_is_remembered_by_the_later_hooks(quick):
    played = session(quick, tpam=BY_REQUEST)
    played.cookie = {KEY: 'x'}
    for hook in ('get_password_list', 'authentication_completed'):
        assert played.call(hook).raised is None
    ended = played.call('session_ended')
    assert check_in(ended) == 'unknown'
    assert quick.tpam.active() == []


def test_a_check_in_that_failed_is_worse_than_an_unknown_one(quick):
    played = checked_out(quick)
    remembered(played)['open'].append(5)
    with refusing(quick, 'Cancel'):
        ended = played.call('session_ended')
    assert check_in(ended) == 'failed'


def test_what_other_plugins_put_into_the_cookie_survives_a_damaged_part(quick):
    played = session(quick)
    played.cookie = {KEY: 5, 'other': {'kept': 1}}
    played.call('get_password_list')
    assert played.cookie['other'] == {'kept': 1}


# ---- a request of which it is unknown whether it was filed

def filed(world, status=ACTIVE, account='root', session_id='session-1'):
    """Plant a request that the session has filed -> its Record."""
    number = world.tpam.add_request('sps', 'WEB01', account, status)
    request = world.tpam.requests[number]
    request.options['RequestNotes'] = 'jdoe,SPS,request,%s' % session_id
    return request


def losing(world, carried_out=True, **sections):
    """A session whose first hook has lost the answer to AddPwdRequest, and was refused the look-up
    for the request."""
    sections['tpam'] = dict(BY_REQUEST, **sections.get('tpam', {}))
    played = session(world, **sections)
    with broken(world, 'AddPwdRequest', after=carried_out), refusing(world, 'ListRequestDetails'):
        result = played.call('get_password_list')
    assert result.credentials == []
    return played


def commands(world, since):
    return world.tpam.commands()[since:]


def test_an_uncertain_request_is_found_by_the_next_hook_and_checked_in(world):
    played = losing(world)
    assert played.call('get_password_list').credentials == [PASSWORD]
    ended = played.call('session_ended')
    assert world.tpam.commands() == [
        'ListRequestDetails', 'ListRequestDetails', 'Retrieve', 'Cancel']
    assert len(world.tpam.requests) == 1
    assert world.tpam.active() == []
    assert check_in(ended) == 'done'


def test_a_hook_that_cannot_look_for_its_request_remembers_it(quick):
    played = losing(quick)
    entry, = remembered(played)['open']
    expected = {'command': 'Cancel', 'system': 'WEB01', 'account': 'root', 'request': None}
    assert dict((name, entry[name]) for name in expected) == expected


@pytest.mark.parametrize('hook', ['get_password_list', 'get_private_key_list'])
def test_the_next_hook_looks_for_an_uncertain_request_before_it_does_anything_else(quick, hook):
    quick.tpam.account('WEB01', 'root').key = test_policy.KEY
    played = losing(quick)
    before = len(quick.tpam.audit)
    assert len(played.call(hook).credentials) == 1
    assert trail(quick, before)[0] == OWN_OPEN
    assert commands(quick, before)[1:] == [
        'Retrieve' if hook == 'get_password_list' else 'RetrieveKey']
    entry, = remembered(played)['open']
    assert '%s' % entry['request'] == numbers(quick.tpam.active())[0]


def test_an_uncertain_request_that_is_pending_is_waited_for(quick):
    approvers(quick, approve_after=60)
    played = losing(quick)
    before = len(quick.tpam.audit)
    assert played.call('get_password_list').credentials == [PASSWORD]
    asked = commands(quick, before)
    assert asked[0] == 'ListRequestDetails'
    assert asked[1:-1] == ['GetPwdRequest'] * (len(asked) - 2)
    assert asked[-1] == 'Retrieve'
    assert quick.clock.slept >= 60
    played.call('session_ended')
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.active() == []


@pytest.mark.parametrize('failing', [refusing, broken])
def test_an_uncertain_request_is_not_forgotten_while_it_cannot_be_looked_for(quick, failing):
    played = losing(quick)
    with failing(quick, 'ListRequestDetails'):
        for hook in ('get_private_key_list', 'get_password_list', 'get_password_list'):
            assert not played.call(hook).credentials
            assert [entry['request'] for entry in remembered(played)['open']] == [None]
    assert set(quick.tpam.commands()) <= set(['ListRequestDetails'])
    ended = played.call('session_ended')
    assert cancelled(quick) == numbers(quick.tpam.requests.values())
    assert quick.tpam.active() == []
    assert check_in(ended) == 'done'


def test_an_uncertain_request_is_forgotten_after_a_look_up_that_found_none(quick):
    played = losing(quick, carried_out=False)
    before = len(quick.tpam.audit)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert commands(quick, before) == ['ListRequestDetails', 'AddPwdRequest', 'Retrieve']
    assert len([entry for entry in remembered(played)['open'] if entry['request']]) == 1
    ended = played.call('session_ended')
    assert len(cancelled(quick)) == 1
    assert quick.tpam.active() == []
    line, = [line for line in ended.lines if 'submission of the request' in line]
    assert line.startswith("INFO The submission of the request was not carried out; account='root'")
    assert "notes='jdoe,SPS,request,session-1'" in line
    assert check_in(ended) == 'done'


def test_an_uncertain_request_that_turns_up_late_is_checked_in_beside_the_one_in_its_place(quick):
    played = losing(quick, carried_out=False)
    assert played.call('get_password_list').credentials == [PASSWORD]
    filed(quick, PENDING)
    assert check_in(played.call('session_ended')) == 'done'
    assert len(cancelled(quick)) == 2
    assert quick.tpam.active() == []


@pytest.mark.parametrize('notes', ['', 'jdoe,SPS', 'jdoe,SPS,request,session-1 '])
def test_an_uncertain_request_is_not_forgotten_while_another_may_be_it(quick, notes):
    played = losing(quick, carried_out=False)
    other = filed(quick, PENDING)
    other.options['RequestNotes'] = notes
    result = played.call('get_password_list')
    assert 'TpamOutcomeUnknown' in result.raised['type']
    assert 'AddPwdRequest' not in [entry.command for entry in quick.tpam.audit]
    ended = played.call('session_ended')
    assert errors(ended, 'Check-in failed')
    assert check_in(ended) == 'failed'
    assert quick.tpam.active() == [other]


@pytest.mark.parametrize('others', [
    {'session_id': 'session-2'}, {'session_id': 'other'}, {'account': 'adm'},
])
def test_an_uncertain_request_is_not_taken_for_that_of_another_session_or_account(quick, others):
    quick.tpam.add_account('WEB01', 'adm', PASSWORD)
    other = filed(quick, PENDING, **others)
    played = losing(quick, carried_out=False)
    assert played.call('get_password_list').credentials == [PASSWORD]
    ended = played.call('session_ended')
    assert [request.id for request in quick.tpam.active()] == [other.id]
    assert ended.raised is None


def test_of_several_requests_of_the_session_an_active_one_is_used_and_all_are_checked_in(quick):
    pending = [filed(quick, PENDING), filed(quick, PENDING)]
    played = losing(quick)
    pending.append(filed(quick, PENDING))
    active, = [request for request in quick.tpam.active() if request.status == ACTIVE]
    before = len(quick.tpam.audit)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert commands(quick, before) == ['ListRequestDetails', 'Retrieve']
    assert '%s' % quick.tpam.audit[-1].options['RequestID'] == '%s' % active.id
    ended = played.call('session_ended')
    assert sorted(cancelled(quick)) == sorted(numbers(pending + [active]))
    assert quick.tpam.active() == []
    assert check_in(ended) == 'done'


def test_several_requests_that_are_found_by_the_hook_that_filed_are_checked_in(quick):
    filed(quick, PENDING)
    played = session(quick, tpam=BY_REQUEST)
    with broken(quick, 'AddPwdRequest', after=True):
        assert played.call('get_password_list').credentials == [PASSWORD]
    ended = played.call('session_ended')
    assert len(cancelled(quick)) == 2
    assert quick.tpam.active() == []
    assert check_in(ended) == 'done'


def test_several_requests_are_checked_in_by_a_hook_that_fails_too(quick):
    """SPS drops the cookie of a hook that raises."""
    filed(quick, PENDING)
    played = session(quick, tpam=BY_REQUEST)
    with broken(quick, 'AddPwdRequest', after=True), broken(quick, 'Retrieve'):
        assert played.call('get_password_list').raised
    assert len(quick.tpam.requests) == 2
    assert quick.tpam.active() == []


@pytest.mark.parametrize('several', [0, 2])
def test_the_end_of_the_session_checks_in_every_request_that_it_finds(quick, several):
    planted = [filed(quick, PENDING) for _ in range(several)]
    played = losing(quick)
    ended = played.call('session_ended')
    assert len(cancelled(quick)) == len(planted) + 1
    assert quick.tpam.active() == []
    assert check_in(ended) == 'done'


def test_one_request_that_cannot_be_checked_in_keeps_none_of_the_others(quick):
    planted = [filed(quick, PENDING), filed(quick, PENDING)]
    played = losing(quick)
    cancel = quick.tpam.do_Cancel

    def refuse_the_first(user, options):
        if '%s' % options['RequestID'] == '%s' % planted[0].id:
            raise Refusal('Cancel is under maintenance')
        return cancel(user, options)
    quick.tpam.do_Cancel = refuse_the_first
    ended = played.call('session_ended')
    assert [request.id for request in quick.tpam.active()] == [planted[0].id]
    line, = errors(ended, 'Check-in failed')
    assert "request='%s'" % planted[0].id in line
    assert check_in(ended) == 'failed'


@pytest.mark.parametrize('trigger', ['session-ended', 'authentication-completed'])
def test_a_request_that_was_never_found_is_never_said_to_be_checked_in(quick, trigger):
    played = losing(quick, carried_out=False, check_in_trigger={'default': trigger})
    completed, ended = played.call('authentication_completed'), played.call('session_ended')
    warnings = [line for line in completed.lines + ended.lines if line.startswith('WARNING')]
    assert [line for line in warnings if 'no request was found' in line] != []
    assert check_in(ended) == 'unknown'
    assert cancelled(quick) == []


def test_a_request_that_was_never_found_is_unknown_although_another_was_checked_in(quick):
    quick.tpam.add_account('WEB01', 'adm', PASSWORD)
    played = losing(quick, carried_out=False)
    assert played.call('get_password_list', server_username='adm').credentials == [PASSWORD]
    ended = played.call('session_ended')
    assert len(cancelled(quick)) == 1
    assert 'no request was found' in ended.log
    assert check_in(ended) == 'unknown'


@pytest.mark.parametrize('failing', [refusing, broken])
@pytest.mark.parametrize('carried_out', [True, False])
def test_a_look_up_that_fails_at_the_end_is_a_check_in_that_failed(quick, carried_out, failing):
    played = losing(quick, carried_out=carried_out)
    with failing(quick, 'ListRequestDetails'):
        ended = played.call('session_ended')
    line, = errors(ended, 'Check-in failed')
    assert "account='root'" in line and "system='WEB01'" in line
    assert check_in(ended) == 'failed'
    assert ended.raised is None


@pytest.mark.parametrize('found', [True, False])
def test_the_hook_that_lost_the_answer_raises_where_a_look_up_found_none(quick, found):
    played = session(quick, tpam=BY_REQUEST)
    with broken(quick, 'AddPwdRequest', after=found):
        result = played.call('get_password_list')
    assert bool(result.credentials) == found
    assert bool(errors(result)) != found
    assert found or 'TpamOutcomeUnknown' in result.raised['type']


# ---- a look-up that does not show that there is no request

def ends_the_connection(world, command, times=1, before=0):
    """Has the server carry out a command and end the connection in place of its answer, once
    it was given `before` times."""
    work, seen = getattr(world.tpam, 'do_' + command), []

    def hang_up(user, options):
        seen.append(command)
        answer = work(user, options)
        if before < len(seen) <= before + times:
            raise socket.error('hangs up')
        return answer
    setattr(world.tpam, 'do_' + command, hang_up)


BY_ADDRESS = dict(BY_REQUEST, system_name_resolver='tpam')  # keeps a connection


@pytest.fixture
def replica(quick):
    """A second server, whose TPAM knows nothing of the requests of the first."""
    other = test_policy.QuickWorld(quick.plugin_zip)
    other.clock = other.tpam.clock = quick.clock
    other.serve(certfile=None)
    yield other
    other.close()


def goes_down(world):
    """Ends every connection to the servers of a World, which take no more."""
    world.close()
    world._servers = []


def both(quick, replica):
    """The options of a configuration that names both servers."""
    return dict(BY_ADDRESS, server='localhost:%d, localhost:%d' % (
        quick.server.port, replica.server.port))


def test_a_request_that_another_server_does_not_list_is_not_submitted_again(quick, replica):
    work = quick.tpam.do_AddPwdRequest

    def carry_out_and_go_down(user, options):
        work(user, options)
        goes_down(quick)
        raise socket.error('hangs up')
    quick.tpam.do_AddPwdRequest = carry_out_and_go_down
    result = session(quick, tpam=both(quick, replica)).call('get_password_list')
    assert not result.credentials
    assert 'TpamOutcomeUnknown' in result.raised['type']
    assert 'ListRequestDetails' in replica.tpam.commands()
    assert 'AddPwdRequest' not in replica.tpam.commands()
    assert len(quick.tpam.active()) == 1
    assert errors(result, "jdoe,SPS,request,session-1")


def test_a_request_that_another_server_does_not_list_is_never_said_to_be_checked_in(quick, replica):
    played = losing(quick, tpam=both(quick, replica))
    goes_down(quick)
    for hook in ('get_password_list', 'authentication_completed', 'session_ended'):
        result = played.call(hook)
        assert not result.credentials
    assert replica.tpam.requests == {}
    assert errors(result, 'Check-in failed')
    assert check_in(result) == 'failed'


def test_a_request_that_another_server_lists_is_used_and_checked_in_there(quick, replica):
    """The servers of a cluster share their requests."""
    played = losing(quick, tpam=both(quick, replica))
    replica.tpam.requests = quick.tpam.requests
    goes_down(quick)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert check_in(played.call('session_ended')) == 'done'
    assert replica.tpam.active() == []
    assert 'AddPwdRequest' not in replica.tpam.commands()


def without(*names):
    return lambda row: [row.pop(name) for name in names]


def padded(*names):
    return lambda row: row.update((name, row[name] + ' ') for name in names or list(row))


def empty(*names):
    return lambda row: row.update((name, '') for name in names)


CERTAIN = {
    'no UserName': without('UserName'), 'empty UserName': empty('UserName'),
    'no SystemName': without('SystemName'), 'no AccountName': without('AccountName'),
    'no names': without('UserName', 'SystemName', 'AccountName'),
    'status with a blank': padded('Status'), 'no status': without('Status'),
    'user with a blank': padded('UserName'), 'system with a blank': padded('SystemName'),
    'account with a blank': padded('AccountName'),
    'status in capitals': lambda row: row.update(Status=row['Status'].upper()),
}
UNCLEAR = {
    'notes with a blank': padded('RequestNotes'), 'no notes': without('RequestNotes'),
    'empty notes': empty('RequestNotes'), 'no RequestID': without('RequestID'),
    'empty RequestID': empty('RequestID'),
    'blank RequestID': lambda row: row.update(RequestID='  '),
    'cut notes': lambda row: row.update(RequestNotes=row['RequestNotes'][:20]),
    'id with a blank': padded('RequestID'), 'every column with a blank': padded(),
}


def lists_so(world, change):
    """Has the server change each row of its list of requests."""
    work = world.tpam.do_ListRequestDetails

    def list_request_details(user, options):
        answer = work(user, options)
        for row in answer['rows']:
            change(row)
        return answer
    world.tpam.do_ListRequestDetails = list_request_details


@pytest.mark.parametrize('name', sorted(CERTAIN))
def test_a_lost_request_is_found_whatever_else_its_row_leaves_out(quick, name):
    lists_so(quick, CERTAIN[name])
    ends_the_connection(quick, 'AddPwdRequest')
    played = session(quick, tpam=BY_ADDRESS)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert check_in(played.call('session_ended')) == 'done'
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.active() == []


@pytest.mark.parametrize('name', sorted(UNCLEAR))
def test_a_row_that_may_be_the_lost_request_keeps_it_from_being_submitted_again(quick, name):
    lists_so(quick, UNCLEAR[name])
    ends_the_connection(quick, 'AddPwdRequest')
    played = session(quick, tpam=BY_ADDRESS)
    results = [played.call(hook) for hook in ('get_password_list', 'session_ended')]
    assert len(quick.tpam.requests) == 1
    named = [line for result in results for line in errors(result)
             if 'jdoe,SPS,request,session-1' in line or "request='1001" in line]
    assert named != [] or quick.tpam.active() == []
    assert check_in(results[1]) != 'done' or quick.tpam.active() == []


def test_a_request_that_is_carried_out_after_its_second_submission_is_checked_in_too(quick):
    """The first call was on its way still when the look-up found nothing."""
    work, waiting = quick.tpam.do_AddPwdRequest, []

    def carry_out_late(user, options):
        if not waiting:
            waiting.append(options)
            raise socket.error('hangs up')
        return work(user, options)
    quick.tpam.do_AddPwdRequest = carry_out_late
    quick.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1, approve_after=0)
    played = session(quick, tpam=BY_ADDRESS)
    assert played.call('get_password_list').credentials == [PASSWORD]
    late = filed(quick, PENDING)
    ended = played.call('session_ended')
    assert '%s' % late.id in cancelled(quick)
    assert len(cancelled(quick)) == 2
    assert quick.tpam.active() == []
    assert check_in(ended) == 'done'


# ---- requests that the API user has already, and their notes

def test_notes_that_a_server_has_cut_are_not_those_of_a_request_submitted_by_hand(quick):
    whole = 'alice@corp.example.com,SPS,request,session-9'
    number = quick.tpam.add_request('sps', 'WEB01', 'root')
    first = len('alice@corp.example.com,SPS')
    for length in range(first, len(whole) + 1):
        quick.tpam.requests[number].options['RequestNotes'] = whole[:length]
        result = session(quick, tpam=BY_REQUEST).call('get_password_list')
        assert result.credentials == [], whole[:length]
        assert 'another gateway user' in result.log
    assert quick.tpam.requests[number].status == ACTIVE


def test_a_request_without_the_column_of_its_notes_is_for_nobody(quick):
    quick.tpam.add_request('sps', 'WEB01', 'root')
    lists_so(quick, without('RequestNotes'))
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials == []
    assert 'another gateway user' in result.log


ALTERED = ['JDOE,sps,REQUEST,s', 'alice', 'alice,', 'alice,S', 'alice, SPS, request, session-9',
           'alice&#44;SPS&#44;request&#44;session-9', 'patch day']


@pytest.mark.parametrize('notes', ALTERED)
def test_a_request_whose_notes_name_nobody_we_know_is_for_nobody(quick, notes):
    number = quick.tpam.add_request('sps', 'WEB01', 'root')
    quick.tpam.requests[number].options['RequestNotes'] = notes
    result = session(quick, {'gateway_username': 'bob'}, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials == []
    assert 'another gateway user' in result.log


@pytest.mark.parametrize('notes', [
    'j?doe,SPS,request,session-1', '[API] jdoe,SPS,request,session-1', 'jdoe,SPS,request,session-1 (API)',
    'jdoe, SPS, request, session-1', 'jdoe&#44;SPS&#44;request&#44;session-1', 'patch day',
    'jdoe,SPS,request,sess...', 'jdoe,SPS,request,sess\u2026', 'jdoe,SPS,request,ses\nsion-1',
    'jdoe,SPS,request,session&#45;1', 'jdoe,SPS,request,session1'])
def test_a_lost_request_whose_notes_came_back_altered_is_not_submitted_again(quick, notes):
    played = losing(quick)
    for request in quick.tpam.active():
        request.options['RequestNotes'] = notes
    result = played.call('get_password_list')
    assert 'TpamOutcomeUnknown' in result.raised['type']
    ended = played.call('session_ended')
    assert errors(ended, 'Check-in failed')
    assert check_in(ended) == 'failed'
    assert len(quick.tpam.requests) == 1


def test_of_very_many_requests_of_a_session_a_few_are_checked_in_and_the_rest_is_said(quick):
    played = losing(quick)
    for _ in range(600):
        filed(quick, PENDING)
    with at_most(30):
        ended = played.call('session_ended')
    assert len(cancelled(quick)) == 20
    assert errors(ended, 'too many open requests')
    assert check_in(ended) == 'unknown'


@pytest.mark.parametrize('notes', ['', ' '])
def test_a_request_submitted_by_hand_without_notes_is_for_everybody(quick, notes):
    number = quick.tpam.add_request('sps', 'WEB01', 'root')
    quick.tpam.requests[number].options['RequestNotes'] = notes
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert quick.tpam.requests[number].status == ACTIVE


# ---- a request that is still pending

@pytest.mark.parametrize('hook', ['get_password_list', 'get_private_key_list'])
def test_a_pending_request_is_waited_for_again_by_the_next_hook(quick, hook):
    quick.tpam.account('WEB01', 'root').key = test_policy.KEY
    approvers(quick, key=test_policy.KEY, approve_after=60)
    played = session(quick, tpam=BY_REQUEST)
    with refusing(quick, 'GetPwdRequest'):
        assert played.call(hook).credentials == []
    pending, before = dict(remembered(played)['open'][0]), len(quick.tpam.audit)
    assert played.call('get_password_list').credentials == [PASSWORD]
    asked = commands(quick, before)
    assert asked == ['GetPwdRequest'] * (len(asked) - 1) + ['Retrieve']
    active, = remembered(played)['open']
    assert (pending.get('pending'), active.get('pending', False)) == (True, False)
    played.call('session_ended')
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.active() == []


def test_an_active_request_is_not_waited_for_again(quick):
    approvers(quick, approve_after=5)
    played = checked_out(quick)
    before = len(quick.tpam.audit)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert commands(quick, before) == ['Retrieve']


def test_nothing_is_retrieved_by_a_request_that_stays_pending(world):
    world.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1)
    played = session(world, tpam={'authorization': 'request'},
                     request={'approval_timeout': '2', 'poll_interval': '1'})
    with refusing(world, 'GetPwdRequest'):
        assert played.call('get_password_list').credentials == []
    result = played.call('get_password_list')
    assert result.credentials == []
    assert 'not approved in time' in result.log
    assert 'Retrieve' not in world.tpam.commands()
    assert world.tpam.commands().count('AddPwdRequest') == 1
    assert len(cancelled(world)) == 1


def test_a_request_that_was_denied_between_two_hooks_gives_nothing(quick):
    approvers(quick)
    played = session(quick, tpam=BY_REQUEST)
    with refusing(quick, 'GetPwdRequest'):
        assert played.call('get_password_list').credentials == []
    number, = quick.tpam.requests
    quick.tpam.deny(number)
    result = played.call('get_password_list')
    assert result.credentials == []
    assert 'the request is denied' in result.log
    assert 'Retrieve' not in quick.tpam.commands()


def test_a_request_stays_pending_for_as_long_as_the_server_says_nothing_about_it(quick):
    approvers(quick)
    played = session(quick, tpam=BY_REQUEST)
    with refusing(quick, 'GetPwdRequest'):
        for _ in range(3):
            assert played.call('get_password_list').credentials == []
    assert 'Retrieve' not in quick.tpam.commands()
    played.call('session_ended')
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.active() == []


# ---- a status in words of the server's own

def says(world, word):
    """Has the server write each status as this function does."""
    work = world.tpam.do_GetPwdRequest

    def get_pwd_request(user, options):
        answer = work(user, options)
        for row in answer['rows']:
            row['RequestStatus'] = word(row['RequestStatus'])
        return answer
    world.tpam.do_GetPwdRequest = get_pwd_request


SPELLINGS = {
    'a blank behind it': lambda word: word + ' ', 'a blank in front': lambda word: ' ' + word,
    'line ends': lambda word: '\r\n' + word + '\r\n', 'capitals': lambda word: word.upper(),
    'small letters': lambda word: word.lower(),
}


@pytest.mark.parametrize('name', sorted(SPELLINGS))
def test_a_status_is_waited_for_in_every_spelling(quick, name):
    approvers(quick, approve_after=21)
    says(quick, SPELLINGS[name])
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert quick.clock.slept >= 21
    assert check_in(played.call('session_ended')) == 'done'
    assert quick.tpam.active() == []


@pytest.mark.parametrize('status', ['Active/Approved ', ' ACTIVE/approved'])
def test_an_approval_counts_in_every_spelling_of_its_status(quick, status):
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    lists_so(quick, lambda row: row.update(Status=status))
    played = session(quick, tpam={'authorization': 'approval'})
    assert played.call('get_password_list').credentials == [PASSWORD]


WORDS = ['Active', 'Released', 'Active/Approved!', 'Pending', 'Closed', 'Denied?', 'x' * 2000]


@pytest.mark.parametrize('word', WORDS)
def test_a_status_that_is_not_one_of_tpam_is_never_taken_for_closed(quick, word):
    approvers(quick, approve_after=7)
    says(quick, lambda _: word)
    played = session(quick, tpam=BY_REQUEST)
    result = played.call('get_password_list')
    assert result.credentials == []
    assert errors(result) == []
    played.call('session_ended')
    assert len(cancelled(quick)) == 1
    assert quick.tpam.active() == []
    assert word not in json.dumps(result.returned['cookie'])


@pytest.mark.parametrize('word', WORDS)
def test_a_refused_check_in_of_a_request_in_an_unknown_status_has_failed(quick, word):
    played = checked_out(quick)
    says(quick, lambda _: word)
    with refusing(quick, 'Cancel'):
        ended = played.call('session_ended')
    assert errors(ended, 'Check-in failed')
    assert 'already closed' not in ended.log
    assert check_in(ended) == 'failed'


def test_a_request_without_any_status_is_waited_for_and_cancelled(quick):
    approvers(quick, approve_after=7)
    says(quick, lambda _: '')
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials == []
    assert 'not approved in time' in result.log
    assert quick.tpam.active() == []


# ---- a check-in that was sent twice

def test_a_password_is_changed_although_its_cancel_was_sent_twice(quick):
    """A kept connection ended after the first Cancel was carried out: the second is refused."""
    quick.tpam.add_account('WEB01', 'adm', PASSWORD)
    played = checked_out(quick, check_in={'force_reset': 'yes'})
    assert played.call('get_password_list', server_username='adm').credentials == [PASSWORD]
    ends_the_connection(quick, 'Cancel', before=1)
    ended = played.call('session_ended')
    assert len(cancelled(quick)) == 1  # the audit does not have the one that was not answered
    assert quick.tpam.commands().count('Cancel') == 2
    assert quick.tpam.commands().count('ForceReset') == 2
    for account in ('root', 'adm'):
        assert quick.tpam.account('WEB01', account).password != PASSWORD
    assert check_in(ended) == 'done'


def test_a_password_change_that_was_sent_twice_is_done(quick):
    quick.tpam.add_account('WEB01', 'adm', PASSWORD)
    played = checked_out(quick, check_in={'force_reset': 'yes'})
    played.call('get_password_list', server_username='adm')
    ends_the_connection(quick, 'ForceReset')
    assert check_in(played.call('session_ended')) == 'done'
    for account in ('root', 'adm'):
        assert quick.tpam.account('WEB01', account).password != PASSWORD


# ---- a runner that ends the hook

def terminated(world, tmpdir, when):
    """The Result of a hook that gets SIGTERM: `when` is given a function that sends it."""
    pid = tmpdir.join('pid')
    world.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1)
    when(lambda: os.kill(int(pid.read()), signal.SIGTERM))
    played = session(world, timeout=90, tpam={'authorization': 'request', 'timeout': '40'},
                     request={'poll_interval': '15'}, check_in={'force_reset': 'yes'})
    return hook_of(played, child(tmpdir, PID % str(pid)), 'get_password_list')


def test_a_hook_that_is_terminated_while_it_pauses_cancels_its_request(world, tmpdir):
    work = world.tpam.do_AddPwdRequest

    def when(terminate):
        def add_pwd_request(user, options):
            threading.Timer(1, terminate).start()
            return work(user, options)
        world.tpam.do_AddPwdRequest = add_pwd_request
    result = terminated(world, tmpdir, when)
    assert not result.died
    assert result.inside < 30  # the time of the hook is 40 s
    assert not result.credentials
    assert 'a signal ended the hook' in result.log
    assert 'in time' not in result.log
    assert len(cancelled(world)) == 1
    assert world.tpam.active() == []


@pytest.mark.parametrize('command', ['AddPwdRequest', 'Retrieve'])
def test_a_hook_that_is_terminated_while_it_waits_for_an_answer_cancels_its_request(
        world, tmpdir, command):
    work = getattr(world.tpam, 'do_' + command)

    def when(terminate):
        def late(user, options):
            answer = work(user, options)
            terminate()
            time.sleep(2)
            return answer
        setattr(world.tpam, 'do_' + command, late)
    world.tpam.add_account('WEB01', 'root', PASSWORD)
    if command == 'Retrieve':
        world.tpam.add_request('sps', 'WEB01', 'root')
    result = terminated(world, tmpdir, when)
    assert not result.died
    assert not result.killed
    if command == 'AddPwdRequest':
        assert len(cancelled(world)) == 1
        assert world.tpam.active() == []


def serve_in_turn(world):
    """Starts a server that takes a connection only when the one before has ended."""
    server = world.serve()
    server.process_request = lambda *request: socketserver.TCPServer.process_request(server, *request)


def test_a_hook_that_is_terminated_hangs_up_on_a_server_that_serves_one_connection_at_a_time(world, tmpdir):
    serve_in_turn(world)
    work = world.tpam.do_AddPwdRequest

    def when(terminate):
        def late(user, options):
            terminate()
            time.sleep(1)
            return work(user, options)
        world.tpam.do_AddPwdRequest = late
    result = terminated(world, tmpdir, when)
    assert result.inside < 30  # the time of the hook is 40 s
    assert len(cancelled(world)) == 1
    assert world.tpam.active() == []


def test_a_connection_through_a_proxy_is_hung_up_although_python_2_keeps_the_socket_below_tls(world, monkeypatch):
    """A server that serves one connection at a time would not answer the look-up of the request."""
    serve_in_turn(world)
    work, send = world.tpam.do_AddPwdRequest, Handler.send

    def fail_once(handler, *_):
        monkeypatch.setattr(Handler, 'send', send)
        handler.send(500)

    def add_pwd_request(user, options):
        monkeypatch.setattr(Handler, 'send', fail_once)
        return work(user, options)
    world.tpam.do_AddPwdRequest = add_pwd_request
    with bad_server.tunnel() as proxy:
        played = session(world, tpam=dict(BY_REQUEST, timeout='40'), **through(proxy))
        result = played.call('get_password_list')
    assert result.inside < 30  # the time of the hook is 40 s
    assert len(cancelled(world)) == 1
    assert world.tpam.active() == []


def test_a_hook_that_is_terminated_during_a_handshake_says_that_a_signal_ended_it(world, tmpdir):
    pid = tmpdir.join('pid')

    def behave(connection):
        os.kill(int(pid.read()), signal.SIGTERM)
        bad_server.keep_open(connection)
    with bad_server.Server(behave) as server:
        played = session(world, timeout=90, tpam={
            'server': 'localhost:%d' % server.port, 'timeout': '40', 'connect_timeout': '30'})
        result = hook_of(played, child(tmpdir, PID % str(pid)), 'get_password_list')
    assert 'TpamTimeout' in result.raised['type']
    assert 'A signal ended the hook' in errors(result)[0]
    assert 'CRITICAL' not in result.log


# ---- a fault that comes after the request was added

def fails_after(world, command, failure):
    """Have the server carry out a command and then answer with this failure."""
    work = getattr(world.tpam, 'do_' + command)

    def answer(user, options):
        work(user, options)
        raise failure
    setattr(world.tpam, 'do_' + command, answer)


MAIL = Fault(1, "<class 'smtplib.SMTPServerDisconnected'>: connection closed")


def test_a_request_that_was_added_before_a_fault_is_used_and_checked_in(world):
    fails_after(world, 'AddPwdRequest', MAIL)
    played = session(world, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert world.tpam.commands() == ['AddPwdRequest', 'ListRequestDetails', 'Retrieve']
    assert check_in(played.call('session_ended')) == 'done'
    assert world.tpam.active() == []


def test_a_fault_that_added_no_request_is_a_refusal(quick):
    def add_pwd_request(user, options):
        raise Fault(1, 'User sps is not authorized to add requests')
    quick.tpam.do_AddPwdRequest = add_pwd_request
    played = session(quick, tpam=BY_REQUEST)
    result = played.call('get_password_list')
    assert result.credentials == []
    assert "reason='User sps is not authorized to add requests'" in result.log
    assert check_in(played.call('session_ended')) == 'nothing to check in'


@pytest.mark.parametrize('code', tpamcheckout.NOT_BEGUN)
def test_a_fault_of_the_call_itself_cannot_hide_a_request(quick, code):
    def add_pwd_request(user, options):
        raise Fault(int(code), 'option ReleaseDuration has a value that is not allowed')
    quick.tpam.do_AddPwdRequest = add_pwd_request
    assert session(quick, tpam=BY_REQUEST).call('get_password_list').credentials == []
    assert 'ListRequestDetails' not in quick.tpam.commands()


def test_a_request_that_may_hide_behind_a_fault_is_looked_for_at_the_check_in(quick):
    fails_after(quick, 'AddPwdRequest', MAIL)
    played = session(quick, tpam=BY_REQUEST)
    with refusing(quick, 'ListRequestDetails'):
        result = played.call('get_password_list')
    assert result.credentials == []
    assert 'It is unknown whether a request was submitted' in result.log
    assert 'SMTPServerDisconnected' in lines(result)[-1]
    assert check_in(played.call('session_ended')) == 'done'
    assert quick.tpam.active() == []


def test_a_request_that_is_added_after_its_fault_is_checked_in(quick):
    work = quick.tpam.do_AddPwdRequest
    added = []

    def add_pwd_request(user, options):
        added.append((user, dict(options)))
        raise Fault(-32500, 'the back end did not answer in time')
    quick.tpam.do_AddPwdRequest = add_pwd_request
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == []
    work(*added[0])
    assert check_in(played.call('session_ended')) == 'done'
    assert quick.tpam.active() == []


def test_a_request_that_is_added_after_the_login_is_checked_in_at_the_end(quick):
    work = quick.tpam.do_AddPwdRequest
    added = []

    def add_pwd_request(user, options):
        added.append((user, dict(options)))
        if len(added) == 1:
            raise Fault(-32500, 'the back end did not answer in time')
        return work(user, options)
    quick.tpam.do_AddPwdRequest = add_pwd_request
    played = session(quick, tpam=BY_REQUEST, check_in_trigger={'default': 'authentication-completed'})
    assert played.call('get_private_key_list').credentials == []
    assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('authentication_completed')
    work(*added[0])
    assert check_in(played.call('session_ended')) == 'done'
    assert quick.tpam.active() == []


@pytest.mark.parametrize('notes', [
    'jdoe,SPS,request,\n session-1', 'jdoe, SPS, request, session-1', '[sps] jdoe,SPS,request,session-1',
    'jdoe,SPS,req...'])
def test_after_a_fault_a_request_with_altered_notes_is_not_passed_over_in_silence(quick, notes):
    fails_after(quick, 'AddPwdRequest', MAIL)
    lists_so(quick, lambda row: row.update(RequestNotes=notes))
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == []
    assert errors(played.call('session_ended'), 'It is unknown whether a request was submitted')


def test_after_a_fault_cut_notes_of_a_user_without_ascii_letters_are_not_passed_over(quick):
    fails_after(quick, 'AddPwdRequest', MAIL)
    lists_so(quick, lambda row: row.update(RequestNotes='\u0438\u0432\u0430'))
    played = session(quick, {'gateway_username': '\u0438\u0432\u0430\u043d'}, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == []
    assert errors(played.call('session_ended'), 'It is unknown whether a request was submitted')


@pytest.mark.parametrize('notes', ['by hand', '', 'jdoe,SPS,request,session-10'])
def test_after_a_fault_the_open_request_of_somebody_else_is_not_in_the_way(quick, notes):
    filed(quick, PENDING).options['RequestNotes'] = notes

    def add_pwd_request(user, options):
        raise Fault(1, 'Release Duration exceeds Account Maximum')
    quick.tpam.do_AddPwdRequest = add_pwd_request
    played = session(quick, tpam=BY_REQUEST)
    for _ in range(2):
        assert played.call('get_password_list').credentials == []
    ended = played.call('session_ended')
    assert check_in(ended) == 'nothing to check in'
    assert errors(ended) == []
    assert 'Cancel' not in quick.tpam.commands()


@pytest.mark.parametrize('notes', [None, 'jdoe,SPS,requ'])
def test_after_a_fault_a_request_with_cut_notes_is_not_passed_over_in_silence(quick, notes):
    fails_after(quick, 'AddPwdRequest', MAIL)
    work = quick.tpam.do_ListRequestDetails

    def list_request_details(user, options):
        answer = work(user, options)
        for row in answer['rows']:
            row.pop('RequestNotes')
            if notes is not None:
                row['RequestNotes'] = notes
        return answer
    quick.tpam.do_ListRequestDetails = list_request_details
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == []
    assert errors(played.call('session_ended'), 'It is unknown whether a request was submitted')


def test_a_first_submission_is_named_by_a_hook_that_fails_after_the_second(quick):
    work, seen = quick.tpam.do_AddPwdRequest, []

    def add_pwd_request(user, options):
        seen.append(options)
        if len(seen) == 1:
            raise socket.error('hangs up')
        return work(user, options)
    quick.tpam.do_AddPwdRequest = add_pwd_request
    quick.tpam.do_Retrieve = lambda user, options: {'returnCode': 0}
    result = session(quick, tpam=BY_ADDRESS).call('get_password_list')
    assert len(seen) == 2
    assert result.raised
    assert errors(result, 'It is unknown whether a request was submitted')
    assert 'was not carried out' not in result.log


def test_a_password_is_changed_although_the_fault_of_its_cancel_came_after_the_fact(quick):
    played = checked_out(quick, check_in={'force_reset': 'yes'})
    fails_after(quick, 'Cancel', MAIL)
    assert check_in(played.call('session_ended')) == 'done'
    assert quick.tpam.account('WEB01', 'root').password != PASSWORD


def test_a_hook_that_is_terminated_while_it_looks_behind_a_fault_cancels_its_request(world, tmpdir):
    fails_after(world, 'AddPwdRequest', MAIL)
    work = world.tpam.do_ListRequestDetails

    def when(terminate):
        def late(user, options):
            world.tpam.do_ListRequestDetails = work
            terminate()
            time.sleep(2)
            return work(user, options)
        world.tpam.do_ListRequestDetails = late
    result = terminated(world, tmpdir, when)
    assert 'A signal ended the hook' in result.raised['message']
    assert len(cancelled(world)) == 1


@pytest.mark.parametrize('number', [[], {}, None, '', ' ', 'x' * 101])
def test_an_answer_without_a_usable_id_is_not_taken_for_a_request(quick, number):
    work = quick.tpam.do_AddPwdRequest
    quick.tpam.do_AddPwdRequest = lambda user, options: dict(work(user, options), id=number)
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]  # found by its notes
    assert check_in(played.call('session_ended')) == 'done'


def test_an_id_is_used_without_the_white_space_around_it(quick):
    work = quick.tpam.do_AddPwdRequest

    def add_pwd_request(user, options):
        answer = work(user, options)
        return dict(answer, id=' %s ' % answer['id'])
    quick.tpam.do_AddPwdRequest = add_pwd_request
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert check_in(played.call('session_ended')) == 'done'


def test_a_cookie_that_is_nested_too_deeply_is_an_error_and_no_failure(quick):
    deep = {}
    for _ in range(400):
        deep = {'deep': deep}
    played = session(quick)
    played.cookie = {KEY: {'open': [deep]}}
    ended = played.call('session_ended')
    assert errors(ended, 'cannot be read')
    assert check_in(ended) == 'unknown'


# ---- a configuration that breaks during a session

BROKEN = ['nonsense', '[tpam]\nserver=\n', '[tpam]\nserver=tpam.test\nusername=sps\npasword=x\n']


def under(text, played):
    """Give the session another configuration."""
    played.sps.configuration = text
    return played


@pytest.mark.parametrize('text', BROKEN)
def test_what_is_checked_out_is_named_although_the_configuration_is_wrong(world, text):
    world.tpam.add_account('WEB01', 'adm', PASSWORD)
    played = checked_out(world, check_in={'force_reset': 'yes'})
    assert played.call('get_password_list', server_username='adm').credentials == [PASSWORD]
    entries = remembered(played)['open']
    ended = under(text, played).call('session_ended')
    assert ended.raised is None
    assert len(errors(ended, 'Wrong configuration')) >= 1
    said = errors(ended, 'still checked out')
    assert len(said) == len(entries) == 4
    for request in world.tpam.active():
        assert len([line for line in said if "request='%s'" % request.id in line
                    and "account='%s'" % request.account in line
                    and "system='WEB01'" in line]) == 1
    for account in ('adm', 'root'):
        assert len([line for line in said if "account='%s'" % account in line
                    and "system='WEB01'" in line]) == 2


def test_an_uncertain_request_is_named_although_the_configuration_is_wrong(quick):
    ended = under('nonsense', losing(quick)).call('session_ended')
    line, = errors(ended, 'still checked out')
    assert "account='root'" in line and "system='WEB01'" in line


@pytest.mark.parametrize('text', BROKEN)
def test_nothing_is_named_that_is_checked_in(quick, text):
    played = checked_out(quick, check_in_trigger={'default': 'authentication-completed'})
    played.call('authentication_completed')
    ended = under(text, played).call('session_ended')
    assert ended.raised is None
    assert errors(ended, 'still checked out') == []
    assert len(errors(ended, 'Wrong configuration')) >= 1


def test_a_configuration_that_is_mended_before_the_session_ends_checks_in(quick):
    played = checked_out(quick, check_in_trigger={'default': 'authentication-completed'})
    good = played.sps.configuration
    assert under('nonsense', played).call('authentication_completed').raised is None
    assert check_in(under(good, played).call('session_ended')) == 'done'
    assert quick.tpam.active() == []


# ---- an alarm that strikes at any line

POLICY = set(function.__code__.co_filename for function in (
    main.get_password_list, tpamauthorize.check_gateway_user, tpamcall.about, tpamcheckout.check_in,
    tpamtarget.find_system))


class Alarm(object):
    """Inside the block, rings the alarm once: before the n-th line of the policy that runs while the
    alarm is set. `line` is that line (file, number), None if there were fewer."""

    def __init__(self, at):
        self._left, self.line = at, None

    def __enter__(self):
        self._handler, self._trace = signal.getsignal(signal.SIGALRM), sys.gettrace()
        sys.settrace(self._count)
        return self

    def __exit__(self, *_):
        sys.settrace(self._trace)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)

    def _count(self, frame, event, _):
        if frame.f_code.co_filename not in POLICY:
            return None
        if event == 'line' and self.line is None and signal.getitimer(signal.ITIMER_REAL)[0]:
            self._left -= 1
            if self._left == 0:
                self.line = frame.f_code.co_filename, frame.f_lineno
                signal.getsignal(signal.SIGALRM)(signal.SIGALRM, frame)
        return self._count


def left_after_an_alarm(quick, call):
    """Play a session by request for each line at which an alarm may strike: `call` is given the
    session and the alarm -> the lines after which a request was left that no ERROR line names."""
    played, unsaid = session(quick, tpam=BY_REQUEST), []
    at, alarm = 0, None
    while alarm is None or alarm.line is not None:
        at += 1
        alarm = Alarm(at)
        played.cookie, played.calls = {}, []
        call(played, alarm)
        played.call('session_ended')
        for number in numbers(quick.tpam.active()):
            named = [line for result in played.calls for line in errors(result)
                     if "request='%s'" % number in line]
            if not named:
                unsaid.append(alarm.line)
        quick.tpam.requests.clear()
    assert at > 50
    return unsaid


def test_an_alarm_at_whatever_line_of_a_hook_leaves_nothing_checked_out(quick):
    """SPS drops the cookie of a hook that raises: what it checked out has to be checked in then."""
    def call(played, alarm):
        with alarm:
            played.call('get_password_list')
    assert left_after_an_alarm(quick, call) == []


def test_an_alarm_at_whatever_line_of_a_hook_that_fails_leaves_nothing_checked_out_unsaid(quick):
    def call(played, alarm):
        with broken(quick, 'Retrieve'), alarm:
            played.call('get_password_list')
    assert left_after_an_alarm(quick, call) == []


# In a process of each interpreter, a call is struck before each of its lines in turn. The calls
# after it ask for other systems, so that an answer to another call is noticed.
STRUCK_CALLS = """
import os
import tpamclient
class Strike(object):
    # Strikes when this line of the client runs for the n-th time: at is (file, line, n).
    def __init__(self, at=None):
        self.at, self.ran, self.struck = at, {}, False

    def count(self, frame, event, _):
        name = os.path.basename(frame.f_code.co_filename)
        if not name.startswith('tpam'):
            return None
        if event == 'line':
            line = name, frame.f_lineno
            times = self.ran[line] = self.ran.get(line, 0) + 1
            if line + (times,) == self.at and not self.struck:
                self.struck = True
                raise tpamerrors.TpamTimeout()
        return self.count

def listed(client, system):
    try:
        return client.list_systems(SystemName=system)[0]['SystemName'] == system
    except Exception:
        return False

def play(case, strike):
    settings = dict(case['settings'], servers=[tuple(server) for server in case['servers']])
    client = tpamclient.TpamClient(settings, tpamerrors.Deadline(60), lambda line: None)
    for system in case['before']:
        assert listed(client, system)
    raised = None
    sys.settrace(strike.count)
    try:
        client.list_systems(SystemName='WEB01')
    except tpamerrors.TpamError:
        pass
    except Exception:
        raised = sys.exc_info()[0].__name__
    finally:
        sys.settrace(None)
    if not listed(client, 'DB01') or not listed(client, 'MAIL01'):
        raised = 'the client is of no use any more'
    client.close()
    return raised

def function(case):
    rehearsal = Strike()
    assert play(case, rehearsal) is None
    strikes = [Strike(line + (number + 1,))
               for line, times in rehearsal.ran.items() for number in range(times)]
    outcomes = [(strike.at, play(case, strike)) for strike in strikes]
    return [len([strike for strike in strikes if strike.struck]),
            sorted(outcome for outcome in outcomes if outcome[1])]
"""


@pytest.mark.parametrize('before', [[], ['DB01'], ['DB01', 'MAIL01']])
def test_an_alarm_at_whatever_line_of_a_call_leaves_a_client_that_can_be_used(world, before):
    for system in ('DB01', 'MAIL01'):
        world.tpam.add_system(system)
    servers = [('127.0.0.1', world.serve(certfile=None).port)]
    settings = {'path': '/RPC2', 'method_prefix': '', 'tls': None, 'proxy': None,
                'credential': ['sps', API_PASSWORD], 'connect_timeout': 60}
    (strikes, wrong), = answers(world.python, STRUCK_CALLS, [
        {'settings': settings, 'servers': servers, 'before': before}])
    assert strikes > 50
    assert wrong == []
