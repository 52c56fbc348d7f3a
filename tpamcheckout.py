# -*- coding: utf-8 -*-
"""Requests and check-in: what is checked out is checked in, or an ERROR line says that it is not.

Python 2.6.5 code. Every function takes the Call, whose cookie has the check-outs. A request is
recorded before AddPwdRequest is sent, so that it is checked in whatever happens. A password change
is recorded when the password has been retrieved.
"""
from tpamcall import about, pause
from tpamerrors import (MAX_MATCHED, Deadline, TpamConnectionEnded, TpamError,
                        TpamOutcomeUnknown, TpamRefused, TpamTimeout, column, folded, same_name,
                        text)
from tpamrows import (ACTIVE, CLOSED, OPEN, active_requests, each, id_of, is_for_gateway_user,
                      is_of_session, last_notes, may_be_about, may_be_altered, notes_of, same,
                      state_of)

NOT_BEGUN = (u'-32700', u'-32600', u'-32601', u'-32602')  # XML-RPC: faults of the call itself
MAX_FOUND = 20    # requests of one session for one account: it never submits more than two
MANY_ROWS = 1000  # by default a server lists 25, and this session's request may not be among them
_UNKNOWN = u'It is unknown whether a request was submitted; look for its notes on the server'


# ---- a request, from submission to approval ------------------------------------------------------

def request_for(call, system, account, why):
    """Return the id of an active request for an account: this session's, or a new one.

    why: reason code and ticket, as options of AddPwdRequest ({name: value}). Raises TpamRefused if
    nobody approves the request, and TpamError.
    """
    refused = call.state['denied'].get(_denied_key(call, system, account))
    if refused:
        raise TpamRefused(refused)
    checkout = request_checkout(call, system, account)
    if checkout is None:
        return _submit(call, system, account, why)
    if checkout['request'] is None and not _find(call, checkout):
        checkout['resubmitted'] = True
        return _submit(call, system, account, why)
    if checkout.get('pending'):
        _wait(call, checkout)
    return checkout['request']


def request_checkout(call, system, account):
    """Return the entry of the request of this gateway user for an account, or None.

    Another gateway user's approval is of no use to this one.
    """
    user = call.gateway_user.identity
    for checkout in call.state['open']:
        if same(checkout, command='Cancel', system=system, account=account):
            if same_name(_user_of(call, checkout), user) and not _is_unlikely(checkout):
                return checkout
    return None


def forget_expired(call, system, account):
    """Forget the request of an earlier hook if it has expired, and return whether it has.

    A denied or cancelled request is kept, so that no second one is submitted.
    """
    checkout = request_checkout(call, system, account)
    if checkout is None or not call.is_known(checkout):
        return False
    row = _closed_row(call, checkout)
    if not row or state_of(row, 'RequestStatus') != u'expired':
        return False
    call.forget(checkout)
    return True


def _submit(call, system, account, why, fresh=False):
    """Submit a request as the API user, wait for its approval, and return its id.

    If a kept connection ended before the answer, and a look-up shows that the request was not
    submitted, it is submitted once more: `fresh`, on a new connection. The first entry stays in the
    cookie, and its request is looked for again at the check-in: the server may have been late.
    """
    checkout = call.check_out('Cancel', system, account)
    failure = None
    try:
        _add(call, checkout, why, fresh)
    except TpamError as error:
        failure = error
    if isinstance(failure, (TpamOutcomeUnknown, TpamTimeout)):
        if not _find_lost(call, checkout, failure):
            return _submit(call, system, account, why, fresh=True)
    elif failure is not None and not _may_hide_a_request(failure):
        call.forget(checkout)
        return _own_active_request(call, system, account, failure)
    elif failure is not None:
        _find_behind(call, checkout, failure)
    call.log('info', u'Submitted a request', **about(checkout))
    if checkout['pending']:
        _wait(call, checkout)
    return checkout['request']


def _may_hide_a_request(failure):
    """Return whether a request may have been submitted all the same.

    Servers turn every exception into a fault, also one that was raised after the request was added,
    such as a mail to the approvers that fails.
    """
    if not isinstance(failure, TpamRefused) or not failure.is_fault:
        return False
    return not _is_scheduled(failure) and text(failure.code).strip() not in NOT_BEGUN


def _find_behind(call, checkout, failure):
    """Look for a request behind a fault, and raise the fault if there is none. Then the entry stays
    in the cookie, and the check-in looks again: the server may be late."""
    checkout.update(server=call.client().server, refused=True)
    try:
        checkout['refused'] = not _find(call, checkout)
    except TpamTimeout:
        raise
    except TpamError as error:
        call.log('warning', u'It is unknown whether a request was submitted; the check-in looks '
                            u'for it', reason=call.line(error.message, **error.fields()),
                 notes=notes_of(call, checkout['user']), **about(checkout))
    if checkout['refused']:
        raise failure


def _add(call, checkout, why, fresh):
    request = call.settings['request']
    checkout['request'], message = call.client().add_pwd_request(
        fresh, SystemName=checkout['system'], AccountName=checkout['account'],
        RequestNotes=notes_of(call, checkout['user']), RequestImmediate='Y',
        ReleaseDuration=request['release_duration'], AccessPolicyName=request['access_policy'],
        **why)
    end = folded(message[-MAX_MATCHED:]).rstrip(u'. ')
    checkout['pending'] = not end.endswith(ACTIVE)


def _find_lost(call, checkout, failure):
    """Look for the request whose answer was lost. Return False if it is to be submitted again;
    raise the failure if it was not found and may still turn up."""
    checkout['server'] = failure.details.get('server')
    call.log('warning', u'It is unknown whether a request was submitted; looking for it',
             reason=call.line(failure.message, **failure.fields()),
             notes=notes_of(call, checkout['user']), **about(checkout))
    if _find(call, checkout):
        return True
    if not isinstance(failure, TpamConnectionEnded):
        raise failure
    checkout['resubmitted'] = True
    return False


def _find(call, checkout):
    """Look for a request by its notes, and return whether it was found.

    Every open request of this session for the account is recorded; an active one comes first.
    Requests that another check-out already records are skipped. Raises TpamOutcomeUnknown if the
    answer does not show that there is none.
    """
    notes = notes_of(call, _user_of(call, checkout))
    rows = call.client().list_request_details(
        RequestorName=call.settings['tpam']['username'], SystemName=checkout['system'],
        AccountName=checkout['account'], Status='OPEN', MaxRows=MANY_ROWS)
    found, unclear = [], []
    for row in each(call, rows):
        if not may_be_about(row, checkout) or state_of(row) in CLOSED or _is_recorded(call, row):
            continue
        if is_of_session(call, row, notes) and id_of(row):
            found.append(row)
        elif may_be_altered(call, row, notes, checkout.get('refused')):
            unclear.append(row)
    if not found:
        _check_look_up(call, checkout, unclear)
    found.sort(key=lambda row: state_of(row) not in ACTIVE)
    if len(found) > MAX_FOUND:
        call.state['unknown'] += 1
        call.log('error', u'The server lists too many open requests of this session to check in '
                          u'all; look for their notes', notes=notes, rows=len(found))
    for number, row in enumerate(found[:MAX_FOUND]):
        if number > 0:
            checkout = dict(checkout)
            call.state['open'].append(checkout)
        checkout['request'] = id_of(row)
        checkout['pending'] = state_of(row) not in ACTIVE
    return len(found) > 0


def _is_unlikely(checkout):
    """Return whether there is most likely no request: after a fault, or if it was replaced."""
    return bool(checkout.get('refused') or checkout.get('resubmitted'))


def _is_recorded(call, row):
    number = id_of(row)
    return number != u'' and any(text(entry['request']).strip() == number
                                 for entry in call.state['open'])


def _check_look_up(call, checkout, unclear):
    """Raise TpamOutcomeUnknown if a look-up that found no request does not show that there is none:
    another server answered it, or a row has no notes or cut ones."""
    reason = None
    if checkout.get('server') not in (None, call.client().server):
        reason = (u'the answer came from another server than the one that was asked to add the '
                  u'request')
    if unclear:
        reason = u'the server lists a request without its id or without its complete notes'
    if reason is not None:
        raise TpamOutcomeUnknown(_UNKNOWN, notes=notes_of(call, _user_of(call, checkout)),
                                 reason=reason)


def _user_of(call, checkout):
    """Return the gateway user of a check-out; release 1.0.0 did not record it there."""
    return text(checkout.get('user', call.state.get('user')))


def _own_active_request(call, system, account, refusal):
    """Return the id of the API user's own active request, if that is why a new one was refused.

    It may be used if its notes name this gateway user, or are empty: then it was submitted by hand,
    for everybody. It is checked in only if its notes show that this session submitted it, in a hook
    whose cookie was lost.
    """
    if not _is_scheduled(refusal):
        raise refusal
    rows = active_requests(call, call.settings['tpam']['username'], system, account)
    if not rows:
        raise refusal
    rows = [row for row in each(call, rows) if is_for_gateway_user(call, row)]
    if not rows:
        raise TpamRefused(u'the account is released to a request for another gateway user')
    request = id_of(rows[0])
    if is_of_session(call, rows[0], last_notes(call)) and not _is_recorded(call, rows[0]):
        call.check_out('Cancel', system, account, request)
    return request


def _is_scheduled(refusal):
    return u'is already scheduled' in folded(refusal.message[:MAX_MATCHED])


def _wait(call, checkout):
    """Wait until a request is active. If it does not become active, record why, and raise
    TpamRefused: approvers are asked once in a session, not once in each hook."""
    call.log('info', u'Waiting for the approval of a request', **about(checkout))
    reason = _reason_against(call, checkout)
    if reason is None:
        checkout['pending'] = False
        return
    key = _denied_key(call, checkout['system'], checkout['account'])
    call.state['denied'][key] = reason
    raise TpamRefused(reason, request=checkout['request'])


def _reason_against(call, checkout):
    """Return None when a request becomes active, or why it does not: nobody approves it in time,
    or somebody closes it."""
    request = call.settings['request']
    end = Deadline(request['approval_timeout'], call.deadline)
    state = u''
    try:
        while state in OPEN or not state:
            pause(min(request['poll_interval'], end.left()))
            row = _row_of(call, checkout)
            state = state_of(row, 'RequestStatus')
            if state in ACTIVE:
                return None
    except TpamTimeout as error:
        check_in(call, [checkout])
        if 'signal' in error.details:
            return u'a signal ended the hook before the request was approved'
        return (u'the request was not approved in time; see [request] approval_timeout and [tpam] '
                u'timeout')
    if state in CLOSED:
        call.forget(checkout)
        return u'the request is %s' % state
    check_in(call, [checkout])  # the status may be any text, and is not repeated
    return u'the server reports an unknown status for the request'


def _denied_key(call, system, account):
    return folded(u'%s/%s/%s' % (call.gateway_user.identity, system, account))


# ---- check-in ------------------------------------------------------------------------------------

def check_in_all(call):
    """Check in everything in the cookie. Raises nothing; a failure stays for the next hook."""
    check_in(call, call.state['open'])


def check_in_new(call):
    """Check in everything that this call has checked out: SPS drops the cookie of a hook that
    raises."""
    check_in(call, [checkout for checkout in call.state['open'] if not call.is_known(checkout)])


def check_in(call, checkouts):
    """Check in these entries of the cookie, and those that are found meanwhile. Raises nothing."""
    waiting = list(checkouts)
    if not waiting:
        return
    while waiting:
        call.begin_check_in()  # for each: a signal that ended one leaves the others their time
        checkout = waiting.pop(0)
        before = list(call.state['open'])
        if call.is_checked_out(checkout):  # checking in a request may remove its password change
            _settle(call, checkout)
        for entry in call.state['open']:
            if not any(entry is known for known in before):
                waiting.append(entry)


def _settle(call, checkout):
    try:
        done = _CHECK_INS[checkout['command']](call, checkout)
    except Exception as error:
        reason = type(error).__name__
        if isinstance(error, TpamError):
            reason = call.line(error.message, **error.fields())
        if isinstance(error, TpamOutcomeUnknown):
            checkout['tried'] = True
        call.log('error', u'Check-in failed; do it by hand unless a later line says it is done',
                 command=checkout['command'], **dict(about(checkout), reason=reason))
        return
    if done is not None:
        call.forget(checkout)
    if done:
        call.state['returned'] += 1


def _cancel(call, checkout):
    """Cancel a request. Return True if it is closed, False if there is none, None to look again."""
    if checkout['request'] is None and not _find(call, checkout):
        return _give_up_search(call, checkout)
    if checkout.get('tried') and _closed_row(call, checkout):
        call.log('info', u'The request was already closed', **about(checkout))
        return True
    refusal = None
    try:
        comment = u'%s,SPS,check-in,%s' % (call.state.get('user') or u'', call.session_id)
        call.client().cancel(checkout['request'], comment)
        call.log('info', u'Checked in the request', **about(checkout))
    except TpamRefused as error:
        refusal, was_sent_twice = error, call.client().was_sent_twice
    if refusal is not None:
        row = _closed_row(call, checkout)
        if not row:
            raise refusal
        call.log('info', u'The request was already closed', **about(checkout))
        if not was_sent_twice and not refusal.is_fault:  # else this call may have closed it
            _skip_second_reset(call, checkout, row)
    return True


def _give_up_search(call, checkout):
    """Log in the last hook that a request was not found; until then the server may still carry out
    the call. Raises TpamOutcomeUnknown in the hook that submitted it."""
    notes = notes_of(call, _user_of(call, checkout))
    if not call.is_known(checkout):
        raise TpamOutcomeUnknown(_UNKNOWN, notes=notes)
    if call.state['hooks'][-1] != u'session_ended':
        return None
    if _is_unlikely(checkout):
        call.log('info', u'The submission of the request was not carried out', notes=notes,
                 **about(checkout))
        return False
    call.state['unknown'] += 1
    call.log('warning', u'It was unknown whether a request was submitted, and no request was '
                        u'found; look for its notes on the server', notes=notes, **about(checkout))
    return False


def _skip_second_reset(call, checkout, row):
    """Forget the password change that belongs to a request that was closed before it expired.

    An earlier call with the same cookie closed the request, and changed the password then. If the
    request expired, the password must still be changed.
    """
    reset = reset_checkout(call, checkout['system'], checkout['account'])
    if reset is not None and column(row, 'CloseDt') != column(row, 'ExpiresDt'):
        call.forget(reset)
        call.log('warning', u'The password is not changed again; change it by hand unless this '
                            u'session closed the request', **about(checkout))


def _closed_row(call, checkout):
    """Return the row of a request that is certainly closed, or None."""
    row = _row_of(call, checkout)
    if state_of(row, 'RequestStatus') not in CLOSED:
        return None
    return row


def _row_of(call, checkout):
    """Return the row of a request, {} if the server lists none. Raises TpamError."""
    row = call.client().get_pwd_request(checkout['request']) or {}
    if not may_be_about(row, checkout):
        raise TpamError(u'No usable answer', server=call.client().server,
                        reason=u'a row about a request other than the one asked for')
    return row


def _force_reset(call, checkout):
    call.client().force_reset(checkout['system'], checkout['account'])
    call.log('info', u'Changed the password', **about(checkout))
    return True


_CHECK_INS = {'Cancel': _cancel, 'ForceReset': _force_reset}  # one for each of tpamcall.COMMANDS


def reset_checkout(call, system, account):
    """Return the entry of the password change for an account, or None."""
    for checkout in call.state['open']:
        if same(checkout, command='ForceReset', system=system, account=account):
            return checkout
    return None


# ---- reports -------------------------------------------------------------------------------------

def check_in_summary(call):
    """Return the value of check_in: failed, unknown, done or nothing to check in."""
    if call.state['open']:
        return u'failed'
    if call.state['unknown']:
        return u'unknown'
    return u'done' if call.state['returned'] else u'nothing to check in'


def report_unreadable(call):
    """Log an ERROR line for each part of the cookie that cannot be read, and count it for the
    summary."""
    for details in call.unreadable:
        call.state['unknown'] += 1
        call.log('error', u'A part of the cookie cannot be read: something may still be checked '
                          u'out; look for it on the server',
                 **(details or {'notes': last_notes(call)}))


def report_checked_out(call):
    """Log an ERROR line for each check-out that a wrong configuration keeps from being checked in.
    """
    for checkout in call.state['open']:
        details = about(checkout)
        if checkout['request'] is None and checkout['command'] == 'Cancel':
            details['notes'] = notes_of(call, _user_of(call, checkout))
        call.log('error', u'This is still checked out; check it in by hand',
                 command=checkout['command'], **details)
