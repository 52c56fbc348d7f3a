# -*- coding: utf-8 -*-
"""Who may have which credential, and giving it back: which commands a session sends, in what order, with which options.

Those with `world` run a fresh process per hook, over TLS. Those with `quick` run the same hooks in the process of the
tests, where time is a clock that the tests turn.
"""
from __future__ import unicode_literals

import json
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import fake_sps
import main
import tpamauthorize
import tpamcall
import tpamcheckout
import tpamclient
import tpamerrors
import tpamrows
from conftest import API_PASSWORD, GATEWAY_PASSWORD, PASSWORD, SLACK, World, configuration, read
from fake_dns import FakeDns
from fake_tpam import ACTIVE, CANCELED, EXPIRED, PENDING, Refusal, done
from sps_child import native

KEY = read('keys/rsa-3072.pem')


class Clock(object):
    """The time of the plugin and of its server; it passes while somebody sleeps. What is in `events`, (seconds,
    action), happens when that many of them have been slept."""

    def __init__(self):
        self.now, self.slept, self.events = 1e9, 0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds
        self.slept += seconds
        for event in [event for event in self.events if event[0] <= self.slept]:
            self.events.remove(event)
            event[1]()

    def times(self):
        return 0, 0, 0, 0, self.now


class Os(object):
    """The module os, with the time of a Clock."""

    def __init__(self, clock):
        self.times = clock.times

    def __getattr__(self, name):
        return getattr(os, name)


class Log(object):
    """A stdout."""

    def __init__(self):
        self.content = ''

    def write(self, line):
        self.content += line.decode('utf-8') if isinstance(line, bytes) else line

    def flush(self):
        pass


def in_process(sps, hook, arguments):
    """What FakeSps.call() does, without a process: arguments and result go through JSON all the same."""
    stdout, sys.stdout = sys.stdout, Log()
    try:
        arguments = json.loads(json.dumps(arguments))
        if sps.text == 'str':
            arguments = dict((name, native(value)) for name, value in arguments.items())
        try:
            plugin = main.Plugin(native(sps.configuration))
            returned = getattr(plugin, hook)(**dict((str(name), value) for name, value in arguments.items()))
            answer = {'returned': json.loads(json.dumps(returned))}
        except Exception as error:
            answer = {'raised': {'type': [base.__name__ for base in type(error).__mro__],
                                 'message': json.loads(json.dumps(str(error)))}}
        return fake_sps.Result(hook, answer, sys.stdout.content, 0, False)
    finally:
        sys.stdout = stdout


class QuickWorld(World):
    """A World whose hooks run in this process, over plain HTTP, by a Clock."""

    def __init__(self, plugin_zip):
        World.__init__(self, sys.executable, plugin_zip)
        self.clock = self.tpam.clock = Clock()

    def sections(self, **sections):
        return World.sections(self, tls={'enabled': 'no', 'ca_cert': None}, **sections)


@pytest.fixture
def quick(plugin_zip, monkeypatch):
    world = QuickWorld(plugin_zip)
    monkeypatch.setattr(fake_sps.FakeSps, 'call', in_process)
    monkeypatch.setattr(tpamcall, 'time', world.clock)
    monkeypatch.setattr(tpamerrors, 'os', Os(world.clock))
    world.serve(certfile=None)
    yield world
    world.close()


def session(world, arguments=None, **sections):
    """world.session(), whose system needs no look-up unless `sections` say otherwise."""
    sections['tpam'] = dict({'system_name_resolver': 'hostname'}, **sections.get('tpam', {}))
    return world.session(arguments, **sections)


def lines(result):
    """The log without the warning about plain HTTP."""
    return [line for line in result.lines if 'TLS is off' not in line]


def trail(world, since=0):
    """What was asked of the server, as 'Command Option=value …'."""
    return [' '.join([entry.command] + ['%s=%s' % option for option in sorted(entry.options.items())])
            for entry in world.tpam.audit[since:]]


def retrieved(found, account='root', system='WEB01'):
    return 'Retrieve AccountName=%s ReasonText=jdoe,SPS,%s,session-1 SystemName=%s' % (account, found, system)


def answers(world, command, *rows):
    """Has the server answer a List* command with these rows, whatever it was asked."""
    setattr(world.tpam, 'do_' + command, lambda user, options: done('rows', count=len(rows), rows=list(rows)))


@contextmanager
def broken(world, command, after=False):
    """The server hangs up in place of an answer to this command; `after` it was carried out, or before."""
    name = 'do_' + command
    work = getattr(world.tpam, name)

    def hang_up(user, options):
        if after:
            work(user, options)
        raise socket.error('hangs up')
    setattr(world.tpam, name, hang_up)
    yield
    delattr(world.tpam, name)


@contextmanager
def refusing(world, command):
    """The server refuses this command."""
    def refuse(user, options):
        raise Refusal('%s is under maintenance' % command)
    setattr(world.tpam, 'do_' + command, refuse)
    yield
    delattr(world.tpam, 'do_' + command)


# ---- which system

def test_the_server_is_asked_for_the_address_of_the_target(quick):
    assert session(quick, tpam={'system_name_resolver': 'tpam'}).call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == ['ListSystems NetworkAddress=10.0.0.5', retrieved('gateway')]


def test_the_server_is_asked_for_the_name_of_a_target_without_address(quick):
    arguments = {'server_ip': None, 'server_hostname': 'WEB01'}
    quick.tpam.add_system('OTHER', 'db.test')
    quick.tpam.add_account('OTHER', 'root', PASSWORD)
    given_up = session(quick, arguments, tpam={'system_name_resolver': 'tpam'})
    assert given_up.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == ['ListSystems SystemName=WEB01', retrieved('gateway')]
    by_address = session(quick, dict(arguments, server_hostname='db.test'), tpam={'system_name_resolver': 'tpam'})
    assert by_address.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick, 2) == ['ListSystems SystemName=db.test', 'ListSystems NetworkAddress=db.test',
                               retrieved('gateway', system='OTHER')]


@pytest.mark.parametrize('written, listed', [
    ('::ffff:10.0.0.5', '10.0.0.5'), ('FD00:0:0::5', 'fd00::5'), ('fd00::5%eth0', 'fd00::5'),
    ('fd00::5', 'fd00:0:0:0:0:0:0:5'),
])
def test_an_address_is_the_same_in_every_spelling(quick, written, listed):
    quick.tpam.add_system('WEB01', listed)
    answers(quick, 'ListSystems', {'SystemName': 'WEB01', 'NetworkAddress': listed})
    arguments = {'server_ip': written, 'server_hostname': None}
    assert session(quick, arguments, tpam={'system_name_resolver': 'tpam'}).call('get_password_list').credentials
    assert trail(quick)[0] == 'ListSystems NetworkAddress=' + ('10.0.0.5' if '10.' in listed else 'fd00::5')


def test_a_host_name_that_is_an_address_is_no_name(quick):
    """10.0.0.5 must not become the system 10."""
    quick.tpam.add_system('10')
    quick.tpam.add_account('10', 'root', PASSWORD)
    for arguments in ({'server_hostname': '10.0.0.5'}, {'server_hostname': None},
                      {'server_hostname': None, 'server_ip': None, 'target_host': '10.0.0.5'}):
        result = session(quick, arguments).call('get_password_list')
        assert result.credentials == []
        assert 'no resolver found the name of the system' in result.log
    assert trail(quick) == []


def test_dns_names_the_system_by_its_address(world):
    world.tpam.add_system('MAIL')
    world.tpam.add_account('MAIL', 'root', PASSWORD)
    with FakeDns({('5.0.0.10.in-addr.arpa.', 'PTR'): ['web01.example.com.'],
                  ('5.' + 29 * '0.' + 'd.f.ip6.arpa.', 'PTR'): ['mail.example.com.'],
                  ('web01.example.com.', 'A'): ['10.0.0.5'],
                  ('mail.example.com.', 'AAAA'): ['fd00::5']}) as names:
        for address, system in (('::ffff:10.0.0.5', 'WEB01'), ('fd00::5', 'MAIL')):
            arguments = {'server_ip': address, 'server_hostname': None}
            played = session(world, arguments, tpam={'system_name_resolver': 'dns'}, nameserver=names.address)
            assert played.call('get_password_list').credentials == [PASSWORD]
            assert trail(world)[-1] == retrieved('gateway', system=system)
    assert len(names.asked) == 4


@contextmanager
def asking(names, monkeypatch):
    """dnspython asks these names."""
    import dns.resolver
    with names:
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [names.address[0]], names.address[1]
        monkeypatch.setattr(dns.resolver, 'default_resolver', resolver)
        yield


def test_a_target_of_that_name_in_another_domain_is_not_the_system(quick, monkeypatch):
    quick.tpam.add_system('WEB01.test')
    arguments = {'server_ip': None, 'server_hostname': 'web01.evil.example'}
    with asking(FakeDns({}), monkeypatch):
        played = session(quick, arguments, tpam={'system_name_resolver': 'tpam'})
        assert played.call('get_password_list').credentials == []


def test_a_target_that_is_a_name_is_not_looked_up(quick, monkeypatch):
    names = FakeDns({})
    with asking(names, monkeypatch):
        for arguments in ({}, {'server_ip': None, 'server_hostname': None, 'target_host': 'web01.test'}):
            played = session(quick, arguments, tpam={'system_name_resolver': 'dns'})
            assert played.call('get_password_list').credentials == [PASSWORD]
    assert names.asked == []


def test_an_address_of_no_name_or_of_two_names_is_refused(quick, monkeypatch):
    arguments = {'server_hostname': None}
    for records, reason in (({}, 'no resolver found the name of the system'),
                            ({('5.0.0.10.in-addr.arpa.', 'PTR'): ['a.test.', 'b.test.']}, 'more than one name')):
        with asking(FakeDns(records), monkeypatch):
            result = session(quick, arguments, tpam={'system_name_resolver': 'dns'}).call('get_password_list')
            assert result.credentials == []
            assert reason in result.log
    assert trail(quick) == []


def test_several_resolvers_are_tried_until_the_server_knows_a_name(quick):
    quick.tpam.add_system('10.0.0.5')
    quick.tpam.add_account('10.0.0.5', 'root', PASSWORD)
    played = session(quick, {'server_hostname': 'new.test'}, tpam={'system_name_resolver': 'hostname,fqdn,ip'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == ['ListSystems SystemName=NEW', 'ListSystems SystemName=new.test',
                            retrieved('gateway', system='10.0.0.5')]


def test_the_first_name_that_the_server_knows_ends_the_search(quick):
    played = session(quick, tpam={'system_name_resolver': 'domain,hostname,ip'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == ['ListSystems SystemName=WEB01', retrieved('gateway')]


@pytest.mark.parametrize('arguments', [
    {'server_domain': 'Example.COM'}, {'target_domain': 'example.com'}, {'server_username': 'root@example.com'},
    {'server_username': 'EXAMPLE.COM\\root'}, {'gateway_domain': 'example.com'},
])
def test_a_domain_stands_for_its_asset(quick, arguments):
    quick.tpam.add_system('DC-01')
    quick.tpam.add_account('DC-01', 'root', PASSWORD)
    played = session(quick, arguments, tpam={'system_name_resolver': 'domain', 'system_prefix': 'DC-'},
                     domain_asset_mapping={'example.com': '01'})
    assert played.call('get_password_list').credentials == [PASSWORD]


def test_the_domain_of_the_gateway_user_stands_in_for_none_and_not_for_an_unknown_one(quick):
    quick.tpam.add_system('DC')
    quick.tpam.add_account('DC', 'root', PASSWORD)
    played = session(quick, {'server_domain': 'unknown.test', 'gateway_domain': 'example.com'},
                     tpam={'system_name_resolver': 'domain'}, domain_asset_mapping={'example.com': 'DC'})
    assert played.call('get_password_list').credentials == []


def test_the_domain_of_the_target_goes_before_that_in_the_user_name(quick):
    quick.tpam.add_system('DC')
    quick.tpam.add_account('DC', 'root', PASSWORD)
    played = session(quick, {'server_username': 'root@a.test', 'server_domain': 'b.test'},
                     tpam={'system_name_resolver': 'domain'}, domain_asset_mapping={'a.test': 'no', 'b.test': 'DC'})
    assert played.call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('rows', [
    [{'SystemName': 'WEB01', 'NetworkAddress': '10.0.0.5'}, {'SystemName': 'WEB02', 'NetworkAddress': '10.0.0.5'}],
    [{'SystemName': 'WEB02', 'NetworkAddress': '10.0.0.6'}], [{'SystemName': 'WEB01'}], [{}],
])
def test_rows_that_are_not_the_one_that_was_asked_for_are_refused(quick, rows):
    answers(quick, 'ListSystems', *rows)
    result = session(quick, tpam={'system_name_resolver': 'tpam'}).call('get_password_list')
    assert result.credentials == []
    assert ("the server did not list exactly the one system that was asked for', rows='%d'" % len(rows)) in result.log
    assert quick.tpam.commands() == ['ListSystems']


def test_a_row_without_the_name_of_the_system_is_no_system(quick):
    answers(quick, 'ListSystems', {'NetworkAddress': '10.0.0.5'})
    result = session(quick, tpam={'system_name_resolver': 'tpam'}).call('get_password_list')
    assert 'no resolver found the name of the system' in result.log
    assert quick.tpam.commands() == ['ListSystems']


@pytest.mark.parametrize('name', ['*', 'W*', '*01', '.test', '.', '*.*'])
def test_no_name_of_a_target_widens_the_question(quick, name):
    for resolver in ('tpam', 'hostname,tpam', 'fqdn,ip', 'dns'):
        result = session(quick, {'server_ip': None, 'server_hostname': name},
                         tpam={'system_name_resolver': resolver}).call('get_password_list')
        assert result.credentials == []
    assert [entry for entry in quick.tpam.audit if not entry.options] == []
    assert not [entry for entry in quick.tpam.audit if entry.options.get('SystemName', '').upper() == 'WEB01']


def test_a_server_that_lists_no_systems_is_a_refusal_that_says_what_to_do(quick):
    quick.tpam.add_user('sps', API_PASSWORD, admin=False)
    result = session(quick, tpam={'system_name_resolver': 'tpam'}).call('get_password_list')
    assert result.credentials == []
    assert 'choose another [tpam] system_name_resolver' in result.log


# ---- which account

@pytest.mark.parametrize('name', ['*', 'r*', 'ROOT', 'root ', "root' or 1", 'x' * 256])
def test_the_account_is_the_one_that_was_named(quick, name):
    quick.tpam.add_account('WEB01', 'ROOT', 'password-of-ROOT')
    result = session(quick, {'server_username': name}).call('get_password_list')
    assert result.credentials == (['password-of-ROOT'] if name == 'ROOT' else [])
    assert quick.tpam.audit[0].options['AccountName'] == name
    assert len(result.log) < 2000


@pytest.mark.parametrize('name', [None, '', 'EXAMPLE\\'])
def test_without_an_account_nothing_is_asked(quick, name):
    result = session(quick, {'server_username': name}).call('get_password_list')
    assert result.credentials == []
    assert lines(result) == [
        "WARNING No credential; reason='SPS passed no name of an account (argument server_username)', "
        "session_id='session-1'"]
    assert trail(quick) == []


def test_an_account_stands_for_a_real_one(quick):
    quick.tpam.add_account('WEB01', 'alias', custom1='root', custom2='WEB01')
    played = session(quick, {'server_username': 'alias'}, tpam={'system_maptoreal': 'yes'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == ['ListAccounts AccountName=alias SystemName=WEB01', retrieved('gateway')]


@pytest.mark.parametrize('rows, reason', [
    ([], 'did not list exactly this account'),
    ([{'SystemName': 'WEB01', 'AccountName': 'alias'}], 'do not name a real account'),
    ([{'SystemName': 'WEB01', 'AccountName': 'alias', 'AccountCustom1': 'root'}], 'do not name a real account'),
    ([{'SystemName': 'WEB01', 'AccountName': 'other', 'AccountCustom1': 'root', 'AccountCustom2': 'WEB01'}],
     'did not list exactly this account'),
    ([{'SystemName': 'WEB02', 'AccountName': 'alias', 'AccountCustom1': 'root', 'AccountCustom2': 'WEB01'}],
     'did not list exactly this account'),
    (2 * [{'SystemName': 'WEB01', 'AccountName': 'alias', 'AccountCustom1': 'root', 'AccountCustom2': 'WEB01'}],
     'did not list exactly this account'),
    ([{'AccountCustom1': 'root', 'AccountCustom2': 'WEB01'}], 'did not list exactly this account'),
])
def test_an_account_without_a_real_one_is_refused(quick, rows, reason):
    answers(quick, 'ListAccounts', *rows)
    result = session(quick, {'server_username': 'alias'}, tpam={'system_maptoreal': 'yes'}).call('get_password_list')
    assert result.credentials == []
    assert reason in result.log
    assert quick.tpam.commands() == ['ListAccounts']


# ---- the gateway's own password

@pytest.mark.parametrize('arguments', [
    {'gateway_username': 'root'}, {'gateway_username': 'root', 'gateway_domain': 'EXAMPLE', 'server_domain': 'example'},
    {'gateway_username': 'EXAMPLE\\root', 'server_username': 'root@example'},
])
def test_the_gateway_password_is_used_for_the_same_user(quick, arguments):
    played = session(quick, arguments, tpam={'reuse_gateway_password': 'yes'})
    assert played.call('get_password_list').credentials == [GATEWAY_PASSWORD]
    ended = played.call('session_ended')
    assert trail(quick) == []
    assert "account='root', check_in='nothing to check in', credentials='1'" in ended.log
    assert "mode='gateway password'" in ended.log


@pytest.mark.parametrize('arguments', [
    {}, {'gateway_username': 'Root'}, {'gateway_username': 'root', 'gateway_password': ''},
    {'gateway_username': 'root', 'gateway_password': None},
    {'gateway_username': 'root', 'gateway_domain': 'A', 'server_domain': 'B'},
    {'gateway_username': 'A\\root', 'server_username': 'B\\root'},
])
def test_the_gateway_password_is_used_for_nobody_else(quick, arguments):
    played = session(quick, arguments, tpam={'reuse_gateway_password': 'yes'})
    assert played.call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('password', ['gateway-pass', str('gateway-pass')])
def test_the_gateway_password_is_given_out_as_the_str_of_the_interpreter(quick, password):
    sps = quick.sps(tpam={'reuse_gateway_password': 'yes'})
    given = main.Plugin(native(sps.configuration)).get_password_list(
        session_id='session-1', cookie={}, protocol='ssh', gateway_username='root', gateway_password=password,
        server_username='root', server_hostname='web01.test', server_ip='10.0.0.5')
    assert [type(each) for each in given['passwords']] == [str]


def test_the_gateway_password_is_not_used_unless_the_configuration_says_so(quick):
    assert session(quick, {'gateway_username': 'root'}).call('get_password_list').credentials == [PASSWORD]


# ---- may they: approval

APPROVAL = 'ListRequestDetails AccountName=root RequestorName=jdoe Status=ACTIVE SystemName=WEB01'


def test_an_approved_request_of_the_gateway_user_is_enough(world):
    world.tpam.add_user('jdoe')
    number = world.tpam.add_request('jdoe', 'WEB01', 'root')
    played = session(world, tpam={'authorization': 'approval'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert played.call('session_ended').raised is None
    assert trail(world) == [APPROVAL, retrieved('approval,%d' % number)]
    assert world.tpam.requests[number].status == ACTIVE


def nothing(tpam):
    pass


def pending(tpam):
    tpam.add_request('jdoe', 'WEB01', 'root', PENDING)


def expired(tpam):
    tpam.expire(tpam.add_request('jdoe', 'WEB01', 'root'))


def of_another_user(tpam):
    tpam.add_request('sps', 'WEB01', 'root')


def for_another_account(tpam):
    tpam.add_account('WEB01', 'adm', 'password-of-adm')
    tpam.add_request('jdoe', 'WEB01', 'adm')


@pytest.mark.parametrize('prepare', [nothing, pending, expired, of_another_user, for_another_account])
def test_any_other_request_is_not(quick, prepare):
    prepare(quick.tpam)
    result = session(quick, tpam={'authorization': 'approval'}).call('get_password_list')
    assert result.credentials == []
    assert lines(result) == [
        "WARNING No credential; account='root', reason='the gateway user has no active, approved request for this "
        "account', system='WEB01', session_id='session-1'"]
    assert trail(quick) == [APPROVAL]


APPROVED = {'RequestID': '7', 'UserName': 'JDoe', 'SystemName': 'web01', 'AccountName': 'Root', 'Status': ACTIVE}


def test_a_request_counts_in_any_spelling_of_its_names_and_number(quick):
    for number in ('7', 7):
        answers(quick, 'ListRequestDetails', dict(APPROVED, RequestID=number))
        assert session(quick, tpam={'authorization': 'approval'}).call('get_password_list').credentials == [PASSWORD]
        assert trail(quick)[-1] == retrieved('approval,7')


@pytest.mark.parametrize('change', [
    {'UserName': 'eve'}, {'SystemName': 'WEB02'}, {'AccountName': 'adm'}, {'Status': EXPIRED}, {'Status': 'Approved'},
    {'UserName': None}, {'SystemName': None}, {'AccountName': None}, {'Status': None}, {'UserName': ''},
])
def test_a_row_about_somebody_or_something_else_counts_for_nothing(quick, change):
    row = dict((name, value) for name, value in dict(APPROVED, **change).items() if value is not None)
    answers(quick, 'ListRequestDetails', row)
    assert session(quick, tpam={'authorization': 'approval'}).call('get_password_list').credentials == []
    assert quick.tpam.commands() == ['ListRequestDetails']


PRIVILEGED = {'authorization': 'policy', 'required_policy': 'Privileged'}


@pytest.mark.parametrize('mode', [{'authorization': 'approval'}, PRIVILEGED])
@pytest.mark.parametrize('name', [None, ''])
def test_without_a_gateway_user_nobody_is_asked_about(quick, mode, name):
    """Left out, the option would make the question one about everybody."""
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    quick.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    mode = dict(mode, require_gateway_user='no')
    result = session(quick, {'gateway_username': name}, tpam=mode).call('get_password_list')
    assert result.credentials == []
    assert 'SPS passed no name of a gateway user' in result.log
    assert trail(quick) == []


def test_a_gateway_user_who_is_called_like_a_wildcard_is_nobody_else(quick):
    quick.tpam.add_request('jdoe', 'WEB01', 'root')
    answers(quick, 'ListRequestDetails', APPROVED)
    played = session(quick, {'gateway_username': '*'}, tpam={'authorization': 'approval'})
    assert played.call('get_password_list').credentials == []


# ---- may they: policy

POLICY = 'ListAssignedPolicies AccountName=root AllOrEffectiveFlag=E PermissionType=Pwd SystemName=WEB01 UserName=jdoe'


def test_the_required_policy_is_enough(world):
    world.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    played = session(world, tpam={'authorization': 'policy', 'required_policy': 'privileged'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(world) == [POLICY, retrieved('policy,privileged')]


HELD = {'AccessPolicyName': 'Privileged', 'PermissionType': 'Pwd', 'EffectiveFl': 'Y', 'UserName': 'jdoe',
        'SystemName': 'WEB01', 'AccountName': 'root'}


@pytest.mark.parametrize('change', [
    {'AccessPolicyName': 'Other'}, {'AccessPolicyName': None}, {'PermissionType': 'Session'}, {'EffectiveFl': 'N'},
    {'EffectiveFl': None}, {'UserName': 'eve'}, {'SystemName': 'WEB02'}, {'AccountName': 'adm'},
])
def test_any_other_policy_is_not(quick, change):
    row = dict((name, value) for name, value in dict(HELD, **change).items() if value is not None)
    answers(quick, 'ListAssignedPolicies', row)
    result = session(quick, tpam=PRIVILEGED).call('get_password_list')
    assert result.credentials == []
    assert "policy='Privileged', reason='the required policy is not in effect for the gateway user'" in result.log
    assert trail(quick) == [POLICY]


def test_no_policy_at_all_is_refused(quick):
    result = session(quick, tpam=PRIVILEGED).call('get_password_list')
    assert result.credentials == []
    assert trail(quick) == [POLICY]


def test_a_policy_counts_where_the_server_does_not_repeat_what_it_was_asked(quick):
    answers(quick, 'ListAssignedPolicies', {'AccessPolicyName': 'Privileged', 'PermissionType': 'Pwd',
                                            'EffectiveFl': 'Y', 'UserName': ''})
    played = session(quick, tpam=PRIVILEGED)
    assert played.call('get_password_list').credentials == [PASSWORD]


# ---- may they: request

BY_REQUEST = {'authorization': 'request', 'timeout': '290'}
FILED = 'AddPwdRequest AccountName=root RequestImmediate=Y RequestNotes=jdoe,SPS,request,session-1 SystemName=WEB01'
LOOKED = 'GetPwdRequest RequestID=%d'
BY_NUMBER = 'Retrieve RequestID=%d'
CANCELLED = 'Cancel Comment=jdoe,SPS,check-in,session-1 RequestID=%d'
OWN = 'ListRequestDetails AccountName=root RequestorName=sps Status=%s SystemName=WEB01'
OWN_OPEN = 'ListRequestDetails AccountName=root MaxRows=1000 RequestorName=sps Status=OPEN SystemName=WEB01'


def approvers(quick, **options):
    """root needs an approval."""
    quick.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1, **options)


def test_a_request_waits_for_its_approval_and_is_given_back(world):
    world.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1, approve_after=0.5)
    world.tpam.add_reason_code('R7')
    played = session(world, tpam={'authorization': 'request'}, request={
        'poll_interval': '1', 'release_duration': '30', 'access_policy': 'Privileged', 'reason_code': 'R7'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert played.call('authentication_completed').lines == []
    assert played.call('session_ended').lines == [
        "INFO Checked in the request; account='root', request='1001', system='WEB01', "
        "session_id='session-1'",
        "INFO Session ended; account='root', check_in='done', credentials='1', hooks='get_password_list, "
        "authentication_completed, session_ended', mode='request', request='1001', system='WEB01', user='jdoe', "
        "session_id='session-1'"]
    assert trail(world) == [
        'AddPwdRequest AccessPolicyName=Privileged AccountName=root ReasonCode=R7 ReleaseDuration=30 '
        'RequestImmediate=Y RequestNotes=jdoe,SPS,request,session-1 SystemName=WEB01',
        LOOKED % 1001, BY_NUMBER % 1001, CANCELLED % 1001]
    assert world.tpam.active() == []
    assert played.calls[0].lines == [
        "INFO Submitted a request; account='root', request='1001', system='WEB01', session_id='session-1'",
        "INFO Waiting for the approval of a request; account='root', request='1001', system='WEB01', "
        "session_id='session-1'",
        "INFO Retrieved passwords; account='root', request='1001', system='WEB01', session_id='session-1'"]


def test_a_request_that_is_active_at_once_is_not_waited_for(quick):
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert played.call('session_ended').raised is None
    assert trail(quick) == [FILED, BY_NUMBER % 1001, CANCELLED % 1001]
    assert quick.clock.slept == 0


def test_a_request_is_looked_at_every_poll_interval(quick):
    approvers(quick, approve_after=21)
    played = session(quick, tpam=BY_REQUEST, request={'poll_interval': '7'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == [FILED] + 3 * [LOOKED % 1001] + [BY_NUMBER % 1001]
    assert quick.clock.slept == 21


def cancel_it(quick):
    quick.tpam.requests[1001].status = CANCELED


def deny_it(quick):
    quick.tpam.deny(1001)


def approve_and_expire_it(quick):
    quick.tpam.approve(1001)
    quick.tpam.expire(1001)


@pytest.mark.parametrize('outcome, status', [(deny_it, 'denied'), (cancel_it, 'canceled'),
                                             (approve_and_expire_it, 'expired')])
def test_a_request_that_others_close_gives_nothing_and_is_not_filed_again(quick, outcome, status):
    approvers(quick)
    quick.clock.events.append((10, lambda: outcome(quick)))
    played = session(quick, tpam=BY_REQUEST)
    for hook in ('get_private_key_list', 'get_password_list', 'get_password_list'):
        result = played.call(hook)
        assert result.credentials == []
        assert "reason='the request is %s'" % status in result.log
    ended = played.call('session_ended')
    assert "check_in='nothing to check in', credentials='0'" in ended.log
    assert trail(quick) == [FILED, LOOKED % 1001, LOOKED % 1001]


def test_a_request_that_is_not_approved_in_time_is_cancelled_at_once(quick):
    approvers(quick, approve_after=121)
    played = session(quick, tpam=BY_REQUEST, request={'approval_timeout': '12'})
    result = played.call('get_password_list')
    assert result.credentials == []
    assert ("reason='the request was not approved in time; see [request] approval_timeout and [tpam] timeout', "
            "request='1001'") in result.log
    assert 12 <= quick.clock.slept < 13
    assert trail(quick)[-1] == CANCELLED % 1001
    asked = len(quick.tpam.audit)
    assert played.call('get_password_list').credentials == []
    played.call('session_ended')
    assert len(quick.tpam.audit) == asked
    assert quick.tpam.requests[1001].status == CANCELED


def test_the_wait_for_an_approval_ends_within_the_time_of_the_hook(quick):
    approvers(quick, approve_after=300)
    result = session(quick, tpam=dict(BY_REQUEST, timeout='60')).call('get_password_list')
    assert result.credentials == []
    assert 49 <= quick.clock.slept <= 51
    assert trail(quick)[-1] == CANCELLED % 1001


def test_the_wait_for_an_approval_ends_in_real_time_too(world):
    world.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1)
    played = session(world, tpam={'authorization': 'request', 'timeout': '8'})
    result = played.call('get_password_list')
    assert result.credentials == []
    assert 'the request was not approved in time' in result.log
    assert result.inside < 8 + SLACK
    assert world.tpam.active() == []
    assert world.tpam.commands()[0] == 'AddPwdRequest'
    assert world.tpam.commands()[-1] == 'Cancel'


def test_an_approval_timeout_of_zero_waits_for_nobody(quick):
    approvers(quick, approve_after=1)
    played = session(quick, tpam=BY_REQUEST, request={'approval_timeout': '0'})
    assert played.call('get_password_list').credentials == []
    assert trail(quick) == [FILED, CANCELLED % 1001]


def test_a_request_that_is_already_scheduled_is_used_and_left_alone(world):
    number = world.tpam.add_request('sps', 'WEB01', 'root')
    played = session(world, tpam={'authorization': 'request'})
    for _ in range(2):
        assert played.call('get_password_list').credentials == [PASSWORD]
    assert "check_in='nothing to check in'" in played.call('session_ended').log
    assert trail(world) == 2 * [FILED, OWN % 'ACTIVE', BY_NUMBER % number]
    assert world.tpam.requests[number].status == ACTIVE


def test_a_scheduled_request_is_left_alone_when_the_password_is_changed(quick):
    number = quick.tpam.add_request('sps', 'WEB01', 'root')
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': 'yes'})
    for _ in range(2):
        assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert trail(quick)[-3:] == [OWN % 'ACTIVE', BY_NUMBER % number, 'ForceReset AccountName=root SystemName=WEB01']
    assert quick.tpam.requests[number].status == ACTIVE


def test_a_request_that_was_approved_for_the_same_gateway_user_is_used_by_another_session(quick):
    session(quick, tpam=BY_REQUEST).call('get_password_list')
    other = session(quick, {'gateway_username': 'JDoe', 'session_id': 'session-2'}, tpam=BY_REQUEST)
    assert other.call('get_password_list').credentials == [PASSWORD]
    other.call('session_ended')
    assert quick.tpam.requests[1001].status == ACTIVE


def test_a_request_that_was_approved_for_another_gateway_user_is_not_used(quick):
    first = session(quick, tpam=BY_REQUEST)
    assert first.call('get_password_list').credentials == [PASSWORD]
    other = session(quick, {'gateway_username': 'mallory', 'session_id': 'session-2'}, tpam=BY_REQUEST)
    result = other.call('get_password_list')
    assert result.credentials == []
    assert "reason='the account is released to a request for another gateway user'" in result.log
    other.call('session_ended')
    assert quick.tpam.requests[1001].status == ACTIVE


def test_a_request_that_ran_out_while_the_session_went_on_is_followed_by_another(quick):
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    quick.tpam.expire(1001)
    assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert trail(quick) == [FILED, BY_NUMBER % 1001, BY_NUMBER % 1001, LOOKED % 1001, FILED, BY_NUMBER % 1002,
                            CANCELLED % 1002]


def test_a_request_number_beyond_an_int_is_used_and_given_back(quick):
    quick.tpam.do_AddPwdRequest = lambda user, options: done('The current status is Active/Approved', id=3000001001)
    quick.tpam.do_Retrieve = lambda user, options: done(PASSWORD)
    quick.tpam.do_Cancel = lambda user, options: done('canceled')
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert "check_in='done'" in played.call('session_ended').log
    assert trail(quick)[1:] == [BY_NUMBER % 3000001001, CANCELLED % 3000001001]


def test_a_refused_check_in_is_not_taken_for_done_where_the_server_knows_nothing_of_the_request(quick):
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    answers(quick, 'GetPwdRequest')
    with refusing(quick, 'Cancel'):
        ended = played.call('session_ended')
    assert 'ERROR Check-in failed; do it by hand' in ended.log
    assert "check_in='failed'" in ended.log


def test_somebody_elses_scheduled_request_is_a_refusal(quick):
    number = quick.tpam.add_request('eve', 'WEB01', 'root')
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.credentials == []
    assert 'is already scheduled' in result.log
    assert trail(quick) == [FILED, OWN % 'ACTIVE']
    assert quick.tpam.requests[number].status == ACTIVE


def test_the_hooks_of_one_session_share_one_request(quick):
    approvers(quick, approve_after=5)
    quick.tpam.account('WEB01', 'root').key = KEY
    played = session(quick, tpam=BY_REQUEST)
    for hook in ('get_private_key_list', 'get_password_list', 'get_password_list'):
        assert len(played.call(hook).credentials) == 1
    played.call('session_ended')
    assert trail(quick) == [FILED, LOOKED % 1001, 'RetrieveKey RequestID=1001', BY_NUMBER % 1001, BY_NUMBER % 1001,
                            CANCELLED % 1001]


@pytest.mark.parametrize('key', [None, 'no key'])
def test_a_request_without_a_key_that_can_be_used_is_kept_for_the_password(quick, key):
    approvers(quick, approve_after=5)
    quick.tpam.account('WEB01', 'root').key = key
    played = session(quick, tpam=BY_REQUEST)
    assert played.call('get_private_key_list').credentials == []
    assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert quick.tpam.commands() == ['AddPwdRequest', 'GetPwdRequest', 'RetrieveKey', 'Retrieve', 'Cancel']


def test_an_approved_request_for_a_locked_account_is_given_back(quick):
    approvers(quick, approve_after=5)
    quick.clock.events.append((5, lambda: setattr(quick.tpam.account('WEB01', 'root'), 'locked', True)))
    played = session(quick, tpam=BY_REQUEST)
    result = played.call('get_password_list')
    assert result.credentials == []
    assert "remedy='unlock the account" in result.log
    played.call('session_ended')
    assert trail(quick)[-1] == CANCELLED % 1001
    assert quick.tpam.active() == []


@pytest.mark.parametrize('carried_out', [True, False])
def test_a_request_whose_answer_was_lost_is_looked_for(quick, carried_out):
    played = session(quick, tpam=BY_REQUEST)
    with broken(quick, 'AddPwdRequest', after=carried_out):
        result = played.call('get_password_list')
    if carried_out:
        assert result.credentials == [PASSWORD]
        played.call('session_ended')
        assert trail(quick) == [OWN_OPEN, BY_NUMBER % 1001, CANCELLED % 1001]
    else:
        assert 'TpamOutcomeUnknown' in result.raised['type']
        assert set(quick.tpam.commands()) == set(['ListRequestDetails'])
    assert quick.tpam.active() == []


def test_a_pending_request_whose_answer_was_lost_is_waited_for(quick):
    approvers(quick, approve_after=5)
    other = quick.tpam.add_request('sps', 'WEB01', 'root', PENDING)
    quick.tpam.requests[other].approve_at = float('inf')
    played = session(quick, tpam=BY_REQUEST)
    with broken(quick, 'AddPwdRequest', after=True):
        assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick)[-1] == BY_NUMBER % 1002


def test_a_request_whose_answer_was_lost_is_never_taken_for_that_of_a_nameless_session(quick):
    """Without a session id, another session's request would look the same."""
    approvers(quick)
    other = quick.tpam.add_request('sps', 'WEB01', 'root', PENDING)
    quick.tpam.requests[other].options['RequestNotes'] = 'jdoe,SPS,request,'
    with broken(quick, 'AddPwdRequest'):
        result = session(quick, {'session_id': None}, tpam=BY_REQUEST).call('get_password_list')
    assert 'TpamOutcomeUnknown' in result.raised['type']
    assert quick.tpam.requests[other].status == PENDING


@pytest.mark.parametrize('command', ['Retrieve', 'GetPwdRequest'])
def test_a_hook_that_fails_after_it_filed_gives_back_at_once(quick, command):
    """SPS drops the cookie of a hook that raises."""
    approvers(quick, approve_after=5)
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': 'yes'})
    with broken(quick, command):
        result = played.call('get_password_list')
    assert 'TpamError' in result.raised['type']
    assert trail(quick)[-1] == CANCELLED % 1001
    assert quick.tpam.active() == []
    assert played.cookie == {}


def test_a_bug_after_filing_gives_back_at_once_and_repeats_no_secret(quick, monkeypatch):
    def bug(client, **options):
        raise KeyError(PASSWORD)
    monkeypatch.setattr(tpamclient.TpamClient, 'retrieve', bug)
    result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert result.raised['message'] == 'Unexpected failure of the plugin; see the log'
    assert "CRITICAL Unexpected failure; please report it; error='KeyError', where='" in result.log
    assert trail(quick) == [FILED, CANCELLED % 1001]


def test_what_an_earlier_hook_holds_survives_the_failure_of_a_later_one(quick):
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    with broken(quick, 'Retrieve'):
        assert played.call('get_password_list').raised
    assert len(quick.tpam.active()) == 1
    assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert quick.tpam.active() == []
    assert quick.tpam.commands().count('Cancel') == 1


@pytest.mark.parametrize('command', ['AddPwdRequest', 'Retrieve'])
def test_a_hook_that_runs_out_of_time_gives_back_in_the_time_that_was_kept(world, command):
    answer, given_back = world.serve().answer, threading.Event()

    def answer_late(user, body):
        answered = answer(user, body)
        if command.encode('ascii') in body:
            given_back.wait(60)
        if b'Cancel' in body:
            given_back.set()
        return answered
    world.server.answer = answer_late
    result = session(world, tpam={'authorization': 'request', 'timeout': '8'}).call('get_password_list')
    assert 'TpamError' in result.raised['type']
    assert result.inside < 8 + SLACK
    assert world.tpam.requests[1001].status == EXPIRED


# ---- reason codes and tickets

@pytest.mark.parametrize('mode', [{}, BY_REQUEST])
@pytest.mark.parametrize('account, request_options, questions, remedy', [
    ({'reason_code_required': True}, {}, None, 'set [request] reason_code'),
    ({}, {'reason_code': 'R8'}, None, 'set [request] reason_code'),
    ({'ticket_required': True}, {}, None, 'set [request] ticket_system and ticket_question'),
    ({'ticket_required': True}, {'ticket_system': 'Jira'}, {'ticket': 'T1'}, 'ticket_question'),
    ({'ticket_required': True}, {'ticket_system': 'Jira', 'ticket_question': 'ticket'}, {'other': 'T1'},
     'ticket_question'),
    ({}, {'ticket_question': 'ticket'}, {'ticket': 'T1'}, 'set [request] ticket_system and ticket_question'),
    ({}, {'ticket_system': 'Jira', 'ticket_question': 'ticket'}, {'ticket': 'T9'}, 'check the ticket'),
    ({}, {'ticket_system': 'Else', 'ticket_question': 'ticket'}, {'ticket': 'T1'}, 'check the ticket'),
])
def test_what_the_server_misses_is_named_by_its_option(quick, mode, account, request_options, questions, remedy):
    quick.tpam.add_account('WEB01', 'root', PASSWORD, **account)
    quick.tpam.add_reason_code('R7')
    quick.tpam.add_ticket('Jira', 'T1')
    played = session(quick, tpam=mode, request=request_options)
    played.session_cookie = {'questions': questions}
    result = played.call('get_password_list')
    assert result.credentials == []
    line, = lines(result)
    assert remedy in line.partition("remedy='")[2]


@pytest.mark.parametrize('mode, command', [({}, 'Retrieve'), (BY_REQUEST, 'AddPwdRequest')])
def test_reason_code_and_ticket_are_passed_on(quick, mode, command):
    quick.tpam.add_account('WEB01', 'root', PASSWORD, reason_code_required=True, ticket_required=True)
    quick.tpam.add_reason_code('R7')
    quick.tpam.add_ticket('Jira', '42')
    for answer in ('42', 42):
        played = session(quick, tpam=mode, request={
            'reason_code': 'R7', 'ticket_system': 'Jira', 'ticket_question': 'ticket', 'time_required': '15'})
        played.session_cookie = {'questions': {'ticket': answer}}
        assert played.call('get_password_list').credentials == [PASSWORD]
        sent = [entry.options for entry in quick.tpam.audit if entry.command == command][-1]
        assert (sent['ReasonCode'], sent['TicketSystemName'], sent['TicketNumber']) == ('R7', 'Jira', '42')
        assert sent.get('TimeRequired') == (15 if command == 'Retrieve' else None)
        played.call('session_ended')


@pytest.mark.parametrize('questions', [None, [], 'x', {'ticket': None}, {'ticket': ''}])
def test_answers_of_another_shape_are_none(quick, questions):
    played = session(quick, request={'ticket_system': 'Jira', 'ticket_question': 'ticket'})
    played.session_cookie = {'questions': questions}
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert trail(quick) == [retrieved('gateway')]


def test_a_release_that_is_too_long_is_named_by_its_option(quick):
    quick.tpam.add_account('WEB01', 'root', PASSWORD, max_release=60)
    result = session(quick, tpam=BY_REQUEST, request={'release_duration': '61'}).call('get_password_list')
    assert "remedy='lower [request] release_duration'" in result.log


# ---- a list of so many rows that looking at them takes longer than the hook may

@pytest.fixture
def slow(quick, monkeypatch):
    """A machine that takes a second for each column that it looks at."""
    def column(row, name):
        quick.clock.sleep(1)
        return tpamerrors.column(row, name)
    for module in (tpamrows, tpamauthorize, tpamcheckout):
        monkeypatch.setattr(module, 'column', column)
    return quick


ROW = {'UserName': 'jdoe', 'SystemName': 'WEB01', 'AccountName': 'root', 'Status': 'Denied', 'RequestNotes': 'x',
       'AccessPolicyName': 'Privileged', 'EffectiveFl': 'No'}


@pytest.mark.parametrize('mode, command', [
    ({'authorization': 'approval'}, 'ListRequestDetails'), (PRIVILEGED, 'ListAssignedPolicies')])
def test_a_hook_ends_in_time_while_it_looks_at_a_long_list(slow, mode, command):
    answers(slow, command, *[ROW] * 1000)
    began = slow.clock()
    result = session(slow, tpam=dict(mode, timeout='60')).call('get_password_list')
    assert 'TpamTimeout' in result.raised['type']
    assert slow.clock() - began < 70


def test_a_hook_ends_in_time_while_it_looks_for_a_lost_request_in_a_long_list(slow):
    answers(slow, 'ListRequestDetails', *[dict(ROW, Status='Pending Approval')] * 1000)
    began = slow.clock()
    with broken(slow, 'AddPwdRequest'):
        result = session(slow, tpam=dict(BY_REQUEST, timeout='60')).call('get_password_list')
    assert 'TpamTimeout' in result.raised['type']
    assert 'ERROR Check-in failed' in result.log
    assert slow.clock() - began < 80


@pytest.mark.parametrize('status', [100 * ' ' + 'Active/Approved' + 100 * ' ', 'ACTIVE/approved'])
def test_a_state_may_be_padded_and_in_any_case(quick, status):
    answers(quick, 'ListRequestDetails', dict(ROW, RequestID='7', Status=status))
    assert session(quick, tpam={'authorization': 'approval'}).call('get_password_list').credentials == [PASSWORD]


@pytest.mark.parametrize('status', ['Active/Approved' + 100 * ' ' + 'not', 'Active/Approved, not', 'Approved'])
def test_a_longer_state_is_not_the_one_that_it_begins_with(quick, status):
    answers(quick, 'ListRequestDetails', dict(ROW, RequestID='7', Status=status))
    assert session(quick, tpam={'authorization': 'approval'}).call('get_password_list').credentials == []


# ---- check-in

RESET = 'ForceReset AccountName=root SystemName=WEB01'


@pytest.mark.parametrize('triggers, protocol, when', [
    ({}, 'ssh', 'session_ended'),
    ({'default': 'authentication-completed'}, 'ssh', 'authentication_completed'),
    ({'default': 'authentication-completed', 'ssh': 'session-ended'}, 'SSH', 'session_ended'),
    ({'ssh': 'authentication-completed'}, 'ssh', 'authentication_completed'),
    ({'ssh': 'authentication-completed'}, 'rdp', 'session_ended'),
    ({'vnc': 'authentication-completed'}, 'vnc', 'authentication_completed'),
    ({'default': 'authentication-completed', 'rdp': 'session-ended'}, 'x11', 'authentication_completed'),
    ({'rdp': 'authentication-completed'}, None, 'session_ended'),
])
def test_each_protocol_has_its_time_to_give_back(quick, triggers, protocol, when):
    played = session(quick, {'protocol': protocol}, tpam=BY_REQUEST, check_in_trigger=triggers)
    played.call('get_password_list')
    for hook in ('authentication_completed', 'session_ended'):
        before = len(quick.tpam.audit)
        played.call(hook)
        assert trail(quick, before) == ([CANCELLED % 1001] if hook == when else [])
    assert "check_in='done'" in played.calls[-1].log


def test_the_password_is_changed_after_the_session(world):
    played = session(world, check_in={'force_reset': 'yes'},
                     check_in_trigger={'ssh': 'authentication-completed'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert played.call('authentication_completed').lines == [
        "INFO Changed the password; account='root', system='WEB01', session_id='session-1'"]
    assert world.tpam.account('WEB01', 'root').password != PASSWORD
    assert "check_in='done'" in played.call('session_ended').log
    assert trail(world) == [retrieved('gateway'), RESET]


def test_a_request_is_given_back_and_then_the_password_is_changed(quick):
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': 'yes'})
    played.call('get_password_list')
    played.call('get_password_list')
    played.call('session_ended')
    assert trail(quick) == [FILED, BY_NUMBER % 1001, BY_NUMBER % 1001, CANCELLED % 1001, RESET]


def test_a_password_that_was_not_given_is_not_changed(quick):
    quick.tpam.account('WEB01', 'root').locked = True
    played = session(quick, check_in={'force_reset': 'yes'})
    assert played.call('get_password_list').credentials == []
    played.call('session_ended')
    assert quick.tpam.commands() == ['Retrieve']


def test_a_key_that_is_stored_as_a_password_is_not_overwritten(quick):
    quick.tpam.add_account('WEB01', 'root_key', KEY)
    played = session(quick, check_in={'force_reset': 'yes'},
                     private_keys={'command': 'Retrieve', 'account_suffix': '_key'})
    assert len(played.call('get_private_key_list').credentials) == 1
    assert played.call('get_password_list').credentials == [PASSWORD]
    played.call('session_ended')
    assert trail(quick)[2:] == [RESET]


def test_a_failed_login_and_an_unused_key_are_caught_up_when_the_session_ends(quick):
    quick.tpam.account('WEB01', 'root').key = KEY
    played = session(quick, tpam=BY_REQUEST, check_in_trigger={'default': 'authentication-completed'})
    assert len(played.call('get_private_key_list').credentials) == 1
    played.call('session_ended')
    assert trail(quick)[-1] == CANCELLED % 1001


def test_a_second_account_is_given_back_too(quick):
    quick.tpam.add_account('WEB01', 'adm', 'password-of-adm')
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    assert played.call('get_password_list', server_username='adm').credentials == ['password-of-adm']
    ended = played.call('session_ended')
    assert trail(quick)[-2:] == [CANCELLED % 1001, CANCELLED % 1002]
    assert "credentials='2'" in ended.log
    assert quick.tpam.active() == []


@pytest.mark.parametrize('reset', ['no', 'yes'])
def test_nothing_is_given_back_twice_even_with_an_old_cookie(quick, reset):
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': reset},
                     check_in_trigger={'default': 'authentication-completed'})
    played.call('get_password_list')
    old = played.cookie
    played.call('authentication_completed')
    played.call('session_ended')
    asked = len(quick.tpam.audit)
    for hook in ('authentication_completed', 'session_ended', 'session_ended'):
        result = played.call(hook, cookie=old)
        assert 'The request was already closed' in result.log
    assert trail(quick, asked) == 3 * [CANCELLED % 1001, LOOKED % 1001]


def test_the_password_is_changed_although_the_request_ran_out(quick):
    played = session(quick, tpam=BY_REQUEST, request={'release_duration': '1'}, check_in={'force_reset': 'yes'})
    played.call('get_password_list')
    quick.clock.now += 61
    played.call('session_ended')
    assert trail(quick)[2:] == [CANCELLED % 1001, LOOKED % 1001, RESET]


def test_a_request_that_this_session_filed_is_known_again_without_its_cookie(quick):
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    assert played.call('get_password_list', cookie={}).credentials == [PASSWORD]
    played.call('session_ended')
    assert quick.tpam.active() == []


def test_a_check_in_that_failed_is_tried_again_when_the_session_ends(quick):
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': 'yes'},
                     check_in_trigger={'default': 'authentication-completed'})
    played.call('get_password_list')
    with refusing(quick, 'Cancel'), refusing(quick, 'ForceReset'):
        completed = played.call('authentication_completed')
    assert completed.raised is None
    assert lines(completed) == [
        "ERROR Check-in failed; do it by hand unless a later line says it is done; account='root', command='Cancel', "
        "reason='Cancel is under maintenance', request='1001', system='WEB01', session_id='session-1'",
        "ERROR Check-in failed; do it by hand unless a later line says it is done; account='root', "
        "command='ForceReset', reason='ForceReset is under maintenance', system='WEB01', session_id='session-1'"]
    assert "check_in='done'" in played.call('session_ended').log
    assert trail(quick)[-2:] == [CANCELLED % 1001, RESET]


def test_a_check_in_that_fails_to_the_end_is_in_the_summary(quick):
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    with broken(quick, 'Cancel'):
        ended = played.call('session_ended')
    assert ended.raised is None
    assert "Check-in failed; do it by hand unless a later line says it is done; account='root'" in ended.log
    assert "INFO Session ended; account='root', check_in='failed'" in ended.log


def test_a_check_in_whose_answer_was_lost_is_not_done_twice(quick):
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': 'yes'},
                     check_in_trigger={'default': 'authentication-completed'})
    played.call('get_password_list')
    with broken(quick, 'ForceReset'), broken(quick, 'Cancel', after=True):
        assert played.call('authentication_completed').raised is None
    ended = played.call('session_ended')
    assert 'The request was already closed' in ended.log
    assert trail(quick)[2:] == [LOOKED % 1001, RESET]


def test_a_server_that_is_gone_fails_no_notification(world):
    played = session(world, tpam={'authorization': 'request'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    world.close()
    world._servers = []
    ended = played.call('session_ended')
    assert ended.raised is None
    assert 'ERROR Check-in failed; do it by hand' in ended.log
    assert "check_in='failed'" in ended.log


def test_a_session_without_credentials_asks_nothing_when_it_ends(quick):
    played = session(quick, tpam=BY_REQUEST, check_in={'force_reset': 'yes'})
    played.call('authentication_completed')
    assert "check_in='nothing to check in', credentials='0'" in played.call('session_ended').log
    assert trail(quick) == []


def test_a_refusal_names_its_own_account_and_not_the_one_before(quick):
    played = session(quick)
    played.call('get_password_list')
    result = played.call('get_password_list', server_username='adm', server_hostname=None)
    assert lines(result)[0].startswith("WARNING No credential; account='adm', address='10.0.0.5', host_name='', ")
    assert 'WEB01' not in result.log


# ---- two sessions

def test_two_sessions_on_one_account_keep_out_of_each_others_way(world):
    one = session(world, {'session_id': 'one'}, tpam={'authorization': 'request'})
    two = session(world, {'session_id': 'two'}, tpam={'authorization': 'request'})
    assert one.call('get_password_list').credentials == [PASSWORD]
    assert two.call('get_password_list').credentials == [PASSWORD]
    assert "check_in='nothing to check in'" in two.call('session_ended').log
    assert world.tpam.requests[1001].status == ACTIVE
    assert "check_in='done'" in one.call('session_ended').log
    assert world.tpam.requests[1001].status == EXPIRED
    assert len(world.tpam.requests) == 1


# ---- RemoteApp

def test_the_asset_and_account_of_an_aa_plugin_go_first(quick):
    quick.tpam.add_system('APP', '10.0.0.9')
    for account in ('app', 'svc'):
        quick.tpam.add_account('APP', account, 'password-of-' + account)
    arguments = {'asset': 'WEB01', 'protocol': 'rdp', 'server_ip': '10.0.0.7', 'server_domain': 'example.com'}
    played = session(quick, arguments, tpam={'system_name_resolver': 'tpam'})
    assert played.call('get_remote_app_credentials').credentials == [PASSWORD]
    played.session_cookie = {'asset': '10.0.0.9', 'account': 'svc'}
    assert played.call('get_remote_app_credentials').credentials == ['password-of-svc']
    played.session_cookie = {'asset': 'app'}
    target = {'server_username': None, 'target_username': 'app'}
    assert played.call('get_remote_app_credentials', **target).credentials == ['password-of-app']
    assert [line for line in trail(quick) if 'List' in line] == [
        'ListSystems SystemName=WEB01', 'ListSystems NetworkAddress=10.0.0.9', 'ListSystems SystemName=app']


@pytest.mark.parametrize('arguments, missing', [
    ({'asset': None}, 'SPS passed no asset (argument asset, or asset in the session cookie)'),
    ({'asset': 'WEB01', 'server_username': None}, 'SPS passed no name of an account'),
])
def test_a_remote_app_without_asset_or_account_is_told_what_is_missing(quick, arguments, missing):
    result = session(quick, arguments).call('get_remote_app_credentials')
    assert result.credentials == []
    assert missing in lines(result)[0]
    assert trail(quick) == []


def test_what_a_remote_app_checked_out_is_given_back_with_its_session(quick):
    quick.tpam.add_account('WEB01', 'app', 'password-of-app')
    played = session(quick, {'protocol': 'rdp'}, tpam=BY_REQUEST, check_in_trigger={'rdp': 'authentication-completed'})
    played.call('get_password_list')
    played.call('authentication_completed')
    remote = played.call('get_remote_app_credentials', asset='WEB01', server_username='app')
    assert remote.credentials == ['password-of-app']
    played.call('session_ended')
    assert [entry for entry in quick.tpam.commands() if entry == 'Cancel'] == 2 * ['Cancel']
    assert quick.tpam.active() == []


# ---- what an appliance may do to it

def test_bytes_that_are_no_utf_8_are_refused_and_not_lost(quick):
    plugin = main.Plugin(configuration(**quick.sections(tpam={'system_name_resolver': 'hostname'})))
    returned = plugin.get_password_list(server_username=b'r\xf6\xf6t', server_hostname=b'web01',
                                        gateway_username=b'jdoe', session_id=b'\xff')
    assert returned['passwords'] == []
    assert quick.tpam.audit[0].options['AccountName'] == 'r\ufffd\ufffdt'


def test_a_secret_that_begins_like_another_one_is_masked_whole(quick):
    quick.tpam.add_user('sps', 'geheim')

    def echo(user, options):
        raise Refusal('no geheim-und-mehr for you')
    quick.tpam.do_Retrieve = echo
    played = session(quick, {'gateway_password': 'geheim-und-mehr'}, tpam={'password': 'geheim'})
    assert "reason='no ******** for you'" in played.call('get_password_list').log


def test_a_log_that_takes_no_more_holds_up_no_check_in(quick, monkeypatch):
    class Broken(Log):
        def write(self, line):
            raise IOError('Broken pipe')
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    plugin = main.Plugin(native(played.sps.configuration))
    monkeypatch.setattr(sys, 'stdout', Broken())
    assert plugin.session_ended(session_id='session-1', cookie=played.cookie) is None
    assert quick.tpam.active() == []


def test_a_hook_works_outside_the_main_thread_and_leaves_no_alarm(quick):
    results = []
    played = session(quick)
    thread = threading.Thread(target=lambda: results.append(played.call('get_password_list')))
    thread.start()
    thread.join()
    assert results[0].credentials == [PASSWORD]
    played.call('get_password_list')
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# ---- hooks in any order

ACTIONS = ['get_password_list', 'get_private_key_list', 'get_remote_app_credentials', 'adm', 'authentication_completed',
           'old cookie', 'hang up', 'hang up late', 'deny', 'expire']
STEPS = some.lists(some.tuples(some.sampled_from(['one', 'two']), some.sampled_from(ACTIONS)), min_size=1, max_size=10)
FLAGS = some.fixed_dictionaries(dict(
    (flag, some.booleans()) for flag in ('request', 'reset', 'trigger', 'pending', 'held')))


class Play(object):
    """Two sessions on WEB01 whose hooks come in any order, while others use and approve what they like."""

    def __init__(self, world, flags):
        self.tpam = world.tpam = world.server.tpam = World(world.python, world.plugin_zip).tpam
        self.clock = self.tpam.clock = world.clock
        self.clock.events = []
        for account in ('root', 'adm'):
            self.tpam.add_account('WEB01', account, 'password-of-' + account, KEY, approve_after=20 * len(account),
                                  min_approvers=1 if flags['pending'] else 0)
        self.others = [self.tpam.add_request('eve', 'WEB01', 'root', PENDING)]
        if flags['held']:
            self.others.append(self.tpam.add_request('sps', 'WEB01', 'root'))
        self.sessions = dict((name, session(
            world, {'session_id': name}, tpam=BY_REQUEST if flags['request'] else {},
            check_in={'force_reset': 'yes' if flags['reset'] else 'no'},
            check_in_trigger={'default': 'authentication-completed' if flags['trigger'] else 'session-ended'}))
            for name in ('one', 'two'))
        self.work, self.cookies = self.tpam.call, dict((name, [{}]) for name in self.sessions)

    def step(self, name, action):
        played = self.sessions[name]
        if action in ('hang up', 'hang up late'):
            self.tpam.call = lambda *call: self.hang_up(action == 'hang up late', *call)
        elif action == 'deny':  # while the next hook waits
            self.clock.events.append((self.clock.slept + 5, lambda: self.close(PENDING, self.tpam.deny)))
        elif action == 'expire':
            self.close(ACTIVE, self.tpam.expire)
        elif action == 'old cookie':
            played.sps.call('authentication_completed', {'session_id': name, 'cookie': self.cookies[name][-2:][0]})
        elif action == 'adm':
            self.note(name, played.call('get_password_list', server_username='adm'))
        else:
            self.note(name, played.call(action, asset='WEB01'))

    def note(self, name, result):
        self.cookies[name].append(self.sessions[name].cookie)
        if result.hook == 'authentication_completed':
            assert result.raised is None

    def close(self, status, decide):
        for request in self.tpam.active():
            if request.id not in self.others and request.status == status:
                decide(request.id)

    def hang_up(self, late, *call):
        self.tpam.call = self.work
        if late:
            self.work(*call)
        raise socket.error('hangs up')

    def end(self):
        self.tpam.call = self.work
        for name in sorted(self.sessions):
            assert self.sessions[name].call('session_ended').raised is None

    def check(self):
        """Nothing that these sessions filed is open; nothing of anybody else was closed, but by its own time."""
        assert [request for request in self.tpam.active() if request.id not in self.others] == []
        cancelled = set(int(entry.options['RequestID']) for entry in self.tpam.audit if entry.command == 'Cancel')
        assert not cancelled & set(self.others)
        for entry in self.tpam.audit:
            if entry.command == 'Cancel' and entry.return_code == 0:
                notes = self.tpam.requests[int(entry.options['RequestID'])].options['RequestNotes']
                assert notes.rpartition(',')[2] == entry.options['Comment'].rpartition(',')[2]


def test_in_whatever_order_hooks_come_all_is_given_back_and_nothing_of_others(quick):
    @given(FLAGS, STEPS)
    @settings(max_examples=60)
    def hooks_in_any_order(flags, steps):
        play = Play(quick, flags)
        for name, action in steps:
            play.step(name, action)
        play.end()
        play.check()
    hooks_in_any_order()
