"""The whole chain: the plugin as SPS runs it, TLS, the gateway, SSH, TPAM's command line."""
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

import package
from bad_server import Port
from fake_tpam import PENDING
from fake_tpam_cli import FakeTpamCli
from gateway_world import PASSWORD, new_tpam, plugin_world, public

# The interpreters that are nearest to the appliance's, where there are any.
PYTHONS = [python for python in plugin_world.PYTHONS[1:] if shutil.which(python)] or plugin_world.PYTHONS[:1]


class ChainWorld(plugin_world.World):
    """SPS, whose plugin talks to the gateway, behind which is `tpam`."""

    def __init__(self, python, plugin_zip, cli, gateway):
        plugin_world.World.__init__(self, python, plugin_zip)
        self.cli, self.tpam, self.server = cli, cli.tpam, gateway

    def run(self, hooks='get_private_key_list get_password_list authentication_completed session_ended', **options):
        """Run these hooks of a session -> the session."""
        session = self.session(**options)
        for hook in hooks.split():
            session.call(hook)
        return session

    def commands(self):
        return self.tpam.commands()


@pytest.fixture(params=PYTHONS)
def world(request, plugin_zip, cli, gateway):
    """A ChainWorld for each interpreter of the plugin. Neither its logs nor the gateway's contain a secret."""
    world = ChainWorld(request.param, plugin_zip, cli, gateway)
    yield world
    with open(gateway.path('log'), encoding='ascii') as log:
        text = log.read()
    assert not [secret for secret in world.secrets() if secret in text]


def credentials(session):
    return [call.credentials for call in session.calls if call.hook == 'get_password_list']


REQUEST = {'tpam': {'authorization': 'request'}, 'request': {'poll_interval': 1}}


@pytest.mark.parametrize('mode, options, commands', [
    ('gateway', {}, ['ListSystems', 'Retrieve']),
    ('policy', {'required_policy': 'Root'}, ['ListSystems'] + ['ListAssignedPolicies'] * 2 + ['Retrieve']),
    ('approval', {}, ['ListSystems', 'ListRequestDetails', 'ListRequestDetails', 'Retrieve']),
    ('request', {}, ['ListSystems', 'AddPwdRequest', 'Retrieve', 'Cancel']),
    ('gateway', {'system_maptoreal': 'yes'}, ['ListSystems', 'ListAccounts', 'Retrieve']),
])
def test_a_session_of_each_mode_gets_its_password(world, mode, options, commands):
    world.tpam.add_account('WEB01', 'root', PASSWORD, custom1='root', custom2='WEB01')
    world.tpam.add_policy('jdoe', 'WEB01', 'root', 'Root')
    if mode == 'approval':
        world.tpam.add_request('jdoe', 'WEB01', 'root')
    before = len(world.tpam.active())
    session = world.run(tpam=dict(options, authorization=mode))
    assert credentials(session) == [[PASSWORD]], session.log
    assert session.calls[0].credentials == []       # TPAM gives out no private keys
    assert world.commands() == commands
    assert {entry.user for entry in world.tpam.audit} == {'sps'}
    assert len(world.tpam.active()) == before


@pytest.mark.parametrize('mode, options', [
    ('policy', {'required_policy': 'Root'}), ('approval', {})])
def test_a_session_without_the_condition_gets_nothing(world, mode, options):
    session = world.run('get_password_list session_ended', tpam=dict(options, authorization=mode))
    assert credentials(session) == [[]]
    assert 'Retrieve' not in world.commands()


def test_a_request_waits_for_its_approval(world):
    world.tpam.account('WEB01', 'root').min_approvers = 1

    def approve():
        end = time.monotonic() + 30
        while not world.tpam.active() and time.monotonic() < end:
            time.sleep(0.05)
        world.tpam.approve(world.tpam.active()[0].id)
    approver = threading.Thread(target=approve)
    approver.start()
    session = world.run('get_password_list session_ended', **REQUEST)
    approver.join()
    assert credentials(session) == [[PASSWORD]], session.log
    assert world.tpam.requests[1001].options['RequestNotes'] == 'jdoe,SPS,request,session-1'
    assert world.tpam.active() == []


def test_a_request_that_nobody_approves_is_cancelled(world):
    world.tpam.account('WEB01', 'root').min_approvers = 1
    session = world.run('get_password_list', tpam=REQUEST['tpam'],
                        request={'poll_interval': 1, 'approval_timeout': 1})
    assert credentials(session) == [[]]
    assert [request.status for request in world.tpam.requests.values()] == ['Canceled'] != [PENDING]


@pytest.mark.parametrize('authorization', ['gateway', 'request'])
def test_a_ticket_and_a_reason_code_reach_tpam(world, authorization):
    account = world.tpam.account('WEB01', 'root')
    account.ticket_required = account.reason_code_required = True
    world.tpam.add_ticket('Jira', 'OPS-1')
    world.tpam.add_reason_code('R1')
    asked = {'reason_code': 'R1', 'ticket_system': 'Jira', 'ticket_question': 'ticket'}
    for number, expected in (('OPS-1', [PASSWORD]), ('OPS-2', [])):
        session = world.session(tpam={'authorization': authorization}, request=asked)
        session.session_cookie = {'questions': {'ticket': number}}
        assert session.call('get_password_list').credentials == expected
        session.call('session_ended')
    assert 'Ticket "OPS-2" not found' in session.log
    assert world.tpam.active() == []


@pytest.mark.parametrize('authorization', ['gateway', 'request'])
def test_the_password_is_changed_at_the_check_in(world, authorization):
    session = world.run('get_password_list session_ended', tpam={'authorization': authorization},
                        check_in={'force_reset': 'yes'})
    assert credentials(session) == [[PASSWORD]]
    assert world.commands()[-1] == 'ForceReset'
    assert world.tpam.account('WEB01', 'root').password != PASSWORD
    assert world.tpam.active() == []


def test_a_tpam_that_takes_3_seconds_a_command_serves_a_session(world):
    world.cli.delay = 3
    session = world.run('get_password_list session_ended', **REQUEST)
    assert credentials(session) == [[PASSWORD]], session.log
    assert world.tpam.active() == []


@pytest.mark.parametrize('moment', ['before', 'after'])
@pytest.mark.parametrize('command', ['AddPwdRequest', 'Retrieve', 'Cancel', 'ForceReset'])
def test_a_connection_that_breaks_around_a_command_leaves_nothing_checked_out(world, command, moment):
    world.cli.breaks = (moment, command)
    session = world.session(check_in={'force_reset': 'yes'},
                            check_in_trigger={'default': 'authentication-completed'}, **REQUEST)
    got = session.call('get_password_list')
    for hook in ('authentication_completed', 'session_ended'):
        session.call(hook)
    assert world.cli.breaks is None
    assert world.tpam.active() == []
    assert world.commands().count('AddPwdRequest') == (0 if (command, moment) == ('AddPwdRequest', 'before') else 1)
    if command == 'Retrieve' or (command, moment) == ('AddPwdRequest', 'before'):
        assert not got.credentials
        assert 'outcome' in session.log or 'unknown' in session.log
    else:
        assert got.credentials == [PASSWORD]
        assert world.tpam.account('WEB01', 'root').password != PASSWORD


@pytest.mark.parametrize('first', ['down', 'without TPAM', 'with a replica'])
def test_the_next_gateway_is_asked_where_the_first_cannot_serve(world, make, keys, first):
    with FakeTpamCli(new_tpam(), {'sps': public(keys['ed25519'])}, host_key=keys['rsa']) as other, Port() as closed:
        ports = {'down': closed.port}
        if first != 'down':
            other.tpam.replica, other.refuses_keys = first == 'with a replica', first == 'without TPAM'
            ports[first] = make([other]).start().port
        servers = 'localhost:%d, localhost:%d' % (ports[first], world.server.port)
        session = world.session(tpam=dict(REQUEST['tpam'], server=servers, system_name_resolver='hostname'))
        assert session.call('get_password_list').credentials == [PASSWORD], session.log
        session.cookie['SPS_TPAM_XMLRPC']['server'] = None     # the check-in begins with the first server, too
        session.call('session_ended')
        assert world.tpam.active() == [] and not other.tpam.requests


def test_what_tpam_is_not_to_be_asked_is_refused_by_the_gateway(world):
    """A user whose name could change a command gets nothing, and nothing is sent for them."""
    session = world.run('get_password_list session_ended', arguments={'gateway_username': 'j"doe'}, **REQUEST)
    assert credentials(session) == [[]]
    assert world.commands() == ['ListSystems']
    assert 'option RequestNotes contains a double quote' in session.log


@pytest.mark.parametrize('words', [
    ['check'],
    ['server', '--system', 'WEB01', '--account', 'root', '--gateway-user', 'jdoe', '--changes'],
    ['session', 'protocol=rdp', 'server_username=root', 'server_ip=10.0.0.5', 'gateway_username=jdoe'],
])
def test_the_tool_for_owners_of_servers_finds_no_fault_with_the_gateway(world, tmpdir, words):
    world.tpam.add_policy('jdoe', 'WEB01', 'root', 'Root')
    config = tmpdir.join('my.cfg')
    config.write_text(plugin_world.configuration(**world.sections(tpam={'authorization': 'request'})), 'utf-8')
    tool = os.path.join(package.ROOT, 'tools', 'try_plugin.py')
    result = subprocess.run([sys.executable, tool] + words + ['--config', str(config), '--python', world.python],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', timeout=120)
    assert result.returncode == 0, result.stdout
    assert 'WRONG' not in result.stdout
    assert world.tpam.active() == []
