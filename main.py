# -*- coding: utf-8 -*-
"""SPS Credential Store plugin for a TPAM-style password server that speaks XML-RPC: the hooks.

SPS creates Plugin(configuration), calls one hook by name, and exits (guide: "The main.py module").
tpamtarget.py determines the account, tpamauthorize.py decides who may have its credential, and
tpamcheckout.py handles requests and check-in. Python 2.6.5 code, for the environment in which SPS
runs plugins without an entry_point.
"""
import re
import sys

from tpamauthorize import AUTHORIZATIONS, check_gateway_user
from tpamcall import Call, about
from tpamcheckout import (check_in_all, check_in_new, check_in_summary, forget_expired,
                          report_checked_out, report_unreadable, reset_checkout)
from tpamconfig import read_configuration
from tpamerrors import MAX_MATCHED, TpamError, TpamRefused, folded, native, same_name, text
from tpamtarget import Target, digest, find_account

UNKNOWN_COMMAND = -32601  # XML-RPC: the method does not exist
_UNKNOWN_COMMAND = re.compile(u'(unknown|unrecognized|no such|not supported).{0,20}(command|method)'
                              u'|method \\W?[\\w.]{0,60}Retrieve(Key)?\\W? is not supported', re.I)

# (pattern of a refusal, what the administrator can do about it); the last match counts
REMEDIES = (
    (u'reason codes? are required|reason code .{0,200}failed validation',
     u'set [request] reason_code to a reason code of the server'),
    (u'requires a ticket|ticket number and ticket system are required',
     u'set [request] ticket_system and ticket_question'),
    (u'ticket .{0,200}(not found|failed validation)',
     u'check the ticket that the user named, and [request] ticket_system'),
    (u'exceeds account maximum', u'lower [request] release_duration'),
    (u'not authorized|no permission exists', u'give the API user permission on this account'),
    (u'do not have permissions|is not authorized to',
     u'give the API user the right to this command, or choose another [tpam] system_name_resolver '
     u'or authorization'),
    (u'locked', u'unlock the account or the user on the credential server'),
)


# ---- the credential ------------------------------------------------------------------------------

def _retrieve(call, target, command, suffix=u''):
    """Determine the account, check the authorization, and fetch the secret (text) with `command`,
    a method of the client."""
    if not target.account:
        raise TpamRefused(u'SPS passed no name of an account (argument server_username)')
    names = call.settings['account']
    account = names['prefix'] + target.account + names['suffix'] + suffix
    mode = call.settings['tpam']['authorization']
    _begin(call, account, mode)
    system, account = find_account(call, target, account)
    call.state.update(account=account, system=system)
    authorize = AUTHORIZATIONS[mode]
    options = authorize(call, system, account)
    try:
        secret = command(**options)
    except TpamRefused:
        if mode != u'request' or not forget_expired(call, system, account):
            raise
        secret = command(**authorize(call, system, account))
    call.add_secret(secret)
    return secret


def _begin(call, account, mode):
    """Record the current account in the cookie, replacing the previous one."""
    call.state.update(user=call.gateway_user.identity, account=account, system=None, request=None,
                      mode=mode, protocol=folded(text(call.arguments.get('protocol'))))


def _passwords_of(call, target):
    password = _retrieve(call, target, call.client().retrieve)
    system, account = call.state['system'], call.state['account']
    if call.settings['check-in']['force_reset'] and not reset_checkout(call, system, account):
        call.check_out('ForceReset', system, account)
    call.state['given'] += 1
    call.log('info', u'Retrieved passwords', **about(call.state))
    return [native(password)]


def _reuses_gateway_password(call, target):
    """Return whether to use the gateway password, because the gateway user is the target user.

    The names must be equal, case included. Domains are compared only if both have one. The user
    knows this password already; therefore no authorization is required.
    """
    user = call.gateway_user
    if not call.settings['tpam']['reuse_gateway_password']:
        return False
    if not user.name or user.name != target.account:
        return False
    if not call.arguments.get('gateway_password'):
        return False
    if not target.domain or not user.domains:
        return True
    return any(same_name(domain, target.domain) for domain in user.domains)


# ---- the hooks -----------------------------------------------------------------------------------

# Each takes the Call and returns the credentials, if any, or raises TpamError.

def get_password_list(call):
    """Return the password of the target's account: [str]."""
    check_gateway_user(call)
    target = Target(call.arguments)
    if not _reuses_gateway_password(call, target):
        return _passwords_of(call, target)
    _begin(call, target.account, u'gateway password')
    call.state['given'] += 1
    call.log('info', u'Using the gateway password', account=target.account)
    password = call.arguments['gateway_password']
    return [password if isinstance(password, str) else native(password)]


def get_remote_app_credentials(call):
    """Return the password of an application: [str].

    The asset takes the place of the host. The session cookie, in which an AA plugin may name the
    asset and the account, takes precedence over the arguments.
    """
    check_gateway_user(call)
    asset = text(call.session_cookie.get('asset') or call.arguments.get('asset'))
    if not asset:
        raise TpamRefused(u'SPS passed no asset (argument asset, or asset in the session cookie)')
    account = call.session_cookie.get('account') or call.arguments.get('server_username')
    return _passwords_of(call, Target(dict(
        call.arguments, server_ip=None, server_hostname=None, target_host=asset,
        server_username=account)))


def get_private_key_list(call):
    """Return the private keys of the target's account: [(type, PEM)].

    If there is none, SPS still calls the password hook.
    """
    options = call.settings['private_keys']
    if not options['enabled']:
        return []
    check_gateway_user(call)
    if call.state['keyless'] == digest(call):
        return []
    import sshkey  # its tables take time to compile, and the other hooks do not need it
    client = call.client()
    command = client.retrieve if options['command'] == u'retrieve' else client.retrieve_key
    try:
        stored = _retrieve(call, Target(call.arguments), command, options['account_suffix'])
        keys = sshkey.private_keys(stored)
    except sshkey.UnusableKey as error:
        raise TpamRefused(u'the private key cannot be used: %s' % error)
    except TpamRefused as refusal:
        if options['command'] != folded(refusal.command) or not is_unknown_command(refusal):
            raise
        if has_unknown_code(refusal):  # a text may be about this account
            call.state['keyless'] = digest(call)
        call.log('info', u'The server gives out no private keys',
                 remedy=u'[private_keys] enabled=no saves the call', **about(call.state))
        return []
    return [_checked_key(call, *key) for key in keys]


def has_unknown_code(refusal):
    """Return whether the code of a refusal, a number or text, says that the command is unknown."""
    return text(refusal.code).strip() == text(UNKNOWN_COMMAND)


def is_unknown_command(refusal):
    """Return whether a server refuses a command because it does not know the command."""
    if has_unknown_code(refusal):
        return True
    return _UNKNOWN_COMMAND.search(refusal.message[:MAX_MATCHED]) is not None


def _checked_key(call, kind, pem, fingerprint, bits):
    if bits < 1024:
        call.log('warning', u'The private key is too short to be safe; replace it', bits=bits,
                 type=kind, fingerprint=fingerprint, **about(call.state))
    call.log('info', u'Retrieved a private key', type=kind, fingerprint=fingerprint,
             **about(call.state))
    call.state['given'] += 1
    return kind, pem


def authentication_completed(call):
    """Check in after the login, if the configuration says so."""
    triggers = call.settings['check-in-trigger']
    trigger = triggers.get(call.state.get('protocol')) or triggers['default']
    if trigger == u'authentication-completed':
        check_in_all(call)


def session_ended(call):
    """Check in whatever is still checked out, and log the summary of the session."""
    check_in_all(call)
    names = ('user', 'account', 'system', 'mode', 'request')
    call.log('info', u'Session ended', check_in=check_in_summary(call),
             credentials=call.state['given'], hooks=u', '.join(call.state['hooks']),
             **dict((name, call.state.get(name)) for name in names))


# ---- SPS -----------------------------------------------------------------------------------------

class Plugin(object):
    """The hooks of a Credential Store plugin (guide: "The main.py module").

    All arguments are passed by name, and any of them may be missing. The get_* hooks raise
    TpamError if the server cannot be asked or the configuration is wrong, which ends the session.
    The other two never raise.
    """

    def __init__(self, configuration=''):
        self._settings, self._problems = read_configuration(configuration)

    def get_password_list(self, **arguments):
        """Return {'passwords': [str], 'cookie': dict, 'session_cookie': dict}."""
        return self._get('passwords', get_password_list, arguments)

    def get_private_key_list(self, **arguments):
        """Return {'private_keys': [(type, PEM)], 'cookie': dict, 'session_cookie': dict}."""
        return self._get('private_keys', get_private_key_list, arguments)

    def get_remote_app_credentials(self, **arguments):
        """Return {'passwords': [str], 'cookie': dict, 'session_cookie': dict}."""
        return self._get('passwords', get_remote_app_credentials, arguments)

    def authentication_completed(self, **arguments):
        """Return {'cookie': dict, 'session_cookie': dict}."""
        call, _, _ = self._run(authentication_completed, arguments)
        return {'cookie': call.cookie, 'session_cookie': call.session_cookie}

    def session_ended(self, **arguments):
        """Return None."""
        self._run(session_ended, arguments)

    def _get(self, key, hook, arguments):
        call, credentials, failure = self._run(hook, arguments)
        if failure is not None:
            raise failure
        return {key: credentials or [], 'cookie': call.cookie,
                'session_cookie': call.session_cookie}

    def _run(self, hook, arguments):
        """Run a hook, and return (Call, credentials, failure). failure: None, or the TpamError
        that ended it, which is in the log already."""
        call = Call(self._settings, hook.__name__, arguments)
        credentials = failure = None
        try:
            try:
                credentials = self._work(call, hook)
                call.close()
            except:  # noqa: E722 - Ctrl-C, too
                error = sys.exc_info()[1]
                check_in_new(call)
                if hook is session_ended:
                    report_checked_out(call)
                call.close()
                failure = _logged(call, error)
                if not isinstance(error, Exception):
                    raise
            if self._problems:
                failure = TpamError(u'Wrong configuration: ' + self._problems[0])
            if failure is not None:
                failure.args = (native(call.line(failure.message, **failure.fields())),)
        finally:
            call.end()
        return call, credentials, failure

    def _work(self, call, hook):
        """Return what a hook returns; None if there is no credential, or the configuration is
        wrong."""
        call.log('debug', u'Called', hook=hook.__name__)
        report_unreadable(call)
        for problem in self._problems:
            call.log('error', u'Wrong configuration: ' + problem)
        if self._problems:
            if hook is session_ended:
                report_checked_out(call)
            return None
        warn_insecure(call)
        try:
            return hook(call)
        except TpamRefused as refusal:
            _explain(call, refusal)
            return None


def warn_insecure(call):
    """Warn on every call while TLS is configured insecurely."""
    tls = call.settings['tls']
    if not tls['enabled']:
        call.log('warning', u'TLS is off: passwords cross the network in the clear; set [tls] '
                            u'enabled=yes')
    elif not tls['check_host_name']:
        call.log('warning', u'The name in the certificate is not checked; set [tls] '
                            u'check_host_name=yes')


def _explain(call, refusal):
    """Log why there is no credential, and what the reader can do about it."""
    details = dict(about(call.state), **refusal.fields())
    for pattern, remedy in REMEDIES:
        if re.search(pattern, refusal.message[:MAX_MATCHED], re.I):
            details['remedy'] = remedy
    call.log('warning', u'No credential', reason=refusal.message, **details)


def _logged(call, error):
    """Log the error that ended a hook, and return the TpamError for SPS."""
    if isinstance(error, TpamError):
        call.log('error', error.message, **error.fields())
        return error
    # Its text may contain anything. The place where it was raised is what a report needs.
    import traceback
    where = u'%s, line %d' % traceback.extract_tb(sys.exc_info()[2])[-1][:2]
    call.log('critical', u'Unexpected failure; please report it', error=type(error).__name__,
             where=where)
    return TpamError(u'Unexpected failure of the plugin; see the log')
