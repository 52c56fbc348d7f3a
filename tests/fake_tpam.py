# -*- coding: utf-8 -*-
"""The far side of the plugin: a small TPAM with state, and the XML-RPC server that stands in front of it.

Three parts, from the inside out:

* `FakeTpam` knows systems, accounts, users, requests and the rules between them. It knows neither HTTP nor XML.
* `FakeTpamServer` serves one FakeTpam over HTTP/1.1, with or without TLS. How an answer is written is its *dialect*:
  the same answers, as servers in other languages write them.
* the program: ``python tests/fake_tpam.py --port 8443`` serves demo data and prints a configuration for it.

Commands, options, columns, states and messages are TPAM's, as far as the plugin's protocol goes. The fake is strict
about what it receives, because other servers may be: what the protocol does not allow is an XML-RPC fault.
"""
from __future__ import print_function, unicode_literals

import argparse
import base64
import binascii
import collections
import functools
import json
import os
import re
import socket
import ssl
import sys
import threading
import time
import warnings
from xml.sax.saxutils import escape

try:
    import socketserver
    from http.server import BaseHTTPRequestHandler
    from xmlrpc.client import Fault, loads
except ImportError:
    import SocketServer as socketserver
    from BaseHTTPServer import BaseHTTPRequestHandler
    from xmlrpclib import Fault, loads

PENDING, APPROVED, ACTIVE = 'Pending Approval', 'Approved', 'Active/Approved'   # 'Approved' starts later
DENIED, CANCELED, EXPIRED = 'Denied', 'Canceled', 'Expired'
STATUS_FILTERS = {
    'ALL': (PENDING, APPROVED, ACTIVE, DENIED, CANCELED, EXPIRED),
    'PENDING': (PENDING,),
    'ACTIVE': (ACTIVE,),
    'CURRENT': (APPROVED, ACTIVE),
    'OPEN': (PENDING, APPROVED, ACTIVE),
}

AS_ISA = 'SystemName AccountName [ReasonText TimeRequired ReasonCode TicketSystemName TicketNumber]'
COMMANDS = {    # command -> the sets of options it takes; those in brackets may be left out
    'Retrieve': ('RequestID', AS_ISA),
    'RetrieveKey': ('RequestID', AS_ISA),
    'AddPwdRequest': ('SystemName AccountName [RequestNotes RequestImmediate ReleaseDuration ReasonCode '
                      'TicketSystemName TicketNumber AccessPolicyName]',),
    'GetPwdRequest': ('RequestID',),
    'Cancel': ('RequestID [Comment]',),
    'ListRequestDetails': ('[RequestorName AccountName SystemName Status MaxRows]',),
    'ListAssignedPolicies': ('[UserName AccountName SystemName AllOrEffectiveFlag PermissionType '
                             'ExpandPolicyFlag]',),
    'ListAccounts': ('[SystemName AccountName MaxRows]',),
    'ListSystems': ('[NetworkAddress SystemName MaxRows]',),
    'ForceReset': ('SystemName AccountName',),
    'TestSystem': ('SystemName',),
    'CheckPassword': ('SystemName AccountName',),
}
NEEDS = {       # command -> what a user must be to run it; Retrieve and RetrieveKey have a rule of their own
    'AddPwdRequest': 'requestor',
    'ListAssignedPolicies': 'admin',
    'ListAccounts': 'admin',
    'ListSystems': 'admin',
    'ForceReset': 'admin',
}
VALUES = {      # option -> the values it takes; every other option takes any text
    'RequestID': '[1-9][0-9]*(?:-[1-9][0-9]*)?',
    'TimeRequired': '[1-9][0-9]*',
    'ReleaseDuration': '[1-9][0-9]*',
    'MaxRows': '[1-9][0-9]*',
    'RequestImmediate': 'Y|N',
    'AllOrEffectiveFlag': 'A|E',
    'ExpandPolicyFlag': 'Y|N',
    'Status': '|'.join(STATUS_FILTERS),
}

NOT_AUTHORIZED = 'You are not authorized to perform this operation'
MAY_NOT = {     # command -> what a user is told who may not run it
    'AddPwdRequest': '%s is not authorized to add requests',
    'ListAccounts': '%s is not authorized to list accounts',
    'ListSystems': '%s is not authorized to list systems',
}
REQUEST_IDS = {'plain': '%d', 'tpam': '%d-1'}       # how the id of a request is written

NO_COMMAND, BAD_OPTIONS, BAD_XML = -32601, -32602, -32700     # the fault codes that XML-RPC servers agree on
REFUSED = 1                                                   # the returnCode of every refusal
MASK = '********'
NEVER = float('inf')

AuditEntry = collections.namedtuple('AuditEntry', str('number user command options return_code message'))


class Refusal(Exception):
    """TPAM says no; the text is the answer's `message`."""


class Record(object):
    """One system, account, user, policy or request: its fields are attributes."""

    def __init__(self, **fields):
        self.__dict__.update((name, text(value)) for name, value in fields.items())


def locked(method):
    """`method` runs under the lock of its object."""
    @functools.wraps(method)
    def with_lock(self, *args, **kwargs):
        with self.lock:
            return method(self, *args, **kwargs)
    return with_lock


def text(value):
    """`value` as text: Python 2 has plain ASCII and literals of the tests as bytes. None stays None."""
    return value.decode('utf-8') if isinstance(value, bytes) else value


def same(one, other):
    return one.lower() == other.lower()


def like(pattern, name):
    """Does `name` match `pattern`, in which `*` stands for any text and nothing else is special?"""
    expression = '.*'.join(re.escape(part) for part in pattern.lower().split('*'))
    return re.match('(?s)' + expression + r'\Z', name.lower()) is not None


def date(seconds):
    """Seconds since the epoch as TPAM writes a date, in UTC; empty where there is none."""
    return '' if seconds is None else time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))


def done(message, **members):
    return dict(members, returnCode=0, message=message)


def checked_options(command, options):
    """`options` with every value as text, or a Fault if the protocol does not allow them for `command`."""
    if not isinstance(options, dict):
        raise Fault(BAD_OPTIONS, '%s takes one struct of options' % command)
    checked = {}
    for name, value in options.items():
        name, value = text(name), text(value)
        if isinstance(value, int) and not isinstance(value, bool):
            value = '%d' % value
        if not isinstance(value, type('')) or not re.match('(?s)(?:%s)\\Z' % VALUES.get(name, '.+'), value):
            raise Fault(BAD_OPTIONS, 'option %s of %s has a value that is not allowed' % (name, command))
        checked[name] = value
    for form in COMMANDS[command]:
        required, _, optional = form.partition('[')
        required, optional = set(required.split()), set(optional.rstrip(']').split())
        if required <= set(checked) <= required | optional:
            return checked
    raise Fault(BAD_OPTIONS, '%s takes %s; got %s'
                % (command, ' or '.join(COMMANDS[command]), ' '.join(sorted(checked)) or 'none'))


class FakeTpam(object):
    """A small TPAM. Names compare without regard to case; every public method is safe to call from any thread.

    replica: True makes every command but List* answer that it is not available on a failed over replica
    refuses_empty_lists: False makes an empty list `returnCode` 0 with `count` 0 in place of 'No ... to list'
    request_ids: 'tpam' writes and takes request ids as TPAM does, say 1001-1; 'plain' as 1001
    requests: request id (int) -> Record with id, user, system, account, status and times
    audit: the AuditEntry of each call, oldest first, options as they were sent, a credential as '********'
    clock: where the time comes from, seconds since the epoch; a test may give its own
    """

    def __init__(self, clock=time.time, request_ids='plain'):
        self.lock = threading.RLock()
        self.clock = clock
        self.request_ids = request_ids
        self.replica = False
        self.refuses_empty_lists = True
        self.systems = {}
        self.accounts = {}
        self.users = {}
        self.policies = []
        self.reason_codes = set()
        self.tickets = {}
        self.requests = {}
        self.audit = []

    # What the administrators of this TPAM set up

    @locked
    def add_system(self, name, address='', platform='Linux'):
        self.systems[text(name).lower()] = Record(name=name, address=address, platform=platform)

    @locked
    def add_account(self, system, account, password='', key=None, min_approvers=0, max_release=10080,
                    reason_code_required=False, ticket_required=False, locked=False, custom1='', custom2='',
                    approve_after=None, deny_after=None):
        """An account of a known system. Without a password it was never initialised.

        max_release: minutes. approve_after, deny_after: seconds after which a pending request is decided; None waits
        for `approve` or `deny`. custom1 and custom2 are the columns AccountCustom1 and AccountCustom2.
        """
        system = self.systems[text(system).lower()].name
        self.accounts[system.lower(), text(account).lower()] = Record(
            system=system, name=account, password=password, key=key, min_approvers=min_approvers,
            max_release=max_release, reason_code_required=reason_code_required, ticket_required=ticket_required,
            locked=locked, custom1=text(custom1), custom2=text(custom2),
            approve_after=NEVER if approve_after is None else approve_after,
            deny_after=NEVER if deny_after is None else deny_after)

    @locked
    def add_user(self, name, password=None, isa=True, requestor=True, admin=True):
        """isa may retrieve without a request, requestor may file requests, admin may list all and reset passwords.

        Without a password the user cannot log in by HTTP Basic, only by a client certificate.
        """
        self.users[text(name).lower()] = Record(name=name, password=password,
                                                isa=isa, requestor=requestor, admin=admin)

    @locked
    def add_policy(self, user, system, account, policy, permission='Pwd', effective=True):
        account = self.account(system, account)
        self.policies.append({
            'UserName': text(user), 'SystemName': account.system, 'AccountName': account.name,
            'AccessPolicyName': text(policy), 'PermissionType': text(permission),
            'EffectiveFl': 'Yes' if effective else 'No'})

    @locked
    def add_reason_code(self, code):
        self.reason_codes.add(text(code).lower())

    @locked
    def add_ticket(self, system, number):
        self.tickets.setdefault(text(system).lower(), set()).add(text(number).lower())

    @locked
    def add_request(self, user, system, account, status=ACTIVE, minutes=120):
        """File a request past all rules, as if by `user` and `minutes` long; returns its id."""
        return self._file(user, self.account(system, account), status, minutes).id

    def approve(self, number):
        """All approvers agree. The release begins as soon as the account has no other one."""
        self._decide(number, PENDING, 'approve_at')

    def deny(self, number):
        self._decide(number, PENDING, 'deny_at')

    def expire(self, number):
        """The release ends now, before its time."""
        self._decide(number, ACTIVE, 'expires')

    @locked
    def _decide(self, number, status, event):
        self._let_time_pass()
        request = self.requests[number]
        if request.status != status:
            raise ValueError('request %d is %s, not %s' % (number, request.status, status))
        setattr(request, event, self.clock())
        self._let_time_pass()

    # What a test may look at

    @locked
    def account(self, system, account):
        """The Record of an account (password, key, locked ... may be changed); KeyError if there is none."""
        return self.accounts[text(system).lower(), text(account).lower()]

    @locked
    def active(self):
        """The requests that hold an account or wait for it, oldest first."""
        self._let_time_pass()
        return [request for _, request in sorted(self.requests.items()) if request.status in (ACTIVE, PENDING)]

    @locked
    def commands(self):
        """The names of the commands that were called, in order."""
        return [entry.command for entry in self.audit]

    # How a command is answered

    def authenticates(self, name, password):
        user = self.users.get(name.lower())
        return user is not None and user.password == password

    @locked
    def call(self, user, command, options):
        """The answer to `command` from `user` (a name): a dict with returnCode, message and what the command adds.

        Raises xmlrpclib.Fault only for what the protocol does not allow and for unknown commands.
        """
        try:
            answer = self._answer(text(user), command, options)
        except Refusal as refusal:
            answer = {'returnCode': REFUSED, 'message': refusal.args[0]}
        except Fault as fault:
            self._record(user, command, options, fault.faultCode, fault.faultString)
            raise
        secret = command.startswith('Retrieve') and answer['returnCode'] == 0
        self._record(user, command, options, answer['returnCode'], MASK if secret else answer['message'])
        return answer

    def _answer(self, name, command, options):
        if command not in COMMANDS:
            raise Fault(NO_COMMAND, 'unknown command %s' % command)
        options = checked_options(command, options)
        if self.replica and not command.startswith('List'):
            raise Refusal('%s is not available on a failed over replica' % command)
        user = self.users.get(name.lower())
        if user is None or not getattr(user, NEEDS.get(command, 'name')):
            raise Refusal(MAY_NOT[command] % name if command in MAY_NOT else NOT_AUTHORIZED)
        self._let_time_pass()
        return getattr(self, 'do_' + command)(user, options)

    def _record(self, user, command, options, return_code, message):
        options = options.items() if isinstance(options, dict) else ()
        options = dict((text(name), text(value)) for name, value in options)
        self.audit.append(AuditEntry(len(self.audit) + 1, text(user), command, options, return_code, message))

    def do_Retrieve(self, user, options):
        return done(self._released(user, options).password or 'default initial password')

    def do_RetrieveKey(self, user, options):
        account = self._released(user, options)
        if not account.key:
            raise Refusal('No private key is stored for %s on %s' % (account.name, account.system))
        return done(account.key)

    def _released(self, user, options):
        """The account whose credential `user` may have: by an active request of their own, or as ISA."""
        if 'RequestID' in options:
            request = self._own_request(user, options)
            if request.status != ACTIVE:
                raise Refusal('You are not authorized to retrieve by request %s. The current status is %s'
                              % (self._id(request), request.status))
            account = self.account(request.system, request.account)
        else:
            if not user.isa:
                raise Refusal(NOT_AUTHORIZED)
            account = self._named_account(options)
            self._check_reason(account, options)
        if account.locked:
            raise Refusal('The account is locked. Password cannot be retrieved at this time')
        return account

    def do_AddPwdRequest(self, user, options):
        account = self._named_account(
            options, 'You do not have permissions to create a Password Request for this account: '
                     'system %(SystemName)s, account %(AccountName)s')
        if account.locked:
            raise Refusal('The request was not added: the account is locked')
        self._check_reason(account, options, 'This account requires a Ticket for all Password Requests')
        minutes = int(options.get('ReleaseDuration', 120))
        if minutes > account.max_release:
            raise Refusal('Release Duration %d exceeds Account Maximum %d' % (minutes, account.max_release))
        if self._is_released(account):
            raise Refusal('%s on %s is already scheduled for 1 password release' % (account.name, account.system))
        request = self._file(user.name, account, PENDING if account.min_approvers else ACTIVE, minutes, options)
        number = self._id(request)
        message = 'RequestID: %s for password release of %s/%s has been submitted. The current status is %s' % (
            number, account.system, account.name, request.status)
        return done(message, id=int(number) if number.isdigit() else number)

    def do_GetPwdRequest(self, user, options):
        row = self._row(self._own_request(user, options))
        row['RequestorName'], row['RequestStatus'] = row.pop('UserName'), row.pop('Status')
        return done('1 request', count=1, rows=[row])

    def do_Cancel(self, user, options):
        request = self._own_request(user, options)
        now = self.clock()
        if request.status == ACTIVE:
            request.status, request.closed = EXPIRED, now
        elif request.status in (PENDING, APPROVED):
            request.status, request.canceled = CANCELED, now
        else:
            raise Refusal('Request %s was not canceled. The current status is %s'
                          % (self._id(request), request.status))
        return done('The response for Password RequestID: %s for %s/%s was submitted successfully'
                    % (self._id(request), request.system, request.account))

    def do_ListRequestDetails(self, user, options):
        statuses = STATUS_FILTERS[options.pop('Status', 'ALL')]
        if 'RequestorName' in options:
            options['UserName'] = options.pop('RequestorName')
        return self._listed('Requests', options, [
            self._row(request) for _, request in sorted(self.requests.items())
            if request.status in statuses and (user.admin or same(request.user, user.name))])

    def do_ListAssignedPolicies(self, user, options):
        if options.get('AllOrEffectiveFlag') == 'E':
            options['EffectiveFl'] = 'Yes'
        answer = self._listed('Permissions', dict(options, MaxRows=len(self.policies)), self.policies)
        if options.get('ExpandPolicyFlag') != 'Y':
            answer['rows'] = [dict(row, PermissionType='') for row in answer['rows']]
        return answer

    def do_ListAccounts(self, user, options):
        return self._listed('Accounts', options, [
            {'SystemName': account.system, 'AccountName': account.name, 'AccountCustom1': account.custom1,
             'AccountCustom2': account.custom2, 'AccountCustom3': '', 'AccountCustom4': '', 'AccountCustom5': '',
             'AccountCustom6': ''} for _, account in sorted(self.accounts.items())], like)

    def do_ListSystems(self, user, options):
        return self._listed('Systems', options, [
            {'SystemName': system.name, 'NetworkAddress': system.address, 'PlatformName': system.platform}
            for _, system in sorted(self.systems.items())], like)

    def do_ForceReset(self, user, options):
        account = self._named_account(options)
        account.password = binascii.hexlify(os.urandom(12)).decode('ascii')
        return done('Successfully processed the password change for %s on %s' % (account.name, account.system))

    def do_TestSystem(self, user, options):
        if options['SystemName'].lower() not in self.systems:
            raise Refusal(NOT_AUTHORIZED)
        return done('The test of %s was successful' % options['SystemName'])

    def do_CheckPassword(self, user, options):
        account = self._named_account(options)
        return done('The password of %s on %s matches' % (account.name, account.system))

    # The rules that several commands share

    def _named_account(self, options, refusal=NOT_AUTHORIZED):
        try:
            return self.account(options['SystemName'], options['AccountName'])
        except KeyError:    # one answer for unknown and forbidden: nobody learns names by trying
            raise Refusal(refusal % options)

    def _id(self, request):
        return REQUEST_IDS[self.request_ids] % request.id

    def _own_request(self, user, options):
        request = self.requests.get(int(options['RequestID'].partition('-')[0]))
        if request is None or options['RequestID'] != self._id(request) or not same(request.user, user.name):
            raise Refusal('You are not authorized for request %s' % options['RequestID'])
        return request

    def _check_reason(self, account, options, without_ticket='This account requires a Ticket'):
        code = options.get('ReasonCode')
        if code is None and account.reason_code_required:
            raise Refusal('Reason Codes are required')
        if code is not None and code.lower() not in self.reason_codes:
            raise Refusal('Reason Code %s failed validation' % code)
        system, number = options.get('TicketSystemName'), options.get('TicketNumber')
        if account.ticket_required and not (system or number):
            raise Refusal(without_ticket)
        if bool(system) != bool(number):
            raise Refusal('Ticket Number and Ticket System are required for the API retrieval')
        if system and system.lower() not in self.tickets:
            raise Refusal('Ticket System %s failed validation' % system)
        if system and number.lower() not in self.tickets[system.lower()]:
            raise Refusal('Ticket "%s" not found' % number)

    def _listed(self, what, options, rows, matches=same):
        """The first MaxRows of `rows` that match the options which are named as one of their columns."""
        rows = [row for row in rows
                if all(matches(value, row[name]) for name, value in options.items() if name in row)]
        if not rows and self.refuses_empty_lists:
            raise Refusal('No %s to list' % what)
        rows = rows[:int(options.get('MaxRows', 25))]
        return done('%d %s' % (len(rows), what), count=len(rows), rows=rows)

    def _file(self, user, account, status, minutes, options=()):
        now = self.clock()
        request = Record(
            id=1001 + len(self.requests), user=user, system=account.system, account=account.name, status=status,
            min_approvers=account.min_approvers, minutes=minutes, options=dict(options),
            submitted=now, approved=None, expires=None, closed=None, canceled=None,
            approve_at=now + account.approve_after, deny_at=now + account.deny_after)
        if status == ACTIVE:
            self._begin(request)
        self.requests[request.id] = request
        return request

    def _begin(self, request):
        request.status, request.approved = ACTIVE, self.clock()
        request.expires = request.approved + 60 * request.minutes

    def _is_released(self, account):
        return any((request.system, request.account, request.status) == (account.system, account.name, ACTIVE)
                   for request in self.requests.values())

    def _let_time_pass(self):
        """Bring every request to the state that it has by now."""
        now = self.clock()
        for request in self.requests.values():
            if request.status == ACTIVE and request.expires <= now:
                request.status, request.closed = EXPIRED, request.expires
            elif request.status == PENDING and request.deny_at <= now:
                request.status, request.closed = DENIED, request.deny_at
        for _, request in sorted(self.requests.items()):
            if (request.status == PENDING and request.approve_at <= now
                    and not self._is_released(self.account(request.system, request.account))):
                self._begin(request)

    def _row(self, request):
        option = request.options.get
        return {
            'RequestID': self._id(request), 'UserName': request.user, 'UserFullName': '', 'Phone': '', 'EmailID': '',
            'SystemName': request.system, 'AccountName': request.account, 'MinApprovers': '%d' % request.min_approvers,
            'SubmittedDt': date(request.submitted), 'ReqReleaseDt': date(request.submitted),
            'ReleaseDuration': '%d' % request.minutes, 'RequestNotes': option('RequestNotes', ''),
            'ExpiresDt': date(request.expires), 'CloseDt': date(request.closed),
            'ApprovedDt': date(request.approved), 'CanceledDt': date(request.canceled),
            'TSName': option('TicketSystemName', ''), 'TicketNbr': option('TicketNumber', ''),
            'Status': request.status, 'ReasonCodeText': option('ReasonCode', ''),
            'AccessPolicyName': option('AccessPolicyName', '')}


DIALECTS = (
    'plain',            # every type written out, as xmlrpclib does
    'untyped',          # text straight in <value>, integers as <i4>
    'cdata',
    'apache',           # its extension namespace: <ex:nil/> for an empty column, <ex:i8> for integers and ids in rows
    'i8',               # <i8> for integers and ids in rows
    'nil',              # <nil/> for an empty column
    'base64',           # every text as base64 of its UTF-8
    'latin1',           # ISO-8859-1, character references for what does not fit
    'ascii',            # us-ascii, the same way
    'spaced',           # comments and white space between the elements, never inside a text
    'text-ids',         # `id` and `faultCode` as text
    'sparse',           # an empty column is missing, unknown ones are there
    'chunked',          # Transfer-Encoding: chunked
    'close',            # no Content-Length: the answer ends with the connection
    'application-xml',  # Content-Type: application/xml
    'faults',           # a refusal is a fault in place of a returnCode
)
ENDS = ('at once', 'soon', 'at the next request')
SOON = 0.02     # s: by then, a client that makes haste has sent its next request
INTEGER = {'untyped': 'i4', 'i8': 'i8', 'apache': 'ex:i8'}
EMPTY = {'nil': '<nil/>', 'apache': '<ex:nil/>'}
ENCODING = {'latin1': 'iso-8859-1', 'ascii': 'us-ascii'}
ROOT = {'apache': 'methodResponse xmlns:ex="http://ws.apache.org/xmlrpc/namespaces/extensions"'}
CONTENT_TYPE = {'application-xml': 'application/xml'}
NOT_IN_XML = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]')


class Writer(object):
    """Writes one answer as an XML-RPC response in the given dialect."""

    def __init__(self, dialect):
        self.dialect = dialect
        self.gap = '\r\n  <!-- <value>between</value> -->\t' if dialect == 'spaced' else ''

    def response(self, answer):
        """`answer` (dict, list of text or Fault) as the bytes of a methodResponse."""
        if self.dialect == 'faults' and isinstance(answer, dict) and answer['returnCode']:
            answer = Fault(answer['returnCode'], answer['message'])
        if isinstance(answer, Fault):
            code = '%d' % answer.faultCode if self.dialect == 'text-ids' else answer.faultCode
            content = self.element('fault', self.value({'faultCode': code, 'faultString': answer.faultString}))
        else:
            content = self.element('params', self.element('param', self.value(self.adapted(answer))))
        encoding = ENCODING.get(self.dialect, 'utf-8')
        document = self.gap.join(['<?xml version="1.0" encoding="%s"?>' % encoding,
                                  self.element(ROOT.get(self.dialect, 'methodResponse'), content), ''])
        return document.encode(encoding, 'xmlcharrefreplace')

    def adapted(self, answer):
        if self.dialect == 'text-ids' and 'id' in answer:
            return dict(answer, id='%s' % answer['id'])
        if 'rows' in answer:
            return dict(answer, rows=[self.row(row) for row in answer['rows']])
        return answer

    def row(self, row):
        if self.dialect in EMPTY:
            row = dict((column, value or None) for column, value in row.items())
        if self.dialect == 'sparse':
            row = dict((column, value) for column, value in row.items() if value)
            row.update(SiteCode='42', LastSyncDt='')
        if self.dialect in ('i8', 'apache') and row.get('RequestID', '').isdigit():
            row = dict(row, RequestID=int(row['RequestID']))
        return row

    def element(self, tag, *content):
        return self.gap.join(('<%s>' % tag,) + content + ('</%s>' % tag.partition(' ')[0],))

    def value(self, value):
        if isinstance(value, dict):
            content = self.element('struct', *[
                self.element('member', '<name>%s</name>' % escape(name), self.value(member))
                for name, member in sorted(value.items())])
        elif isinstance(value, list):
            content = self.element('array', self.element('data', *[self.value(item) for item in value]))
        elif value is None:
            content = EMPTY[self.dialect]
        elif isinstance(value, int):
            tag = INTEGER.get(self.dialect, 'int')
            content = '<%s>%d</%s>' % (tag, value, tag)
        else:
            content = self.text(value)
        return self.element('value', content)

    def text(self, value):
        if self.dialect == 'base64' or NOT_IN_XML.search(value):
            return '<base64>%s</base64>' % base64.b64encode(value.encode('utf-8')).decode('ascii')
        if self.dialect == 'cdata':     # neither its own end nor a carriage return can stand inside
            value = value.replace(']]>', ']]]]><![CDATA[>').replace('\r', ']]>&#13;<![CDATA[')
            return '<string><![CDATA[%s]]></string>' % value
        value = escape(value, {'\r': '&#13;'})      # a bare \r would arrive as \n (XML 1.0, 2.11)
        return value if self.dialect == 'untyped' else '<string>%s</string>' % value


class Handler(BaseHTTPRequestHandler, object):
    """One connection: the handshake, then one POST after the other."""
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    answered = False

    def setup(self):
        if self.server.context:
            self.request.do_handshake()     # here, in the connection's own thread: a slow client holds up nobody
            self.server.count('handshakes')
        BaseHTTPRequestHandler.setup(self)

    def do_POST(self):
        self.server.count('requests')
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.answered and self.server.ends:
            self.close_connection = True
            return
        self.answered = True
        user = self.user()
        if self.path != self.server.path:
            self.send(404)
        elif not (self.headers.get('Content-Type') or '').startswith('text/xml'):
            self.send(415)
        elif user is None:
            self.send(401, headers=['WWW-Authenticate: Basic realm="TPAM", charset="UTF-8"'])
        else:
            self.send(200, self.server.answer(user, body))

    def user(self):
        """The name of who asks, or None: by HTTP Basic where it is sent, otherwise by the client certificate."""
        scheme, _, credentials = (self.headers.get('Authorization') or '').partition(' ')
        if scheme.lower() == 'basic':
            try:
                name, _, password = base64.b64decode(credentials).decode('utf-8').partition(':')
            except (TypeError, ValueError):
                return None
            return name if self.server.tpam.authenticates(name, password) else None
        if self.server.client_ca:
            for attribute, name in [pair for rdn in self.request.getpeercert()['subject'] for pair in rdn]:
                if attribute == 'commonName' and name.lower() in self.server.tpam.users:
                    return name
        return None

    def send(self, status, body=None, headers=()):
        """One answer in one write: a second small one would wait for the delayed acknowledgement of the first."""
        reason = self.responses[status][0]
        dialect = self.server.dialect
        lines = ['HTTP/1.1 %d %s' % (status, reason)] + list(headers)
        lines.append('Content-Type: ' + ('text/html' if body is None else CONTENT_TYPE.get(dialect, 'text/xml')))
        body = ('<html><body>%s</body></html>' % reason).encode('ascii') if body is None else body
        if dialect == 'chunked':
            lines.append('Transfer-Encoding: chunked')
            parts = [body[start:start + 61] for start in range(0, len(body), 61)] + [b'']
            body = b''.join(b'%x\r\n%s\r\n' % (len(part), part) for part in parts)
        elif dialect == 'close':
            lines.append('Connection: close')
            self.close_connection = True
        else:
            lines.append('Content-Length: %d' % len(body))
        self.connection.sendall('\r\n'.join(lines + ['', '']).encode('ascii') + body)
        if self.server.ends in ('at once', 'soon'):
            time.sleep(SOON if self.server.ends == 'soon' else 0)
            self.close_connection = True

    def log_message(self, *_):
        """The audit trail is the log."""


def server_context(certfile, client_ca):
    """A TLS context from TLS 1.0, which is all that the production client speaks, to the newest there is."""
    context = ssl.SSLContext(getattr(ssl, 'PROTOCOL_TLS_SERVER', ssl.PROTOCOL_SSLv23))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        if hasattr(ssl, 'TLSVersion'):
            context.minimum_version = ssl.TLSVersion.TLSv1
    try:
        context.set_ciphers('DEFAULT:@SECLEVEL=0')      # newer OpenSSL has no TLS 1.0 above level 0
    except ssl.SSLError:
        context.set_ciphers('DEFAULT')                  # older OpenSSL knows no levels
    context.load_cert_chain(certfile)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


class FakeTpamServer(socketserver.ThreadingMixIn, socketserver.TCPServer, object):
    """Serves `tpam` (a FakeTpam) inside a `with` block, from daemon threads. Everything open is closed at its end.

    port: 0 takes a free one; the attributes host, port and url say where it is
    certfile: file with certificate and key, PEM; None serves plain HTTP
    client_ca: file with the CA of client certificates, PEM, which are required then; the CN of the subject is the
        user where no HTTP Basic is sent
    method_prefix: stands in front of every command's name, say 'tpam.'
    dialect: one of DIALECTS; may be set to another one while it serves
    ends: None, or one of ENDS: each connection ends after one answer that does not say so
    Counters: connections (accepted), handshakes (completed), requests (POSTs read).
    """
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, tpam, host='127.0.0.1', port=0, certfile=None, client_ca=None, path='/RPC2', method_prefix='',
                 dialect='plain', ends=None):
        if dialect not in DIALECTS:
            raise ValueError('unknown dialect %s' % dialect)
        if ends not in ENDS + (None,):
            raise ValueError('unknown end %s' % ends)
        self.ends = ends
        self.tpam, self.host, self.path = tpam, host, path
        self.client_ca, self.method_prefix, self.dialect = client_ca, method_prefix, dialect
        self.context = server_context(certfile, client_ca) if certfile else None
        self.connections = self.handshakes = self.requests = 0
        self.lock = threading.Lock()
        self.open = set()
        self.address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
        socketserver.TCPServer.__init__(self, (host, port), Handler)
        self.port = self.server_address[1]
        self.url = '%s://%s:%d%s' % ('https' if certfile else 'http', '[%s]' % host if ':' in host else host,
                                     self.port, path)

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, kwargs={'poll_interval': 0.005})
        self.thread.daemon = True
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.thread.join()
        self.server_close()
        with self.lock:
            connections = list(self.open)
        for connection in connections:
            self.hang_up(connection)

    @locked
    def count(self, counter):
        setattr(self, counter, getattr(self, counter) + 1)

    def answer(self, user, body):
        """The bytes of the response to the call in `body` (bytes of a methodCall) from `user` (a name)."""
        try:
            try:
                params, method = loads(body)
            except Exception as error:      # a broken call surfaces as any of a dozen classes
                raise Fault(BAD_XML, 'not an XML-RPC call: %s' % error)
            prefix = self.method_prefix
            if method == 'system.listMethods':
                answer = [prefix + command for command in sorted(COMMANDS)] + ['system.listMethods']
            elif not method.startswith(prefix):
                raise Fault(NO_COMMAND, 'unknown command %s' % method)
            else:
                answer = self.tpam.call(user, method[len(prefix):], params[0] if len(params) == 1 else params)
        except Fault as fault:
            answer = fault
        return Writer(self.dialect).response(answer)

    # What socketserver calls

    def get_request(self):
        connection, address = self.socket.accept()
        self.count('connections')
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self.lock:
            self.open.add(connection)
        return connection, address

    def shutdown_request(self, connection):
        with self.lock:
            self.open.discard(connection)
        try:
            if self.context and not self.ends:
                connection.settimeout(1)
                connection.unwrap()     # says that the answer is whole: one without a length needs that
        except (socket.error, ValueError):
            pass
        self.hang_up(connection)
        connection.close()

    @staticmethod
    def hang_up(connection):
        try:    # past the TLS layer, which another thread may be using
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        except socket.error:
            pass

    def handle_error(self, request, client_address):
        """A client that goes away is no news; anything else is a bug here and is shown."""
        if not isinstance(sys.exc_info()[1], socket.error):
            socketserver.TCPServer.handle_error(self, request, client_address)


HERE = os.path.dirname(os.path.abspath(__file__))
DEMO_CERT = os.path.join(HERE, 'certs', 'good.pem')
CERTIFICATES = re.compile('-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----', re.S)


def demo_tpam():
    """A FakeTpam with a few systems, for trying things out."""
    tpam = FakeTpam(request_ids='tpam')
    tpam.add_user('sps', 'secret')
    tpam.add_user('jdoe', isa=False, admin=False)
    tpam.add_system('WEB01', '10.0.0.5')
    tpam.add_system('DB01', '10.0.0.6')
    tpam.add_system('WIN01', '10.0.0.7', 'Windows')
    with open(os.path.join(HERE, 'keys', 'rsa-3072.openssh')) as key:
        tpam.add_account('WEB01', 'root', 'demo-web01-root', key=text(key.read()))
    tpam.add_account('DB01', 'root', 'demo-db01-root', min_approvers=1, approve_after=3)
    tpam.add_account('WIN01', 'Administrator', 'demo-win01-administrator')
    tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    tpam.add_request('jdoe', 'WIN01', 'Administrator')
    return tpam


# All of it is a configuration of the plugin.
HOW_TO_REACH = """\
# A fake TPAM serves %(url)s to this machine only%(security)s. Ctrl-C ends it.
# This text is a configuration for it. Paste it into a file, say my.cfg, and try:
#   python3 tools/try_plugin.py check --config my.cfg
#   python3 tools/try_plugin.py session --config my.cfg server_username=root server_ip=10.0.0.5 gateway_username=jdoe
#
# authorization   what the demo data allow
#   gateway       everybody: root on WEB01 (10.0.0.5) with a password and an SSH key, root on DB01 (10.0.0.6), and
#                 Administrator on WIN01 (10.0.0.7)
#   policy        with required_policy=Privileged, jdoe: root on WEB01
#   approval      jdoe: Administrator on WIN01, by a request that is active for two hours
#   request       everybody: root on WEB01 at once, and root on DB01 when the request is approved, after 3 s

[tpam]
server=localhost:%(port)d
username=sps
password=secret

[tls]
%(tls)s
"""


def tls_options(cert, ca, client_ca):
    """Return the lines under [tls] for this server. Without --ca: ca.pem beside the certificate, or itself."""
    if not cert:
        return 'enabled=no'
    beside = os.path.join(os.path.dirname(cert), 'ca.pem')
    with open(ca or (beside if os.path.exists(beside) else cert)) as content:
        lines = ['ca_cert=' + '\n'.join(CERTIFICATES.findall(content.read()))]
    if client_ca:
        lines.append('# This server asks for a certificate.\n; client_cert=<PEM>')
    return '\n'.join(lines)


def port_number(word):
    """Return the port that a word of the command line names."""
    number = int(word)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError('%s is no port: 0 to 65535' % word)
    return number


def main():
    """Serve demo data until Ctrl-C."""
    parser = argparse.ArgumentParser(description='Serve a fake TPAM with demo data on loopback, with TLS.')
    parser.add_argument('--port', type=port_number, default=8443, help='0 takes a free one (default: %(default)s)')
    parser.add_argument('--cert', default=DEMO_CERT,
                        help='certificate and key in one PEM file (default: a test certificate for localhost)')
    parser.add_argument('--ca', help='PEM file with the CA of --cert, for the configuration that is printed')
    parser.add_argument('--no-tls', action='store_true', help='serve plain HTTP')
    parser.add_argument('--client-ca', help='PEM file with the CA of client certificates, which are required then')
    parser.add_argument('--dialect', choices=DIALECTS, default='plain', help='how answers are written')
    parser.add_argument('--demo', action='store_true', help='print the audit trail while it grows')
    options = parser.parse_args()
    if options.client_ca and options.no_tls:
        parser.error('--client-ca needs TLS')
    cert = None if options.no_tls else options.cert
    for name in (cert, options.client_ca):
        if name:
            open(name).close()  # the error of the module ssl would not name the file
    tls = tls_options(cert, options.ca, options.client_ca)
    tpam, shown = demo_tpam(), 0
    with FakeTpamServer(tpam, port=options.port, certfile=cert, client_ca=options.client_ca,
                        dialect=options.dialect) as server:
        print(HOW_TO_REACH % {'url': server.url, 'port': server.port, 'tls': tls,
                              'security': '' if cert else ', in plain HTTP without TLS'})
        sys.stdout.flush()
        while True:
            time.sleep(0.2)
            for entry in tpam.audit[shown:] if options.demo else ():
                shown = entry.number
                print('%d %s %s %s -> %d %s' % (entry.number, entry.user, entry.command, json.dumps(
                    entry.options, sort_keys=True), entry.return_code, json.dumps(entry.message)))
                sys.stdout.flush()


if __name__ == '__main__':
    sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
    import program
    program.run(main)
