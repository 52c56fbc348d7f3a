# -*- coding: utf-8 -*-
"""Check a server against docs/protocol.md for try_plugin.py, with the modules of the plugin and in its interpreter.

Python 2.6 code. Started like sps_child.py, it answers {"rows": [{"command", "sent", "came", "protocol", "verdict"}],
"problems": [line]}. Each row is also logged as soon as it is known. Credentials are looked at and never shown.
"""
import os
import re
import signal
import textwrap
import time

import sps_child
CALL, RESULT = sps_child.begin()

import main as plugin  # noqa: E402 - there is no plugin before begin()
import sshkey  # noqa: E402
import tpamclient  # noqa: E402
import tpamtransport  # noqa: E402
import tpamxml  # noqa: E402
from tpamcall import Call  # noqa: E402
from tpamcert import canonical_address  # noqa: E402
from tpamcheckout import MANY_ROWS  # noqa: E402
from tpamconfig import read_configuration  # noqa: E402
from tpamerrors import (  # noqa: E402
    MAX_ID, MAX_MATCHED, BadAnswer, Deadline, TpamError, TpamRefused, TpamTimeout, TpamUnavailable, column, escaped,
    folded, is_number, is_text, same_name, text)
from tpamrows import ACTIVE, CLOSED, OPEN, state_of  # noqa: E402

OK, WRONG, NOT_OFFERED, REFUSED = u'ok', u'WRONG', u'not offered', u'refused'
UNKNOWN, NO_NAME, NO_ID = u'TryPluginUnknown', u'try-unknown', u'999999999-1'  # what no server knows
LOOKS = (u'ListSystems', u'ListAccounts', u'ListRequestDetails', u'ListAssignedPolicies', u'GetPwdRequest')
CREDENTIALS = (u'Retrieve', u'RetrieveKey')
CHANGES = (u'AddPwdRequest', u'Cancel', u'ForceReset')
TABLE = ((u'command', 20), (u'sent', 26), (u'came', 30), (u'protocol', 26), (u'verdict', 11))  # columns and widths
# Members in which servers have put a credential. Others are not named, since a name may be a credential, too.
_USUAL = re.compile(u'(password|pwd|secret|credential|(private_?)?key|pem|value|result|text|data|output|msg|status|code'
                    u'|return_?code|error|message)\\Z', re.I)
# The phrases that docs/protocol.md lists for refusals of a credential. Only these are shown of such a refusal: a server
# that takes returnCode 1 for success would have the password there.
PHRASES = [pattern for pattern, _ in plugin.REMEDIES] + [u'the current status is [a-z/ ]{1,20}']


class CannotGoOn(Exception):
    """The server cannot be asked anything more; the last row says why."""


# ---- shapes: what is wrong with a decoded answer, one line for each thing --------------------------------------------

def read_answer(body, is_secret):
    """Decode an answer (bytes) -> (its struct, or {}; TpamRefused, or None; problems).

    is_secret: whether it may hold a credential.
    """
    try:
        value = tpamxml.decode_answer(body)
    except TpamRefused as fault:
        problems = reason_problems(fault)
        if not is_number(fault.code) and not is_text(fault.code):
            problems.append(u'faultCode is %s, not an int' % kind_of(fault.code))
        return {}, fault, problems
    except BadAnswer as error:
        return {}, None, [u'no answer in XML-RPC: %s' % text(error)]
    if not isinstance(value, dict):
        return {}, None, [u'the answer is %s, not a struct' % kind_of(value)]
    name_of = usual_name_shown if is_secret else name_shown
    problems = member_problems(value, 'returnCode', is_number, u'an int', name_of)
    if is_secret and 'message' not in value and elsewhere(value, is_text, name_of):
        problems.append(u'the credential came in %s, not in `message`' % elsewhere(value, is_text, name_of))
    else:
        problems += member_problems(value, 'message', is_text, u'text', name_of)
    if problems or value['returnCode'] == 0:
        return value, None, problems
    refusal = TpamRefused(value['message'], value['returnCode'])
    return value, refusal, reason_problems(refusal)


def kind_of(value):
    """Return the type of a value in the words of XML-RPC."""
    if is_text(value):
        return u'text'
    if is_number(value):
        return u'an int'
    kinds = {bool: u'a boolean', float: u'a double', list: u'an array', dict: u'a struct'}
    return kinds.get(type(value), u'nil')


def member_problems(value, member, is_kind, kind, name_of):
    """Check that a struct has a member of this kind."""
    if member in value:
        if is_kind(value[member]):
            return []
        return [u'%s is %s, not %s' % (member, kind_of(value[member]), kind)]
    others = elsewhere(value, is_kind, name_of)
    return [u'%s is missing' % member + (u'; did it come in %s?' % others if others else u'')]


def elsewhere(value, is_kind, name_of):
    """Return the members that may be one that is missing, u'' if there are none.

    name_of: function that returns the name of a member for display.
    """
    return u' or '.join(name_of(name) for name in sorted(value)
                        if is_kind(value[name]) and name not in ('returnCode', 'message', 'count', 'id'))


def name_shown(name):
    """Return the name of a member or column for display."""
    return u'`%s`' % name if re.match(r'\w{1,40}\Z', name) else u'an unusual name'


def usual_name_shown(name):
    """Return the same for an answer that holds a credential."""
    return u'`%s`' % name if _USUAL.match(name) else u'another member'


def reason_problems(refusal):
    """Check that a refusal gives a reason."""
    return [] if refusal.message.strip() else [u'the refusal has no text: the log cannot say why']


def rows_problems(value, needed):
    """Check count and rows, and that each row has the needed columns (names)."""
    rows, count = value.get('rows'), value.get('count')
    if count is not None and not re.match(u'[0-9]{1,9}\\Z', text(count).strip()):
        return [u'count is %s, not an int' % kind_of(count)]
    if rows is None and text(count).strip() == u'0':
        return []
    if not isinstance(rows, list):
        return [u'rows is %s, not an array' % kind_of(rows) if 'rows' in value
                else u'rows is missing; without rows, count must be 0']
    if count is not None and int(text(count)) != len(rows):
        return [u'count is %d, and the number of rows is %d' % (int(text(count)), len(rows))]
    return [problem for row in rows for problem in row_problems(row, needed)][:1]


def row_problems(row, needed):
    """Check one row."""
    if not isinstance(row, dict):
        return [u'a row is %s, not a struct of columns' % kind_of(row)]
    for name in sorted(row):
        if isinstance(row[name], (dict, list, bool, float)):
            return [u'column %s is %s, not text' % (name_shown(name), kind_of(row[name]))]
    for name in needed:
        if not column(row, name).strip():
            there = u', '.join(name_shown(other) for other in sorted(row) if column(row, other).strip())
            return [u'column `%s` is missing or empty; filled in are %s' % (name, there or u'none')]
    return []


def id_problems(value):
    """Check the id of AddPwdRequest."""
    number = value.get('id')
    if 'id' not in value:
        return [u'id is missing: the plugin could not cancel the request']
    if not is_number(number) and not is_text(number):
        return [u'id is %s, not an int or text' % kind_of(number)]
    if not 0 < len(text(number).strip()) <= MAX_ID:
        return [u'id is empty, or has more than %d characters' % MAX_ID]
    return []


def credential_problems(secret):
    """Check a password or key (text)."""
    if not secret:
        return [u'the credential is empty']
    if len(secret) > tpamclient.MAX_CREDENTIAL:
        return [u'the credential has more than %d characters' % tpamclient.MAX_CREDENTIAL]
    if tpamclient._NEVER_INITIALISED in folded(secret[:MAX_MATCHED]):
        return [u'the account was never initialised: name another --account']
    return []


def texts_in(value):
    """Return all texts in a value, without the names of members."""
    if isinstance(value, dict):
        return [found for member in value.values() for found in texts_in(member)]
    if isinstance(value, list):
        return [found for item in value for found in texts_in(item)]
    return [text(value)] if is_text(value) else []


# ---- what an answer should be: functions that return (what came, problems) -------------------------------------------

def a_password(value):
    """Judge the answer of Retrieve."""
    secret = value['message']
    came = u'a password'
    if secret != secret.strip():
        came += u' with white space at an end, which is part of it'
    return came, credential_problems(secret)


def a_key(value):
    """Judge the answer of RetrieveKey."""
    problems = credential_problems(value['message'])
    if problems:
        return u'', problems
    try:
        keys = sshkey.private_keys(value['message'])
    except sshkey.UnusableKey as error:
        return u'', [u'the key cannot be used: %s' % text(error)]
    return u', '.join(u'%s key of %d bits' % (key[0], key[3]) for key in keys), []


def done(value):
    """Judge the answer of a command that returns nothing."""
    return u'done', []


def carried_out(value):
    """Judge an answer that should have been a refusal."""
    return u'', [u'returnCode is 0: it was carried out, or found']


def any_refusal(refusal):
    """Judge a refusal that is right."""
    return u'refused', []


def rows_where(needed, is_right, wrong):
    """Return a judge of rows: needed columns, and a function that a row must pass; `wrong` names one that does not."""
    def judge(value):
        rows = value.get('rows') or []
        problems = rows_problems(value, needed)
        if not problems and not all(is_right(row) for row in rows):
            problems = [wrong]
        return counted(rows), problems
    return judge


def one_row(needed, is_right, wrong):
    """Return a judge of an answer that must have exactly one row."""
    judge_all = rows_where(needed, is_right, wrong)

    def judge(value):
        came, problems = judge_all(value)
        if not problems and len(value.get('rows') or []) != 1:
            problems = [u'%s; there must be one' % came]
        return came, problems
    return judge


def a_list_without_rows(refusal):
    """Judge a refusal of a list, which may say that it is empty."""
    if tpamclient._NOTHING_TO_LIST.search(refusal.message[:MAX_MATCHED]):
        return u'an empty list', []
    return u'', None  # it is an unexpected one


def ended_in(message, states):
    """Return whether the message of AddPwdRequest ends in one of these states, as the plugin reads it."""
    return folded(message[-MAX_MATCHED:]).rstrip(u'. ').endswith(states)


def counted(rows):
    """Return '1 row'."""
    return u'%d row%s' % (len(rows), u's'[len(rows) == 1:])


NO_ROWS = rows_where((), lambda row: False, u'rows about something else than what was asked for')


# ---- the check -------------------------------------------------------------------------------------------------------

class ServerCheck(object):
    """The check of one server. rows: the table so far; left: the id of a request that is still open, or None."""

    def __init__(self, hook, address, connection, arguments):
        self.hook, self.settings, self.rows, self.left = hook, hook.settings, [], None
        self.address, self.connection = address, connection
        self.system, self.account = text(arguments['system']), text(arguments['account'])
        self.names = {'SystemName': self.system, 'AccountName': self.account}
        self.user = hook.gateway_user.name or text(self.settings['tpam']['username'])
        self.session = u'try-%d' % time.time()
        self.server, self.was_refused = None, False  # was_refused: whether the last command was

    def run(self, with_changes):
        """Send the commands and fill the table."""
        try:
            self.connect()
            self.check_unknown_command()
            self.check_systems()
            self.check_other_lists()
            self.check_credentials()
            if with_changes:
                self.check_request()
                self.send(u'ForceReset', self.names, u'returnCode 0 when the password is changed', done)
        except (CannotGoOn, KeyboardInterrupt):
            pass
        finally:
            self.server.close()

    def connect(self):
        """Open a new connection, with the whole time of a hook."""
        self.deadline = Deadline(self.settings['tpam']['timeout'])
        self.server = tpamtransport.Server(self.address[0], self.address[1], self.connection, self.deadline)
        limit = Deadline(self.settings['tpam']['connect_timeout'], self.deadline)
        try:
            self.server.connection.open(limit)
        except TpamError as error:
            self.add(u'(connection)', [self.server.name], self.hook.line(error.message, **error.fields()),
                     u'connected and verified', WRONG)
            raise CannotGoOn()

    def needs(self, command):
        """Return whether the hooks send a command with this configuration."""
        tpam = self.settings['tpam']
        mode, resolvers = tpam['authorization'], tpam['system_name_resolver']
        return {u'ListSystems': u'tpam' in resolvers or len(resolvers) > 1,
                u'ListAccounts': tpam['system_maptoreal'],
                u'ListRequestDetails': mode in (u'approval', u'request'),
                u'ListAssignedPolicies': mode == u'policy',
                u'Retrieve': mode != u'request',
                u'RetrieveKey': False,  # a server may do without it
                u'ForceReset': self.settings['check-in']['force_reset']}.get(command, mode == u'request')

    # -- one command

    def send(self, command, options, protocol, judge, judge_refusal=None, needed=None):
        """Send a command, add its row, and return its answer (dict), or None if that is a refusal or wrong.

        protocol: what the page says. judge: function of the answer; judge_refusal: the same of a TpamRefused, None if
        there should be no refusal. Both return (what came, problems). needed: whether an unexpected refusal is wrong;
        by default, whether the configuration needs the command.
        """
        if needed is None:
            needed = self.needs(command)
        sent = [u'%s=%s' % (name, text(options[name])) for name in sorted(options)]
        try:
            body = self.ask(command, options)
        except TpamError as error:
            self.add(command, sent, self.hook.line(error.message, **error.fields()), protocol, WRONG)
            if isinstance(error, (TpamTimeout, TpamUnavailable)) or text(error.details.get('status'))[:3] == u'401':
                raise CannotGoOn()
            return None
        value, came, verdict = self.judged(command, body, judge, judge_refusal, needed)
        self.add(command, sent, came, protocol, verdict)
        return value if verdict == OK else None

    def ask(self, command, options):
        """Send a command, with the time of a hook, and return the body of its answer (bytes)."""
        began = time.time()
        is_repeatable = command not in CHANGES and not (command in CREDENTIALS and 'RequestID' in options)
        body = tpamxml.encode_call(self.settings['tpam']['method_prefix'] + command, options)
        try:
            return self.server.ask(command, body, lambda answer: answer, is_repeatable, True, command in CHANGES)
        finally:
            self.deadline.extend(time.time() - began)

    def judged(self, command, body, judge, judge_refusal, needed):
        """Return (answer (dict), or None for a refusal; what came; verdict)."""
        is_secret = command in CREDENTIALS
        value, refusal, problems = read_answer(body, is_secret)
        if is_secret and refusal is None:
            for secret in texts_in(value):
                self.hook.add_secret(secret)
        self.was_refused = refusal is not None
        if problems:
            return None, u'; '.join(problems), WRONG
        if refusal is None:
            came, problems = judge(value)
        elif judge_refusal is None or plugin.is_unknown_command(refusal) and command != UNKNOWN:
            return (None,) + self.refused(command, refusal, needed)
        else:
            value = None
            came, problems = judge_refusal(refusal)
        if problems is None:
            return (None,) + self.refused(command, refusal, needed)
        if problems:
            return None, u'; '.join(problems), WRONG
        return value, came, OK

    def refused(self, command, refusal, needed):
        """Return (what came, verdict) for a refusal that is not expected."""
        came = u'refused: ' + self.reason(command, refusal)
        if plugin.is_unknown_command(refusal):
            if needed:
                return came + u'; this configuration needs the command', WRONG
            return came, NOT_OFFERED
        if needed:
            return came + u'; give the API user the right, or name another account', WRONG
        return came, REFUSED

    def reason(self, command, refusal):
        """Return the text of a refusal for display. Of one that may be a credential, only known phrases are shown."""
        if command not in CREDENTIALS:
            return escaped(self.hook.line(refusal.message))
        message = refusal.message[:MAX_MATCHED]
        found = [re.search(pattern, message, re.I) for pattern in PHRASES]
        shown = u' … '.join(match.group() for match in found if match)
        if plugin.is_unknown_command(refusal):
            shown = u'unknown command'
        return shown or u'with a text that is not shown, since it may be a credential'

    def add(self, command, sent, came, protocol, verdict):
        """Add a row to the table and write it. sent: lines."""
        sent = u'\n'.join(escaped(self.hook.line(line)) for line in sent)
        row = {'command': command, 'sent': sent or u'no options', 'came': self.hook.line(came), 'protocol': protocol,
               'verdict': verdict}
        self.rows.append(row)
        write_row([row[name] for name, _ in TABLE])

    # -- commands that change nothing

    def check_unknown_command(self):
        """Check that a command that does not exist is refused as the protocol says."""
        def judge(refusal):
            if refusal.code == plugin.UNKNOWN_COMMAND:
                return u'the code -32601', []
            if plugin.is_unknown_command(refusal):
                return u'a text that says so', []
            return u'', [u'another refusal: without RetrieveKey, the log would warn at every key hook']
        self.send(UNKNOWN, {}, u'refused with fault -32601, or a text of the table', carried_out, judge)

    def check_systems(self):
        """Check that ListSystems finds a system by its name, in any case, and by its address."""
        protocol = u'one row, whose SystemName is this'
        judge = one_row(('SystemName',), self.is_system, u'a row of another system: the filter must be obeyed')
        found = self.send(u'ListSystems', {'SystemName': self.system}, protocol, judge)
        if found is None:
            return
        other = self.system.swapcase()
        self.send(u'ListSystems', {'SystemName': other}, u'the same: names compare without regard to case', judge)
        self.check_empty(u'ListSystems', {'SystemName': NO_NAME})
        address = column(found['rows'][0], 'NetworkAddress')
        if address:
            self.send(u'ListSystems', {'NetworkAddress': address}, u'one row, whose NetworkAddress is this', one_row(
                ('SystemName', 'NetworkAddress'),
                lambda row: canonical(column(row, 'NetworkAddress')) == canonical(address),
                u'a row with another address: the filter must be obeyed'))

    def check_empty(self, command, options):
        """Check that a list about nothing is empty."""
        self.send(command, options, u'No … to list, or count 0', NO_ROWS, a_list_without_rows)

    def is_system(self, row):
        """Return whether a row is about the system."""
        return same_name(column(row, 'SystemName'), self.system)

    def is_account(self, row):
        """Return whether a row is about the account."""
        return self.is_system(row) and same_name(column(row, 'AccountName'), self.account)

    def check_other_lists(self):
        """Check ListAccounts, ListRequestDetails, ListAssignedPolicies, and GetPwdRequest of an unknown id."""
        needed = ['SystemName', 'AccountName']
        if self.needs(u'ListAccounts'):
            needed += ['AccountCustom1', 'AccountCustom2']
        found = self.send(u'ListAccounts', self.names, u'one row, with these names', one_row(
            needed, self.is_account, u'a row of another account: the filter must be obeyed'))
        if found is not None:
            self.check_empty(u'ListAccounts', dict(self.names, AccountName=NO_NAME))
        needed = ('RequestID', 'UserName', 'SystemName', 'AccountName', 'Status')
        self.send(u'ListRequestDetails', dict(self.names, RequestorName=self.user, Status=u'ACTIVE'),
                  u'rows of requests, or an empty list', rows_where(needed, lambda row: state_of(row) in OPEN + CLOSED,
                                                                    u'a Status that is no state of the protocol'),
                  a_list_without_rows)
        self.send(u'ListAssignedPolicies', dict(self.names, UserName=self.user, AllOrEffectiveFlag=u'E',
                                                PermissionType=u'Pwd'),
                  u'rows of policies, or an empty list',
                  rows_where(
                      ('AccessPolicyName', 'EffectiveFl'),
                      lambda row: folded(column(row, 'EffectiveFl')) in (u'yes', u'y', u'no', u'n'),
                      u'an EffectiveFl that is not Yes, Y, No or N'), a_list_without_rows)
        self.send(u'GetPwdRequest', {'RequestID': NO_ID}, u'an empty list, or refused', NO_ROWS, any_refusal)

    def check_credentials(self):
        """Check Retrieve and RetrieveKey without a request."""
        request = self.settings['request']
        options = given(dict(self.names, ReasonText=self.named(u'gateway'), ReasonCode=request['reason_code'],
                             TimeRequired=request['time_required']))
        found = self.send(u'Retrieve', options, u'message is the password', a_password)
        if found is not None:
            self.send(u'Retrieve', dict(options, AccountName=NO_NAME), u'refused', carried_out, any_refusal)
        self.send(u'RetrieveKey', options, u'message is the private key; optional', a_key)

    def named(self, about):
        """Return a reason text, notes or a comment of this check."""
        return u'%s,SPS,%s,%s' % (self.user, about, self.session)

    # -- commands that change something

    def check_request(self):
        """Submit a request, look at it, cancel it, and look again."""
        request, notes = self.settings['request'], self.named(u'request')
        options = given(dict(
            self.names, RequestNotes=notes, RequestImmediate=u'Y', ReasonCode=request['reason_code'],
            ReleaseDuration=request['release_duration'], AccessPolicyName=request['access_policy']))
        submitted = {}

        def judge(value):
            problems = id_problems(value)
            if not problems:
                submitted.update(value)
            if not problems and not ended_in(value['message'], OPEN):
                problems = [u'the message does not end in Pending Approval, Approved or Active/Approved']
            return u'id; ' + (u'active' if ended_in(value['message'], ACTIVE) else u'pending'), problems
        self.left = u'with the notes ' + notes  # until it is known that there is none
        self.send(u'AddPwdRequest', options, u'id, and a message that ends in the state', judge)
        if self.was_refused:
            self.left = None
        if not submitted:
            return
        number, is_active = submitted['id'], ended_in(submitted['message'], ACTIVE)
        self.left = escaped(number)
        try:
            self.check_open_request(number, notes, is_active)
        finally:
            self.cancel(number)
        if self.left is None:
            self.check_closed_request(number)

    def cancel(self, number):
        """Cancel the request, on a new connection, since the last one may be what failed."""
        self.server.close()
        self.connect()
        if self.send(u'Cancel', {'RequestID': number, 'Comment': self.named(u'check-in')}, u'returnCode 0', done,
                     needed=True) is not None:
            self.left = None

    def check_open_request(self, number, notes, is_active):
        """Check the request by its id and by its notes, and what it releases."""
        def is_this(row):
            return text(row.get('RequestID')).strip() == text(number).strip()
        self.send(u'GetPwdRequest', {'RequestID': number}, u'one row: its RequestID and RequestStatus', one_row(
            ('RequestID', 'RequestStatus'), lambda row: is_this(row) and state_of(row, 'RequestStatus') in OPEN,
            u'another RequestID, or a RequestStatus that is none of an open request'), needed=True)

        def judge(value):
            came, problems = rows_where(('RequestID', 'Status'), lambda row: True, u'')(value)
            found = [row for row in value.get('rows') or [] if isinstance(row, dict) and is_this(row)]
            if not problems and not found:
                problems = [u'%s, without this request' % came]
            elif not problems and column(found[0], 'RequestNotes') != notes:
                problems = [u'RequestNotes is not the notes that were sent: a lost request would not be found']
            return came, problems
        self.send(u'ListRequestDetails', dict(
            self.names, RequestorName=text(self.settings['tpam']['username']), Status=u'OPEN', MaxRows=MANY_ROWS),
            u'a row of this request, with its notes unchanged', judge, needed=True)
        if is_active:
            self.send(u'Retrieve', {'RequestID': number}, u'message is the password', a_password, needed=True)
        else:
            self.send(u'Retrieve', {'RequestID': number}, u'refused: not approved', carried_out, any_refusal)

    def check_closed_request(self, number):
        """Check a request that is cancelled."""
        self.send(u'GetPwdRequest', {'RequestID': number}, u'RequestStatus is Expired or Canceled', one_row(
            ('RequestID', 'RequestStatus'), lambda row: state_of(row, 'RequestStatus') in CLOSED,
            u'a RequestStatus that is none of a closed request'), needed=True)
        self.send(u'Cancel', {'RequestID': number, 'Comment': self.named(u'check-in')}, u'refused: closed already',
                  carried_out, any_refusal)
        self.send(u'Retrieve', {'RequestID': number}, u'refused: closed', carried_out, any_refusal)


def given(options):
    """Return the options that have a value."""
    return dict((name, value) for name, value in options.items() if value)


def canonical(address):
    """Return an address, or a name in its place, in the form in which it is compared."""
    return folded(canonical_address(address) or address)


# ---- the program -----------------------------------------------------------------------------------------------------

def write_row(cells):
    """Write one row of the table, its cells wrapped."""
    wrapped = [[part for line in cell.split(u'\n') for part in textwrap.wrap(line, width, break_on_hyphens=False)]
               for cell, (_, width) in zip(cells, TABLE)]
    for number in range(max(len(lines) for lines in wrapped)):
        line = [(lines[number] if number < len(lines) else u'').ljust(width)
                for lines, (_, width) in zip(wrapped, TABLE)]
        write(u'  '.join(line).rstrip())


def write(line):
    """Write a line where the log goes."""
    os.write(2, (line + u'\n').encode('utf-8', 'replace'))


def announce(check, with_changes):
    """Say which commands will be sent, and what they do."""
    write(u'The server %s:%d is asked about the account %s on %s, about the user %s.' % (
        check.address[0], check.address[1], check.account, check.system, check.user))
    write(u'Change nothing: %s, %s.' % (UNKNOWN, u', '.join(LOOKS)))
    write(u'Release a credential to this program, which does not show it: %s.' % u', '.join(CREDENTIALS))
    if with_changes:
        write(u'CHANGE SOMETHING: AddPwdRequest submits a request, Cancel ends it, ForceReset changes the password.')
    else:
        write(u'Not sent without --changes, since they change something: %s.' % u', '.join(CHANGES))
    write(u'')
    write_row([name for name, _ in TABLE])
    write_row([u'-' * width for _, width in TABLE])


def first_server(settings, connection):
    """Return (host, port) of the first server of the configuration. Raises TpamError."""
    host, port = connection['servers'][0]
    if host.startswith(u'srv:'):
        is_pinned = bool(connection['tls'] and connection['tls']['server_fingerprint'])
        found, _ = tpamclient.service_addresses(host[4:], is_pinned, Deadline(settings['tpam']['timeout']))
        host, port = found[0]
    return host, port


def main(call):
    """Check the first server of the configuration -> the answer."""
    settings, problems = read_configuration(call['configuration'])
    if problems:
        return {'rows': [], 'problems': problems, 'left': None}
    arguments = call['arguments']
    hook = Call(settings, 'server', arguments)
    try:
        connection = hook.connection()
        check = ServerCheck(hook, first_server(settings, connection), connection, arguments)
    except TpamError as error:
        return {'rows': [], 'problems': [hook.line(error.message, **error.fields())], 'left': None}
    announce(check, arguments['changes'])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the request must be cancelled
    check.run(arguments['changes'])
    return {'rows': check.rows, 'problems': [], 'left': check.left}


if __name__ == '__main__':
    sps_child.end(RESULT, main(CALL))
