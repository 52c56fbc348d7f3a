# -*- coding: utf-8 -*-
"""TPAM's commands: one method each, sent to the first of several servers that accepts the call.

Python 2.6.5 code. Nothing here knows a hook or a cookie. tpamxml encodes and decodes the calls,
tpamtransport carries them.
"""
import random
import re

from tpamcert import is_in_domain, service_domain
from tpamerrors import (MAX_ID, MAX_MATCHED, BadAnswer, Deadline, TpamError, TpamOutcomeUnknown,
                        TpamRefused, TpamTimeout, TpamUnavailable, column, folded, is_number,
                        is_text, text)
from tpamtransport import Server, look_up
from tpamxml import decode_answer, encode_call

MAX_CREDENTIAL = 64 * 1024  # characters; masking a longer one in the log would only take time
_REPLICA = u'not available on a failed over replica'
_NOTHING_TO_LIST = re.compile(u'No (Systems|Accounts|Requests|Permissions) to list', re.I)
_NEVER_INITIALISED = u'default initial password'


class TpamClient(object):
    """TPAM's commands, one method each, with options named as its CLI names them.

    Options that are None or '' are left out. Every method raises TpamError or a subclass of it.
    Attributes: server (name of the server that answered last, or None), was_sent_twice (whether the
    last call was, because a kept connection ended before the answer).
    """

    def __init__(self, settings, deadline, log, first=None):
        """Create a client that connects at its first call.

        settings (dict): servers ([(host, port)], or [('srv:name', None)]), path, method_prefix,
        credential (username, password), connect_timeout (seconds), proxy (None, or a dict of
        address (host, port), username, password), tls (None for plain HTTP, or a dict of ca_cert
        and client_cert (PEM or None), server_fingerprint (list of hex), check_host_name, protocol).
        deadline: Deadline of the whole hook. log: function that gets the TpamError if a server
        is skipped. first: name of the server to ask first.
        """
        self._settings, self._deadline = settings, deadline
        self._log, self._first = log, first
        self._servers = None
        self.server = None
        self.was_sent_twice = False

    def close(self):
        """Close the connections."""
        for server in self._servers or ():
            server.close()

    # -- credentials

    def retrieve(self, **options):
        """Return a password (text). Options: RequestID; or SystemName, AccountName, ReasonText,
        TimeRequired (minutes), and so on."""
        return self._credential('Retrieve', options)

    def retrieve_key(self, **options):
        """Return a private key (PEM text). Options: those of retrieve()."""
        return self._credential('RetrieveKey', options)

    def _credential(self, command, options):
        # A request releases a credential once. An ISA may ask again.
        secret = self.call(command, options, repeatable='RequestID' not in options)['message']
        if not secret:
            raise TpamRefused(u'the server gave an empty credential')
        if len(secret) > MAX_CREDENTIAL:
            raise TpamRefused(u'the server gave a credential of more than %d characters'
                              % MAX_CREDENTIAL)
        if _NEVER_INITIALISED in folded(secret[:MAX_MATCHED]):
            raise TpamRefused(u'the account was never initialised: its password is the placeholder '
                              u'of the server')
        return secret

    # -- requests

    def add_pwd_request(self, fresh=False, **options):
        """Submit a request, and return (its id, message).

        Options: SystemName, AccountName, RequestNotes, ReleaseDuration (minutes), and so on.
        fresh: on a new connection. If the connection ended before the answer, the call is not sent
        again: it would submit a second request.
        """
        answer = self.call('AddPwdRequest', options, repeatable=False, resend=False, fresh=fresh)
        number = answer.get('id')
        if is_text(number):
            number = text(number).strip()
        elif not is_number(number):
            number = u''
        if not 0 < len(text(number)) <= MAX_ID:
            raise TpamOutcomeUnknown(u'The server accepted a request but did not return its id')
        return number, answer['message']

    def get_pwd_request(self, request_id):
        """Return the row of one request, or None if the server does not list it. Raises TpamError
        for any other row."""
        rows = self._rows('GetPwdRequest', {'RequestID': request_id})
        if not rows:
            return None
        if len(rows) > 1 or column(rows[0], 'RequestID').strip() != text(request_id).strip():
            raise TpamError(u'No usable answer', server=self.server,
                            reason=u'a row about a request other than the one asked for')
        return rows[0]

    def cancel(self, request_id, comment):
        """Cancel a request, active or pending."""
        self.call('Cancel', {'RequestID': request_id, 'Comment': comment}, repeatable=False)

    def force_reset(self, system, account):
        """Have the server change the password of an account."""
        self.call('ForceReset', {'SystemName': system, 'AccountName': account}, repeatable=False)

    # -- lists

    def list_request_details(self, **options):
        """Return rows ({column: text}) of requests."""
        return self._rows('ListRequestDetails', options)

    def list_assigned_policies(self, **options):
        """Return rows of the policies that are assigned to a user."""
        return self._rows('ListAssignedPolicies', options)

    def list_accounts(self, **options):
        """Return rows of accounts."""
        return self._rows('ListAccounts', options)

    def list_systems(self, **options):
        """Return rows of systems."""
        return self._rows('ListSystems', options)

    def _rows(self, command, options):
        try:
            answer = self.call(command, options, repeatable=True)
        except TpamRefused as refusal:
            if _NOTHING_TO_LIST.search(refusal.message[:MAX_MATCHED]):
                return []
            raise
        rows, count = answer.get('rows'), text(answer.get('count')).strip()
        if rows is None and count == u'0':
            return []
        if not _is_list_of_rows(rows, count):
            raise TpamError(u'No usable answer', server=self.server,
                            reason=u'no rows, or rows that are not structs')
        return rows

    # -- servers

    def call(self, command, options, repeatable, resend=True, fresh=False):
        """Send a command to the first server that accepts it, and return its answer.

        Returns a dict: returnCode (0), message (text), and what the command adds. repeatable,
        resend, fresh: see Server.ask().
        """
        body = encode_call(self._settings['method_prefix'] + text(command), options)
        servers = self._in_order()
        for server in servers:
            try:
                answer = server.ask(command, body, decode_result, repeatable, resend, fresh)
            except TpamTimeout as error:
                raise TpamTimeout(**dict(error.details, server=server.name,
                                         waiting_for=server.connection.waiting_for))
            except TpamRefused as refusal:
                refusal.command = text(command)
                if _REPLICA not in folded(refusal.message[:MAX_MATCHED]):
                    self._ask_first(server)
                    raise
                failure = TpamUnavailable(u'The server is a replica', reason=_REPLICA,
                                          server=server.name)
            except TpamUnavailable as error:
                failure = error
            else:
                self._ask_first(server)
                return answer
            if server is not servers[-1]:
                self._log(failure)
        raise failure

    def _ask_first(self, server):
        """Move the server that has just answered to the front of the list."""
        # In one assignment: an alarm between two steps would lose the server.
        self._servers = [server] + [other for other in self._servers if other is not server]
        self.server, self.was_sent_twice = server.name, server.was_sent_twice

    def _in_order(self):
        """Return the servers in the order in which to ask them. DNS is asked only once."""
        if self._servers is None:
            servers = [Server(host, port, self._settings, self._deadline)
                       for host, port in self._addresses()]
            self._servers = sorted(servers, key=lambda server: server.name != self._first)
        return list(self._servers)

    def _addresses(self):
        """Return [(host, port)] of the servers, with `srv:` names looked up in DNS."""
        found, failures = [], []
        for host, port in self._settings['servers']:
            if not host.startswith(u'srv:'):
                found.append((host, port))
                continue
            try:
                found += self._service(host)
            except TpamUnavailable as error:
                failures.append(error)
        if not found:
            raise failures[-1]
        for failure in failures:
            self._log(failure)
        return found

    def _service(self, host):
        """Return the accepted service_addresses() of srv:name, and log the refused ones."""
        tls = self._settings['tls']
        is_pinned = bool(tls and tls['server_fingerprint'])
        limit = Deadline(self._settings['connect_timeout'], self._deadline)
        try:
            found, refused = service_addresses(host[len(u'srv:'):], is_pinned, limit)
        except TpamTimeout as error:
            raise TpamTimeout(**dict(error.details, waiting_for=u'the look-up of the name',
                                     name=host))
        for failure in refused:
            self._log(failure)
        return found


# ---- answers -------------------------------------------------------------------------------------

def decode_result(body):
    """Return the answer to a command (bytes) as a dict: returnCode (0), message (text), ...

    Raises TpamRefused for any other returnCode and for a fault, and BadAnswer.
    """
    answer = decode_answer(body)
    if not isinstance(answer, dict):
        raise BadAnswer('no struct with returnCode and message')
    code = answer.get('returnCode')
    if not isinstance(code, int) or isinstance(code, bool):
        raise BadAnswer('no returnCode, or one that is not an int')
    if not is_text(answer.get('message')):
        raise BadAnswer('no message, or one that is not a string')
    answer['message'] = text(answer['message'])
    if code != 0:
        raise TpamRefused(answer['message'], code)
    return answer


def _is_list_of_rows(rows, count):
    """Return whether the rows of an answer are a list of dicts, empty only if its count is 0."""
    if not isinstance(rows, list):
        return False
    if not rows and count not in (u'', u'0'):
        return False
    return all(isinstance(row, dict) for row in rows)


# ---- SRV records ---------------------------------------------------------------------------------

def service_addresses(name, is_pinned, deadline):
    """Look up an SRV name. Return ([(host, port)], failures), the hosts in the order to ask them.

    The answer of DNS is not authenticated, and certificates are checked for the names in it. RFC
    6125 (1.7.2) therefore forbids trusting these names: they must be in the domain of the SRV name,
    which comes from the configuration. Each one that is not becomes a TpamUnavailable in failures.
    A pinned certificate needs no name.

    Raises TpamUnavailable if nothing is left, and TpamTimeout.
    """
    records = [record for record in look_up(name, 'SRV', deadline)
               if record.target.to_text() != '.']
    found, failures = [], []
    for record in sorted(records, key=_rank):
        host = text(record.target.to_text()).rstrip(u'.')
        if is_pinned or is_in_domain(host, service_domain(name)):
            found.append((host, record.port))
        else:
            failures.append(TpamUnavailable(
                u'The DNS answer names a server outside the domain of the SRV name',
                name=name, server=host,
                remedy=u'check DNS; name the server itself in [tpam] server, or pin its '
                       u'certificate'))
    if found:
        return found, failures
    if failures:
        raise failures[-1]
    raise TpamUnavailable(u'DNS has no SRV record of this name', name=name,
                          remedy=u'check [tpam] server')


def _rank(record):
    """Return the sort key of an SRV record: by priority, then by chance in proportion to weight
    (RFC 2782)."""
    weight = record.weight or 0.01  # 0 means a very small chance
    # Weighted random order (Efraimidis and Spirakis): the largest key comes first.
    key = random.random() ** (1.0 / weight)
    return record.priority, -key
