"""The fake of TPAM's command line: what it takes, what it prints, and its switches."""
import os
import re
import signal
import subprocess
import sys

import asyncssh
import pytest

import package
from fake_tpam_cli import COLUMNS, FakeTpamCli, Refused, parse, split
from gateway_world import PASSWORD, public, ssh

RETRIEVE = 'Retrieve --SystemName WEB01 --AccountName root --ReasonText "because of it"'
ADD = 'AddPwdRequest --SystemName WEB01 --AccountName root'


@pytest.fixture
def run(cli, keys):
    """A function that runs command lines as sps and returns what each of them prints."""
    def run(*lines):
        return [stdout for stdout, _, _ in ssh(cli, *lines, username='sps', client_keys=[keys['ed25519']])]
    return run


# ---- command lines

@pytest.mark.parametrize('line, expected', [
    ('ListSystems', ('ListSystems', {})),
    ('listsystems --systemname "WEB 01"', ('ListSystems', {'SystemName': 'WEB 01'})),
    ('ListSystems -Sys a*;b! --Max 0', ('ListSystems', {'SystemName': 'a*;b!', 'MaxRows': '0'})),
    ('Cancel --RequestID 1-1 --Comment these words are cut', ('Cancel', {'RequestID': '1-1', 'Comment': 'these'})),
    ('ForceReset WEB01,root', ('ForceReset', {'SystemName': 'WEB01', 'AccountName': 'root'})),
    ('ListSystems WEB*,,10.0.0.5', ('ListSystems', {'SystemName': 'WEB*', 'NetworkAddress': '10.0.0.5'})),
])
def test_a_command_line_is_read_as_tpam_reads_it(line, expected):
    assert parse(line) == expected


@pytest.mark.parametrize('line, text', [
    ('', 'Valid commands are'),
    ('RetrieveKey --RequestID 1', 'Valid commands are'),
    ('ListSystems --Help', 'Usage: ListSystems'),
    ('ListSystems --S x', 'Usage: ListSystems'),    # SystemName or SortOrder
    ('ListSystems --Nothing x', 'Usage: ListSystems'),
    ('ListSystems --SystemName', 'Usage: ListSystems'),
    ('ListSystems --SystemName --MaxRows 1', 'Usage: ListSystems'),
    ('Cancel --RequestID 1 --Comment "--RequestID 2"', 'Usage: Cancel'),
    ('Retrieve "half', 'Usage: a quotation mark is missing'),
])
def test_a_wrong_command_line_is_answered_by_the_usage(line, text):
    with pytest.raises(Refused, match=text):
        parse(line)


def test_only_the_double_quote_has_a_meaning():
    assert [word for word, _ in split('a\\"b c"d \'e `f $g "h i" ""')] == ['a\\b cd', "'e", '`f', '$g', 'h i', '']


# ---- what is printed

def test_several_commands_run_on_one_connection(cli, run):
    assert run(RETRIEVE, 'ListSystems') == [
        PASSWORD + '\r\n',
        '\t'.join(COLUMNS['ListSystems']) + '\r\nWEB01\t10.0.0.5\t\tLinux' + '\t' * 15 + '\r\n']
    assert cli.logins == 1 and len(cli.lines) == 2


def test_a_request_lives_as_on_tpam(cli, run):
    cli.tpam.account('WEB01', 'root').min_approvers = 1
    added, listed, approved, got, retrieved, cancelled, gone = run(
        ADD, 'ListRequestDetails --Status pending', 'Approve --RequestID 1001-1', 'GetPwdRequest --RequestID 1001-1',
        'Retrieve --RequestID 1001-1', 'Cancel --RequestID 1001-1 --Comment done', 'ListRequestDetails --Status Open')
    assert added == ('RequestID: 1001-1 for password release of WEB01/root has been submitted. '
                     'The current status is Pending Approval\r\n')
    assert listed.splitlines()[1].startswith('1001-1\tsps\t\t\t\tWEB01\troot\t         1\t20')
    assert 'submitted successfully' in approved and 'submitted successfully' in cancelled
    assert '\tActive/Approved\t' in got and 'RequestStatus' in got
    assert retrieved == PASSWORD + '\r\n'
    assert gone == 'No Requests to list\r\n'


@pytest.mark.parametrize('line, text', [
    ('ForceReset --SystemName WEB01 --AccountName root', 'processed the password change'),
    ('CheckPassword WEB01,root', 'processed the password check'),
    ('TestSystem WEB01', 'was successful'),
    ('ListAccounts --SystemName none*', 'No Accounts to list'),
    ('ListAssignedPolicies --UserName jdoe', 'No Permissions to list'),
    ('Retrieve --SystemName none --AccountName root', 'You are not authorized to perform this operation'),
    ('UserSSHKey --UserName jdoe', 'You may only retrieve your own'),
])
def test_a_command_answers_in_tpams_words(run, line, text):
    assert text in run(line)[0]


def test_a_login_without_a_command_prints_the_commands_and_ends(run):
    assert run(None)[0].startswith('Valid commands are')


# ---- who may log in

def test_the_case_of_a_user_name_counts(cli, keys):
    with pytest.raises(asyncssh.PermissionDenied):
        ssh(cli, RETRIEVE, username='SPS', client_keys=[keys['ed25519']])


def test_a_password_logs_nobody_in(cli):
    with pytest.raises(asyncssh.PermissionDenied):
        ssh(cli, RETRIEVE, username='sps', password='secret', client_keys=None)


def test_a_refused_key_logs_nobody_in(cli, keys):
    cli.refuses_keys = True
    with pytest.raises(asyncssh.PermissionDenied):
        ssh(cli, RETRIEVE, username='sps', client_keys=[keys['ed25519']])


@pytest.mark.parametrize('kind', ['dsa', 'rsa', 'ecdsa'])
def test_each_kind_of_user_key_of_tpam_logs_in(tpam, keys, kind):
    with FakeTpamCli(tpam, {'sps': public(keys[kind])}, host_key=keys['rsa']) as cli:
        assert ssh(cli, RETRIEVE, username='sps', client_keys=[keys[kind]])[0][0] == PASSWORD + '\r\n'


# ---- switches

def test_line_ends_exit_status_and_stderr_can_be_switched(cli, keys):
    cli.line_end, cli.exit_status, cli.refusals = '\n', 1, 'stderr'
    good, bad = ssh(cli, RETRIEVE, 'Retrieve --RequestID 1-1', username='sps', client_keys=[keys['ed25519']])
    assert good == (PASSWORD + '\n', '', 1)
    assert bad == ('', 'You are not authorized for request 1-1\n', 1)


@pytest.mark.parametrize('columns, head, row', [
    ('added', 'SystemName\tNetworkAddress\tProfile\t', 'WEB01\t10.0.0.5\t\t\t\tLinux' + '\t' * 15),
    ('reordered', '\tPSM DPA Affinity\t', '\t' * 15 + 'Linux\t\t10.0.0.5\tWEB01'),
    ('short', 'SystemName\tNetworkAddress\tPrimaryEmail\t', 'WEB01\t10.0.0.5\t\tLinux'),
])
def test_columns_can_be_added_reordered_and_cut(cli, run, columns, head, row):
    cli.columns, cli.blank_line = columns, True
    blank, header, line = run('ListSystems')[0].splitlines()
    assert blank == '' and header.startswith(head) and line == row


@pytest.mark.parametrize('moment, carried_out', [('before', 0), ('after', 1), ('half', 1), ('goodbye', 1),
                                                 ('closed', 1)])
def test_a_connection_can_break_around_a_command(cli, keys, moment, carried_out):
    cli.breaks = (moment, 'AddPwdRequest')
    whole, broken = ssh(cli, 'ListSystems', ADD, username='sps', client_keys=[keys['ed25519']])
    assert whole[2] == 0 and broken[2] is None and not broken[0].endswith('\n')
    assert len(cli.tpam.active()) == carried_out


# ---- the program

def test_the_program_says_how_to_reach_it_and_opensshs_client_does(tmpdir):
    program = os.path.join(package.ROOT, 'tests', 'fake_tpam_cli.py')
    process = subprocess.Popen([sys.executable, program, '--directory', str(tmpdir), '--port', '0', '--ids', 'plain',
                                '--user-key', 'ecdsa'], stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        for line in process.stdout:
            command = re.match('Try: +(.*)ListSystems', line)
            if command:
                break
        output = subprocess.run(command.group(1) + 'addpwdrequest --SystemName WEB01 --AccountName root',
                                shell=True, capture_output=True, text=True, timeout=30).stdout
        assert output.startswith('RequestID: 1002 for password release of WEB01/root')
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)     # reads to the end: a closed pipe would be another failure
        assert process.returncode == 130
