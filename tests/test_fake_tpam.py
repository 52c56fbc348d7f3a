# -*- coding: utf-8 -*-
"""The fake TPAM keeps the protocol's rules, and the XML-RPC client of the standard library understands it."""
from __future__ import unicode_literals

import base64
import contextlib
import itertools
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
import xml.etree.ElementTree as ElementTree

import pytest

import fake_tpam
from conftest import TOOLS
from fake_tpam import ACTIVE, APPROVED, CANCELED, DENIED, DIALECTS, EXPIRED, PENDING, FakeTpam, FakeTpamServer

try:
    from http.client import HTTPConnection
    from xmlrpc.client import Binary, Fault, ProtocolError, ServerProxy, dumps
except ImportError:
    from httplib import HTTPConnection
    from xmlrpclib import Binary, Fault, ProtocolError, ServerProxy, dumps

CERTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'certs')
GOOD, CA, CLIENT, CLIENT_CA, STRANGER = [os.path.join(CERTS, name + '.pem') for name in (
    'good', 'ca', 'client', 'client-ca', 'client-of-other-ca')]
AWKWARD = ' \t<&]]>"\'%(x)s é密\U0001f511 \r\n\r '
ROOT = {'SystemName': 'WEB01', 'AccountName': 'root'}
ADMINISTRATOR = {'SystemName': 'WIN01', 'AccountName': 'Administrator'}


class Clock(object):
    now = 1700000000

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def tpam(clock):
    """root on WEB01 needs no approval, Administrator on WIN01 needs one; sps may do all, jdoe only file requests."""
    tpam = FakeTpam(clock)
    tpam.add_user('sps', 'secret')
    tpam.add_user('jdoe', isa=False, admin=False)
    tpam.add_system('WEB01', '10.0.0.5')
    tpam.add_system('WIN01', '10.0.0.7', 'Windows')
    tpam.add_account('WEB01', 'root', AWKWARD, key='-----BEGIN RSA PRIVATE KEY-----')
    tpam.add_account('WIN01', 'Administrator', 'win', min_approvers=1)
    return tpam


def ask(tpam, command, options=(), user='sps', **more):
    return tpam.call(user, command, dict(options, **more))


def filed(tpam, options, user='sps', **more):
    """The id of a request that `user` filed."""
    return ask(tpam, 'AddPwdRequest', options, user, **more)['id']


def status(tpam, number, user='sps'):
    return ask(tpam, 'GetPwdRequest', user=user, RequestID=number)['rows'][0]['RequestStatus']


@contextlib.contextmanager
def client_of(server, user='sps:secret@', context=None):
    proxy = ServerProxy(server.url.replace('://', '://' + user), **({'context': context} if context else {}))
    try:
        yield proxy
    finally:
        proxy('close')()


def post(server, body, path=None, content_type='text/xml', user=b'sps:secret'):
    """The answer to one POST: status, headers as a dict with names in lower case, body."""
    connection = HTTPConnection(server.host, server.port, timeout=30)
    try:
        headers = {'Content-Type': content_type}
        if user:
            headers['Authorization'] = 'Basic ' + base64.b64encode(user).decode('ascii')
        connection.request('POST', path or server.path, body.encode('utf-8'), headers)
        response = connection.getresponse()
        return response.status, dict((name.lower(), value) for name, value in response.getheaders()), response.read()
    finally:
        connection.close()


# Who may have which credential


def test_an_isa_retrieves_the_password_as_it_was_stored_whatever_the_case_of_the_names(tpam):
    assert ask(tpam, 'Retrieve', SystemName='web01', AccountName='ROOT') == {'returnCode': 0, 'message': AWKWARD}


def test_a_password_given_as_bytes_is_taken_as_utf_8(tpam):
    tpam.add_account('WEB01', 'bytes', AWKWARD.encode('utf-8'))
    assert ask(tpam, 'Retrieve', SystemName='WEB01', AccountName='bytes')['message'] == AWKWARD


def test_an_account_that_was_never_initialised_has_the_default_initial_password(tpam):
    tpam.add_account('WEB01', 'new')
    assert 'default initial password' in ask(tpam, 'Retrieve', SystemName='WEB01', AccountName='new')['message']


def test_a_private_key_is_retrieved_by_its_own_command(tpam):
    assert ask(tpam, 'RetrieveKey', ROOT)['message'] == '-----BEGIN RSA PRIVATE KEY-----'
    assert ask(tpam, 'RetrieveKey', ADMINISTRATOR)['returnCode'] != 0


def test_an_active_request_gives_password_and_key_to_the_caller_who_filed_it(tpam):
    number = filed(tpam, ROOT, user='jdoe')
    assert ask(tpam, 'Retrieve', user='jdoe', RequestID=number)['message'] == AWKWARD
    assert ask(tpam, 'RetrieveKey', user='JDOE', RequestID='%d' % number)['returnCode'] == 0


@pytest.mark.parametrize('command', ['Retrieve', 'RetrieveKey', 'GetPwdRequest', 'Cancel'])
def test_nobody_uses_the_request_of_another_not_even_an_isa(tpam, command):
    answer = ask(tpam, command, RequestID=filed(tpam, ROOT, user='jdoe'))
    assert answer['returnCode'] != 0
    assert 'not authorized' in answer['message']
    assert len(tpam.active()) == 1


@pytest.mark.parametrize('state', [PENDING, APPROVED, DENIED, CANCELED, EXPIRED])
def test_a_request_that_is_not_active_gives_nothing(tpam, state):
    answer = ask(tpam, 'Retrieve', RequestID=tpam.add_request('sps', 'WEB01', 'root', state))
    assert answer['returnCode'] != 0
    assert state in answer['message']


def test_a_reset_changes_the_password(tpam):
    answer = ask(tpam, 'ForceReset', ROOT)
    assert answer['returnCode'] == 0
    assert 'processed the password change' in answer['message']
    first = tpam.account('web01', 'root').password
    ask(tpam, 'ForceReset', ROOT)
    assert len(set([AWKWARD, first, ask(tpam, 'Retrieve', ROOT)['message']])) == 3


def refused(fragment, command='Retrieve', account=(), user='sps', **options):
    """A case: `command` with `options` for an account made with `account` is refused with `fragment`."""
    return pytest.param(fragment, command, dict(account), user, options, id='%s: %s' % (command, fragment))


NEEDS_BOTH = {'reason_code_required': True, 'ticket_required': True}


@pytest.mark.parametrize('fragment, command, account, user, options', [
    refused('You are not authorized to perform this operation', user='jdoe'),
    refused('You are not authorized to perform this operation', user='nobody'),
    refused('isa is not authorized to add requests', 'AddPwdRequest', user='isa'),
    refused('You are not authorized to perform this operation', 'ForceReset', user='jdoe'),
    refused('You are not authorized to perform this operation', SystemName='NONE'),
    refused('You do not have permissions to create a Password Request for this account', 'AddPwdRequest',
            AccountName='none'),
    refused('You are not authorized to perform this operation', 'CheckPassword', AccountName='none'),
    refused('The account is locked', account={'locked': True}),
    refused('account is locked', 'AddPwdRequest', {'locked': True}),
    refused('Reason Codes are required', account=NEEDS_BOTH),
    refused('Reason Codes are required', 'AddPwdRequest', NEEDS_BOTH),
    refused('failed validation', ReasonCode='WRONG'),
    refused('This account requires a Ticket', account=NEEDS_BOTH, ReasonCode='maintenance'),
    refused('This account requires a Ticket for all Password Requests', 'AddPwdRequest', NEEDS_BOTH,
            ReasonCode='maintenance'),
    refused('Ticket Number and Ticket System are required for the API retrieval', TicketNumber='4711'),
    refused('Ticket Number and Ticket System are required for the API retrieval', TicketSystemName='Helpdesk'),
    refused('failed validation', TicketSystemName='Other', TicketNumber='4711'),
    refused('Ticket "4712" not found', TicketSystemName='Helpdesk', TicketNumber='4712'),
    refused('Release Duration 61 exceeds Account Maximum', 'AddPwdRequest', {'max_release': 60}, ReleaseDuration=61),
])
def test_a_refusal_says_why(tpam, fragment, command, account, user, options):
    tpam.add_user('isa', requestor=False)
    tpam.add_reason_code('MAINTENANCE')
    tpam.add_ticket('Helpdesk', '4711')
    tpam.add_account('WEB01', 'special', 'secret', **account)
    answer = ask(tpam, command, {'SystemName': 'WEB01', 'AccountName': 'special'}, user, **options)
    assert answer['returnCode'] != 0
    assert fragment in answer['message']
    assert tpam.active() == []
    assert tpam.account('WEB01', 'special').password == 'secret'


@pytest.mark.parametrize('command', ['Retrieve', 'AddPwdRequest'])
def test_a_known_reason_code_and_ticket_are_taken(tpam, command):
    tpam.add_reason_code('MAINTENANCE')
    tpam.add_ticket('Helpdesk', '4711')
    tpam.add_account('WEB01', 'special', 'secret', **NEEDS_BOTH)
    answer = ask(tpam, command, SystemName='WEB01', AccountName='special', ReasonCode='Maintenance',
                 TicketSystemName='helpdesk', TicketNumber='4711')
    assert answer['returnCode'] == 0


def test_a_replica_only_lists(tpam):
    tpam.replica = True
    for command, forms in sorted(fake_tpam.COMMANDS.items()):
        options = dict.fromkeys(forms[0].partition('[')[0].split(), '1')
        answer = ask(tpam, command, options)
        assert ('not available on a failed over replica' in answer['message']) == (not command.startswith('List'))


def test_a_check_tool_gets_a_status_line(tpam):
    assert ask(tpam, 'TestSystem', SystemName='web01')['returnCode'] == 0
    assert ask(tpam, 'TestSystem', SystemName='none')['returnCode'] != 0
    assert ask(tpam, 'CheckPassword', ROOT)['returnCode'] == 0


# The states of a request


def test_a_request_without_approvers_is_active_at_once(tpam):
    answer = ask(tpam, 'AddPwdRequest', ROOT)
    assert answer['message'].endswith('The current status is Active/Approved')
    assert status(tpam, answer['id']) == ACTIVE


def test_a_request_with_approvers_waits_for_them(tpam):
    answer = ask(tpam, 'AddPwdRequest', ADMINISTRATOR)
    assert answer['message'].endswith('The current status is Pending Approval')
    tpam.approve(answer['id'])
    assert status(tpam, answer['id']) == ACTIVE
    assert ask(tpam, 'Retrieve', RequestID=answer['id'])['message'] == 'win'


def test_the_answer_to_a_request_is_worded_as_tpams(tpam):
    assert ask(tpam, 'AddPwdRequest', ROOT) == {
        'returnCode': 0, 'id': 1001,
        'message': 'RequestID: 1001 for password release of WEB01/root has been submitted. '
                   'The current status is Active/Approved'}
    assert ask(tpam, 'Cancel', RequestID=1001)['message'] == (
        'The response for Password RequestID: 1001 for WEB01/root was submitted successfully')


def test_request_ids_may_be_text_as_those_of_a_tpam_are():
    tpam = fake_tpam.demo_tpam()
    tpam.requests.clear()
    answer = ask(tpam, 'AddPwdRequest', ROOT, RequestNotes='why')
    assert answer['id'] == '1001-1'
    assert answer['message'].startswith('RequestID: 1001-1 for password release of WEB01/root has been submitted')
    for command, options in (('GetPwdRequest', {'RequestID': '1001-1'}), ('ListRequestDetails', {})):
        assert [row['RequestID'] for row in ask(tpam, command, options)['rows']] == ['1001-1']
    for number in (1001, '1001', '1001-2'):
        assert 'not authorized' in ask(tpam, 'Retrieve', RequestID=number)['message']
    assert ask(tpam, 'Retrieve', RequestID='1001-1')['message'] == 'demo-web01-root'
    assert ask(tpam, 'Cancel', RequestID='1001-1')['returnCode'] == 0


@pytest.mark.parametrize('dialect', DIALECTS)
def test_request_ids_that_are_text_are_text_in_every_dialect(dialect):
    tpam = fake_tpam.demo_tpam()
    added = fake_tpam.Writer(dialect).response(ask(tpam, 'AddPwdRequest', ROOT))
    listed = fake_tpam.Writer(dialect).response(ask(tpam, 'ListRequestDetails'))
    number = 'MTAwMi0x' if dialect == 'base64' else '1002-1'
    assert number in added.decode('latin-1') and number in listed.decode('latin-1')


def test_a_denied_request_stays_denied(tpam):
    number = filed(tpam, ADMINISTRATOR)
    tpam.deny(number)
    assert status(tpam, number) == DENIED
    with pytest.raises(ValueError):
        tpam.approve(number)


@pytest.mark.parametrize('decision, state', [('approve_after', ACTIVE), ('deny_after', DENIED)])
def test_an_account_decides_by_itself_after_its_time(tpam, clock, decision, state):
    tpam.add_account('WIN01', 'slow', 'secret', min_approvers=1, **{str(decision): 30})
    number = filed(tpam, {'SystemName': 'WIN01', 'AccountName': 'slow'})
    clock.now += 29
    assert status(tpam, number) == PENDING
    clock.now += 1
    assert status(tpam, number) == state


def test_a_release_expires_after_its_duration_counted_from_the_approval(tpam, clock):
    number = filed(tpam, ADMINISTRATOR, ReleaseDuration='10')
    clock.now += 3600
    tpam.approve(number)
    clock.now += 599
    assert status(tpam, number) == ACTIVE
    clock.now += 1
    assert status(tpam, number) == EXPIRED
    assert ask(tpam, 'Retrieve', RequestID=number)['returnCode'] != 0


def test_a_release_that_is_expired_by_hand_is_over(tpam):
    number = filed(tpam, ROOT)
    tpam.expire(number)
    assert status(tpam, number) == EXPIRED
    assert tpam.active() == []


@pytest.mark.parametrize('before, after', [(ACTIVE, EXPIRED), (PENDING, CANCELED), (APPROVED, CANCELED)])
def test_cancel_ends_what_is_open(tpam, before, after):
    number = tpam.add_request('sps', 'WEB01', 'root', before)
    assert ask(tpam, 'Cancel', RequestID=number, Comment='checked in')['returnCode'] == 0
    assert status(tpam, number) == after


@pytest.mark.parametrize('state', [DENIED, CANCELED, EXPIRED])
def test_what_is_over_cannot_be_canceled_again(tpam, state):
    number = tpam.add_request('sps', 'WEB01', 'root', state)
    assert ask(tpam, 'Cancel', RequestID=number)['returnCode'] != 0
    assert status(tpam, number) == state


def test_an_account_has_one_active_release_at_a_time(tpam):
    number = filed(tpam, ROOT)
    answer = ask(tpam, 'AddPwdRequest', ROOT, user='jdoe')
    assert 'is already scheduled for 1 password release' in answer['message']
    ask(tpam, 'Cancel', RequestID=number)
    assert ask(tpam, 'AddPwdRequest', ROOT, user='jdoe')['returnCode'] == 0


def test_an_approved_request_waits_until_the_account_is_given_back(tpam):
    first, second = filed(tpam, ADMINISTRATOR), filed(tpam, ADMINISTRATOR, user='jdoe')
    tpam.approve(first)
    tpam.approve(second)
    assert (status(tpam, first), status(tpam, second, 'jdoe')) == (ACTIVE, PENDING)
    ask(tpam, 'Cancel', RequestID=first)
    assert status(tpam, second, 'jdoe') == ACTIVE


def test_of_many_requests_at_once_one_gets_the_account():
    def slow_clock():
        time.sleep(0.01)        # lets the other threads in at the worst moment
        return 0

    tpam = fake_tpam.demo_tpam()
    tpam.clock = slow_clock
    threads = [threading.Thread(target=ask, args=(tpam, 'AddPwdRequest', ROOT)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry.return_code != 0 for entry in tpam.audit) == [False] + 4 * [True]


# Lists


def test_a_request_is_listed_with_every_column(tpam):
    tpam.add_reason_code('MAINTENANCE')
    tpam.add_ticket('Helpdesk', '4711')
    filed(tpam, ROOT, RequestNotes='why', ReasonCode='MAINTENANCE', TicketSystemName='Helpdesk', TicketNumber='4711',
          AccessPolicyName='Privileged', RequestImmediate='Y')
    expected = {
        'RequestID': '1001', 'UserName': 'sps', 'UserFullName': '', 'Phone': '', 'EmailID': '', 'SystemName': 'WEB01',
        'AccountName': 'root', 'MinApprovers': '0', 'SubmittedDt': '2023-11-14 22:13:20',
        'ReqReleaseDt': '2023-11-14 22:13:20', 'ReleaseDuration': '120', 'RequestNotes': 'why',
        'ExpiresDt': '2023-11-15 00:13:20', 'CloseDt': '', 'ApprovedDt': '2023-11-14 22:13:20', 'CanceledDt': '',
        'TSName': 'Helpdesk', 'TicketNbr': '4711', 'Status': 'Active/Approved', 'ReasonCodeText': 'MAINTENANCE',
        'AccessPolicyName': 'Privileged'}
    assert ask(tpam, 'ListRequestDetails')['rows'] == [expected]
    expected['RequestorName'], expected['RequestStatus'] = expected.pop('UserName'), expected.pop('Status')
    assert ask(tpam, 'GetPwdRequest', RequestID=1001)['rows'] == [expected]


@pytest.mark.parametrize('option, states', [
    ('ALL', [PENDING, APPROVED, ACTIVE, DENIED, CANCELED, EXPIRED]), ('PENDING', [PENDING]), ('ACTIVE', [ACTIVE]),
    ('CURRENT', [APPROVED, ACTIVE]), ('OPEN', [PENDING, APPROVED, ACTIVE])])
def test_requests_are_listed_by_status(tpam, option, states):
    for state in (PENDING, APPROVED, ACTIVE, DENIED, CANCELED, EXPIRED):
        tpam.add_request('jdoe', 'WEB01', 'root', state)
    assert [row['Status'] for row in ask(tpam, 'ListRequestDetails', Status=option)['rows']] == states


def test_requests_are_listed_by_requestor_system_and_account(tpam):
    mine = tpam.add_request('sps', 'WEB01', 'root')
    other = tpam.add_request('jdoe', 'WIN01', 'Administrator')

    def ids(**options):
        return [int(row['RequestID']) for row in ask(tpam, 'ListRequestDetails', **options)['rows']]

    assert ids() == [mine, other]
    assert ids(RequestorName='JDoe') == ids(SystemName='win01') == ids(AccountName='administrator') == [other]
    assert ids(user='jdoe') == [other]      # who is no admin sees their own
    assert ask(tpam, 'ListRequestDetails', RequestorName='*')['message'] == 'No Requests to list'


def test_policies_are_listed_all_or_effective_only(tpam):
    tpam.add_policy('jdoe', 'WEB01', 'root', 'Old', effective=False)
    tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    tpam.add_policy('jdoe', 'WEB01', 'root', 'Sessions', permission='Session')
    tpam.add_policy('sps', 'WEB01', 'root', 'API')

    def names(**options):
        rows = ask(tpam, 'ListAssignedPolicies', ROOT, UserName='jdoe', **options)['rows']
        return [row['AccessPolicyName'] for row in rows]

    assert names(AllOrEffectiveFlag='A') == ['Old', 'Privileged', 'Sessions']
    assert names(AllOrEffectiveFlag='E', PermissionType='Pwd') == ['Privileged']


@pytest.mark.parametrize('options, permission', [({}, ''), ({'ExpandPolicyFlag': 'N'}, ''),
                                                 ({'ExpandPolicyFlag': 'Y'}, 'Pwd')])
def test_a_policy_names_its_permission_only_where_it_is_expanded(tpam, options, permission):
    tpam.add_policy('sps', 'WEB01', 'root', 'API')
    assert ask(tpam, 'ListAssignedPolicies', UserName='sps', **options)['rows'] == [{
        'UserName': 'sps', 'SystemName': 'WEB01', 'AccountName': 'root', 'AccessPolicyName': 'API',
        'PermissionType': permission, 'EffectiveFl': 'Yes'}]


def test_policies_are_listed_without_a_limit(tpam):
    for number in range(30):
        tpam.add_policy('jdoe', 'WEB01', 'root', 'P%02d' % number)
    assert ask(tpam, 'ListAssignedPolicies')['count'] == 30


def test_an_account_is_listed_with_what_it_is_mapped_to(tpam):
    tpam.add_account('WEB01', 'alias', custom1='root', custom2='DB01')
    row = ask(tpam, 'ListAccounts', SystemName='web01', AccountName='ALIAS')['rows'][0]
    assert row == {'SystemName': 'WEB01', 'AccountName': 'alias', 'AccountCustom1': 'root', 'AccountCustom2': 'DB01',
                   'AccountCustom3': '', 'AccountCustom4': '', 'AccountCustom5': '', 'AccountCustom6': ''}


def test_systems_and_accounts_are_found_by_wildcard(tpam):
    def systems(**options):
        return [row['SystemName'] for row in ask(tpam, 'ListSystems', **options)['rows']]

    assert systems(NetworkAddress='10.0.0.*') == systems(SystemName='w*0*') == ['WEB01', 'WIN01']
    assert systems(NetworkAddress='10.0.0.5') == ['WEB01']
    assert ask(tpam, 'ListSystems', NetworkAddress='10.0.0.?')['returnCode'] != 0
    assert ask(tpam, 'ListAccounts', AccountName='*oo*')['count'] == 1


def test_a_list_ends_after_25_rows_unless_told_otherwise(tpam):
    for number in range(30):
        tpam.add_system('N%02d' % number)
    assert ask(tpam, 'ListSystems')['count'] == len(ask(tpam, 'ListSystems')['rows']) == 25
    assert ask(tpam, 'ListSystems', MaxRows='32')['count'] == 32
    assert ask(tpam, 'ListSystems', MaxRows=1)['count'] == 1


@pytest.mark.parametrize('command, what, options', [
    ('ListSystems', 'Systems', {'SystemName': 'none'}), ('ListAccounts', 'Accounts', {'SystemName': 'none'}),
    ('ListRequestDetails', 'Requests', {}), ('ListAssignedPolicies', 'Permissions', {})])
def test_an_empty_list_is_a_refusal_or_has_no_rows(tpam, command, what, options):
    answer = ask(tpam, command, options)
    assert answer == {'returnCode': answer['returnCode'], 'message': 'No %s to list' % what}
    assert answer['returnCode'] != 0
    tpam.refuses_empty_lists = False
    answer = ask(tpam, command, options)
    assert (answer['returnCode'], answer['count'], answer['rows']) == (0, 0, [])


# What it does not take, and what it remembers


@pytest.mark.parametrize('command, options', [
    ('Retrieve', {}),
    ('Retrieve', {'SystemName': 'WEB01'}),
    ('Retrieve', dict(ROOT, RequestID=1001)),
    ('Retrieve', dict(ROOT, Comment='of another command')),
    ('Retrieve', dict(ROOT, accountname='root')),
    ('Retrieve', dict(ROOT, ReasonText='')),
    ('Retrieve', dict(ROOT, ReasonText=None)),
    ('Retrieve', dict(ROOT, ReasonText=True)),
    ('Retrieve', dict(ROOT, ReasonText=Binary(b'why'))),
    ('Retrieve', dict(ROOT, ReasonText=['why'])),
    ('Retrieve', dict(ROOT, TimeRequired='soon')),
    ('Retrieve', dict(ROOT, TimeRequired=0)),
    ('AddPwdRequest', dict(ROOT, RequestImmediate='yes')),
    ('AddPwdRequest', dict(ROOT, RequestImmediate=True)),
    ('ListRequestDetails', {'Status': 'Active/Approved'}),
    ('ListAssignedPolicies', {'AllOrEffectiveFlag': 'X'}),
    ('Cancel', {'RequestID': '1001x'}),
    ('ListSystems', ()),
    ('ListSystems', 'WEB01'),
])
def test_options_that_the_protocol_does_not_know_are_a_fault(tpam, command, options):
    with pytest.raises(Fault) as caught:
        tpam.call('sps', command, options)
    assert caught.value.faultCode == -32602
    assert command in caught.value.faultString
    assert tpam.audit[-1].return_code == -32602


def test_an_unknown_command_is_a_fault(tpam):
    with pytest.raises(Fault) as caught:
        ask(tpam, 'Retrive', ROOT)
    assert (caught.value.faultCode, caught.value.faultString) == (-32601, 'unknown command Retrive')
    assert tpam.commands() == ['Retrive']


def test_the_audit_trail_has_every_call_and_no_credential(tpam):
    ask(tpam, 'Retrieve', ROOT, ReasonText='why')
    ask(tpam, 'RetrieveKey', ROOT)
    ask(tpam, 'ForceReset', ROOT)
    ask(tpam, 'Retrieve', ROOT, user='jdoe')
    assert tpam.commands() == ['Retrieve', 'RetrieveKey', 'ForceReset', 'Retrieve']
    assert tpam.audit[0] == (1, 'sps', 'Retrieve', dict(ROOT, ReasonText='why'), 0, '********')
    assert tpam.audit[1].message == '********'
    assert (tpam.audit[3].user, tpam.audit[3].message) == (
        'jdoe', 'You are not authorized to perform this operation')
    trail = repr(tpam.audit)
    assert repr(AWKWARD) not in trail and 'PRIVATE KEY' not in trail
    assert tpam.account('WEB01', 'root').password not in trail


def test_what_is_active_or_pending_is_not_given_back(tpam):
    numbers = [tpam.add_request('sps', 'WEB01', 'root', state)
               for state in (PENDING, APPROVED, ACTIVE, DENIED, CANCELED, EXPIRED)]
    assert [request.id for request in tpam.active()] == [numbers[0], numbers[2]]


# On the wire


def read(value):
    """A decoded answer with base64 as the text that it holds."""
    if isinstance(value, dict):
        return dict((name, read(member)) for name, member in value.items())
    if isinstance(value, list):
        return [read(item) for item in value]
    return value.data.decode('utf-8') if isinstance(value, Binary) else value


@pytest.mark.parametrize('dialect', [dialect for dialect in DIALECTS if dialect != 'apache'])
def test_the_stock_client_reads_the_same_answer_in_every_dialect(tpam, dialect):
    tpam.add_request('jdoe', 'WEB01', 'root', APPROVED)
    with FakeTpamServer(tpam, dialect=dialect) as server, client_of(server) as client:
        assert read(client.Retrieve(ROOT)) == {'returnCode': 0, 'message': AWKWARD}
        request = read(client.AddPwdRequest(dict(ROOT, RequestNotes='é <&]]>')))
        assert int(request['id']) == 1002
        answer = read(client.ListRequestDetails({}))
        assert (answer['returnCode'], answer['count'], len(answer['rows'])) == (0, 2, 2)
        row = answer['rows'][1]
        assert (int(row['RequestID']), row['RequestNotes'], row['SystemName']) == (1002, 'é <&]]>', 'WEB01')
        assert not row.get('CloseDt')
        if dialect == 'faults':
            with pytest.raises(Fault) as caught:
                client.Retrieve({'RequestID': 1001})
            assert 'not authorized' in caught.value.faultString
        else:
            refusal = read(client.Retrieve({'RequestID': 1001}))
            assert refusal['returnCode'] == 1 and 'not authorized' in refusal['message']
        with pytest.raises(Fault) as caught:
            client.Unknown({})
        assert int(caught.value.faultCode) == -32601
        assert read(caught.value.faultString) == 'unknown command Unknown'


def test_the_apache_dialect_is_xml_with_its_own_namespace(tpam):
    with FakeTpamServer(tpam, dialect='apache') as server:
        password = ElementTree.fromstring(post(server, dumps((ROOT,), str('Retrieve')))[2])
        post(server, dumps((ROOT,), str('AddPwdRequest')))
        row = ElementTree.fromstring(post(server, dumps(({},), str('ListRequestDetails')))[2])
    extension = '{http://ws.apache.org/xmlrpc/namespaces/extensions}'
    assert [element.text for element in password.iter('string')] == [AWKWARD]
    assert [element.text for element in password.iter(extension + 'i8')] == ['0']
    assert [element.text for element in row.iter(extension + 'i8')] == ['1', '0', '1001']
    assert len(list(row.iter(extension + 'nil'))) == 10
    assert list(row.iter('int')) == []


@pytest.mark.parametrize('dialect, fragment', [
    ('plain', b'<value><string>1001</string></value>'),
    ('untyped', b'<value>1001</value>'),
    ('untyped', b'<i4>0</i4>'),
    ('cdata', b'<![CDATA[1001]]>'),
    ('i8', b'<value><i8>1001</i8></value>'),
    ('nil', b'<name>CloseDt</name><value><nil/></value>'),
    ('base64', b'<base64>MTAwMQ==</base64>'),
    ('latin1', b' encoding="iso-8859-1"?>'),
    ('latin1', b'<string>\xe9&#23494;</string>'),
    ('ascii', b' encoding="us-ascii"?>'),
    ('ascii', b'<string>&#233;&#23494;</string>'),
    ('spaced', b'<value>\r\n  <!-- <value>between</value> -->\t<string>1001</string>\r\n'),
    ('sparse', b'<name>SiteCode</name>'),
])
def test_a_dialect_is_seen_in_the_body(tpam, dialect, fragment):
    with FakeTpamServer(tpam, dialect=dialect) as server:
        with client_of(server) as client:
            client.AddPwdRequest(dict(ROOT, RequestNotes='é密'))
        assert fragment in post(server, dumps(({},), str('ListRequestDetails')))[2]


def test_a_sparse_answer_has_no_empty_column_of_its_own(tpam):
    tpam.add_request('sps', 'WEB01', 'root')
    with FakeTpamServer(tpam, dialect='sparse') as server, client_of(server) as client:
        assert set(['CloseDt', 'Phone']).isdisjoint(client.ListRequestDetails({})['rows'][0])


def test_text_ids_writes_ids_and_fault_codes_as_text(tpam):
    with FakeTpamServer(tpam, dialect='text-ids') as server:
        assert b'<name>id</name><value><string>1001<' in post(server, dumps((ROOT,), str('AddPwdRequest')))[2]
        assert b'<name>faultCode</name><value><string>-32602<' in post(server, dumps((), str('Cancel')))[2]


@pytest.mark.parametrize('dialect, header, value', [
    ('plain', 'content-type', 'text/xml'), ('application-xml', 'content-type', 'application/xml'),
    ('chunked', 'transfer-encoding', 'chunked'), ('close', 'connection', 'close')])
def test_a_dialect_is_seen_in_the_headers(tpam, dialect, header, value):
    with FakeTpamServer(tpam, dialect=dialect) as server:
        headers = post(server, dumps((ROOT,), str('Retrieve')))[1]
    assert headers[header] == value
    assert ('content-length' in headers) == (dialect in ('plain', 'application-xml'))


def test_what_xml_cannot_carry_comes_as_base64_in_every_dialect(tpam):
    tpam.account('WEB01', 'root').password = 'a\x01b\x00'
    with FakeTpamServer(tpam) as server, client_of(server) as client:
        assert client.Retrieve(ROOT)['message'] == Binary(b'a\x01b\x00')


@pytest.mark.parametrize('ends', fake_tpam.ENDS)
def test_a_connection_may_end_after_an_answer_that_does_not_say_so(tpam, ends):
    body = dumps((ROOT,), str('Retrieve')).encode('utf-8')
    lines = ['POST /RPC2 HTTP/1.1', 'Host: tpam', 'Content-Type: text/xml', 'Content-Length: %d' % len(body),
             'Authorization: Basic ' + base64.b64encode(b'sps:secret').decode('ascii'), '', '']
    call = '\r\n'.join(lines).encode('ascii') + body
    with FakeTpamServer(tpam, ends=ends) as server, contextlib.closing(
            socket.create_connection((server.host, server.port))) as connection:
        connection.settimeout(30)
        connection.sendall(call)
        answer = connection.makefile('rb')
        head = list(iter(answer.readline, b'\r\n'))
        length, = [int(line.split()[1]) for line in head if line.startswith(b'Content-Length')]
        assert b'methodResponse' in answer.read(length)
        assert [line for line in head if line.lower().startswith(b'connection')] == []
        if ends == 'at the next request':
            connection.sendall(call)
        assert answer.read() == b''
    assert len(tpam.audit) == 1


def test_an_unknown_end_is_refused(tpam):
    with pytest.raises(ValueError):
        FakeTpamServer(tpam, ends='never')


def test_an_unknown_dialect_is_refused(tpam):
    with pytest.raises(ValueError):
        FakeTpamServer(tpam, dialect='plian')


def test_the_methods_are_listed_and_called_with_their_prefix(tpam):
    with FakeTpamServer(tpam, method_prefix='tpam.') as server, client_of(server) as client:
        assert 'tpam.Retrieve' in client.system.listMethods()
        assert client.tpam.Retrieve(ROOT)['message'] == AWKWARD
        with pytest.raises(Fault) as caught:
            client.Retrieve(ROOT)
        assert (caught.value.faultCode, caught.value.faultString) == (-32601, 'unknown command Retrieve')


@pytest.mark.parametrize('body, code', [
    (dumps((ROOT, ROOT), str('Retrieve')), -32602),
    (dumps((), str('Retrieve')), -32602),
    (dumps(('WEB01',), str('Retrieve')), -32602),
    ('<methodCall>', -32700),
    ('', -32700),
])
def test_a_call_that_is_not_one_struct_is_a_fault(tpam, body, code):
    with FakeTpamServer(tpam) as server:
        assert '<int>%d</int>' % code in post(server, body)[2].decode('utf-8')


@pytest.mark.parametrize('status, how', [
    (200, {}),
    (401, {'user': None}),
    (401, {'user': b'sps:wrong'}),
    (401, {'user': b'sps'}),
    (401, {'user': b'nobody:secret'}),
    (401, {'user': b'jdoe:None'}),
    (401, {'user': b'\xff:secret'}),
    (404, {'path': '/'}),
    (415, {'content_type': 'application/json'}),
])
def test_http_says_what_is_wrong_with_a_request(tpam, status, how):
    with FakeTpamServer(tpam) as server:
        assert post(server, dumps((ROOT,), str('Retrieve')), **how)[0] == status
    assert len(tpam.audit) == (status == 200)


def test_a_user_logs_in_with_colons_and_foreign_letters_in_the_password(tpam):
    tpam.add_user('é', 'a:b 密')
    with FakeTpamServer(tpam) as server:
        assert post(server, dumps((ROOT,), str('Retrieve')), user='é:a:b 密'.encode('utf-8'))[0] == 200
    assert tpam.audit[0].user == 'é'


def has_ipv6():
    try:
        with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(('::1', 0))
        return True
    except socket.error:
        return False


@pytest.mark.parametrize('dialect, connections', [('plain', 1), ('chunked', 1), ('close', 3)])
def test_one_connection_carries_many_calls(tpam, dialect, connections):
    with FakeTpamServer(tpam, dialect=dialect) as server, client_of(server) as client:
        for _ in range(3):
            client.Retrieve(ROOT)
        assert (server.connections, server.handshakes, server.requests) == (connections, 0, 3)


@pytest.mark.skipif(not has_ipv6(), reason='this machine has no ::1')
def test_it_serves_ipv6_too(tpam):
    with FakeTpamServer(tpam, host='::1') as server, client_of(server) as client:
        assert server.url == 'http://[::1]:%d/RPC2' % server.port
        assert client.Retrieve(ROOT)['returnCode'] == 0


def test_the_end_of_the_block_closes_everything(tpam):
    started = time.time()
    with FakeTpamServer(tpam, certfile=GOOD) as silent, FakeTpamServer(tpam) as server:
        quiet = socket.create_connection((silent.host, silent.port), 30)
        idle = HTTPConnection(server.host, server.port, timeout=30)
        idle.request('POST', server.path, '', {'Content-Type': 'text/xml'})
        idle.getresponse().read()
    assert quiet.recv(1) == idle.sock.recv(1) == b''
    quiet.close()
    idle.close()
    with pytest.raises(socket.error):
        socket.create_connection((server.host, server.port), 30)
    assert time.time() - started < 30


def test_a_server_comes_back_on_its_old_port(tpam):
    port = 0
    for _ in range(2):
        with FakeTpamServer(tpam, port=port, dialect='close') as server, client_of(server) as client:
            client.Retrieve(ROOT)       # the server closes first, and the port stays busy for a while
            port = server.port


@pytest.mark.parametrize('certfile', [None, GOOD])
def test_a_client_that_goes_away_leaves_no_noise(tpam, capsys, certfile):
    with FakeTpamServer(tpam, host='localhost', certfile=certfile) as server:
        rude = socket.create_connection((server.host, server.port), 30)
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')     # close() sends a reset
        rude.sendall(b'POST /RPC2 HTTP/1.1\r\nContent-Length: 100\r\n\r\n<')
        rude.close()
        with pytest.raises(ProtocolError), client_of(server, user='', context=trusting(CA)) as client:
            client.Retrieve(ROOT)
        deadline = time.time() + 30
        while server.open and time.time() < deadline:
            time.sleep(0.01)
        assert not server.open
    assert capsys.readouterr()[1] == ''


# TLS


def tls_server(tpam, **options):
    """A FakeTpamServer by name: the stock client of Python 2.7 compares no IP addresses with certificates."""
    return FakeTpamServer(tpam, host='localhost', certfile=GOOD, **options)


def trusting(ca, certificate=None, protocol=None):
    """A client's context that verifies the server against `ca`."""
    if protocol is None:
        context = ssl.create_default_context(cafile=ca)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)
            context = ssl.SSLContext(protocol)
        context.set_ciphers('DEFAULT:@SECLEVEL=0')
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
    if certificate:
        context.load_cert_chain(certificate)
    return context


def test_a_verifying_client_makes_one_handshake_for_many_calls(tpam):
    with tls_server(tpam) as server, client_of(server, context=trusting(CA)) as client:
        assert client.Retrieve(ROOT)['message'] == client.Retrieve(ROOT)['message'] == AWKWARD
        assert server.url.startswith('https://localhost:')
        assert (server.connections, server.handshakes, server.requests) == (1, 1, 2)


def test_an_answer_without_a_length_ends_with_an_orderly_close(tpam):
    with tls_server(tpam, dialect='close') as server:
        connection = trusting(CA).wrap_socket(socket.create_connection((server.host, server.port), 30),
                                              server_hostname='localhost', suppress_ragged_eofs=False)
        connection.sendall(b'POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n')
        answer = b''
        for part in iter(lambda: connection.recv(1000), b''):       # a ragged end would raise
            answer += part
        connection.close()
    assert answer.endswith(b'Not Found</body></html>')


def test_tls_1_0_is_taken_because_production_has_no_other(tpam):
    context = trusting(CA, protocol=ssl.PROTOCOL_TLSv1)
    with tls_server(tpam) as server:
        connection = context.wrap_socket(socket.create_connection((server.host, server.port), 30))
        assert connection.version() == 'TLSv1'
        connection.close()


def test_the_common_name_of_a_client_certificate_is_the_user(tpam):
    with tls_server(tpam, client_ca=CLIENT_CA) as server:
        with client_of(server, user='', context=trusting(CA, CLIENT)) as client:
            assert client.Retrieve(ROOT)['message'] == AWKWARD
        assert tpam.audit[-1].user == 'sps'


def test_basic_goes_before_the_client_certificate(tpam):
    tpam.add_user('api', 'other')
    with tls_server(tpam, client_ca=CLIENT_CA) as server:
        with client_of(server, user='api:other@', context=trusting(CA, CLIENT)) as client:
            client.Retrieve(ROOT)
        with pytest.raises(ProtocolError) as caught:
            with client_of(server, user='api:wrong@', context=trusting(CA, CLIENT)) as client:
                client.Retrieve(ROOT)
    assert caught.value.errcode == 401
    assert [entry.user for entry in tpam.audit] == ['api']


def test_a_client_certificate_of_an_unknown_user_is_not_enough(tpam):
    del tpam.users['sps']
    with tls_server(tpam, client_ca=CLIENT_CA) as server:
        with pytest.raises(ProtocolError) as caught:
            with client_of(server, user='', context=trusting(CA, CLIENT)) as client:
                client.Retrieve(ROOT)
    assert caught.value.errcode == 401


@pytest.mark.parametrize('certificate', [None, STRANGER])
def test_a_missing_or_foreign_client_certificate_ends_in_the_handshake(tpam, certificate):
    with tls_server(tpam, client_ca=CLIENT_CA) as server:
        with pytest.raises(socket.error):       # with TLS 1.3 the client learns it at its first read
            with client_of(server, context=trusting(CA, certificate)) as client:
                client.Retrieve(ROOT)
        assert server.connections > 0
        assert (server.handshakes, server.requests) == (0, 0)


# The program


@contextlib.contextmanager
def program(*arguments):
    """`python fake_tpam.py` with these arguments, interrupted in the end; gives the process, its URL and its start."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)      # a child would inherit that it is ignored
    try:
        process = subprocess.Popen(
            [sys.executable, '-u', fake_tpam.__file__.replace('.pyc', '.py'), '--port', '0'] + list(arguments),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    finally:
        signal.signal(signal.SIGINT, handler)
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        paragraphs = [''.join(itertools.takewhile(str.strip, iter(process.stdout.readline, None))) for _ in range(3)]
        yield process, re.search(r'https?://\S+', paragraphs[0]).group(), ''.join(paragraphs)
    finally:
        process.send_signal(signal.SIGINT)
        process.rest, process.errors = process.communicate()
        watchdog.cancel()


def test_the_program_says_how_to_reach_it_and_ends_quietly():
    with program('--demo', '--no-tls') as (process, url, start):
        proxy = ServerProxy(url.replace('://', '://sps:secret@'))
        assert proxy.Retrieve(ROOT)['message'] == 'demo-web01-root'
        proxy('close')()
        shown = process.stdout.readline()
    assert 'without TLS' in start
    assert 'username=sps\npassword=secret\n[tls]\nenabled=no\n' in start
    assert shown == '1 sps Retrieve {"AccountName": "root", "SystemName": "WEB01"} -> 0 "********"\n'
    assert (process.returncode, process.rest, process.errors) == (130, '', '')


def test_the_program_serves_tls_with_a_certificate():
    with program('--cert', GOOD, '--client-ca', CLIENT_CA, '--dialect', 'cdata') as (process, url, start):
        proxy = ServerProxy(url.replace('127.0.0.1', 'localhost'), context=trusting(CA, CLIENT))
        assert proxy.ListSystems({})['count'] == 3
        proxy('close')()
    assert 'without TLS' not in start
    assert '[tls]\nca_cert=-----BEGIN CERTIFICATE-----\n' in start
    assert 'client_cert' in start
    assert (process.returncode, process.rest, process.errors) == (130, '', '')


def configured(start, directory, **options):
    """The path of a configuration: what the program printed at its start, with more options of [tpam]."""
    lines = ''.join('%s=%s\n' % option for option in sorted(options.items()))
    path = os.path.join(str(directory), 'my.cfg')
    with open(path, 'w') as out:
        out.write(start.replace('[tpam]\n', '[tpam]\n' + lines))
    return path


def tried(*words):
    """The exit status of try_plugin.py, and what it prints."""
    process = subprocess.Popen([sys.executable, os.path.join(TOOLS, 'try_plugin.py')] + list(words),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    output = process.communicate()[0]
    return process.returncode, output


def test_what_the_program_prints_is_a_configuration_as_it_is(tmpdir):
    with program() as (process, url, start):
        status, output = tried('check', '--config', configured(start, tmpdir))
    assert status == 0, output
    assert 'READY' in output


@pytest.mark.parametrize('tpam, target', [
    ({}, ('root', '10.0.0.5')), ({}, ('root', '10.0.0.6')), ({}, ('Administrator', '10.0.0.7')),
    ({'authorization': 'policy', 'required_policy': 'Privileged'}, ('root', '10.0.0.5')),
    ({'authorization': 'approval'}, ('Administrator', '10.0.0.7')),
    ({'authorization': 'request'}, ('root', '10.0.0.5')), ({'authorization': 'request'}, ('root', '10.0.0.6')),
])
def test_the_demo_data_allow_what_the_program_says(tmpdir, tpam, target):
    with program() as (process, url, start):
        status, output = tried('session', '--config', configured(start, tmpdir, **tpam), 'protocol=rdp',
                               'server_username=' + target[0], 'server_ip=' + target[1], 'gateway_username=jdoe')
    assert status == 0, output
    for word in [tpam.get('authorization', 'gateway'), tpam.get('required_policy', 'jdoe'), target[1]]:
        assert word in start
