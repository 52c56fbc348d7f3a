# -*- coding: utf-8 -*-
"""DNS and the name of a system. Whoever controls a zone of DNS writes its records: nobody must
reach the credential of another system by writing one.
"""
from __future__ import unicode_literals

import pytest

import test_policy
from conftest import PASSWORD
from fake_dns import FakeDns
from fake_tpam import Refusal, done
from test_policy import asking, lines, retrieved, session, trail

quick = test_policy.quick  # the fixture

REVERSE = ('5.0.0.10.in-addr.arpa.', 'PTR')  # of 10.0.0.5
REVERSE_OF_SIX = ('5.' + 29 * '0.' + 'd.f.ip6.arpa.', 'PTR')  # of fd00::5
WEB01, WEB01_SIX = ('web01.example.com.', 'A'), ('web01.example.com.', 'AAAA')
WEB, WEB_SIX = ('web.example.com.', 'A'), ('web.example.com.', 'AAAA')
ALIAS = ('web01.example.com.', 'CNAME')
OF_AN_ADDRESS = {'server_ip': '10.0.0.5', 'server_hostname': None}
OF_A_NAME = {'server_ip': None, 'server_hostname': None, 'target_host': 'web.example.com'}


def ask(quick, monkeypatch, arguments, records, resolver, hook='get_password_list'):
    """Call the hook while DNS has these records -> (its result, the questions DNS was asked)."""
    names = FakeDns(records)
    with asking(names, monkeypatch):
        tpam = {'system_name_resolver': resolver}
        if None in records.values():  # a question is not answered
            tpam['connect_timeout'] = '1'
        result = session(quick, arguments, tpam=tpam).call(hook)
    return result, names.asked


# ---- resolver dns: the name of an address has to lead back to the address

def test_a_reverse_record_alone_gives_nobody_the_credential_of_another_system(world):
    records = {('66.6.6.10.in-addr.arpa.', 'PTR'): ['web01.example.com.'], WEB01: ['10.0.0.5']}
    with FakeDns(records) as names:
        attacked = session(world, {'server_ip': '10.6.6.66', 'server_hostname': None},
                           tpam={'system_name_resolver': 'dns'}, nameserver=names.address)
        result = attacked.call('get_password_list')
    assert result.credentials == []
    assert 'does not lead back to the address' in result.log
    assert trail(world) == []


def test_a_name_that_leads_back_to_the_address_is_the_name_of_the_system(world):
    with FakeDns({REVERSE: ['web01.example.com.'], WEB01: ['10.0.0.5']}) as names:
        played = session(world, OF_AN_ADDRESS, tpam={'system_name_resolver': 'dns'},
                         nameserver=names.address)
        assert played.call('get_password_list').credentials == [PASSWORD]
    assert names.asked == [REVERSE, WEB01]
    assert trail(world) == [retrieved('gateway')]


@pytest.mark.parametrize('forward', [
    {}, {WEB01: []}, {WEB01: ['10.0.0.6']}, {WEB01: ['10.0.0.50', '10.0.0.6']},
    {WEB01_SIX: ['fd00::5']}, {WEB01_SIX: ['::ffff:10.0.0.6']}, {('web01.', 'A'): ['10.0.0.5']},
    {ALIAS: ['gone.example.com.']}, {ALIAS: ['web.example.com.'], WEB: ['10.0.0.6']},
])
def test_a_name_with_other_addresses_or_none_is_refused(quick, monkeypatch, forward):
    records = dict(forward)
    records[REVERSE] = ['web01.example.com.']
    result, _ = ask(quick, monkeypatch, OF_AN_ADDRESS, records, 'dns')
    assert result.credentials == []
    assert 'does not lead back to the address' in result.log
    assert trail(quick) == []


@pytest.mark.parametrize('forward', [
    {WEB01: ['10.0.0.6', '10.0.0.5', '10.0.0.7']},
    {ALIAS: ['web.example.com.'], WEB: ['10.0.0.5']},
])
def test_the_address_may_be_one_of_several_and_behind_an_alias(quick, monkeypatch, forward):
    records = dict(forward)
    records[REVERSE] = ['web01.example.com.']
    result, asked = ask(quick, monkeypatch, OF_AN_ADDRESS, records, 'dns')
    assert result.credentials == [PASSWORD]
    assert asked == [REVERSE, WEB01]


@pytest.mark.parametrize('address, reverse, forward, addresses, leads_back', [
    ('fd00::5', REVERSE_OF_SIX, WEB01_SIX, ['fd00:0:0::6', 'FD00:0:0::5'], True),
    ('fd00::5', REVERSE_OF_SIX, WEB01_SIX, ['fd00::6'], False),
    ('fd00::5', REVERSE_OF_SIX, WEB01, ['10.0.0.5'], False),
    ('::ffff:10.0.0.5', REVERSE, WEB01, ['10.0.0.5'], True),
    ('::ffff:10.0.0.5', REVERSE, WEB01, ['10.0.0.6'], False),
])
def test_the_name_has_to_lead_back_in_the_same_version_of_ip(
        quick, monkeypatch, address, reverse, forward, addresses, leads_back):
    records = {reverse: ['web01.example.com.'], forward: addresses}
    result, asked = ask(quick, monkeypatch, dict(OF_AN_ADDRESS, server_ip=address), records, 'dns')
    assert result.credentials == ([PASSWORD] if leads_back else [])
    assert asked == [reverse, WEB01_SIX if address == 'fd00::5' else WEB01]


def test_a_name_that_does_not_lead_back_is_refused_before_any_other_resolver(quick, monkeypatch):
    """The next resolver must not hide an attack behind another name."""
    quick.tpam.add_system('10.0.0.5')
    quick.tpam.add_account('10.0.0.5', 'root', PASSWORD)
    records = {REVERSE: ['web01.example.com.'], WEB01: ['10.0.0.6']}
    result, _ = ask(quick, monkeypatch, OF_AN_ADDRESS, records, 'dns,ip')
    assert result.credentials == []
    assert 'does not lead back to the address' in result.log
    assert trail(quick) == []


def test_a_name_gives_nothing_while_dns_does_not_say_where_it_leads(quick, monkeypatch):
    records = {REVERSE: ['web01.example.com.'], WEB01: None}
    result, _ = ask(quick, monkeypatch, OF_AN_ADDRESS, records, 'dns')
    assert not result.credentials
    assert trail(quick) == []


# ---- resolver tpam: a target without an address has those that DNS has for its name

BY_NAME = ['ListSystems SystemName=web.example.com', 'ListSystems NetworkAddress=web.example.com']


def by_address(*addresses):
    return BY_NAME + ['ListSystems NetworkAddress=%s' % address for address in addresses]


def lists(quick, systems):
    """Have the server list these systems, {address: name}."""
    def list_systems(user, options):
        address = options.get('NetworkAddress')
        if address not in systems:
            raise Refusal('No Systems to list')
        return done('row', count=1, rows=[{'SystemName': systems[address],
                                           'NetworkAddress': address}])
    quick.tpam.do_ListSystems = list_systems


def test_the_server_is_asked_for_the_addresses_that_dns_has_for_the_name(world):
    """Older releases of SPS pass a name alone, which need not be a name that the server knows."""
    with FakeDns({WEB: ['10.0.0.5']}) as names:
        played = session(world, OF_A_NAME, tpam={'system_name_resolver': 'tpam'},
                         nameserver=names.address)
        assert played.call('get_password_list').credentials == [PASSWORD]
    assert names.asked == [WEB, WEB_SIX]
    assert trail(world) == by_address('10.0.0.5') + [retrieved('gateway')]


def test_a_name_that_the_server_knows_is_not_looked_up(quick, monkeypatch):
    quick.tpam.add_system('OTHER', 'web.example.com')
    quick.tpam.add_account('OTHER', 'root', PASSWORD)
    for name, asked_for in (('WEB01', 1), ('web.example.com', 2)):
        before = len(quick.tpam.audit)
        result, asked = ask(quick, monkeypatch, dict(OF_A_NAME, target_host=name),
                            {WEB: ['10.0.0.5']}, 'tpam')
        assert result.credentials == [PASSWORD]
        assert asked == []
        assert len(trail(quick, before)) == asked_for + 1


def test_an_address_of_the_target_itself_is_not_looked_up(quick, monkeypatch):
    arguments = dict(OF_A_NAME, server_ip='10.0.0.7')
    result, asked = ask(quick, monkeypatch, arguments, {WEB: ['10.0.0.5']}, 'tpam')
    assert result.credentials == []
    assert asked == []


def test_addresses_of_both_versions_of_ip_are_asked_for(quick, monkeypatch):
    lists(quick, {'10.0.0.5': 'WEB01', 'fd00::5': 'WEB01'})
    records = {WEB: ['10.0.0.5'], WEB_SIX: ['FD00:0::5']}
    result, asked = ask(quick, monkeypatch, OF_A_NAME, records, 'tpam')
    assert result.credentials == [PASSWORD]
    assert asked == [WEB, WEB_SIX]
    assert trail(quick) == by_address('10.0.0.5', 'fd00::5') + [retrieved('gateway')]


def test_a_name_behind_an_alias_is_looked_up(quick, monkeypatch):
    records = {('web.example.com.', 'CNAME'): ['web01.example.com.'], WEB01: ['10.0.0.5']}
    result, _ = ask(quick, monkeypatch, OF_A_NAME, records, 'tpam')
    assert result.credentials == [PASSWORD]


def test_one_system_may_have_several_addresses(quick, monkeypatch):
    lists(quick, {'10.0.0.5': 'WEB01', '10.0.0.6': 'web01', 'fd00::5': 'WEB01'})
    records = {WEB: ['10.0.0.5', '10.0.0.6'], WEB_SIX: ['fd00::5']}
    result, _ = ask(quick, monkeypatch, OF_A_NAME, records, 'tpam')
    assert result.credentials == [PASSWORD]
    assert sorted(trail(quick)[2:-1]) == sorted(
        by_address('10.0.0.5', '10.0.0.6', 'fd00::5')[2:])


@pytest.mark.parametrize('records', [
    {WEB: ['10.0.0.5', '10.0.0.6']}, {WEB: ['10.0.0.5'], WEB_SIX: ['fd00::6']},
    {WEB: ['10.0.0.5', '10.6.6.66']}, {WEB: ['10.6.6.66', '10.0.0.5']},
    {WEB: ['10.0.0.5'], WEB_SIX: ['fd00::666']},
])
@pytest.mark.parametrize('resolver', ['tpam', 'tpam,hostname'])
def test_a_name_that_leads_to_another_host_besides_the_system_is_refused(quick, monkeypatch, records, resolver):
    quick.tpam.add_system('WEB', '10.0.0.9')
    quick.tpam.add_account('WEB', 'root', PASSWORD)
    lists(quick, {'10.0.0.5': 'WEB01', '10.0.0.6': 'WEB02', 'fd00::6': 'WEB02'})
    result, _ = ask(quick, monkeypatch, OF_A_NAME, records, resolver)
    assert result.credentials == []
    assert 'do not all belong to one system' in result.log
    assert 'Retrieve' not in quick.tpam.commands()


@pytest.mark.parametrize('records', [{}, {WEB: ['10.0.0.8']}, {WEB_SIX: ['fd00::8']}])
def test_a_name_whose_addresses_the_server_does_not_know_is_refused(quick, monkeypatch, records):
    result, asked = ask(quick, monkeypatch, OF_A_NAME, records, 'tpam')
    assert result.credentials == []
    assert 'no resolver found the name of the system' in result.log
    assert [line for line in lines(result) if 'DNS' in line] == []
    assert asked == [WEB, WEB_SIX]
    known = [address for addresses in records.values() for address in addresses]
    assert trail(quick) == by_address(*known)


@pytest.mark.parametrize('four, six', [(9, 0), (12, 3), (6, 4), (0, 12)])
def test_a_name_of_more_than_eight_addresses_is_refused_before_the_server_is_asked_about_them(
        quick, monkeypatch, four, six):
    addresses = ['10.1.0.%d' % number for number in range(1, four + 1)]
    addresses_of_six = ['fd00::1:%d' % number for number in range(1, six + 1)]
    result, _ = ask(quick, monkeypatch, OF_A_NAME, {
        WEB: addresses, WEB_SIX: addresses_of_six}, 'tpam')
    assert result.credentials == []
    assert 'too many addresses' in result.log
    assert trail(quick) == BY_NAME


# ---- the domains of hosts

DOMAINS = 'example.com, Corp.Test'


def of_domains(quick, monkeypatch, arguments, records, resolver):
    """Call a hook whose configuration names DOMAINS. Return its Result."""
    with asking(FakeDns(records), monkeypatch):
        played = session(quick, arguments, tpam={'system_name_resolver': resolver,
                                                 'system_domains': DOMAINS})
        return played.call('get_password_list')


@pytest.mark.parametrize('name', ['web01.example.com', 'WEB01.EXAMPLE.COM', 'web01.corp.test', 'web01',
                                  'web01.sub.example.com', 'web01.example.com.'])
def test_a_host_in_a_listed_domain_is_the_system_of_its_name(quick, monkeypatch, name):
    result = of_domains(quick, monkeypatch, {'server_hostname': name}, {}, 'hostname')
    assert result.credentials == [PASSWORD]


@pytest.mark.parametrize('name', ['web01.evil.test', 'web01.example.com.evil.test', 'web01.evilexample.com',
                                  'web01.com', 'web01.ex\u0430mple.com'])
def test_a_host_in_another_domain_gets_nothing(quick, monkeypatch, name):
    result = of_domains(quick, monkeypatch, {'server_hostname': name}, {}, 'hostname')
    assert result.credentials == []
    assert 'system_domains' in result.log
    assert trail(quick) == []


def test_a_reverse_record_does_not_name_a_host_in_another_domain(quick, monkeypatch):
    """Its owner can have the name lead back to the address."""
    arguments = {'server_ip': '10.6.6.66', 'server_hostname': None}
    records = {('66.6.6.10.in-addr.arpa.', 'PTR'): ['web01.evil.test.'],
               ('web01.evil.test.', 'A'): ['10.6.6.66']}
    result = of_domains(quick, monkeypatch, arguments, records, 'dns')
    assert result.credentials == []
    assert 'system_domains' in result.log
    records = {REVERSE: ['web01.example.com.'], WEB01: ['10.0.0.5']}
    assert of_domains(quick, monkeypatch, OF_AN_ADDRESS, records, 'dns').credentials == [PASSWORD]


def test_a_host_in_another_domain_is_not_looked_up(quick, monkeypatch):
    arguments = dict(OF_A_NAME, target_host='web.evil.test')
    records = {('web.evil.test.', 'A'): ['10.0.0.5']}
    result = of_domains(quick, monkeypatch, arguments, records, 'tpam')
    assert result.credentials == []
    assert 'system_domains' in result.log


@pytest.mark.parametrize('records', [
    {WEB: None}, {WEB: ['10.0.0.5'], WEB_SIX: None},
])
def test_no_address_is_asked_about_while_dns_does_not_answer(quick, monkeypatch, records):
    """With a part of the addresses, a second system would go unnoticed."""
    result, _ = ask(quick, monkeypatch, OF_A_NAME, records, 'tpam')
    assert result.credentials == []
    assert 'no resolver found the name of the system' in result.log
    warnings = [line for line in lines(result) if 'No credential' not in line]
    assert [line.startswith('WARNING') and 'DNS' in line for line in warnings] == [True]
    assert trail(quick) == BY_NAME


def test_the_next_resolver_has_its_turn_where_dns_does_not_answer(quick, monkeypatch):
    quick.tpam.add_system('WEB')
    quick.tpam.add_account('WEB', 'root', PASSWORD)
    result, _ = ask(quick, monkeypatch, OF_A_NAME, {WEB: None}, 'tpam,hostname')
    assert result.credentials == [PASSWORD]
    assert [line for line in lines(result) if line.startswith('WARNING') and 'DNS' in line] != []


@pytest.mark.parametrize('name', ['*', 'web*.example.com', 'web 01', 'web/01', 'wéb.example.com',
                                  'web\\046example.com', 'web\x00.example.com', 'x' * 5000])
def test_a_name_that_is_no_host_name_is_not_looked_up(quick, monkeypatch, name):
    answered = {WEB: ['10.0.0.5'], WEB_SIX: ['fd00::5']}
    result, asked = ask(quick, monkeypatch, dict(OF_A_NAME, target_host=name), answered, 'tpam')
    assert not result.credentials
    assert asked == []


def test_the_host_of_a_remote_app_is_looked_up_too(quick, monkeypatch):
    arguments = {'asset': 'web.example.com'}
    result, _ = ask(quick, monkeypatch, arguments, {WEB: ['10.0.0.5']}, 'tpam',
                    'get_remote_app_credentials')
    assert result.credentials == [PASSWORD]
