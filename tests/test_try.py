# -*- coding: utf-8 -*-
"""The tool with which a site tries its configuration: what it says, how it ends, and what it leaves on the server."""
from __future__ import unicode_literals

import io
import json
import os
import re
import signal
import subprocess
import threading
import zipfile

import pytest

import package
from bad_server import Port
from certs import make as certs
from conftest import API_PASSWORD, GATEWAY_PASSWORD, PASSWORD, certificate, configuration, read
from fake_tpam import ACTIVE, PENDING, Refusal
from test_transport import unloadable

PROGRAM = os.path.join(package.ROOT, 'tools', 'try_plugin.py')
ARGUMENTS = ['server_username=root', 'server_ip=10.0.0.5', 'gateway_username=jdoe']


def as_at_a_terminal():
    """Begin a session of its own, in which Ctrl-C is not ignored, as it may be in the background."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Tool(object):
    """The program as a user of the world's interpreter runs it, with a configuration file for that world."""

    def __init__(self, world, directory):
        self.world, self.config = world, os.path.join(directory, 'my.cfg')

    def configure(self, text=None, **sections):
        """Writes the configuration, World.sections() or text."""
        with io.open(self.config, 'w', encoding='utf-8') as content:
            content.write(configuration(**self.world.sections(**sections)) if text is None else text)

    def start(self, *words, **options):
        """Starts the program -> Popen."""
        # As where a person has no UTF-8 terminal; in a session of its own, since getpass would ask a terminal.
        return subprocess.Popen([self.world.python, PROGRAM, '--config', self.config] + list(words),
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                preexec_fn=as_at_a_terminal, **options)

    def run(self, *words, **options):
        """-> (exit status, what it printed); no secret of this world may be in it, unless `secrets` allows them."""
        secrets, typed = options.pop('secrets', False), options.pop('typed', '')
        process = self.start(*words, **options)
        output = process.communicate(typed.encode('utf-8'))[0].decode('utf-8')
        for secret in () if secrets else self.world.secrets():
            assert secret not in output and json.dumps(secret)[1:-1] not in output
        return process.returncode, output


@pytest.fixture
def tool(world, tmpdir):
    tool = Tool(world, str(tmpdir))
    tool.configure()
    return tool


def wrong(output):
    """The lines about what is wrong."""
    return re.findall('^  WRONG +(.*)', output, re.M)


# ---- check

def test_a_good_configuration_is_ready_and_what_it_sets_is_shown_last(world, tool):
    status, output = tool.run('check')
    assert (status, wrong(output)) == (0, [])
    assert '  set      [tpam] username = sps\n' in output
    assert '  set      [tpam] password = ********\n' in output
    assert '  set      [tls] ca_cert = O=TPAM test, CN=TPAM test CA, until 2049-' in output
    assert 'DNS: localhost is 127.0.0.1' in output
    assert re.search('certificate: .*CN=good; issued by .*; for localhost, .*; valid from .* to .*; '
                     'sha256:[0-9a-f]{64}\n', output)
    assert 'ListSystems: answered' in output
    assert output.index('ListSystems: answered') < output.index('  set  ')
    assert output.splitlines()[-1].startswith('READY as far as a check can see')


def test_the_options_that_are_at_their_default_are_shown_to_who_asks_for_all(tool):
    default = '  default  [tpam] path = /RPC2'
    assert default not in tool.run('check')[1]
    assert default in tool.run('check', '--all')[1]
    shown = [[finding['status'] for finding in json.loads(tool.run('check', '--json', *words)[1])['findings']]
             for words in ((), ('--all',))]
    assert 'default' not in shown[0] and 'default' in shown[1]


@pytest.mark.parametrize('tpam, who', [
    ({}, 'gateway: gateway users of any domain get credentials on no further condition'),
    ({'authorization': 'request'}, 'request: gateway users of any domain get credentials after somebody has approved '),
    ({'authorization': 'approval', 'gateway_domains': 'CORP, Sales'},
     'approval: gateway users of corp, sales get credentials if they have an active, approved request'),
    ({'authorization': 'policy', 'required_policy': 'x', 'require_gateway_user': 'no'},
     'policy: gateway users of any domain get credentials if they effectively have required_policy'),
    ({'require_gateway_user': 'no'},
     'gateway: gateway users of any domain, and sessions without a gateway user, get credentials on no'),
    ({'gateway_domains': 'CORP', 'require_gateway_user': 'no'}, 'gateway: gateway users of corp get credentials on'),
])
def test_a_check_says_first_who_may_get_credentials(tool, tpam, who):
    tool.configure(tpam=tpam)
    assert ('\nConfiguration\n  note     [tpam] authorization is ' + who) in tool.run('check')[1]


def test_a_check_says_who_may_get_credentials_although_another_option_is_wrong(tool):
    tool.configure(tpam={'timeout': '0'})
    assert '\nConfiguration\n  note     [tpam] authorization is gateway: ' in tool.run('check')[1]


@pytest.mark.parametrize('option', ['authorization', 'gateway_domains'])
def test_a_check_does_not_claim_who_gets_credentials_where_that_option_is_wrong(tool, option):
    tool.configure(tpam={option: '*'})
    assert 'get credentials' not in tool.run('check')[1]


def comments(output):
    """The options that a check calls comments."""
    return re.findall(r'^  note +(.*) \(line \d+\): is a comment', output, re.M)


@pytest.mark.parametrize('line, option', [
    ('; authorization=request', '[tpam] authorization'), ('#gateway_domains = CORP', '[tpam] gateway_domains'),
    ('; Required_Policy=Privileged', '[tpam] required_policy'), ('; timeout=600', '[tpam] timeout'),
    ('[https_proxy]\n; server=proxy.example.com', '[https-proxy] server'),
    ('[tls]\n; check_host_name=no', '[tls] check_host_name'), ('; system_domains=a, b', '[tpam] system_domains'),
])
def test_an_option_with_a_value_that_is_still_a_comment_is_named(world, tool, line, option):
    tool.configure(configuration(**world.sections()) + '[tpam]\n' + line + '\n')
    status, output = tool.run('check')
    assert (status, comments(output)) == (0, [option])


def test_a_required_option_that_is_still_a_comment_is_missing_and_named_without_its_value(world, tool):
    tool.configure(configuration(**world.sections()).replace('password=', '; password='))
    status, output = tool.run('check')
    assert status == 1 and comments(output) == ['[tpam] password']


@pytest.mark.parametrize('line', [
    '; authorization=Gateway', '# a server=x is not an option', '; gateway_domains=<domain, domain>',
    '; username=another', '; authorization=', '; gateway_domain=CORP', '[logging]\n; authorization=request',
    '[unknown]\n; authorization=request', '; authorization=policy\nauthorization=approval'])
def test_other_comments_are_not_named(world, tool, line):
    tool.configure(configuration(**world.sections()) + '[tpam]\n' + line + '\n')
    assert comments(tool.run('check')[1]) == []


def test_default_cfg_has_no_comment_that_looks_like_an_option_with_a_value(tool):
    tool.configure(read('../default.cfg'))
    assert comments(tool.run('check')[1]) == []


def test_mistakes_come_before_the_options_that_are_set(tool):
    tool.configure(tpam={'timeout': '0'})
    output = tool.run('check')[1]
    assert 0 < output.index('  WRONG ') < output.index('  set  ')
    assert output.splitlines()[-1] == 'NOT READY: 1 thing to mend'


def test_a_check_without_tls_says_that_there_is_none(world, tool):
    world.serve(certfile=None)
    tool.configure(tls={'enabled': 'no', 'ca_cert': None})
    status, output = tool.run('check')
    assert (status, wrong(output)) == (0, [])
    assert 'note     TLS is off' in output and 'connected, without TLS' in output


POLICY = {'authorization': 'policy', 'required_policy': 'x'}


@pytest.mark.parametrize('tpam, commands', [
    ({}, ['ListSystems']),
    ({'system_name_resolver': 'hostname'}, []),
    ({'system_name_resolver': 'dns, hostname'}, ['ListSystems']),
    ({'system_name_resolver': 'ip', 'system_maptoreal': 'yes'}, ['ListAccounts']),
    (dict(POLICY, system_maptoreal='yes'), ['ListSystems', 'ListAccounts', 'ListAssignedPolicies']),
    (dict(POLICY, system_name_resolver='fqdn'), ['ListAssignedPolicies']),
    ({'system_name_resolver': 'fqdn', 'authorization': 'approval'}, ['ListRequestDetails']),
    ({'system_name_resolver': 'fqdn', 'authorization': 'request'}, ['ListRequestDetails']),
])
def test_a_check_sends_the_list_commands_of_this_configuration_and_no_others(world, tool, tpam, commands):
    tool.configure(tpam=tpam)
    status, output = tool.run('check', '--json')
    assert status == 0 and json.loads(output)['works'] is True
    assert world.tpam.commands() == commands


def test_a_check_asks_about_the_gateway_user_that_it_is_given(world, tool):
    tool.configure(tpam={'system_name_resolver': 'fqdn', 'authorization': 'approval'})
    for words, user in (([], 'sps'), (['gateway_username=CORP\\jdoe'], 'jdoe')):
        assert tool.run('check', *words)[0] == 0
        assert world.tpam.audit[-1].options['RequestorName'] == user


def test_a_server_without_the_commands_that_no_hook_sends_is_ready_and_the_log_in_is_not_claimed(world, tool):
    world.tpam.do_ListSystems = None  # it would fail
    world.tpam.add_user('sps', 'another password')
    tool.configure(tpam={'system_name_resolver': 'hostname'})
    status, output = tool.run('check')
    assert (status, wrong(output)) == (0, [])
    assert 'note     the log-in is not tried' in output
    assert world.tpam.commands() == []


@pytest.mark.parametrize('resolver, status', [('tpam', 1), ('hostname, tpam', 1), ('tpam, hostname', 0)])
def test_a_user_who_sees_no_system_is_told_so(world, tool, resolver, status):
    world.tpam.systems.clear()
    tool.configure(tpam={'system_name_resolver': resolver})
    found = tool.run('check')
    assert found[0] == status
    assert 'ListSystems: answered, 0 systems visible' in found[1]


def test_a_placeholder_of_default_cfg_is_refused(world, tool):
    tool.configure(request={'reason_code': '<code>'})
    status, output = tool.run('check')
    problem, = wrong(output)
    assert status == 1
    assert re.match(r'\[request\] reason_code \(line \d+\): is the placeholder of default.cfg', problem)
    assert world.server.connections == 0


@pytest.mark.parametrize('tpam, noted', [
    ({'timeout': 20, 'connect_timeout': 30}, True), ({'timeout': 30, 'connect_timeout': 30}, False),
    ({'timeout': 9}, False)])
def test_a_connect_timeout_that_is_longer_than_the_hook_is_noted(tool, tpam, noted):
    tool.configure(tpam=tpam)
    status, output = tool.run('check')
    assert status == 0
    assert ('note     [tpam] connect_timeout is 30 s, but the whole hook ends after timeout, 20 s' in output) is noted


def test_a_password_in_angle_brackets_is_a_password(world, tool):
    world.tpam.add_user('sps', '<Tr0ub4dor>')
    tool.configure(tpam={'password': '<Tr0ub4dor>'})
    status, output = tool.run('check')
    assert (status, wrong(output)) == (0, [])
    assert 'Tr0ub4dor' not in output


@pytest.mark.parametrize('timeout, approval_timeout, seconds', [
    (60, 120, 50), (60, 30, 30), (20, 120, 15), (290, 290, 280), (60, 0, 0)])
def test_a_check_says_how_long_an_approver_has(tool, timeout, approval_timeout, seconds):
    tool.configure(tpam={'authorization': 'request', 'timeout': timeout},
                   request={'approval_timeout': approval_timeout})
    assert re.search('  (ok|note) +an approver has %d s' % seconds, tool.run('check')[1])


def test_of_the_time_of_an_approver_nothing_is_said_where_no_request_is_submitted(tool):
    assert 'approver' not in tool.run('check')[1]


def try_tls_1_0(tool):
    """The command with which a check lets a person try TLS 1.0; none on 2.6, which has nothing else."""
    return ''.join(re.findall('openssl s_client .*', tool.run('check')[1]))


def test_a_check_says_how_to_try_tls_1_0_by_hand(world, tool):
    output = tool.run('check')[1]
    if 'verified by TLSv1.' in output:
        assert '-connect localhost:%d -tls1 ' % world.server.port in try_tls_1_0(tool)


@pytest.mark.parametrize('versions, printed', [
    (['-tls1', '-cipher', 'ALL:@SECLEVEL=0'], r'Cipher is [A-Z]+[0-9]*-[A-Z0-9-]+\n\Z'),
    (['-tls1_2'], r'Cipher is \(NONE\)\n\Z'),
])
def test_only_a_server_with_tls_1_0_gives_the_command_of_the_check_a_cipher(world, tool, versions, printed):
    command = try_tls_1_0(tool)
    server = subprocess.Popen(['openssl', 's_server', '-accept', '127.0.0.1:0', '-cert', certs.path('good')] + versions,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        port = re.search(':([0-9]+)\n', until(server, 'ACCEPT ')).group(1)
        command = command.replace('localhost:%d' % world.server.port, '127.0.0.1:' + port)
        answer = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE).communicate()[0].decode('utf-8')
        assert not command or re.search(printed, answer)
    finally:
        server.kill()
        server.communicate()


def test_a_check_names_the_option_of_a_ca_that_cannot_be_loaded(tool):
    tool.configure(tls={'ca_cert': unloadable(certificate('ca'))})
    problem, = wrong(tool.run('check')[1])
    assert '[tls] ca_cert cannot be loaded' in problem and 'client_cert' not in problem


def test_a_check_shows_no_password_that_a_server_repeats(world, tool):
    password = "it's 50% \\secret"
    world.tpam.add_user('sps', password)

    def refuse(user, options):
        raise Refusal('no: %s, nor %s' % (password, API_PASSWORD))
    world.tpam.do_ListSystems = refuse
    tool.configure(tpam={'password': password, 'username': 'sps'})
    output = tool.run('check', secrets=True)[1]
    assert 'no: ********, nor ' in output and 'secret, nor' not in output


def test_all_mistakes_in_a_configuration_are_named_and_nothing_is_sent(world, tool):
    tool.configure(tpam={'usrname': 'sps', 'username': None, 'timeout': '900', 'authorization': 'policy'})
    status, output = tool.run('check')
    assert status == 1
    assert [re.sub('[0-9]+', 'N', problem.partition(':')[0]) for problem in wrong(output)] == [
        '[tpam] timeout (line N)', '[tpam] (line N)', '[tpam] username', '[tpam] required_policy']
    assert 'did you mean username' in output
    assert world.server.connections == 0


def test_a_check_says_of_each_server_what_to_change(world, tool):
    with Port() as closed:
        tool.configure(tpam={'server': 'localhost:%d, localhost:%d' % (closed.port, world.server.port),
                             'password': 'wröng password'})
        status, output = tool.run('check')
    refused, denied = wrong(output)
    assert status == 1
    assert ': answered' not in output and 'READY as far' not in output
    assert 'Cannot connect' in refused and 'localhost:%d' % closed.port in refused
    assert 'check [tpam] username and password' in denied
    assert 'wröng' not in output


def test_a_proxy_that_refuses_the_connection_is_the_one_to_check(world, tool):
    with Port() as closed:
        tool.configure(https_proxy={'server': '127.0.0.1', 'port': closed.port})
        problem, = wrong(tool.run('check')[1])
    assert 'Cannot connect' in problem
    assert 'check [https-proxy]' in problem and '[tpam]' not in problem


@pytest.mark.parametrize('protocol', ['tlsv1', 'negotiate'])
def test_a_port_without_tls_is_said_to_be_one(world, tool, protocol):
    world.serve(certfile=None)
    tool.configure(tls={'protocol': protocol})
    problem, = wrong(tool.run('check')[1])
    assert 'TLS cannot be set up' in problem
    assert 'this port does not speak TLS' in problem and 'client_cert' not in problem


def test_a_check_shows_the_certificate_that_it_does_not_trust(world, tool):
    tool.configure(tls={'ca_cert': certificate('other-ca-root')})
    status, output = tool.run('check')
    problem, = wrong(output)
    assert status == 1
    assert 'TLS cannot be set up' in problem and 'CN=good' in problem and '[tls] ca_cert' in problem
    assert world.server.requests == 0


@pytest.mark.parametrize('sections, permissions, expected', [
    ({'tpam': {'method_prefix': 'tpam.'}}, {}, 'check [tpam] method_prefix'),
    ({}, {'admin': False}, 'the hooks need it for [tpam] system_name_resolver: check the API user'),
])
def test_a_check_finds_what_only_the_first_command_shows(world, tool, sections, permissions, expected):
    world.tpam.add_user('sps', API_PASSWORD, **permissions)
    tool.configure(**sections)
    status, output = tool.run('check')
    assert status == 1
    assert expected in wrong(output)[0]


def test_the_gateway_password_is_typed_unseen(world, tool):
    world.tpam.add_user('jdoe', GATEWAY_PASSWORD)
    tool.configure(tpam={'use_credential': 'gateway', 'username': None, 'password': None})
    status, output = tool.run('check')
    assert status == 1 and 'gateway_password=-' in wrong(output)[0]
    status, output = tool.run('check', 'gateway_username=jdoe', 'gateway_password=-', typed=GATEWAY_PASSWORD + '\n',
                              env=dict(os.environ, LC_ALL='C.UTF-8'))
    assert (status, wrong(output)) == (0, [])
    assert world.tpam.audit[-1].user == 'jdoe'


# ---- run and session

def test_a_hook_shows_its_call_its_log_and_a_masked_result(world, tool):
    status, output = tool.run('run', 'get_password_list', 'gateway_password=some-password', *ARGUMENTS)
    assert status == 0
    assert 'get_password_list(gateway_password="********", gateway_username="jdoe"' in output
    assert "    log  INFO Retrieved passwords; account='root', system='WEB01'" in output
    assert 'returned {"passwords": ["********"]}' in output
    assert 'some-password' not in output
    assert re.search(r'\(\d+\.\d\d s\)', output)


def test_credentials_are_shown_to_who_asks_for_them(tool):
    status, output = tool.run('run', 'get_password_list', '--json', '--show-credentials', *ARGUMENTS, secrets=True)
    call, = json.loads(output)['calls']
    assert status == 0
    assert call['returned']['passwords'] == [PASSWORD]


def test_cookies_are_shown_to_who_asks_for_them_and_to_scripts(tool):
    for words, shown in (((), False), (('--show-cookies',), True), (('--json',), True)):
        output = tool.run('run', 'get_password_list', *(ARGUMENTS + list(words)))[1]
        assert ('SPS_TPAM_XMLRPC' in output) is shown


def test_a_hook_that_fails_shows_its_line_once_and_no_traceback(tool):
    tool.configure(tpam={'password': 'wrong-password'})
    output = tool.run('run', 'get_password_list', *ARGUMENTS)[1]
    assert 'raised TpamError' in output
    assert output.count('The server answered with an error') == 1
    assert 'Traceback' not in output


def test_an_exception_that_is_not_of_the_plugin_keeps_its_traceback(world, tool, tmpdir):
    with zipfile.ZipFile(str(tmpdir.join('broken.zip')), 'w') as broken:
        broken.writestr('main.py', 'class Plugin(object):\n    def __init__(self, configuration):\n        1 / 0\n')
    output = tool.run('run', 'session_ended', '--zip', str(tmpdir.join('broken.zip')))[1]
    assert 'Traceback' in output and 'ZeroDivisionError' in output


def test_a_hook_without_a_credential_fails_and_says_why(world, tool):
    world.tpam.account('WEB01', 'root').locked = True
    status, output = tool.run('run', 'get_password_list', '--json', *ARGUMENTS)
    answer = json.loads(output)
    assert status == 1
    assert answer['works'] is False and 'locked' in answer['calls'][0]['log'][0]


def test_a_session_ends_with_the_first_exception_as_on_sps(tool):
    tool.configure(tpam={'password': 'wrong-password'})
    status, output = tool.run('session', '--json', *ARGUMENTS)
    assert status == 1
    assert [call['hook'] for call in json.loads(output)['calls']] == ['get_private_key_list', 'session_ended']
    assert 'wrong-password' not in output


def needs_approval(world, tool):
    world.tpam.account('WEB01', 'root').min_approvers = 1
    tool.configure(tpam={'authorization': 'request'}, request={'poll_interval': 1})


def until(process, words):
    """Reads what the program prints, up to a line with these words -> text."""
    seen = []
    for line in iter(process.stdout.readline, b''):
        seen.append(line.decode('utf-8'))
        if words in seen[-1]:
            break
    else:
        pytest.fail('%s was not printed:\n%s' % (words, ''.join(seen)))
    return ''.join(seen)


def rest(process):
    """What else it prints until it ends -> text. Not by communicate(), which misses what readline() has read ahead."""
    output = process.stdout.read().decode('utf-8')
    process.wait()
    return output


def test_a_session_shows_that_it_waits_while_it_waits_and_checks_in(world, tool):
    needs_approval(world, tool)
    process = tool.start('session', 'protocol=rdp', *ARGUMENTS)
    until(process, 'Waiting for the approval')
    request, = world.tpam.active()
    assert request.status == PENDING
    world.tpam.approve(request.id)
    output = rest(process)
    assert process.returncode == 0
    assert re.findall(r'^(\w+)\(', output, re.M) == ['authentication_completed', 'session_ended']
    assert 'WORKS: 1 credential' in output
    assert world.tpam.active() == []


def test_ctrl_c_withdraws_the_request_that_is_waited_for(world, tool):
    needs_approval(world, tool)
    process = tool.start('session', *ARGUMENTS)
    until(process, 'Waiting for the approval')
    process.send_signal(signal.SIGINT)
    output = rest(process)
    assert process.returncode == 130, output
    assert "reason='a signal ended the hook before the request was approved'" in output
    assert 'Checked in the request' in output
    assert 'in time' not in output
    assert world.tpam.active() == []


def test_ctrl_c_checks_in_what_an_earlier_hook_checked_out(world, tool):
    needs_approval(world, tool)
    world.tpam.account('WEB01', 'root').min_approvers = 0
    call, begun, interrupted = world.tpam.call, threading.Event(), threading.Event()

    def slow_call(user, command, options):
        if command == 'Retrieve':
            begun.set()
            interrupted.wait(20)
        return call(user, command, options)
    world.tpam.call = slow_call
    process = tool.start('session', *ARGUMENTS)  # its first hook, for a key, files the request
    assert begun.wait(20)
    request, = world.tpam.active()
    assert request.status == ACTIVE
    process.send_signal(signal.SIGINT)
    output = until(process, 'Interrupted; checking in')
    interrupted.set()
    output += rest(process)
    assert process.returncode == 130, output
    assert 'session_ended()' in output
    assert world.tpam.active() == []


def test_what_one_hook_leaves_checked_out_is_checked_in_by_the_command_that_it_prints(world, tool):
    needs_approval(world, tool)
    world.tpam.account('WEB01', 'root').min_approvers = 0
    status, output = tool.run('run', 'get_password_list', *ARGUMENTS)
    assert status == 0 and len(world.tpam.active()) == 1
    command = re.search('^  python3 (tools/.*)', output, re.M).group(1)
    assert subprocess.call('"%s" %s >&2' % (world.python, command), shell=True, cwd=package.ROOT) == 0
    assert world.tpam.active() == []


# ---- mistakes

@pytest.mark.parametrize('words, answer', [
    (['chek'], 'unknown command chek; did you mean check'),
    (['session_ended'], 'a hook comes after run'),
    (['run', 'get_pasword_list'], 'did you mean get_password_list'),
    (['session', 'server_user=x'], 'unknown argument server_user; did you mean server_username'),
    (['run', 'session_ended', 'cookie=x'], 'cookie must be JSON'),
    ([], 'say what to do: check, server, run or session'),
])
def test_a_mistake_on_the_command_line_is_answered_with_what_is_known(tool, words, answer):
    status, output = tool.run(*words)
    assert status == 2
    assert answer in output


def test_an_interpreter_without_the_packages_is_told_which(tool, tmpdir):
    bare = tmpdir.join('bare')
    bare.write('#!/bin/sh\nexec "%s" -S "$@"\n' % tool.world.python)
    bare.chmod(0o755)
    status, output = tool.run('check', '--python', str(bare))
    assert status == 2
    assert re.search("No module named '?lxml", output)
    assert 'pip install -r tests/requirements.txt' in output and '`make demo`' in output
    assert output.count('\n') == 1


PYENV = """pyenv: python2.7: command not found

The `python2.7' command exists in these Python versions:
  2.7.18

Note: See 'pyenv help global' for tips on allowing both
      python2 and python3 to be found.
"""


@pytest.mark.parametrize('output, status, cause', [
    (PYENV, 127, 'pyenv: python2.7: command not found'),
    ('A note of pyenv\nTraceback (most recent call last):\n  File "x"\nImportError: No module named lxml.etree\n', 1,
     'ImportError: No module named lxml.etree'),
    ('', 1, 'it failed without a message'),
])
def test_of_an_interpreter_that_fails_the_line_that_says_why_is_shown(tool, tmpdir, output, status, cause):
    shim = tmpdir.join('python2.7')
    shim.write('#!/bin/sh\ncat >&2 <<"END"\n%sEND\nexit %d\n' % (output, status))
    shim.chmod(0o755)
    found = tool.run('check', '--python', str(shim))
    assert found[0] == 2 and found[1].count('\n') == 1
    assert 'needs the packages lxml and dnspython (%s: %s)' % (shim, cause) in found[1]


def test_the_examples_of_the_help_are_commands_that_it_takes(tool):
    import try_plugin
    output = tool.run('--help')[1]
    examples = re.findall('^  python3 tools/try_plugin.py (.*)', output.replace('\\\n', ''), re.M)
    assert len(examples) > 2
    for example in examples:
        assert try_plugin.parsed(example.split())[0].config == 'my.cfg'


def test_a_configuration_in_another_encoding_is_said_to_be_one(tool):
    with io.open(tool.config, 'wb') as content:
        content.write('[tpam]\npassword=é\n'.encode('latin-1'))
    status, output = tool.run('check')
    assert status == 2
    assert 'is not UTF-8 text' in output
