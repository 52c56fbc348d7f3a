# -*- coding: utf-8 -*-
"""The gateway user: refusals without one, its domain, and the comparison of names.

Tests with `world` run a fresh process per hook, over TLS. Those with `quick` run the same hooks
in the process of the tests.
"""
from __future__ import unicode_literals

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import test_policy
import tpamauthorize
import tpamcall
import tpamerrors
from conftest import GATEWAY_PASSWORD, PASSWORD
from fake_dns import FakeDns
from fake_sps import GET_HOOKS
from fake_tpam import ACTIVE
from test_policy import (BY_REQUEST, HELD, KEY, PRIVILEGED, answers, asking, broken, lines,
                         refusing, session)

quick = test_policy.quick

GATEWAY_MODE = {'authorization': 'gateway'}
APPROVAL = {'authorization': 'approval'}
REUSE = {'reuse_gateway_password': 'yes'}
AS_GATEWAY_USER = {'use_credential': 'gateway', 'username': None, 'password': None}
MODES = [GATEWAY_MODE, APPROVAL, PRIVILEGED, BY_REQUEST, REUSE, AS_GATEWAY_USER]

KELVIN = '\u212a'  # becomes k in lower case
DOTTED = '\u0130'  # becomes i in lower case on Python 2, i and a combining dot on Python 3
LONG_S = '\u017f'  # becomes S in upper case
DOTLESS = '\u0131'  # becomes I in upper case


def user(name, domain=None):
    """Return the arguments of a hook that name this gateway user."""
    return {'gateway_username': name, 'gateway_domain': domain}


def warnings_about(option, result):
    return [line for line in lines(result) if line.startswith('WARNING') and option in line]


def assert_refused_unasked(world, result, option):
    """Check that the only line of the log names the option, and that nothing was sent."""
    assert result.credentials == []
    line, = lines(result)
    assert line.startswith('WARNING No credential')
    assert option in line
    assert world.server.connections == 0


def assert_refused_for_another_user(result):
    assert result.credentials == []
    assert 'another gateway user' in result.log


def last(world, command):
    """Return the options of the last call of this command."""
    return [entry.options for entry in world.tpam.audit if entry.command == command][-1]


# ---- without a gateway user

NOBODY = [None, '', ' ', '\t ', '\xa0', 'EXAMPLE\\', 'EXAMPLE\\ ', '@example.com', ' @example.com']


@pytest.mark.parametrize('hook', sorted(GET_HOOKS))
def test_without_a_gateway_user_no_hook_gives_a_credential(world, hook):
    world.tpam.account('WEB01', 'root').key = KEY
    played = session(world, {'gateway_username': None, 'asset': 'WEB01'})
    assert_refused_unasked(world, played.call(hook), 'require_gateway_user')
    assert played.call('session_ended').raised is None


def test_one_approval_does_not_open_an_account_to_sessions_without_a_gateway_user(world):
    number = world.tpam.add_request('sps', 'WEB01', 'root')
    world.tpam.requests[number].options['RequestNotes'] = ',SPS,request,session-0'
    played = session(world, {'gateway_username': None}, tpam=BY_REQUEST)
    assert_refused_unasked(world, played.call('get_password_list'), 'require_gateway_user')


@pytest.mark.parametrize('name', NOBODY)
@pytest.mark.parametrize('mode', MODES)
def test_a_name_without_a_user_is_no_gateway_user_in_any_mode(quick, mode, name):
    result = session(quick, {'gateway_username': name}, tpam=mode).call('get_password_list')
    assert_refused_unasked(quick, result, 'require_gateway_user')


@pytest.mark.parametrize('hook', sorted(GET_HOOKS))
@pytest.mark.parametrize('mode', MODES)
def test_a_missing_gateway_user_is_refused_by_every_hook_in_every_mode(quick, mode, hook):
    played = session(quick, {'asset': 'WEB01'}, tpam=mode)
    del played.arguments['gateway_username']
    assert_refused_unasked(quick, played.call(hook), 'require_gateway_user')


def test_a_domain_alone_is_no_gateway_user(quick):
    result = session(quick, user(None, 'EXAMPLE')).call('get_password_list')
    assert_refused_unasked(quick, result, 'require_gateway_user')


def test_dns_is_not_asked_without_a_gateway_user(quick, monkeypatch):
    names = FakeDns({('5.0.0.10.in-addr.arpa.', 'PTR'): ['web01.example.com.']})
    with asking(names, monkeypatch):
        played = session(quick, {'gateway_username': None, 'server_hostname': None},
                         tpam={'system_name_resolver': 'dns'})
        assert_refused_unasked(quick, played.call('get_password_list'), 'require_gateway_user')
    assert names.asked == []


# ---- without a gateway user, where the configuration allows it

NOT_REQUIRED = {'require_gateway_user': 'no'}
BY_REQUEST_OF_ANYBODY = dict(BY_REQUEST, **NOT_REQUIRED)


@pytest.mark.parametrize('name', [None, ' ', 'EXAMPLE\\'])
@pytest.mark.parametrize('mode', [GATEWAY_MODE, BY_REQUEST])
def test_each_call_without_a_gateway_user_warns_where_none_is_required(quick, mode, name):
    quick.tpam.account('WEB01', 'root').key = KEY
    played = session(quick, {'gateway_username': name, 'asset': 'WEB01'},
                     tpam=dict(mode, **NOT_REQUIRED))
    for hook in 2 * sorted(GET_HOOKS):
        result = played.call(hook)
        assert len(result.credentials) == 1
        assert len(warnings_about('require_gateway_user', result)) == 1


def test_a_gateway_user_who_is_not_required_but_named_causes_no_warning(quick):
    result = session(quick, tpam=NOT_REQUIRED).call('get_password_list')
    assert result.credentials == [PASSWORD]
    assert lines(result)[0].startswith('INFO Retrieved passwords')


@pytest.mark.parametrize('name', NOBODY)
@pytest.mark.parametrize('mode', [APPROVAL, PRIVILEGED])
def test_approval_and_policy_need_a_gateway_user_all_the_same(quick, mode, name):
    """Left out, the name would make the question one about everybody."""
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    quick.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    played = session(quick, {'gateway_username': name}, tpam=dict(mode, **NOT_REQUIRED))
    result = played.call('get_password_list')
    assert result.credentials == []
    assert 'SPS passed no name of a gateway user' in result.log
    assert warnings_about('require_gateway_user', result)
    assert quick.tpam.audit == []


def test_a_request_without_a_gateway_user_serves_only_the_session_that_filed_it(world):
    first = session(world, {'gateway_username': None}, tpam=BY_REQUEST_OF_ANYBODY)
    assert first.call('get_password_list').credentials == [PASSWORD]
    for name in (None, 'jdoe'):
        other = session(world, {'gateway_username': name, 'session_id': 'session-2'},
                        tpam=BY_REQUEST_OF_ANYBODY)
        assert_refused_for_another_user(other.call('get_password_list'))
        assert other.call('session_ended').raised is None
    assert [request.status for request in world.tpam.active()] == [ACTIVE]
    assert first.call('get_password_list').credentials == [PASSWORD]
    first.call('session_ended')
    assert world.tpam.active() == []


def test_a_session_without_a_gateway_user_knows_its_request_again_without_its_cookie(quick):
    played = session(quick, {'gateway_username': None}, tpam=BY_REQUEST_OF_ANYBODY)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert played.call('get_password_list', cookie={}).credentials == [PASSWORD]
    played.call('session_ended')
    assert quick.tpam.active() == []


def test_two_sessions_without_a_gateway_user_and_without_an_id_are_not_the_same(quick):
    nameless = {'gateway_username': None, 'session_id': None}
    first = session(quick, nameless, tpam=BY_REQUEST_OF_ANYBODY)
    assert first.call('get_password_list').credentials == [PASSWORD]
    other = session(quick, nameless, tpam=BY_REQUEST_OF_ANYBODY)
    assert_refused_for_another_user(other.call('get_password_list'))
    other.call('session_ended')
    assert first.call('get_password_list').credentials == [PASSWORD]


def test_a_request_without_a_gateway_user_of_an_older_release_serves_nobody_else(quick):
    number = quick.tpam.add_request('sps', 'WEB01', 'root')
    quick.tpam.requests[number].options['RequestNotes'] = ',SPS,request,session-0'
    for name in (None, 'jdoe'):
        played = session(quick, {'gateway_username': name}, tpam=BY_REQUEST_OF_ANYBODY)
        assert_refused_for_another_user(played.call('get_password_list'))


def test_a_request_of_a_gateway_user_does_not_serve_a_session_without_one(quick):
    session(quick, tpam=BY_REQUEST_OF_ANYBODY).call('get_password_list')
    other = session(quick, {'gateway_username': None, 'session_id': 'session-2'},
                    tpam=BY_REQUEST_OF_ANYBODY)
    assert_refused_for_another_user(other.call('get_password_list'))


# ---- the domain of the gateway user

ONE_USER = [('CORP\\jdoe', None), ('jdoe@corp', None), ('jdoe', 'CORP'), ('corp\\JDoe', 'Corp')]
OTHER_USERS = [('jdoe', None), ('PARTNER\\jdoe', None), ('jdoe@partner', None), ('jdoe', 'PARTNER'),
               ('CORP\\jdoe', 'PARTNER'), ('jdoe@corp.example.com', None), ('CORP\\eve', None)]


def test_a_request_is_not_used_for_the_same_name_of_another_domain(world):
    first = session(world, user('jdoe', 'CORP'), tpam=BY_REQUEST)
    assert first.call('get_password_list').credentials == [PASSWORD]
    other = session(world, dict(user('jdoe', 'PARTNER'), session_id='session-2'), tpam=BY_REQUEST)
    assert_refused_for_another_user(other.call('get_password_list'))
    other.call('session_ended')
    assert [request.status for request in world.tpam.active()] == [ACTIVE]


@pytest.mark.parametrize('other', OTHER_USERS)
@pytest.mark.parametrize('one', ONE_USER)
def test_a_request_serves_neither_of_two_users_for_the_other(quick, one, other):
    for first, second in ((one, other), (other, one)):
        filed = session(quick, user(*first), tpam=BY_REQUEST)
        assert filed.call('get_password_list').credentials == [PASSWORD]
        played = session(quick, dict(user(*second), session_id='session-2'), tpam=BY_REQUEST)
        assert_refused_for_another_user(played.call('get_password_list'))
        filed.call('session_ended')


@pytest.mark.parametrize('second', ONE_USER)
@pytest.mark.parametrize('first', ONE_USER)
def test_a_request_serves_its_user_in_every_spelling_of_the_domain(quick, first, second):
    filed = session(quick, user(*first), tpam=BY_REQUEST)
    assert filed.call('get_password_list').credentials == [PASSWORD]
    played = session(quick, dict(user(*second), session_id='session-2'), tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert len(quick.tpam.requests) == 1


@pytest.mark.parametrize('name, domain, shown', [
    ('jdoe', None, 'jdoe'), ('jdoe', '', 'jdoe'), ('jdoe', 'CORP', 'jdoe@CORP'),
    ('CORP\\jdoe', None, 'jdoe@CORP'), ('jdoe@corp', None, 'jdoe@corp'),
    ('CORP\\jdoe', 'CORP', 'jdoe@CORP'), ('É密\\élodie', None, 'élodie@É密'),
])
def test_notes_comment_and_log_name_the_user_with_its_domain(quick, name, domain, shown):
    played = session(quick, user(name, domain), tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    ended = played.call('session_ended')
    assert last(quick, 'AddPwdRequest')['RequestNotes'] == shown + ',SPS,request,session-1'
    assert last(quick, 'Cancel')['Comment'] == shown + ',SPS,check-in,session-1'
    assert "user='%s'" % shown in ended.log


@pytest.mark.parametrize('name, domain', [('CORP\\jdoe', None), ('jdoe', 'CORP')])
def test_the_reason_text_names_the_user_with_its_domain(quick, name, domain):
    assert session(quick, user(name, domain)).call('get_password_list').credentials == [PASSWORD]
    assert last(quick, 'Retrieve')['ReasonText'] == 'jdoe@CORP,SPS,gateway,session-1'


@pytest.mark.parametrize('name, domain', ONE_USER)
@pytest.mark.parametrize('mode, command, option', [
    (APPROVAL, 'ListRequestDetails', 'RequestorName'),
    (PRIVILEGED, 'ListAssignedPolicies', 'UserName'),
])
def test_the_server_is_asked_about_the_bare_name(quick, mode, command, option, name, domain):
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    quick.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    played = session(quick, user(name, domain), tpam=mode)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert last(quick, command)[option].lower() == 'jdoe'
    reason = last(quick, 'Retrieve')['ReasonText'].lower()
    assert reason.startswith('jdoe@corp,sps,' + mode['authorization'])


@pytest.mark.parametrize('name', ['CORP\\*', 'CORP\\jd*', '*@corp'])
@pytest.mark.parametrize('mode', [APPROVAL, PRIVILEGED])
def test_a_bare_name_with_a_wildcard_is_not_asked_about(quick, mode, name):
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    quick.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    result = session(quick, {'gateway_username': name}, tpam=mode).call('get_password_list')
    assert result.credentials == []
    assert 'the name of the gateway user contains a *' in result.log
    assert 'SPS passed no name' not in result.log
    assert quick.tpam.audit == []


@pytest.mark.parametrize('name', ['CORP\\jdoe', 'jdoe@corp'])
def test_the_gateway_user_logs_in_to_the_server_under_the_name_as_it_was_passed(quick, name):
    quick.tpam.add_user(name, GATEWAY_PASSWORD)
    played = session(quick, user(name, 'corp'), tpam=AS_GATEWAY_USER)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert [entry.user for entry in quick.tpam.audit] == [name]
    assert last(quick, 'Retrieve')['ReasonText'].lower().startswith('jdoe@corp,')


def test_a_check_out_is_not_used_when_a_later_hook_names_another_gateway_user(world):
    played = session(world, user('jdoe', 'CORP'), tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    result = played.call('get_password_list', **user('jdoe', 'PARTNER'))
    assert_refused_for_another_user(result)
    played.call('session_ended')
    assert world.tpam.commands().count('Retrieve') == 1
    assert world.tpam.active() == []


@pytest.mark.parametrize('other', OTHER_USERS)
def test_a_check_out_serves_only_its_gateway_user_within_a_session(quick, other):
    played = session(quick, user('CORP\\jdoe'), tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert_refused_for_another_user(played.call('get_password_list', **user(*other)))
    for spelling in ONE_USER:
        result = played.call('get_password_list', **user(*spelling))
        assert result.credentials == [PASSWORD]
    played.call('session_ended')
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.commands().count('Cancel') == 1
    assert quick.tpam.active() == []


def test_a_check_out_without_a_gateway_user_is_not_used_when_a_later_hook_names_one(quick):
    played = session(quick, {'gateway_username': None}, tpam=BY_REQUEST_OF_ANYBODY)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert_refused_for_another_user(played.call('get_password_list', gateway_username='jdoe'))
    assert quick.tpam.commands().count('Retrieve') == 1


@pytest.mark.parametrize('names', [('CORP\\jdoe', 'eve'), (None, 'jdoe'), ('jdoe', None)])
def test_a_request_of_unknown_outcome_is_found_although_a_later_hook_names_another(quick, names):
    played = session(quick, {'gateway_username': names[0]}, tpam=BY_REQUEST_OF_ANYBODY)
    with broken(quick, 'AddPwdRequest', after=True), refusing(quick, 'ListRequestDetails'):
        assert played.call('get_password_list').credentials == []
    result = played.call('get_password_list', gateway_username=names[1])
    assert_refused_for_another_user(result)
    played.call('session_ended')
    assert quick.tpam.active() == []


# ---- the domains that the configuration allows

ALLOWED = [('CORP\\jdoe', None), ('jdoe@corp', None), ('jdoe@Corp.Example.COM', None),
           ('jdoe', 'corp'), ('CORP\\jdoe', 'corp.example.com'), ('jdoe@corp.example.com', 'CORP')]
NOT_ALLOWED = [('jdoe', None), ('jdoe', ''), ('jdoe', ' '), ('jdoe', 'PARTNER'),
               ('PARTNER\\jdoe', None), ('jdoe@partner', None), ('CORP\\jdoe', 'PARTNER'),
               ('PARTNER\\jdoe', 'CORP'), ('jdoe@example.com', None), ('jdoe@CORP@evil.test', None),
               ('jdoe@corp.example.com.evil.test', None), ('CORP.evil.test\\jdoe', None),
               ('CORP\\jdoe@evil.test', None), ('jdoe@evil.test@CORP', None)]


def test_a_gateway_user_of_a_domain_that_is_not_listed_gets_nothing(world):
    domains = {'gateway_domains': 'corp.example.com, CORP'}
    refused = session(world, user('PARTNER\\jdoe'), tpam=domains).call('get_password_list')
    assert_refused_unasked(world, refused, 'gateway_domains')
    played = session(world, user('CORP\\jdoe'), tpam=domains)
    assert played.call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('domains', [
    'corp.example.com, CORP', 'corp\tCorp.Example.Com', 'x,CORP.EXAMPLE.COM,,corp'])
@pytest.mark.parametrize('name, domain', ALLOWED)
def test_every_listed_domain_is_allowed_in_any_case(quick, name, domain, domains):
    played = session(quick, user(name, domain), tpam={'gateway_domains': domains})
    assert played.call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('name, domain', NOT_ALLOWED)
def test_each_domain_of_the_gateway_user_must_be_listed(quick, name, domain):
    played = session(quick, user(name, domain), tpam={'gateway_domains': 'corp.example.com, CORP'})
    assert_refused_unasked(quick, played.call('get_password_list'), 'gateway_domains')


@pytest.mark.parametrize('hook', sorted(GET_HOOKS))
@pytest.mark.parametrize('mode', MODES)
def test_domains_are_checked_by_every_hook_in_every_mode(quick, mode, hook):
    arguments = dict(user('PARTNER\\root'), asset='WEB01')
    played = session(quick, arguments, tpam=dict(mode, gateway_domains='CORP'))
    assert_refused_unasked(quick, played.call(hook), 'gateway_domains')


def test_a_listed_domain_without_a_user_is_not_enough(quick):
    played = session(quick, user('CORP\\'), tpam={'gateway_domains': 'CORP'})
    assert_refused_unasked(quick, played.call('get_password_list'), 'require_gateway_user')


TWO_DOMAINS = [
    user('CORP\\jdoe', 'corp.example.com'), user('jdoe@corp.example.com', 'CORP'),
    user('jdoe@CORP', 'corp.example.com'), user('corp.example.com\\jdoe', 'corp'),
    user('CORP\\jdoe@corp.example.com'), user('jdoe@Corp.Example.com', ' CORP '),
]


@pytest.mark.parametrize('other', TWO_DOMAINS[1:])
def test_two_domains_of_a_gateway_user_are_one_person_in_any_order(quick, other):
    assert session(quick, TWO_DOMAINS[0], tpam=BY_REQUEST).call('get_password_list').credentials
    second = session(quick, dict(other, session_id='session-2'), tpam=BY_REQUEST)
    assert second.call('get_password_list').credentials == [PASSWORD]
    assert len(quick.tpam.requests) == 1


def test_one_of_two_domains_is_not_the_person_of_both(quick):
    assert session(quick, TWO_DOMAINS[0], tpam=BY_REQUEST).call('get_password_list').credentials
    for other in (user('CORP\\jdoe'), user('jdoe', 'corp.example.com'),
                  user('CORP\\jdoe', 'partner.example.com')):
        second = session(quick, dict(other, session_id='session-2'), tpam=BY_REQUEST)
        assert_refused_for_another_user(second.call('get_password_list'))


@pytest.mark.parametrize('arguments', [
    user('CORP\\root', 'corp.example.com'), user('root@corp.example.com', 'CORP'),
    user('CORP\\root'), user('CORP\\root@corp.example.com'),
])
@pytest.mark.parametrize('domain, is_reused', [
    (None, True), ('CORP', True), ('corp', True), ('OTHER', False), ('corp.example.org', False),
])
def test_the_gateway_password_is_used_in_every_domain_of_the_gateway_user(
        quick, arguments, domain, is_reused):
    played = session(quick, dict(arguments, server_domain=domain), tpam=REUSE)
    expected = [GATEWAY_PASSWORD] if is_reused else [PASSWORD]
    assert played.call('get_password_list').credentials == expected


def test_the_gateway_password_is_used_in_the_second_domain_of_the_gateway_user(quick):
    for arguments in (user('CORP\\root', 'corp.example.com'),
                      user('root@corp.example.com', 'CORP')):
        for domain in ('CORP', 'corp.example.com', 'Corp.Example.COM'):
            played = session(quick, dict(arguments, server_domain=domain), tpam=REUSE)
            assert played.call('get_password_list').credentials == [GATEWAY_PASSWORD]


def test_no_gateway_user_is_of_no_domain_where_none_is_required(quick):
    played = session(quick, user(None), tpam=dict(NOT_REQUIRED, gateway_domains='CORP'))
    result = played.call('get_password_list')
    assert result.credentials == []
    assert warnings_about('gateway_domains', result)
    assert quick.server.connections == 0


def test_any_domain_is_allowed_where_none_is_listed(quick):
    for name, domain in NOT_ALLOWED:
        played = session(quick, user(name, domain))
        assert played.call('get_password_list').credentials == [PASSWORD]


# ---- one comparison of names

# Folded by lower() or by upper(), each pair would be equal on some Python.
LOOK_ALIKES = [('kim', KELVIN + 'im'), ('KIM', KELVIN + 'IM'), ('ida', DOTTED + 'da'),
               ('i\u0307da', DOTTED + 'da'), ('sam', LONG_S + 'am'), ('SAM', LONG_S + 'am'),
               ('ida', DOTLESS + 'da'), ('\xe5sa', '\u212bsa')]
SAME = [('jdoe', 'JDoe'), ('élodie', 'ÉLODIE'), ('жанна', 'Жанна'), ('σ', 'Σ'),
        (KELVIN, KELVIN), (DOTTED, DOTTED)]


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_a_request_is_not_used_for_a_gateway_user_who_looks_alike(quick, one, other):
    for first, second in ((one, other), (other, one)):
        filed = session(quick, user(first), tpam=BY_REQUEST)
        assert filed.call('get_password_list').credentials == [PASSWORD]
        played = session(quick, dict(user(second), session_id='session-2'), tpam=BY_REQUEST)
        assert_refused_for_another_user(played.call('get_password_list'))
        filed.call('session_ended')


def test_a_request_is_not_used_for_a_look_alike_in_a_fresh_process(world):
    filed = session(world, user('kim'), tpam=BY_REQUEST)
    assert filed.call('get_password_list').credentials == [PASSWORD]
    played = session(world, dict(user(KELVIN + 'im'), session_id='session-2'), tpam=BY_REQUEST)
    assert_refused_for_another_user(played.call('get_password_list'))


@pytest.mark.parametrize('one, other', SAME)
def test_a_request_is_used_for_its_gateway_user_in_any_case(quick, one, other):
    session(quick, user(one), tpam=BY_REQUEST).call('get_password_list')
    played = session(quick, dict(user(other), session_id='session-2'), tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_the_domains_of_two_users_may_look_alike_and_differ(quick, one, other):
    filed = session(quick, user('jdoe', one), tpam=BY_REQUEST)
    assert filed.call('get_password_list').credentials == [PASSWORD]
    played = session(quick, dict(user('jdoe', other), session_id='session-2'), tpam=BY_REQUEST)
    assert_refused_for_another_user(played.call('get_password_list'))


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_a_domain_that_looks_like_a_listed_one_is_not_allowed(quick, one, other):
    for listed, named in ((one, other), (other, one)):
        played = session(quick, user('jdoe', named), tpam={'gateway_domains': listed})
        assert_refused_unasked(quick, played.call('get_password_list'), 'gateway_domains')


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_the_gateway_password_is_not_used_in_a_domain_that_looks_alike(quick, one, other):
    arguments = dict(user('root', one), server_domain=other)
    played = session(quick, arguments, tpam=REUSE)
    assert played.call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_a_domain_that_looks_alike_does_not_stand_for_an_asset(quick, one, other):
    for mapped, named in ((one, other), (other, one)):
        played = session(quick, {'server_domain': named}, tpam={'system_name_resolver': 'domain'},
                         domain_asset_mapping={mapped: 'WEB01'})
        assert played.call('get_password_list').credentials == []
    assert quick.tpam.audit == []


@pytest.mark.parametrize('one, other', SAME)
def test_a_domain_stands_for_its_asset_in_any_case(quick, one, other):
    for mapped, named in ((one, other), (other, one)):
        played = session(quick, {'server_domain': named}, tpam={'system_name_resolver': 'domain'},
                         domain_asset_mapping={mapped: 'WEB01'})
        assert played.call('get_password_list').credentials == [PASSWORD]


def test_domains_that_look_alike_have_their_own_assets(quick):
    quick.tpam.add_system('WEB02')
    quick.tpam.add_account('WEB02', 'root', 'password-of-WEB02')
    mapping = {'kim.test': 'WEB01', KELVIN + 'im.test': 'WEB02'}
    for domain, password in (('kim.test', PASSWORD), (KELVIN + 'im.test', 'password-of-WEB02')):
        played = session(quick, {'server_domain': domain}, tpam={'system_name_resolver': 'domain'},
                         domain_asset_mapping=mapping)
        assert played.call('get_password_list').credentials == [password]


@pytest.mark.parametrize('resolver', ['hostname', 'dns'])
@pytest.mark.parametrize('host, system', [
    (LONG_S + 'rv01.test', LONG_S + 'RV01'), ('d' + DOTLESS + '01.test', 'D' + DOTLESS + '01'),
    ('\xe901.test', '\xe901'), ('stra\xdfe.test', 'STRA\xdfE'), (KELVIN + 'im.test', KELVIN + 'IM'),
    ('abcdefghijklmnopqrstuvwxyz.test', 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'),
])
def test_the_name_of_a_host_becomes_upper_case_in_ascii_alone(quick, resolver, host, system):
    for name in ('SRV01', 'DI01', 'STRASSE'):
        quick.tpam.add_system(name)
        quick.tpam.add_account(name, 'root', PASSWORD)
    quick.tpam.add_system('\xe901')
    quick.tpam.add_account('\xe901', 'root', PASSWORD)
    played = session(quick, {'server_ip': None, 'server_hostname': host},
                     tpam={'system_name_resolver': resolver})
    result = played.call('get_password_list')
    assert last(quick, 'Retrieve')['SystemName'] == system
    assert result.credentials == ([PASSWORD] if system == '\xe901' else [])


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_a_listed_system_that_looks_alike_is_not_the_one_asked_for(quick, one, other):
    quick.tpam.add_system(other)
    quick.tpam.add_account(other, 'root', PASSWORD)
    answers(quick, 'ListSystems', {'SystemName': other, 'NetworkAddress': ''})
    played = session(quick, {'server_ip': None, 'server_hostname': one},
                     tpam={'system_name_resolver': 'tpam'})
    assert played.call('get_password_list').credentials == []
    assert quick.tpam.commands() == ['ListSystems']


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
@pytest.mark.parametrize('column', ['UserName', 'SystemName', 'AccountName', 'AccessPolicyName'])
def test_a_policy_of_a_name_that_looks_alike_is_not_the_required_one(quick, column, one, other):
    one_word = {'gateway_username': one, 'server_username': one, 'server_domain': 'here'}
    quick.tpam.add_system(one)
    quick.tpam.add_account(one, one, PASSWORD)
    asked = dict(HELD, UserName=one, SystemName=one, AccountName=one, AccessPolicyName=one)
    for row, credentials in ((asked, [PASSWORD]), (dict(asked, **{column: other}), [])):
        answers(quick, 'ListAssignedPolicies', row)
        played = session(quick, one_word, domain_asset_mapping={'here': one},
                         tpam={'authorization': 'policy', 'required_policy': one,
                               'system_name_resolver': 'domain'})
        assert played.call('get_password_list').credentials == credentials


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
@pytest.mark.parametrize('column', ['UserName', 'SystemName', 'AccountName'])
def test_a_request_of_a_name_that_looks_alike_does_not_count(quick, column, one, other):
    one_word = {'gateway_username': one, 'server_username': one, 'server_domain': 'here'}
    quick.tpam.add_system(one)
    quick.tpam.add_account(one, one, PASSWORD)
    asked = {'RequestID': '7', 'UserName': one, 'SystemName': one, 'AccountName': one,
             'Status': ACTIVE}
    for row, credentials in ((asked, [PASSWORD]), (dict(asked, **{column: other}), [])):
        answers(quick, 'ListRequestDetails', row)
        played = session(quick, one_word, domain_asset_mapping={'here': one},
                         tpam={'authorization': 'approval', 'system_name_resolver': 'domain'})
        assert played.call('get_password_list').credentials == credentials


@pytest.mark.parametrize('one, other', LOOK_ALIKES)
def test_a_denial_of_one_account_is_not_taken_for_that_of_a_look_alike(quick, one, other):
    for name in (one, other):
        quick.tpam.add_account('WEB01', name, PASSWORD, min_approvers=1)
    played = session(quick, tpam=BY_REQUEST, request={'approval_timeout': '0'})
    for name in (one, other):
        assert played.call('get_password_list', server_username=name).credentials == []
    assert [entry.options['AccountName'] for entry in quick.tpam.audit
            if entry.command == 'AddPwdRequest'] == [one, other]


@pytest.mark.parametrize('one, other', LOOK_ALIKES + [
    ('k', KELVIN), ('i', DOTTED), ('I', DOTTED), ('s', LONG_S), ('S', LONG_S), ('I', DOTLESS),
    ('ss', '\xdf'), ('\xe5', '\u212b'), ('\u03c9', '\u2126'), ('\u03c3', '\u03c2'), ('a', 'b')])
def test_names_that_look_alike_are_not_folded_together(one, other):
    assert tpamerrors.folded(one) != tpamerrors.folded(other)


@pytest.mark.parametrize('one, other', SAME + [
    ('AZ', 'az'), ('\xc5', '\xe5'), ('\u03a9', '\u03c9')])
def test_upper_and_lower_case_of_a_name_are_folded_together(one, other):
    assert tpamerrors.folded(one) == tpamerrors.folded(other)


def test_a_letter_is_folded_only_where_its_lower_case_leads_back_to_it():
    for code in range(0x10000):
        letter = '%c' % code
        small = tpamerrors.folded(letter)
        assert small == letter or small.upper() == letter, hex(code)
        assert len(small) == 1, hex(code)
        assert (ord(small) < 128) == (code < 128), hex(code)


TEXT = some.text(some.characters(blacklist_categories=('Cs',)), max_size=20)


@given(TEXT, TEXT)
@settings(max_examples=200)
def test_folding_goes_letter_by_letter_and_ends(one, other):
    """Python 3 makes another letter of a sigma at the end of a word."""
    folded = tpamerrors.folded
    assert folded(one + other) == folded(one) + folded(other)
    assert folded(folded(one)) == folded(one)
    assert folded(one.upper() + '\u03a3') == folded(one.upper()) + '\u03c3'


@given(some.text(some.characters(max_codepoint=127), max_size=20))
@settings(max_examples=100)
def test_ascii_is_folded_to_its_lower_case(value):
    assert tpamerrors.folded(value) == value.lower()


# ---- rows of policies as TPAM prints them

# The columns of ListAssignedPolicies. Those of the permission are filled in only if expanded.
PRINTED = {'UserName': 'jdoe', 'FullName': 'Doe, John', 'ExtAuthReqd': 'N', 'LastAccessDt': '',
           'GroupName': '', 'SystemName': 'WEB01', 'AccountName': 'root', 'FileName': '',
           'CollectionName': '', 'AccessPolicyName': 'Privileged', 'PolicySource': 'User-Account',
           'PermissionType': '', 'PermissionName': '', 'CmdName': '', 'EffectiveFl': 'Yes'}


def printed(change):
    """Return the row with these columns changed; None takes a column out."""
    row = dict(PRINTED, **change)
    return dict((name, value) for name, value in row.items() if value is not None)


def test_a_policy_counts_as_a_real_server_prints_it(world):
    answers(world, 'ListAssignedPolicies', PRINTED)
    played = session(world, tpam=PRIVILEGED)
    assert played.call('get_password_list').credentials == [PASSWORD]
    asked = last(world, 'ListAssignedPolicies')
    assert (asked['AllOrEffectiveFlag'], asked['PermissionType']) == ('E', 'Pwd')


@pytest.mark.parametrize('change', [
    {'EffectiveFl': 'Y'}, {'EffectiveFl': 'y'}, {'EffectiveFl': 'YES'}, {'EffectiveFl': 'yes'},
    {'PermissionType': None}, {'PermissionType': 'Pwd'}, {'PermissionType': 'PWD'},
    {'UserName': '', 'FullName': '', 'GroupName': 'Admins', 'PolicySource': 'Group-Account'},
    {'SystemName': '', 'AccountName': '', 'CollectionName': 'Linux'},
])
def test_a_printed_policy_counts_in_each_of_its_forms(quick, change):
    answers(quick, 'ListAssignedPolicies', printed(change))
    assert session(quick, tpam=PRIVILEGED).call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('change', [
    {'PermissionType': 'Sess'}, {'PermissionType': 'File'}, {'PermissionType': 'Pwd;Sess'},
    {'PermissionType': 'P'}, {'EffectiveFl': 'No'}, {'EffectiveFl': 'N'}, {'EffectiveFl': ''},
    {'EffectiveFl': None}, {'EffectiveFl': 'Yes?'}, {'EffectiveFl': 'Ye'}, {'EffectiveFl': '1'},
    {'AccessPolicyName': ''}, {'AccessPolicyName': 'Other'}, {'UserName': 'eve'},
    {'SystemName': 'WEB02'}, {'AccountName': 'adm'},
])
def test_a_printed_policy_that_says_something_else_is_refused(quick, change):
    answers(quick, 'ListAssignedPolicies', printed(change))
    result = session(quick, tpam=PRIVILEGED).call('get_password_list')
    assert result.credentials == []
    assert quick.tpam.commands() == ['ListAssignedPolicies']


@pytest.mark.parametrize('blank', ['\xa0', '\u200b', '\u3000'])
def test_a_blank_of_another_alphabet_makes_another_user(blank):
    assert tpamcall.GatewayUser({'gateway_username': 'jdoe' + blank}).name != 'jdoe'


# ---- names that are not UTF-8

@pytest.mark.parametrize('mode', ['gateway', 'approval', 'request'])
@pytest.mark.parametrize('argument', ['gateway_username', 'gateway_domain'])
def test_a_gateway_user_whose_name_is_not_utf_8_gets_nothing(quick, argument, mode):
    """jos\\xe9 and jos\\xe8 read the same once their bytes are replaced."""
    played = session(quick, {argument: 'jos\ufffd'}, tpam={'authorization': mode})
    result = played.call('get_password_list')
    assert result.credentials == []
    assert 'whose name is not UTF-8' in result.log
    assert quick.tpam.commands() == []


def test_bytes_that_are_not_utf_8_show_in_the_identity_of_a_gateway_user():
    user = tpamcall.GatewayUser({'gateway_username': b'jos\xe9'})
    assert '\ufffd' in user.identity


# ---- the names of questions

def test_a_ticket_is_found_under_a_question_of_either_type_of_string(quick):
    for question in ('n\xfamero', 'n\xfamero'.encode('utf-8')):
        call = Asked({'questions': {question: 'T-1'}})
        assert tpamauthorize._why(call)['TicketNumber'] == 'T-1'


class Asked(object):
    """As much of a Call as the ticket needs."""

    def __init__(self, session_cookie):
        self.session_cookie = session_cookie
        self.settings = {'request': {'ticket_question': 'n\xfamero', 'ticket_system': 'Remedy',
                                     'reason_code': None}}
