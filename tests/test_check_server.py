# -*- coding: utf-8 -*-
"""The check of a server against docs/protocol.md: what it sends, what it finds wrong, and what it never shows."""
from __future__ import unicode_literals

import io
import json
import os
import signal
import subprocess
import threading
import time

import pytest

import fake_tpam
import package
from bad_server import Port
from conftest import API_PASSWORD, certificate, configuration, read
from fake_tpam import FakeTpam, Fault

PROGRAM = os.path.join(package.ROOT, 'tools', 'try_plugin.py')
SECRET = 'Tr0ub4dor&3'
CHANGES = ['AddPwdRequest', 'Cancel', 'ForceReset']


class BentTpam(FakeTpam):
    """A TPAM whose answers are bent: bend is {command: function of (answer, options) that returns another}."""

    bend = {}

    def call(self, user, command, options):
        try:
            answer = FakeTpam.call(self, user, command, options)
        except Fault as fault:
            answer = fault
        answer = self.bend.get(command, lambda answer, options: answer)(answer, options)
        if isinstance(answer, Fault):
            raise answer
        return answer


@pytest.fixture
def site(world, tmpdir):
    """A world whose account root on WEB01 has a key, and a configuration file for it."""
    world.tpam.__class__ = BentTpam
    account = world.tpam.account('WEB01', 'root')
    account.password, account.key = SECRET, read('keys/rsa-3072.pem')
    world.config = str(tmpdir.join('my.cfg'))
    configure(world)
    return world


def configure(site, **sections):
    with io.open(site.config, 'w', encoding='utf-8') as content:
        content.write(configuration(**site.sections(**sections)))


def start(site, *words):
    """Start the program in a process group that gets Ctrl-C as at a terminal -> Popen."""
    words = words or ('--system', 'WEB01', '--account', 'root')
    return subprocess.Popen(
        [site.python, PROGRAM, 'server', '--config', site.config] + list(words), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: (os.setsid(), signal.signal(signal.SIGINT, signal.SIG_DFL)))


def check(site, *words):
    """Run the program -> (exit status, what it printed), in which there is no secret."""
    secrets = [SECRET] + site.secrets()
    process = start(site, *words)
    output = process.communicate()[0].decode('utf-8')
    for secret in secrets + [site.tpam.accounts.get(('web01', 'root')) and site.tpam.account('WEB01', 'root').password]:
        assert not secret or secret not in output
    return process.returncode, output


def table(site, *more):
    """Run the program with --json -> (exit status, rows, problems)."""
    status, output = check(site, '--system', 'WEB01', '--account', 'root', '--json', *more)
    answer = json.loads(output)
    assert answer['keeps'] == (status == 0)
    return status, answer['rows'], answer['problems']


def wrong(rows):
    """[(command, what came)] of the rows that are wrong."""
    return [(row['command'], row['came']) for row in rows if row['verdict'] == 'WRONG']


def verdicts(rows, command):
    return [row['verdict'] for row in rows if row['command'] == command]


# ---- a server that keeps to the protocol


def test_a_good_server_keeps_to_the_protocol_and_nothing_is_changed(site):
    status, output = check(site)
    assert status == 0, output
    assert 'The server keeps to the protocol, as far as these commands show.' in output
    assert not set(site.tpam.commands()) & set(CHANGES)
    assert 'Not sent without --changes, since they change something: AddPwdRequest, Cancel, ForceReset.' in output
    lines = output.splitlines()
    assert lines.index([line for line in lines if line.startswith('Change nothing: ')][0]) < lines.index(
        [line for line in lines if line.startswith('command ')][0])


def test_the_table_says_what_was_sent_what_came_and_what_the_protocol_says(site):
    _, output = check(site)
    header, line = [[cell for cell in line.split('  ') if cell] for line in output.splitlines()
                    if line.startswith(('command ', 'RetrieveKey '))]
    assert [cell.strip() for cell in header] == ['command', 'sent', 'came', 'protocol', 'verdict']
    assert [cell.strip() for cell in line] == [
        'RetrieveKey', 'AccountName=root', 'ssh-rsa key of 3072 bits', 'message is the private', 'ok']


@pytest.mark.parametrize('approvers', [0, 1])
def test_with_changes_a_request_is_submitted_and_cancelled_and_the_password_is_changed(site, approvers):
    site.tpam.account('WEB01', 'root').min_approvers = approvers
    status, output = check(site, '--system', 'WEB01', '--account', 'root', '--changes')
    assert status == 0, output
    assert 'CHANGE SOMETHING: AddPwdRequest submits a request, Cancel ends it, ForceReset changes' in output
    assert site.tpam.active() == [] and len(site.tpam.requests) == 1
    assert site.tpam.account('WEB01', 'root').password != SECRET


@pytest.mark.parametrize('dialect', ['untyped', 'text-ids', 'sparse', 'nil', 'base64', 'faults', 'close'])
def test_every_way_of_writing_xml_rpc_keeps_to_the_protocol(site, dialect):
    site.serve(dialect=dialect)
    configure(site)
    status, rows, problems = table(site, '--changes')
    assert (status, wrong(rows), problems) == (0, [], [])


def test_a_server_with_method_prefix_and_without_tls_is_checked_too(site):
    site.serve(method_prefix='tpam.', certfile=None)
    configure(site, tpam={'method_prefix': 'tpam.'}, tls={'enabled': 'no', 'ca_cert': None})
    assert table(site)[0] == 0


def test_the_gateway_user_is_asked_about(site):
    site.tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    site.tpam.add_request('jdoe', 'WEB01', 'root')
    status, rows, _ = table(site, '--gateway-user', 'jdoe')
    assert status == 0
    assert [row['came'] for row in rows if row['command'] in ('ListRequestDetails', 'ListAssignedPolicies')] == [
        '1 row', '1 row']


# ---- commands that a server does not offer, or does not allow


def test_a_server_without_optional_commands_is_not_at_fault(site, monkeypatch):
    for command in ('RetrieveKey', 'ListSystems', 'ListAccounts', 'ListAssignedPolicies', 'ListRequestDetails'):
        monkeypatch.delitem(fake_tpam.COMMANDS, command)
    configure(site, tpam={'system_name_resolver': 'hostname'})
    status, rows, _ = table(site)
    assert status == 0
    assert [verdicts(rows, command) for command in ('RetrieveKey', 'ListSystems')] == [['not offered']] * 2


def test_a_missing_command_that_the_configuration_needs_is_wrong(site, monkeypatch):
    monkeypatch.delitem(fake_tpam.COMMANDS, 'ListSystems')
    status, rows, _ = table(site)
    assert status == 1
    (command, came), = wrong(rows)
    assert command == 'ListSystems' and came.endswith('; this configuration needs the command')


def test_a_right_that_the_configuration_needs_is_wrong_and_another_is_not(site):
    site.tpam.add_user('sps', API_PASSWORD, isa=False, admin=False)
    configure(site, tpam={'system_name_resolver': 'hostname'})
    status, rows, _ = table(site)
    assert status == 1
    assert wrong(rows) == [
        ('Retrieve', 'refused: not authorized; give the API user the right, or name another account')]
    assert verdicts(rows, 'ListSystems') == ['refused']


# ---- shapes that are wrong


def without(member, **members):
    """A bend that takes a member away and adds these."""
    def bend(answer, options):
        answer = dict(answer, **dict((str(name), value) for name, value in members.items()))
        answer.pop(member, None)
        return answer
    return bend


def with_(**members):
    return without(None, **members)


def with_rows(change):
    """A bend that changes each row, if there are any."""
    def bend(answer, options):
        return dict(answer, rows=[change(row) for row in answer['rows']]) if 'rows' in answer else answer
    return bend


def renamed(old, new):
    return with_rows(lambda row: dict([(new if name == old else name, value) for name, value in row.items()]))


DONE = {'returnCode': 0, 'message': ''}
ROWS = {'returnCode': 0, 'message': '', 'count': 1, 'rows': [{'SystemName': 'WEB01', 'AccountName': 'root'}]}
SHAPES = [
    ('Retrieve', without('message', password=SECRET), 'the credential came in `password`, not in `message`'),
    ('Retrieve', without('message', hunter2=SECRET), 'the credential came in another member, not in `message`'),
    ('Retrieve', without('message'), 'message is missing'),
    ('Retrieve', without('returnCode', status=0), 'returnCode is missing; did it come in `status`?'),
    ('Retrieve', with_(returnCode='0'), 'returnCode is text, not an int'),
    ('Retrieve', with_(message=['x', SECRET]), 'message is an array, not text'),
    ('Retrieve', lambda answer, options: [SECRET], 'the answer is an array, not a struct'),
    ('Retrieve', with_(message=''), 'the credential is empty'),
    ('Retrieve', with_(message='The Default initial password'), 'the account was never initialised: name another'),
    ('Retrieve', with_(returnCode=1), 'refused: with a text that is not shown, since it may be a credential; give'),
    ('Retrieve', with_(returnCode=1, message=' '), 'the refusal has no text: the log cannot say why'),
    ('Retrieve', lambda answer, options: dict(answer, returnCode=0), 'returnCode is 0: it was carried out, or found'),
    ('RetrieveKey', with_(message='ssh-rsa AAAA'), 'the key cannot be used: '),
    ('ListSystems', with_(rows=[['WEB01']], count=1), 'a row is an array, not a struct of columns'),
    ('ListSystems', with_(rows=['WEB01'], count=1), 'a row is text, not a struct of columns'),
    ('ListSystems', with_(count=2), 'count is 2, and the number of rows is 1'),
    ('ListSystems', with_(count='many'), 'count is text, not an int'),
    ('ListSystems', without('rows'), 'rows is missing; without rows, count must be 0'),
    ('ListSystems', renamed('SystemName', 'systemName'),
     'column `SystemName` is missing or empty; filled in are `NetworkAddress`, `PlatformName`, `systemName`'),
    ('ListSystems', with_rows(lambda row: dict(row, SystemName=[])), 'column `SystemName` is an array, not text'),
    ('ListSystems', with_rows(lambda row: dict(row, SystemName='DB01')), 'a row of another system: the filter must be'),
    ('ListSystems', with_rows(lambda row: dict(row, SystemName='WEB01 ')), 'a row of another system: the filter'),
    ('ListAssignedPolicies',
     lambda answer, options: dict(ROWS, rows=[{'AccessPolicyName': 'x', 'EffectiveFl': 'true'}]),
     'an EffectiveFl that is not Yes, Y, No or N'),
    ('ListAccounts', lambda answer, options: ROWS, 'rows about something else than what was asked'),
    ('TryPluginUnknown', lambda answer, options: DONE, 'returnCode is 0: it was carried out'),
    ('TryPluginUnknown', lambda answer, options: Fault(1, 'no'), 'another refusal: without RetrieveKey, the log would'),
    ('GetPwdRequest', lambda answer, options: ROWS, 'rows about something else than what was asked'),
]


@pytest.mark.parametrize('command, bend, found', SHAPES, ids=[shape[2][:40] for shape in SHAPES])
def test_a_wrong_shape_is_named(site, command, bend, found):
    site.tpam.bend = {command: bend}
    status, rows, _ = table(site)
    assert status == 1
    assert set(name for name, _ in wrong(rows)) == set([command])
    assert [came for _, came in wrong(rows) if came.startswith(found)], wrong(rows)


IN_REQUESTS = [
    ('AddPwdRequest', with_(message='Thank you'), 'the message does not end in Pending Approval, Approved or Active'),
    ('AddPwdRequest', with_(id=['1001']), 'id is an array, not an int or text'),
    ('GetPwdRequest', renamed('RequestStatus', 'Status'), 'column `RequestStatus` is missing or empty; filled in are'),
    ('GetPwdRequest', with_rows(lambda row: dict(row, RequestStatus='Open')), 'another RequestID, or a RequestStatus'),
    ('ListRequestDetails', with_rows(lambda row: dict(row, RequestNotes=row['RequestNotes'][:10])),
     'RequestNotes is not the notes that were sent: a lost request would not be found'),
    ('ListRequestDetails', lambda answer, options: {'returnCode': 0, 'message': '', 'count': 0},
     '0 rows, without this request'),
    ('Cancel', lambda answer, options: dict(answer, returnCode=0), 'returnCode is 0: it was carried out, or found'),
    ('ForceReset', with_(returnCode='0'), 'returnCode is text, not an int'),
]


@pytest.mark.parametrize('command, bend, found', IN_REQUESTS, ids=[shape[2][:40] for shape in IN_REQUESTS])
def test_a_wrong_shape_in_the_life_of_a_request_is_named_and_the_request_is_cancelled(site, command, bend, found):
    site.tpam.bend = {command: bend}
    status, rows, problems = table(site, '--changes')
    assert status == 1
    assert [came for name, came in wrong(rows) if name == command and came.startswith(found)], wrong(rows)
    if found.startswith('id is'):
        assert problems[0].startswith(
            'a request may still be open, cancel it by hand: with the notes sps,SPS,request,try-')
    else:
        assert site.tpam.active() == [] and problems == []


def test_a_request_that_cannot_be_cancelled_is_named(site):
    site.tpam.bend = {'Cancel': lambda answer, options: {'returnCode': 1, 'message': 'not today'}}
    status, rows, problems = table(site, '--changes')
    assert ('Cancel', 'refused: not today; give the API user the right, or name another account') in wrong(rows)
    assert problems == ['a request may still be open, cancel it by hand: 1001']


def test_a_request_for_an_account_that_is_released_already_leaves_nothing(site):
    site.tpam.add_request('jdoe', 'WEB01', 'root')
    status, rows, problems = table(site, '--changes')
    assert (status, problems, verdicts(rows, 'AddPwdRequest')) == (0, [], ['refused'])


def test_a_text_of_the_server_cannot_bring_a_secret_into_the_table(site):
    site.tpam.bend = {'ListAccounts': lambda answer, options: {'returnCode': 1, 'message': 'no: ' + API_PASSWORD},
                      'ForceReset': lambda answer, options: {'returnCode': 1, 'message': 'is\n' + SECRET}}
    _, rows, _ = table(site, '--changes')
    came = dict((row['command'], row['came']) for row in rows)
    assert came['ListAccounts'] == 'refused: no: ********'
    assert came['ForceReset'] == 'refused: is\\x0a********'


# ---- servers that cannot be asked


def test_a_wrong_password_is_tried_once(site):
    configure(site, tpam={'password': 'wrong'})
    status, rows, _ = table(site)
    assert (status, len(rows), site.server.requests) == (1, 1, 1)
    assert "status='401 Unauthorized'" in rows[0]['came']


def test_a_server_that_is_not_there_is_one_row(site):
    with Port() as closed:
        configure(site, tpam={'server': 'localhost:%d' % closed.port})
        status, rows, _ = table(site)
    assert status == 1 and [row['command'] for row in rows] == ['(connection)']


def test_a_certificate_of_another_ca_is_one_row_and_nothing_is_sent(site):
    configure(site, tls={'ca_cert': certificate('other-ca-root')})
    status, rows, _ = table(site)
    assert status == 1 and [row['command'] for row in rows] == ['(connection)'] and site.server.requests == 0


def test_a_path_that_does_not_exist_is_a_status_in_each_row(site):
    configure(site, tpam={'path': '/other'})
    status, rows, _ = table(site)
    assert status == 1 and all("status='404 Not Found'" in row['came'] for row in rows)


def test_a_wrong_configuration_is_named_and_nothing_is_sent(site):
    configure(site, tpam={'usrname': 'sps'})
    status, output = check(site)
    assert status == 1 and 'PROBLEM: [tpam] (line' in output and site.server.connections == 0


@pytest.mark.parametrize('words', [('--system', 'WEB01'), ('--account', 'root'), ('--changes',)])
def test_without_a_test_account_nothing_is_sent(site, words):
    status, output = check(site, *words)
    assert status == 2 and 'server needs a test account: --system SYSTEM --account ACCOUNT' in output
    assert site.server.connections == 0


def test_ctrl_c_cancels_the_request(site):
    is_submitted = threading.Event()

    def slow(answer, options):
        if 'RequestID' in options and options['RequestID'] != '999999999-1':
            is_submitted.set()
            time.sleep(3)
        return answer
    site.tpam.bend = {'GetPwdRequest': slow}
    process = start(site, '--system', 'WEB01', '--account', 'root', '--changes')
    assert is_submitted.wait(60)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert site.tpam.active() == [] and len(site.tpam.requests) == 1
