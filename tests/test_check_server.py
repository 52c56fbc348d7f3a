# -*- coding: utf-8 -*-
"""The check of a server against docs/protocol.md: what it sends, what it finds wrong, and what it never shows."""
from __future__ import unicode_literals

import io
import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest

import fake_tpam
import package
from bad_server import Port
from certs import make as certs
from conftest import API_PASSWORD, certificate, configuration, read
from fake_tpam import FakeTpam, FakeTpamServer, Fault

PROGRAM = os.path.join(package.ROOT, 'tools', 'try_plugin.py')
SECRET = 'Tr0ub4dor&3'
CHANGES = ['AddPwdRequest', 'Cancel', 'ForceReset']
ROOT = ('--system', 'WEB01', '--account', 'root')


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
    return subprocess.Popen(
        [site.python, PROGRAM, 'server', '--config', site.config, '--zip', site.plugin_zip] + list(words or ROOT),
        stdin=subprocess.PIPE,
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


def table(site, *more, **options):
    """Run the program with --json -> (exit status, rows, problems). account: the words that name it."""
    return table_and_notes(site, *more, **options)[:3]


def table_and_notes(site, *more, **options):
    """Run the program with --json -> (exit status, rows, problems, notes)."""
    status, output = check(site, *(options.get('account', ROOT) + ('--json',) + more))
    answer = json.loads(output)
    assert answer['keeps'] == (status == 0)
    return status, answer['rows'], answer['problems'], answer['notes']


def wrong(rows):
    """[(command, what came)] of the rows that are wrong."""
    return [(row['command'], row['came']) for row in rows if row['verdict'] in ('WRONG', 'as above')]


def unlike(rows, *expected):
    """[(command, verdict)] of the rows with another verdict than these."""
    return [(row['command'], row['verdict']) for row in rows if row['verdict'] not in expected]


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


def test_a_value_is_broken_after_a_comma_and_never_within_a_word(site):
    site.tpam.add_system('A-long-name-of-a-system-in-one-word')
    site.tpam.add_account('A-long-name-of-a-system-in-one-word', 'root', SECRET)
    _, output = check(site, '--system', 'A-long-name-of-a-system-in-one-word', '--account', 'root')
    sent = [line[22:] for line in output.splitlines() if line.startswith(('Retrieve ', '                      '))]
    assert [line for line in sent if line.startswith('SystemName=A-long-name-of-a-system-in-one-word')]
    assert [line for line in sent if line.split()[0] == 'ReasonText=sps,SPS,']
    assert [line for line in sent if re.match(r'gateway,try-\d+( |$)', line)]


@pytest.mark.parametrize('approvers', [0, 1])
def test_with_changes_a_request_is_submitted_and_cancelled_and_the_password_is_changed(site, approvers):
    site.tpam.account('WEB01', 'root').min_approvers = approvers
    status, output = check(site, '--changes', *ROOT)
    assert status == 0, output
    is_cancelled_first = 'this request was cancelled without an approval' in output
    assert is_cancelled_first == (approvers == 1) and output.count('Not proved') == approvers
    assert 'CHANGE SOMETHING: AddPwdRequest submits a request, Cancel ends it, ForceReset changes' in output
    assert site.tpam.active() == [] and len(site.tpam.requests) == 1
    assert site.tpam.account('WEB01', 'root').password != SECRET


@pytest.mark.parametrize('dialect', ['text-ids', 'nil', 'base64', 'faults'])
def test_every_way_of_writing_xml_rpc_keeps_to_the_protocol(site, dialect):
    site.serve(dialect=dialect)
    configure(site)
    status, rows, problems = table(site, '--changes')
    assert (status, wrong(rows), problems) == (0, [], [])


def test_a_server_with_method_prefix_and_without_tls_is_checked_too(site):
    site.serve(method_prefix='tpam.', certfile=None)
    configure(site, tpam={'method_prefix': 'tpam.'}, tls={'enabled': 'no', 'ca_cert': None})
    assert table(site)[0] == 0


# ---- whom the lists are about


def in_mode(site, mode):
    policy = 'Privileged' if mode == 'policy' else None
    configure(site, tpam={'authorization': mode, 'required_policy': policy})


MODES = [('approval', 'ListRequestDetails', 'no active request of %s for this account'),
         ('policy', 'ListAssignedPolicies', 'no row grants %s the required_policy Privileged')]


@pytest.mark.parametrize('mode, command, lack', MODES, ids=[mode[0] for mode in MODES])
def test_the_gateway_user_must_have_what_the_mode_asks_for(site, mode, command, lack):
    in_mode(site, mode)
    site.tpam.add_policy('jdoe', 'WEB01', 'root', 'Another')
    status, rows, problems, _ = table_and_notes(site, '--gateway-user', 'jdoe')
    assert (status, verdicts(rows, command)) == (2, ['not found'])
    assert problems == ['%s: %s; %s; name another --gateway-user' % (
        command, '1 row' if mode == 'policy' else 'an empty list', lack % 'jdoe')]
    site.tpam.add_policy('jdoe', 'WEB01', 'root', 'privileged')
    site.tpam.add_request('jdoe', 'WEB01', 'root')
    status, rows, _, notes = table_and_notes(site, '--gateway-user', 'jdoe')
    assert (status, notes) == (0, [])
    assert [row['came'].partition(', ')[2] for row in rows if row['command'] == command] == ['usable']


@pytest.mark.parametrize('mode, command, lack', MODES, ids=[mode[0] for mode in MODES])
def test_without_a_gateway_user_it_says_that_the_mode_is_not_proved(site, mode, command, lack):
    in_mode(site, mode)
    status, output = check(site)
    assert status == 0
    assert 'Not proved: that authorization=%s works: %s; name a user who has one with --gateway-user' % (
        mode, lack % 'sps') in output


# ---- who asks


def test_the_first_call_has_no_log_in_and_must_be_turned_away(site):
    status, rows, _ = table(site)
    assert (status, rows[0]['came'], rows[0]['protocol']) == (0, 'status 401 Unauthorized', 'status 401')
    assert rows[0]['sent'].startswith('no Authorization header\n')


def test_a_server_that_lets_everybody_in_is_wrong(site, monkeypatch):
    monkeypatch.setattr(fake_tpam.Handler, 'user', lambda handler: 'sps')
    status, rows, _ = table(site)
    assert (status, wrong(rows)) == (1, [('Retrieve', 'an answer: the server does not ask who calls')])


def test_with_a_client_certificate_no_call_without_a_log_in_is_tried(site):
    site.serve(client_ca=certs.path('client-ca'))
    configure(site, tls={'client_cert': certificate('client')})
    status, rows, _, notes = table_and_notes(site)
    assert (status, unlike(rows, 'ok')) == (0, [])
    assert notes == ['that a caller without a log-in is turned away; it is not tried with a client_cert']


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


def test_a_right_that_is_missing_is_no_fault_and_if_it_is_needed_the_check_is_not_complete(site):
    site.tpam.add_user('sps', API_PASSWORD, isa=False, admin=False)
    configure(site, tpam={'system_name_resolver': 'hostname'})
    status, rows, problems = table(site)
    assert (status, wrong(rows)) == (2, [])
    assert problems == [
        'Retrieve about the account root on WEB01 is refused: You are not authorized to perform this operation; '
        'check --system and --account, or give the API user permission on this account']
    assert verdicts(rows, 'ListSystems') == ['refused']


def test_an_account_that_does_not_exist_is_one_cause_and_no_fault(site):
    configure(site, check_in={'force_reset': 'yes'})
    status, output = check(site, '--system', 'WEB01', '--account', 'rot', '--changes')
    assert status == 2 and 'WRONG' not in output and output.count('COULD NOT CHECK') == 1
    assert output.splitlines()[-1] == (
        'COULD NOT CHECK: Retrieve about the account rot on WEB01 is refused: You are not authorized to perform this '
        'operation; check --system and --account, or give the API user permission on this account')


def test_an_account_that_does_not_exist_is_the_cause_too_where_retrieve_needs_a_request(site):
    configure(site, tpam={'authorization': 'request'})
    status, rows, problems = table(site, account=('--system', 'WEB01', '--account', 'rot'))
    assert (status, problems) == (2, ['ListAccounts: an empty list; check --system and --account'])
    assert unlike(rows, 'ok') == [('ListAccounts', 'not found'), ('Retrieve', 'refused'), ('RetrieveKey', 'refused')]


def test_a_system_that_does_not_exist_is_the_cause(site):
    status, rows, problems = table(site, account=('--system', 'WEB0', '--account', 'root'))
    assert (status, problems) == (2, ['ListSystems: an empty list; check --system'])


def test_without_changes_it_says_which_commands_the_configuration_needs(site):
    configure(site, tpam={'authorization': 'request'}, check_in={'force_reset': 'yes'})
    assert table_and_notes(site)[3] == ['AddPwdRequest, Cancel, ForceReset, which are sent only with --changes']


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
    ('RetrieveKey', without('message', hunter2=SECRET), 'the credential came in another member, not in `message`'),
    ('RetrieveKey', without('message'), 'message is missing'),
    ('Retrieve', without('returnCode', status=0), 'returnCode is missing; did it come in `status`?'),
    ('Retrieve', with_(returnCode='0'), 'returnCode is text, not an int'),
    ('RetrieveKey', with_(message=['x', SECRET]), 'message is an array, not text'),
    ('RetrieveKey', lambda answer, options: [SECRET], 'the answer is an array, not a struct'),
    ('Retrieve', with_(message=''), 'the credential is empty'),
    ('Retrieve', with_(message='The Default initial password'), 'the account was never initialised: name another'),
    ('Retrieve', with_(returnCode=1, message=' '), 'the refusal has no text: the log cannot say why'),
    ('RetrieveKey', with_(message='ssh-rsa AAAA'), 'the key cannot be used: '),
    ('ListSystems', with_(rows=[['WEB01']], count=1), 'a row is an array, not a struct of columns'),
    ('ListAccounts', with_(rows=['WEB01'], count=1), 'a row is text, not a struct of columns'),
    ('ListSystems', with_(count=2), 'count is 2, and the number of rows is 1'),
    ('ListAccounts', with_(count='many'), 'count is text, not an int'),
    ('ListAccounts', without('rows'), 'rows is missing; without rows, count must be 0'),
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


def rounds(shapes):
    """The shapes as [{command: (bend, found)}]: one run of the program takes one shape of each command."""
    found = []
    for command, bend, came in shapes:
        number = len([one_round for one_round in found if command in one_round])
        found += [{}] * (number == len(found))
        found[number] = dict(found[number], **{str(command): (bend, came)})
    return found


@pytest.mark.parametrize('shapes', rounds(SHAPES))
def test_a_wrong_shape_is_named(site, shapes):
    site.tpam.bend = dict((command, bend) for command, (bend, _) in shapes.items())
    status, rows, _ = table(site)
    assert (status, set(name for name, _ in wrong(rows))) == (1, set(shapes))
    for command, (_, found) in shapes.items():
        assert [came for name, came in wrong(rows) if name == command and came.startswith(found)], wrong(rows)


@pytest.mark.parametrize('command, bend, found', [
    ('Retrieve', lambda answer, options: dict(answer, returnCode=0), 'returnCode is 0: it was carried out, or found'),
    ('ListSystems', lambda answer, options: fake_tpam.done('', count=0) if options.get('SystemName') == 'web01'
     else answer, 'an empty list; there must be one row'),
    ('ListAccounts', lambda answer, options: refused('nothing found') if answer['returnCode'] else answer,
     'refused: nothing found; an empty list has count 0 or the text of the page'),
], ids=['an unknown account', 'case', 'empty list'])
def test_what_is_wrong_about_a_name_is_said_once(site, command, bend, found):
    site.tpam.bend = {command: bend}
    status, rows, _ = table(site)
    assert (status, wrong(rows)) == (1, [(command, found)])


def test_a_fault_of_every_answer_counts_once(site):
    everywhere = [command for command in fake_tpam.COMMANDS if command != 'ForceReset']
    site.tpam.bend = dict.fromkeys(everywhere, with_(returnCode='0'))
    status, output = check(site)
    assert status == 1 and 'The server does not keep to the protocol: 1 wrong.' in output
    assert 'as above' in output


IN_REQUESTS = [
    ('AddPwdRequest', with_(message='Thank you'), 'the message does not end in Pending Approval, Approved or Active'),
    ('GetPwdRequest', renamed('RequestStatus', 'Status'), 'column `RequestStatus` is missing or empty; filled in are'),
    ('GetPwdRequest', with_rows(lambda row: dict(row, RequestStatus='Open')),
     'RequestStatus is Open, which is no state of the protocol'),
    ('GetPwdRequest', with_rows(lambda row: dict(row, RequestID='7')), 'a row with another RequestID'),
    ('ListRequestDetails', with_rows(lambda row: dict(row, RequestNotes=row['RequestNotes'][:10])),
     'RequestNotes is not the notes that were sent: a lost request would not be found'),
    ('ListRequestDetails', with_rows(lambda row: dict(row, Status='OPEN')),
     'Status is OPEN, which is no state of the protocol'),
    ('ListRequestDetails', lambda answer, options: fake_tpam.done('', count=0),
     'an empty list, without this request'),
    ('ListRequestDetails', with_rows(lambda row: dict(row, Status='Pending Approval')),
     'Status is Pending Approval, and RequestStatus was active/approved'),
]


@pytest.mark.parametrize('shapes', rounds(IN_REQUESTS))
def test_a_wrong_shape_in_the_life_of_a_request_is_named_and_the_request_is_cancelled(site, shapes):
    site.tpam.bend = dict((command, bend) for command, (bend, _) in shapes.items())
    status, rows, problems = table(site, '--changes')
    assert (status, set(name for name, _ in wrong(rows))) == (1, set(shapes))
    for command, (_, found) in shapes.items():
        assert [came for name, came in wrong(rows) if name == command and came.startswith(found)], wrong(rows)
    assert site.tpam.active() == [] and problems == []


def test_a_request_whose_id_is_not_usable_is_named_by_its_notes(site):
    site.tpam.bend = {'AddPwdRequest': with_(id=['1001'])}
    status, rows, problems = table(site, '--changes')
    assert (status, wrong(rows)) == (1, [('AddPwdRequest', 'id is an array, not an int or text')])
    assert problems[0].startswith('a request may still be open, cancel it by hand: with the notes sps,SPS,request,try-')


def test_a_list_without_the_request_was_perhaps_cut_before_it_was_filtered(site):
    site.tpam.bend = {'ListRequestDetails': lambda answer, options: refused('No Requests to list')}
    assert wrong(table(site, '--changes')[1]) == [('ListRequestDetails', (
        'an empty list, without this request; filter the list first, then cut it to MaxRows'))]


def test_a_second_cancel_that_is_carried_out_is_wrong(site):
    site.tpam.bend = {'Cancel': lambda answer, options: dict(answer, returnCode=0)}
    assert wrong(table(site, '--changes')[1]) == [('Cancel', 'returnCode is 0: it was carried out, or found')]


def test_a_request_that_is_not_active_as_it_was_said_is_one_fault(site):
    site.tpam.account('WEB01', 'root').min_approvers = 1
    site.tpam.bend = {'AddPwdRequest': with_(message='The current status is Active/Approved')}
    status, rows, _, notes = table_and_notes(site, '--changes')
    assert (status, wrong(rows)) == (1, [(
        'GetPwdRequest',
        'RequestStatus is Pending Approval, and the answer to AddPwdRequest ended in Active/Approved')])
    assert 'Retrieve by the id of a request, since the state of the request is not known' in notes


def test_an_id_that_is_taken_only_as_an_int_is_wrong(site):
    class Picky(FakeTpamServer):
        def answer(self, user, body):
            if b'GetPwdRequest' in body and b'<string>1001</string>' in body:
                body = body.replace(b'1001', b'7')
            return FakeTpamServer.answer(self, user, body)
    site.server.__class__ = Picky
    status, rows, _ = table(site, '--changes')
    assert [row['sent'] for row in rows if row['command'] == 'GetPwdRequest'][1:3] == [
        'RequestID=1001\n(RequestID as an int)', 'RequestID=1001']
    assert (status, wrong(rows)) == (1, [(
        'GetPwdRequest', 'refused: You are not authorized for request 7; the caller has submitted this request')])


def test_a_request_that_cannot_be_cancelled_is_named(site):
    site.tpam.bend = {'Cancel': lambda answer, options: refused('not today')}
    status, rows, problems = table(site, '--changes')
    assert wrong(rows) == [('Cancel', 'refused: not today; the caller has submitted this request')]
    assert (status, problems) == (1, ['a request may still be open, cancel it by hand: 1001'])


def test_a_cancel_that_does_nothing_is_one_fault_and_the_open_request_is_named(site):
    site.tpam.do_Cancel = lambda user, options: fake_tpam.done('')
    status, rows, problems = table(site, '--changes')
    assert wrong(rows) == [('GetPwdRequest', 'RequestStatus is Active/Approved, which is none of a closed request')]
    assert (status, problems) == (1, ['a request may still be open, cancel it by hand: 1001'])


def test_an_account_that_is_released_already_is_busy_and_its_password_is_not_changed(site):
    site.tpam.add_request('jdoe', 'WEB01', 'root')
    status, rows, problems = table(site, '--changes')
    assert (status, unlike(rows, 'ok')) == (2, [('AddPwdRequest', 'busy')])
    assert problems == [
        'another request holds the account, so that AddPwdRequest, Cancel and ForceReset cannot be tried: root on '
        'WEB01 is already scheduled for 1 password release; end that request, or name another --account']
    assert site.tpam.account('WEB01', 'root').password == SECRET


def test_a_password_that_stays_the_same_is_noted_since_it_may_be_changed_later(site):
    site.tpam.bend = {'Retrieve': with_secret(SECRET)}
    status, rows, _, notes = table_and_notes(site, '--changes')
    assert status == 0 and rows[-1]['came'] == 'a password, the same as before'
    assert notes == ['that ForceReset changes the password, since the password is the same as before; the server may '
                     'change it later']


# ---- texts of the server


def refused(message):
    return {'returnCode': 1, 'message': message}


def with_secret(secret):
    """A bend of Retrieve that gives another password."""
    return lambda answer, options: answer if answer['returnCode'] else dict(answer, message=secret)


KEY = '-----BEGIN RSA PRIVATE KEY----- MIIG4wIBAAKCAYEA7 -----END RSA PRIVATE KEY-----'


@pytest.mark.parametrize('message, shown', [
    ('The account has no key', 'The account has no key'),
    ('The account was named ' + SECRET, 'the text is hidden: it contains the password'),
    (KEY, 'the text is hidden: it may be a key, since it is no sentence'),
    ('kq5/8fj2x9:not authorized', 'not authorized'),
])
def test_why_a_key_is_refused_is_shown_if_it_cannot_be_a_credential(site, message, shown):
    site.tpam.bend = {'RetrieveKey': lambda answer, options: refused(message)}
    _, rows, _ = table(site)
    assert [row['came'] for row in rows if row['command'] == 'RetrieveKey'] == ['refused: ' + shown]


def test_a_server_that_takes_1_for_success_does_not_bring_a_password_of_several_words_into_the_table(site):
    site.tpam.account('WEB01', 'root').password = 'correct horse battery staple'
    site.tpam.bend = {'Retrieve': lambda answer, options: dict(answer, returnCode=1 - answer['returnCode'])}
    status, rows, _ = table(site)
    assert (status, wrong(rows)) == (1, [('Retrieve', 'returnCode is 0: it was carried out, or found')])
    assert [row['came'] for row in rows if row['command'] == 'Retrieve'][-1] == (
        'refused: the text is hidden: it may be the password, since Retrieve gave no other')


def test_a_text_of_the_server_cannot_bring_a_secret_into_the_table(site):
    site.tpam.bend = {'ListAccounts': lambda answer, options: refused('no permission exists: ' + API_PASSWORD),
                      'ForceReset': lambda answer, options: refused('is\n' + SECRET)}
    _, rows, _ = table(site, '--changes')
    came = dict((row['command'], row['came']) for row in rows)
    assert came['ListAccounts'] == 'refused: no permission exists: ********'
    assert came['ForceReset'] == 'refused: is\\x0a********'


# ---- servers that cannot be asked


def could_not(site):
    """Run the program -> (exit status, last line, rows of the table with a verdict)."""
    status, output = check(site)
    lines = output.splitlines()
    assert 'WRONG' not in output and 'keep to the protocol' not in output
    return status, lines[-1], [line.split()[0] for line in lines if line.endswith(('  ok', '  no answer'))]


def test_a_wrong_password_is_tried_once(site):
    configure(site, tpam={'password': 'wrong'})
    status, last, rows = could_not(site)
    assert (status, rows, site.server.requests) == (2, ['Retrieve', 'Retrieve'], 2)  # one of them without a log-in
    assert last.startswith('COULD NOT CHECK: ') and "status='401 Unauthorized'" in last
    assert "remedy='check [tpam] username and password'" in last


def test_a_server_that_is_not_there_is_one_row(site):
    with Port() as closed:
        configure(site, tpam={'server': 'localhost:%d' % closed.port})
        status, last, rows = could_not(site)
    assert (status, rows) == (2, ['(connection)'])
    assert last.startswith('COULD NOT CHECK: Cannot connect to the server')


def test_a_certificate_of_another_ca_is_one_row_and_nothing_is_sent(site):
    configure(site, tls={'ca_cert': certificate('other-ca-root')})
    status, last, rows = could_not(site)
    assert (status, rows, site.server.requests) == (2, ['(connection)'], 0)
    assert last.startswith('COULD NOT CHECK: TLS cannot be set up with the server')


def test_a_path_that_does_not_exist_is_one_row(site):
    configure(site, tpam={'path': '/other'})
    status, last, rows = could_not(site)
    assert (status, rows) == (2, ['Retrieve'])
    assert "status='404 Not Found'" in last and "remedy='check [tpam] path'" in last


def test_a_status_of_404_for_an_unknown_command_is_a_fault_of_the_server(site, monkeypatch):
    def answer(self, user, body):
        return None if b'TryPluginUnknown' in body else FakeTpamServer.answer(self, user, body)
    site.server.__class__ = type(str('Strict'), (FakeTpamServer,), {'answer': answer})
    send = fake_tpam.Handler.send
    monkeypatch.setattr(fake_tpam.Handler, 'send', lambda handler, status, body=None, headers=(): send(
        handler, 404 if status == 200 and body is None else status, body, headers))
    status, rows, _ = table(site)
    assert (status, wrong(rows)) == (1, [
        ('TryPluginUnknown', '404 Not Found; a command is refused with the status 200')])


def test_a_wrong_configuration_is_named_and_nothing_is_sent(site):
    configure(site, tpam={'usrname': 'sps'})
    status, output = check(site)
    assert status == 2 and 'COULD NOT CHECK: [tpam] (line' in output and site.server.connections == 0


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
    process = start(site, '--changes', *ROOT)
    assert is_submitted.wait(60)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert site.tpam.active() == [] and len(site.tpam.requests) == 1
