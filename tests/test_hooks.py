# -*- coding: utf-8 -*-
"""The main job, end to end: SPS calls a hook of the zip in a fresh process, and a credential comes back over TLS."""
from __future__ import unicode_literals

import base64

import pytest

import fake_sps
from conftest import API_PASSWORD, GATEWAY_PASSWORD, PASSWORD, certificate
from fake_tpam import DIALECTS, Refusal


def test_a_password_comes_out_as_it_is_stored(world):
    result = world.session().call('get_password_list')
    assert result.credentials == [PASSWORD]
    assert result.lines == ["INFO Retrieved passwords; account='root', system='WEB01', session_id='session-1'"]


@pytest.mark.parametrize('dialect', DIALECTS)
def test_a_password_comes_out_however_the_server_writes_xml_rpc(world, dialect):
    world.serve(dialect=dialect)
    assert world.session().call('get_password_list').credentials == [PASSWORD]


def test_the_default_path_with_hostname_is_one_command(world):
    world.session(tpam={'system_name_resolver': 'hostname'}).call('get_password_list')
    entry, = world.tpam.audit
    assert (entry.user, entry.command) == ('sps', 'Retrieve')
    assert entry.options == {'SystemName': 'WEB01', 'AccountName': 'root', 'ReasonText': 'jdoe,SPS,gateway,session-1'}


@pytest.mark.parametrize('resolver, system', [
    ('hostname', 'WEB01'), ('fqdn', 'web01.test'), ('ip', '10.0.0.5'), ('tpam', 'WEB01'),
])
def test_each_resolver_names_the_system_in_its_way(world, resolver, system):
    world.tpam.add_system(system) if system != 'WEB01' else None
    world.tpam.add_account(system, 'root', PASSWORD)
    session = world.session(tpam={'system_name_resolver': resolver})
    assert session.call('get_password_list').credentials == [PASSWORD]
    assert world.tpam.audit[-1].options['SystemName'] == system


def test_prefixes_and_suffix_are_put_around_the_names(world):
    world.tpam.add_system('LAB-WEB01')
    world.tpam.add_account('LAB-WEB01', 'adm_root_x', PASSWORD)
    session = world.session(tpam={'system_name_resolver': 'hostname', 'system_prefix': 'LAB-'},
                            account={'prefix': 'adm_', 'suffix': '_x'})
    assert session.call('get_password_list').credentials == [PASSWORD]


ARGUMENTS = {  # what the releases of SPS pass
    'only target_*': {'target_username': 'root', 'target_host': '10.0.0.5', 'target_port': 22, 'target_domain': None},
    'server_* and no target_*': {'server_username': 'root', 'server_ip': '10.0.0.5', 'server_hostname': None,
                                 'server_port': 22, 'server_domain': ''},
    'server_* before target_*': {'server_username': 'root', 'server_ip': '10.0.0.5', 'target_username': 'nobody',
                                 'target_host': '10.9.9.9'},
    "all of today's and unknown names": dict(
        dict.fromkeys(fake_sps.GET_ARGUMENTS), protocol='ssh', client_ip='10.0.0.1', gateway_groups=['a', 'b'],
        server_username='root', server_ip='10.0.0.5', server_port=22, a_name_of_tomorrow={'x': [1]}),
}


@pytest.mark.parametrize('passed_as', ['str', 'unicode'])
@pytest.mark.parametrize('generation', sorted(ARGUMENTS))
def test_each_generation_of_sps_is_served(world, generation, passed_as):
    arguments = dict(ARGUMENTS[generation], cookie={}, session_id='s-1', gateway_username='jdoe')
    result = world.sps(passed_as=passed_as).call('get_password_list', arguments)
    assert result.credentials == [PASSWORD]


@pytest.mark.parametrize('hook', sorted(fake_sps.GET_HOOKS) + list(fake_sps.NOTIFICATIONS))
def test_every_argument_may_be_missing(world, hook):
    result = world.sps().call(hook, {})
    assert result.raised is None
    assert not result.credentials
    assert world.tpam.commands() == []


def test_user_names_are_taken_out_of_their_domains(world):
    for name in ('root', 'root@example.test', 'EXAMPLE\\root'):
        assert world.session({'server_username': name}).call('get_password_list').credentials == [PASSWORD]


def test_names_that_are_not_ascii_reach_the_server_and_the_log(world):
    world.tpam.add_account('WEB01', 'jürgen密', PASSWORD)
    session = world.session({'server_username': 'jürgen密'}, environment={'PYTHONIOENCODING': 'ascii'})
    result = session.call('get_password_list')
    assert result.credentials == [PASSWORD]
    shown, = result.lines
    assert "account='jürgen密'" in shown or "account='j\\xfcrgen\\u5bc6'" in shown


def test_nobody_forges_a_log_line_through_a_user_name(world):
    forged = "root'\nINFO Retrieved passwords; account='x', \x9b2J\u202e\u2028"
    result = world.session({'server_username': forged}).call('get_password_list')
    assert result.credentials == []
    assert len(result.lines) == 1
    assert "account='root\\'\\x0aINFO Retrieved passwords; account=\\'x\\', \\x9b2J\\u202e\\u2028'" in result.lines[0]


def test_a_name_that_xml_cannot_carry_is_an_error_before_anything_is_sent(world):
    result = world.session({'server_username': 'ro\x00ot'}).call('get_password_list')
    assert 'TpamError' in result.raised['type']
    assert 'XML cannot carry' in result.raised['message']
    assert 'Retrieve' not in world.tpam.commands()


# ---- refusals

def lock(world):
    world.tpam.account('WEB01', 'root').locked = True


def take_the_account_away(world):
    del world.tpam.accounts['web01', 'root']


def take_the_permission_away(world):
    world.tpam.add_user('sps', API_PASSWORD, isa=False)


def leave_uninitialised(world):
    world.tpam.account('WEB01', 'root').password = 'This is the default initial password'


def leave_empty(world):
    world.tpam.account('WEB01', 'root').password = ''


@pytest.mark.parametrize('dialect', ['plain', 'faults'])
@pytest.mark.parametrize('spoil, reason', [
    (lock, 'locked'), (take_the_account_away, ''), (take_the_permission_away, 'not authorized'),
    (leave_uninitialised, 'never initialised'), (leave_empty, 'never initialised'),
])
def test_a_refusal_is_an_empty_list_and_one_line_that_says_why(world, spoil, reason, dialect):
    world.serve(dialect=dialect)
    spoil(world)
    result = world.session(tpam={'system_name_resolver': 'hostname'}).call('get_password_list')
    assert result.credentials == []
    line, = result.lines
    assert line.startswith("WARNING No credential; account='root', reason='")
    assert reason in line


def test_a_system_that_the_server_does_not_know_is_a_refusal(world):
    result = world.session({'server_ip': '10.9.9.9', 'server_hostname': None}).call('get_password_list')
    assert result.credentials == []
    assert "no resolver found the name of the system" in result.lines[0]
    assert world.tpam.commands() == ['ListSystems']


def test_a_server_that_repeats_the_header_it_was_sent_gets_it_masked(world):
    header = 'Basic ' + base64.b64encode(('sps:' + API_PASSWORD).encode('utf-8')).decode('ascii')

    def repeat(user, options):
        raise Refusal('You are not authorized: ' + header)
    world.tpam.do_Retrieve = repeat
    result = world.session().call('get_password_list')
    assert "reason='You are not authorized: Basic ********'" in result.lines[0]


# ---- errors

def test_a_server_that_is_not_there_is_one_line_and_one_exception(world):
    server = world.serve()
    port = server.port
    world.close()
    world._servers = []
    result = world.session(tpam={'server': 'localhost:%d' % port}).call('get_password_list')
    assert 'TpamError' in result.raised['type']
    assert result.raised['message'].startswith('Cannot connect to the server; address=')
    assert result.raised['message'] in result.lines[0]
    assert [line for line in result.lines if line.startswith('ERROR')] == result.lines[:1]


def test_a_wrong_api_password_is_an_error_that_names_the_option(world):
    result = world.session(tpam={'password': 'wrong-password'}).call('get_password_list')
    assert 'check [tpam] username and password' in result.raised['message']
    assert 'wrong-password' not in result.log


def test_the_notifications_never_raise(world):
    for text in ('', 'nonsense', '[tpam]\nserver=\n'):
        for hook in fake_sps.NOTIFICATIONS:
            result = world.sps(text=text).call(hook, {'session_id': 's', 'cookie': {'kept': 1}})
            assert result.raised is None
            assert result.lines[0].startswith('ERROR Wrong configuration: ')
    assert world.session().call('session_ended').raised is None


# ---- cookies

def test_cookies_are_kept_and_added_to_under_the_plugins_own_key(world):
    session = world.session()
    session.cookie, session.session_cookie = {'other': [1]}, {'aa': {'x': 'y'}}
    result = session.call('get_password_list')
    assert result.returned['cookie']['other'] == [1]
    assert sorted(result.returned['cookie']) == ['SPS_TPAM_XMLRPC', 'other']
    assert result.returned['session_cookie'] == {'aa': {'x': 'y'}}


@pytest.mark.parametrize('cookie', [None, {}, '', {'other': 5}, {'SPS_TPAM_XMLRPC': {}}])
def test_a_cookie_without_a_part_of_this_plugin_is_a_new_session(world, cookie):
    result = world.session().call('get_password_list', cookie=cookie)
    assert result.credentials == [PASSWORD]
    assert 'ERROR' not in result.log


@pytest.mark.parametrize('cookie', [[1], 'x', {'SPS_TPAM_XMLRPC': None}, {'SPS_TPAM_XMLRPC': {'open': 5}},
                                    {'SPS_TPAM_XMLRPC': {'open': [{}], 'denied': [], 'hooks': 1, 'given': 'x'}}])
def test_a_cookie_of_another_shape_stops_no_hook_and_is_an_error_line(world, cookie):
    sps = world.sps()
    arguments = {'server_username': 'root', 'server_ip': '10.0.0.5', 'gateway_username': 'jdoe', 'cookie': cookie}
    result = sps.call('get_password_list', arguments)
    assert result.credentials == [PASSWORD]
    ended = sps.call('session_ended', {'cookie': cookie})
    assert ended.raised is None
    for log in (result.log, ended.log):
        assert 'ERROR A part of the cookie cannot be read' in log
    assert "check_in='unknown'" in ended.log


# ---- credentials of the gateway user, other sections

def test_the_gateway_users_own_credential_may_be_used(world):
    world.tpam.add_user('jdoe', GATEWAY_PASSWORD)
    session = world.session(tpam={'use_credential': 'gateway', 'username': None, 'password': None})
    assert session.call('get_password_list').credentials == [PASSWORD]
    assert world.tpam.audit[-1].user == 'jdoe'


def test_without_a_gateway_password_the_gateway_credential_is_an_error(world):
    session = world.session({'gateway_password': None},
                            tpam={'use_credential': 'gateway', 'username': None, 'password': None})
    assert 'passed no gateway user name and password' in session.call('get_password_list').raised['message']


def test_a_method_prefix_and_a_path_are_used(world):
    world.serve(method_prefix='tpam.', path='/xml/rpc')
    session = world.session(tpam={'method_prefix': 'tpam.', 'path': '/xml/rpc'})
    assert session.call('get_password_list').credentials == [PASSWORD]


def test_without_tls_it_works_and_warns_at_every_call(world):
    world.serve(certfile=None)
    session = world.session(tls={'enabled': 'no', 'ca_cert': None})
    for hook in ('get_password_list', 'authentication_completed', 'session_ended'):
        result = session.call(hook)
        assert result.lines[0].startswith('WARNING TLS is off')
    assert session.calls[0].credentials == [PASSWORD]


def test_proxies_of_the_environment_count_for_nothing(world):
    hostile = 'http://127.0.0.1:1/'
    session = world.session(environment={'https_proxy': hostile, 'http_proxy': hostile, 'all_proxy': hostile})
    assert session.call('get_password_list').credentials == [PASSWORD]


def test_a_remote_app_gets_the_password_of_its_asset(world):
    for asset in ('WEB01', '10.0.0.5'):
        result = world.session({'asset': asset, 'server_hostname': 'elsewhere', 'server_ip': '10.9.9.9'}).call(
            'get_remote_app_credentials')
        assert result.credentials == [PASSWORD]


def test_debug_says_which_hook_was_called_and_error_is_quiet(world):
    lines = world.session(logging={'log_level': 'debug'}).call('get_password_list').lines
    assert lines[0] == "DEBUG Called; hook='get_password_list', session_id='session-1'"
    assert world.session(logging={'log_level': 'error'}).call('get_password_list').lines == []


def test_a_certificate_of_another_ca_gets_no_byte(world):
    session = world.session(tls={'ca_cert': certificate('other-ca-root')})
    result = session.call('get_password_list')
    assert 'TLS cannot be set up' in result.raised['message']
    assert world.server.requests == 0
