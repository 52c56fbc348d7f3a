# -*- coding: utf-8 -*-
"""Check a server against docs/protocol.md for try_plugin.py, with the modules of the plugin and in its interpreter.

Python 2.6 code. Started like sps_child.py, it answers {"rows": [{"command", "sent", "came", "protocol", "verdict"}],
"notes": what was not proved, "problems": why the server could not be checked, "left": the request that may still be
open, or None}. Each row is also logged as soon as it is known. Credentials are looked at and never shown.
"""
import os
import re
import signal
import time

import sps_child
CALL, RESULT = sps_child.begin()

import main as plugin  # noqa: E402 - there is no plugin before begin()
import tpamauthorize  # noqa: E402
import tpamclient  # noqa: E402
import tpamtransport  # noqa: E402
import tpamxml  # noqa: E402
from tpamcall import Call  # noqa: E402
from tpamcert import canonical_address  # noqa: E402
from tpamcheckout import MANY_ROWS  # noqa: E402
from tpamconfig import read_configuration  # noqa: E402
from tpamerrors import (  # noqa: E402
    MAX_MATCHED, Deadline, TpamError, TpamTimeout, TpamUnavailable, column, escaped, folded, is_number, same_name, text)
from server_answers import (  # noqa: E402
    NO_ROWS, OK, WRONG, a_key, a_password, any_refusal, carried_out, done, ended_in, id_problems, is_empty_list, judged,
    one_row, read_answer, rows_where, texts_in, word_shown, wrong_refusal)
from tpamrows import ACTIVE, CLOSED, OPEN, id_of, same, state_of  # noqa: E402

# More verdicts. AS_ABOVE: the fault of an earlier row, which is WRONG, once more.
AS_ABOVE, NO_ANSWER, NOT_OFFERED, REFUSED, NOT_FOUND, BUSY = (
    u'as above', u'no answer', u'not offered', u'refused', u'not found', u'busy')
UNKNOWN, NO_NAME, NO_ID = u'TryPluginUnknown', u'try-unknown', u'999999999-1'  # what no server knows
LOOKS = (u'ListSystems', u'ListAccounts', u'ListRequestDetails', u'ListAssignedPolicies', u'GetPwdRequest')
CREDENTIALS = (u'Retrieve', u'RetrieveKey')
CHANGES = (u'AddPwdRequest', u'Cancel', u'ForceReset')
# What is said about a refusal that may be one of those on which the behaviour of the plugin depends.
PHRASE_FOR = dict.fromkeys(LOOKS, u'; for an empty list, use one of the texts under Phrases')
PHRASE_FOR[u'AddPwdRequest'] = u'; if another request holds the account, the text must contain `is already scheduled`'
TABLE = ((u'command', 20), (u'sent', 26), (u'came', 30), (u'protocol', 26), (u'verdict', 11))  # columns and widths
NO_STATE = u', which is no state of the protocol'
# A server that takes returnCode 1 for success has the credential in the text of its refusal. Such a text is shown if it
# is a sentence and Retrieve gave another password; otherwise only the phrases that docs/protocol.md lists.
_SENTENCE = re.compile(u'(?!.*PRIVATE KEY)\\S{1,40}( +\\S{1,40}){2,100} *\\Z')
PHRASES = [pattern for pattern, _ in plugin.REMEDIES] + [u'the current status is [a-z/ ]{1,20}']


class CannotGoOn(Exception):
    """The server cannot be asked anything more; the last row says why."""


# ---- the check -------------------------------------------------------------------------------------------------------

class ServerCheck(object):
    """The check of one server. rows, notes, problems, left: what the program answers, see above."""

    def __init__(self, hook, address, connection, arguments):
        self.hook, self.settings = hook, hook.settings
        self.rows, self.notes, self.problems, self.left = [], [], [], None
        self.address, self.connection = address, connection
        self.system, self.account = text(arguments['system']), text(arguments['account'])
        self.names = {'SystemName': self.system, 'AccountName': self.account}
        self.user = hook.gateway_user.name or text(self.settings['tpam']['username'])
        self.session = u'try-%d' % time.time()
        self.server = None
        self.has_answered = False  # whether any call with the log-in was answered in XML-RPC
        self.was_refused = False  # whether the last command was
        self.password = None  # the one that Retrieve gave
        self.text_of_unknown = None  # the text with which Retrieve refuses an account that does not exist
        self.has_request = False  # whether a request of this check was submitted
        self.state = None  # the last RequestStatus of that request, folded; None if it is not known

    def run(self, with_changes):
        """Send the commands and fill the table."""
        try:
            self.connect()
            self.check_log_in()
            self.check_unknown_command()
            self.check_systems()
            self.check_accounts()
            self.check_lists_about_user()
            self.check_credentials()
            if with_changes:
                self.check_request()
                self.check_reset()
            else:
                self.note_changes()
        except (CannotGoOn, KeyboardInterrupt):
            pass
        finally:
            self.server.close()

    def connect(self):
        """Open a new connection, with the whole time of a hook."""
        self.deadline = Deadline(self.settings['tpam']['timeout'])
        self.server = self.new_server(self.connection)
        limit = Deadline(self.settings['tpam']['connect_timeout'], self.deadline)
        try:
            self.server.connection.open(limit)
        except TpamError as error:
            self.fail(u'(connection)', [self.server.name], u'connected and verified', error, can_go_on=False)

    def new_server(self, connection):
        """Return a Server that is not connected yet."""
        return tpamtransport.Server(self.address[0], self.address[1], connection, self.deadline)

    def needs(self, command):
        """Return whether the hooks send a command with this configuration, or this check needs it for its request."""
        tpam = self.settings['tpam']
        mode, resolvers = tpam['authorization'], tpam['system_name_resolver']
        return {u'ListSystems': u'tpam' in resolvers or len(resolvers) > 1,
                u'ListAccounts': tpam['system_maptoreal'],
                u'ListRequestDetails': mode in (u'approval', u'request') or self.has_request,
                u'ListAssignedPolicies': mode == u'policy',
                u'Retrieve': mode != u'request',
                u'RetrieveKey': False,  # a server may do without it
                u'ForceReset': self.settings['check-in']['force_reset']}.get(
                    command, mode == u'request' or self.has_request)

    def could_not(self, why):
        """Record why the server cannot be checked. Only the first cause counts: others follow from it."""
        self.problems = self.problems or [why]

    # -- one command

    def send(self, command, options, protocol, judge, judge_refusal=None):
        """Send a command, add its row, and return its answer (dict), or None if that is a refusal or wrong.

        protocol: what the page says. judge: function of the answer; judge_refusal: function of the TpamRefused and its
        text, or None if there should be no refusal. Both return (what came, verdict).
        """
        sent = lines_sent(options)
        try:
            body = self.ask(self.server, command, options)
        except TpamError as error:
            self.fail(command, sent, protocol, error)
            return None
        self.has_answered = True
        value, came, verdict = self.judge(command, body, judge, judge_refusal)
        self.add(command, sent, came, protocol, verdict)
        # Without the command, it is for Retrieve to say whether the account exists.
        if verdict == NOT_FOUND and (self.needs(command) or not self.needs(u'Retrieve')):
            self.could_not(u'%s: %s' % (command, came))
        return value if verdict == OK else None

    def ask(self, server, command, options):
        """Send a command, with the time of a hook, and return the body of its answer (bytes)."""
        began = time.time()
        is_repeatable = command not in CHANGES and not (command in CREDENTIALS and 'RequestID' in options)
        body = tpamxml.encode_call(self.settings['tpam']['method_prefix'] + command, options)
        try:
            return server.ask(command, body, lambda answer: answer, is_repeatable, True, command in CHANGES)
        finally:
            self.deadline.extend(time.time() - began)

    def fail(self, command, sent, protocol, error, can_go_on=True):
        """Add the row of a call without an answer in XML-RPC. Raises CannotGoOn if no other call makes sense."""
        came = self.hook.line(error.message, **error.fields())
        status = text(error.details.get('status'))
        is_refused = status[:3] in (u'401', u'403', u'404')
        if is_refused and self.has_answered:  # user name, password and path are right
            came = u'%s; a command is refused with the status 200' % status
        elif is_refused or isinstance(error, (TpamTimeout, TpamUnavailable)):
            can_go_on = False
        if not can_go_on:
            self.add(command, sent, came, protocol, NO_ANSWER)
            self.could_not(came)
            raise CannotGoOn()
        self.add(command, sent, came, protocol, WRONG)
        if status[:3] == u'401':  # more of them could lock the user
            raise CannotGoOn()

    def judge(self, command, body, judge, judge_refusal):
        """Return (answer (dict), or None for a refusal; what came; verdict)."""
        is_secret = command in CREDENTIALS
        value, refusal, problems = read_answer(body, is_secret)
        if is_secret and refusal is None:
            for secret in texts_in(value):
                self.hook.add_secret(secret)
        self.was_refused = refusal is not None
        if problems:
            return None, u'; '.join(problems), WRONG
        if refusal is not None and command in LOOKS and is_empty_list(refusal):
            value, refusal = {'rows': []}, None
        if refusal is None:
            return (value,) + judge(value)
        if judge_refusal is None or plugin.is_unknown_command(refusal) and command != UNKNOWN:
            return (None,) + self.refused(command, refusal)
        return (None,) + judge_refusal(refusal, self.reason(command, refusal))

    def refused(self, command, refusal):
        """Return (what came, verdict) for a refusal that is not expected."""
        came = u'refused: ' + self.reason(command, refusal)
        if plugin.is_unknown_command(refusal):
            if self.needs(command):
                return came + u'; this configuration needs the command', WRONG
            return came, NOT_OFFERED
        remedies = [remedy for pattern, remedy in plugin.REMEDIES
                    if re.search(pattern, refusal.message[:MAX_MATCHED], re.I)][-1:]
        if not remedies:
            came += PHRASE_FOR.get(command, u'')
        if self.needs(command):
            self.could_not(u'%s about the account %s on %s is %s; %s' % (
                command, self.account, self.system, came, u', or '.join([u'check --system and --account'] + remedies)))
        return came, REFUSED

    def reason(self, command, refusal):
        """Return the text of a refusal for display, without a credential."""
        shown = escaped(self.hook.line(refusal.message))
        if command not in CREDENTIALS or refusal.message == self.text_of_unknown:
            return shown
        why_hidden = None
        if self.password is None:
            why_hidden = u'it may be the password, since Retrieve gave no other'
        elif self.password in refusal.message:
            why_hidden = u'it contains the password'
        elif not _SENTENCE.match(refusal.message):
            why_hidden = u'it may be a key, since it is no sentence'
        if why_hidden is None:
            return shown
        if plugin.is_unknown_command(refusal):
            return u'unknown command'
        found = [re.search(pattern, refusal.message[:MAX_MATCHED], re.I) for pattern in PHRASES]
        return u' … '.join(match.group() for match in found if match) or u'the text is hidden: ' + why_hidden

    def add(self, command, sent, came, protocol, verdict):
        """Add a row to the table and write it. sent: lines."""
        sent = u'\n'.join(escaped(self.hook.line(line)) for line in sent)
        row = {'command': command, 'sent': sent or u'no options', 'came': self.hook.line(came), 'protocol': protocol,
               'verdict': verdict}
        if verdict == WRONG and any(row['came'] == known['came'] for known in self.rows if known['verdict'] == WRONG):
            row['verdict'] = AS_ABOVE
        self.rows.append(row)
        write_row([row[name] for name, _ in TABLE])

    # -- commands that change nothing

    def check_log_in(self):
        """Check that a caller without a log-in is turned away, and that one with the log-in is not."""
        options = dict(self.names, AccountName=NO_NAME, ReasonText=self.named(u'gateway'))
        if self.connection['tls'] and self.connection['tls']['client_cert']:
            self.notes.append(u'that a caller without a log-in is turned away; it is not tried with a client_cert')
        else:
            self.check_nobody(options)

        def judge_refusal(refusal, reason):
            self.text_of_unknown = refusal.message
            return u'refused', OK
        self.send(u'Retrieve', options, u'refused', carried_out, judge_refusal)

    def check_nobody(self, options):
        """Send a call without a log-in. A wrong password could lock the user; this locks nobody."""
        self.server.close()  # the server may serve only one connection at a time
        nobody = self.new_server(dict(self.connection, credential=(u'', u'')))
        sent, protocol = [u'no Authorization header'] + lines_sent(options), u'status 401'
        try:
            self.ask(nobody, u'Retrieve', options)
            self.add(u'Retrieve', sent, u'an answer: the server does not ask who calls', protocol, WRONG)
        except TpamError as error:
            status = text(error.details.get('status'))
            if status[:3] in (u'401', u'403'):
                self.add(u'Retrieve', sent, u'status ' + status, protocol, OK)
            else:
                self.fail(u'Retrieve', sent, protocol, error)
        finally:
            nobody.close()

    def check_unknown_command(self):
        """Check that a command that does not exist is refused as the protocol says."""
        def judge_refusal(refusal, reason):
            if refusal.code == plugin.UNKNOWN_COMMAND:
                return u'the code -32601', OK
            if plugin.is_unknown_command(refusal):
                return u'a text that says so', OK
            return u'another refusal: without RetrieveKey, the log would warn at every key hook', WRONG
        self.send(UNKNOWN, {}, u'refused with fault -32601, or a text of the table', carried_out, judge_refusal)

    def check_systems(self):
        """Check that ListSystems finds a system by its name, in any case, and by its address."""
        wrong, not_listed = u'a row of another system: the filter must be obeyed', wrong_refusal(u'it was listed above')
        found = self.send(u'ListSystems', {'SystemName': self.system}, u'one row, whose SystemName is this', one_row(
            ('SystemName',), self.is_system, wrong, (u'an empty list; check --system', NOT_FOUND)))
        if found is None:
            return
        self.send(u'ListSystems', {'SystemName': self.system.swapcase()},
                  u'the same: names compare without regard to case',
                  one_row(('SystemName',), self.is_system, wrong), not_listed)
        self.check_empty(u'ListSystems', {'SystemName': NO_NAME}, u'Systems')
        address = column(found['rows'][0], 'NetworkAddress')
        if address:
            self.send(u'ListSystems', {'NetworkAddress': address}, u'one row, whose NetworkAddress is this', one_row(
                ('SystemName', 'NetworkAddress'),
                lambda row: canonical(column(row, 'NetworkAddress')) == canonical(address),
                u'a row with another address: the filter must be obeyed'), not_listed)

    def check_empty(self, command, options, things):
        """Check that a list about nothing is empty."""
        self.send(command, options, u'count 0, or refused: No %s to list' % things, NO_ROWS,
                  wrong_refusal(u'an empty list has count 0 or the text of the page'))

    def is_system(self, row):
        """Return whether a row is about the system."""
        return same_name(column(row, 'SystemName'), self.system)

    def is_account(self, row):
        """Return whether a row is about the account."""
        return self.is_system(row) and same_name(column(row, 'AccountName'), self.account)

    def check_accounts(self):
        """Check that ListAccounts finds the account."""
        needed = ['SystemName', 'AccountName']
        if self.needs(u'ListAccounts'):
            needed += ['AccountCustom1', 'AccountCustom2']
        found = self.send(u'ListAccounts', self.names, u'one row, with these names', one_row(
            needed, self.is_account, u'a row of another account: the filter must be obeyed',
            (u'an empty list; check --system and --account', NOT_FOUND)))
        if found is not None:
            self.check_empty(u'ListAccounts', dict(self.names, AccountName=NO_NAME), u'Accounts')

    def check_lists_about_user(self):
        """Check ListRequestDetails and ListAssignedPolicies, and GetPwdRequest of an unknown id."""
        policy = self.settings['tpam']['required_policy']
        asked = dict(self.names, UserName=self.user)
        self.send(u'ListRequestDetails', dict(self.names, RequestorName=self.user, Status=u'ACTIVE'),
                  u'rows of requests, or an empty list', self.with_usable_row(
                      u'approval', u'no active request of %s for this account' % self.user,
                      lambda row: same(row, **asked) and state_of(row) in ACTIVE and id_of(row),
                      rows_where(('RequestID', 'UserName', 'SystemName', 'AccountName', 'Status'),
                                 lambda row: state_of(row) in OPEN + CLOSED, u'a Status' + NO_STATE)))
        self.send(u'ListAssignedPolicies', dict(asked, AllOrEffectiveFlag=u'E', PermissionType=u'Pwd'),
                  u'rows of policies, or an empty list', self.with_usable_row(
                      u'policy', u'no row grants %s the required_policy %s' % (self.user, policy),
                      lambda row: tpamauthorize._grants(row, policy, asked),
                      rows_where(('AccessPolicyName', 'EffectiveFl'),
                                 lambda row: folded(column(row, 'EffectiveFl')) in (u'yes', u'y', u'no', u'n'),
                                 u'an EffectiveFl that is not Yes, Y, No or N')))
        self.send(u'GetPwdRequest', {'RequestID': NO_ID}, u'an empty list, or refused', NO_ROWS, any_refusal)

    def with_usable_row(self, mode, lack, is_usable, judge_rows):
        """Return a judge of rows. In this mode, one of them must be usable for the hooks; `lack` says that none is.

        The API user need not have such a row. Without --gateway-user the lack is only noted.
        """
        def judge(value):
            came, verdict = judge_rows(value)
            if verdict != OK or self.settings['tpam']['authorization'] != mode:
                return came, verdict
            if any(is_usable(row) for row in value.get('rows') or []):
                return came + u', usable', OK
            if self.hook.gateway_user.name:
                return u'%s; %s; name another --gateway-user' % (came, lack), NOT_FOUND
            self.notes.append(u'that authorization=%s works: %s; name a user who has one with --gateway-user'
                              % (mode, lack))
            return u'%s; %s' % (came, lack), OK
        return judge

    def check_credentials(self):
        """Check Retrieve and RetrieveKey without a request."""
        found = self.send(u'Retrieve', self.by_names(), u'message is the password', a_password)
        if found is not None:
            self.password = found['message']
        self.send(u'RetrieveKey', self.by_names(), u'message is the private key; optional', a_key)

    def by_names(self):
        """Return the options of Retrieve without a request."""
        request = self.settings['request']
        return given(dict(self.names, ReasonText=self.named(u'gateway'), ReasonCode=request['reason_code'],
                          TimeRequired=request['time_required']))

    def named(self, about):
        """Return a reason text, notes or a comment of this check."""
        return u'%s,SPS,%s,%s' % (self.user, about, self.session)

    # -- commands that change something

    def note_changes(self):
        """Note the commands that the configuration needs and that are not sent."""
        needed = [command for command in CHANGES if self.needs(command)]
        if needed:
            self.notes.append(u'%s, which are sent only with --changes' % u', '.join(needed))

    def check_request(self):
        """Submit a request, look at it, cancel it, and look again."""
        submitted = self.submit()
        if not submitted:
            return
        self.has_request = True
        number, self.left = submitted['id'], escaped(submitted['id'])
        try:
            self.check_open_request(number, ended_in(submitted['message'], ACTIVE))
        finally:
            self.cancel(number)
        if self.left is None:
            self.check_closed_request(number)

    def submit(self):
        """Submit a request, and return the answer with its id, or {}."""
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
            return judged(u'id; ' + (u'active' if ended_in(value['message'], ACTIVE) else u'pending'), problems)

        def judge_refusal(refusal, reason):
            if u'is already scheduled' not in folded(refusal.message[:MAX_MATCHED]):
                return self.refused(u'AddPwdRequest', refusal)
            self.could_not(u'another request holds the account, so that AddPwdRequest, Cancel and ForceReset cannot be '
                           u'tried: %s; end that request, or name another --account' % reason)
            return u'refused: %s; another request holds the account' % reason, BUSY
        self.left = u'with the notes ' + notes  # until it is known that there is none
        self.send(u'AddPwdRequest', options, u'id, and a message that ends in the state', judge, judge_refusal)
        if self.was_refused:
            self.left = None
            if not self.problems:
                self.notes.append(u'the life of a request, since AddPwdRequest is refused')
        return submitted

    def cancel(self, number):
        """Cancel the request, on a new connection, since the last one may be what failed."""
        self.server.close()
        self.connect()
        if self.send(u'Cancel', {'RequestID': number, 'Comment': self.named(u'check-in')}, u'returnCode 0', done,
                     wrong_refusal(u'the caller has submitted this request')) is not None:
            self.left = None

    def request_row(self, number, states, wrong):
        """Return a judge of GetPwdRequest: the row of this request, in one of these states; `wrong` says why."""
        judge_row = one_row(('RequestID', 'RequestStatus'), lambda row: id_of(row) == text(number).strip(),
                            u'a row with another RequestID')

        def judge(value):
            self.state = None
            came, verdict = judge_row(value)
            if verdict != OK:
                return came, verdict
            row = value['rows'][0]
            self.state = state_of(row, 'RequestStatus')
            came = u'RequestStatus is ' + word_shown(row, 'RequestStatus')
            if self.state not in OPEN + CLOSED:
                return came + NO_STATE, WRONG
            if self.state not in states:
                return u'%s, %s' % (came, wrong), WRONG
            return came, OK
        return judge

    def check_open_request(self, number, is_active):
        """Check the request by its id and by its notes, and what it releases. is_active: what AddPwdRequest said."""
        own, protocol = wrong_refusal(u'the caller has submitted this request'), u'one row: its RequestID and state'
        judge = self.request_row(number, OPEN, u'which is none of an open request')
        if is_active:
            judge = self.request_row(number, ACTIVE, u'and the answer to AddPwdRequest ended in Active/Approved')
        state = None
        if self.send(u'GetPwdRequest', {'RequestID': number}, protocol, judge, own) is not None:
            state = self.state
            if is_number(number):  # the plugin sends an id from a row as text
                self.send(u'GetPwdRequest', {'RequestID': text(number)}, u'the same: take an id as int and as string',
                          self.request_row(number, OPEN, u'which is none of an open request'), own)
        self.send(u'ListRequestDetails', dict(
            self.names, RequestorName=text(self.settings['tpam']['username']), Status=u'OPEN', MaxRows=MANY_ROWS),
            u'a row of this request, with its state, and its notes unchanged', self.listed_request(number, state), own)
        if state in ACTIVE:
            self.send(u'Retrieve', {'RequestID': number}, u'message is the password', a_password, own)
        elif state is None:
            self.notes.append(u'Retrieve by the id of a request, since the state of the request is not known')
        else:
            self.send(u'Retrieve', {'RequestID': number}, u'refused: not approved', carried_out, any_refusal)
            self.notes.append(u'Retrieve by the id of an active request, and its Cancel: this request was cancelled '
                              u'without an approval; name an account whose requests need none')

    def listed_request(self, number, state):
        """Return a judge of the list that must have this request. state: its RequestStatus, None if not known."""
        judge_rows = rows_where(('RequestID', 'Status'), lambda row: True, u'')
        states = ACTIVE if state in ACTIVE else OPEN  # it may have been approved meanwhile

        def judge(value):
            came, verdict = judge_rows(value)
            if verdict != OK:
                return came, verdict
            found = [row for row in value.get('rows') or [] if id_of(row) == text(number).strip()]
            if not found:
                remedy = u'' if state is None else u'; filter the list first, then cut it to MaxRows'
                return u'%s, without this request%s' % (came, remedy), WRONG
            if column(found[0], 'RequestNotes') != self.named(u'request'):
                return u'RequestNotes is not the notes that were sent: a lost request would not be found', WRONG
            came = u'Status is ' + word_shown(found[0], 'Status')
            if state_of(found[0]) not in OPEN + CLOSED:
                return came + NO_STATE, WRONG
            if state is not None and state_of(found[0]) not in states:
                return u'%s, and RequestStatus was %s' % (came, state), WRONG
            return came, OK
        return judge

    def check_closed_request(self, number):
        """Check a request that is cancelled."""
        found = self.send(
            u'GetPwdRequest', {'RequestID': number}, u'RequestStatus is Expired or Canceled',
            self.request_row(number, CLOSED, u'which is none of a closed request'),
            wrong_refusal(u'the caller has submitted this request'))
        if self.state in OPEN:  # Cancel did nothing
            self.left = escaped(number)
        if found is None:
            return
        self.send(u'Cancel', {'RequestID': number, 'Comment': self.named(u'check-in')}, u'refused: closed already',
                  carried_out, any_refusal)
        self.send(u'Retrieve', {'RequestID': number}, u'refused: closed', carried_out, any_refusal)

    def check_reset(self):
        """Change the password, unless another request holds the account, and compare it with the one before."""
        if any(row['verdict'] == BUSY for row in self.rows):
            return
        if self.send(u'ForceReset', self.names, u'returnCode 0 when the password is changed', done) is None:
            return
        why = u'since Retrieve by names gave no password before'
        if self.password is not None:
            why = u'since Retrieve by names gives no password after it'

            def judge(value):
                came, verdict = a_password(value)
                if verdict == OK:
                    came += u', the same as before' if value['message'] == self.password else u', another than before'
                return came, verdict
            found = self.send(u'Retrieve', self.by_names(), u'message is the new password', judge)
            if found is not None:
                why = u'since the password is the same as before; the server may change it later'
            if found is not None and found['message'] != self.password:
                return
        self.notes.append(u'that ForceReset changes the password, ' + why)


def given(options):
    """Return the options that have a value."""
    return dict((name, value) for name, value in options.items() if value)


def lines_sent(options):
    """Return options for display: lines. The id of a request is sent as it came, so that its type is shown."""
    lines = [u'%s=%s' % (name, text(options[name])) for name in sorted(options)]
    if is_number(options.get('RequestID')):
        lines.append(u'(RequestID as an int)')
    return lines


def canonical(address):
    """Return an address, or a name in its place, in the form in which it is compared."""
    return folded(canonical_address(address) or address)


# ---- the program -----------------------------------------------------------------------------------------------------

def wrapped(line, width):
    """Return a line in parts of at most this width, broken after a blank or a comma; a longer word stays whole."""
    parts = [u'']
    for word in re.findall(u'[^ ,]*[ ,]+|[^ ,]+', line):
        if parts[-1] and len((parts[-1] + word).rstrip()) > width:
            parts.append(u'')
        parts[-1] += word
    return [part.rstrip() for part in parts]


def write_row(cells):
    """Write one row of the table, its cells wrapped."""
    columns = [[part for line in cell.split(u'\n') for part in wrapped(line, width)]
               for cell, (_, width) in zip(cells, TABLE)]
    for number in range(max(len(lines) for lines in columns)):
        line = [(lines[number] if number < len(lines) else u'').ljust(width)
                for lines, (_, width) in zip(columns, TABLE)]
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
    write(u'The first Retrieve has no log-in, unless client_cert is configured, and must be turned away.')
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
    answer = {'rows': [], 'notes': [], 'problems': [], 'left': None}
    settings, problems = read_configuration(call['configuration'])
    if problems:
        return dict(answer, problems=problems)
    arguments = call['arguments']
    hook = Call(settings, 'server', arguments)
    try:
        connection = hook.connection()
        check = ServerCheck(hook, first_server(settings, connection), connection, arguments)
    except TpamError as error:
        return dict(answer, problems=[hook.line(error.message, **error.fields())])
    announce(check, arguments['changes'])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the request must be cancelled
    check.run(arguments['changes'])
    return dict((name, getattr(check, name)) for name in answer)


if __name__ == '__main__':
    sps_child.end(RESULT, main(CALL))
