# -*- coding: utf-8 -*-
"""The meaning of the rows of requests that the server lists: whose they are, and in which state.

Python 2.6.5 code.
"""
import re

from tpamerrors import MAX_ID, column, folded, same_name, text

ACTIVE = (u'active/approved',)
OPEN = ACTIVE + (u'approved', u'pending approval')  # 'approved' starts later
CLOSED = (u'denied', u'canceled', u'expired')

# Only so many characters are compared: folding long texts in thousands of rows would exceed the
# deadline.
_MAX_STATE = 50
_MAX_NOTES = 300


def each(call, rows):
    """Generate rows while the hook has time: a server may list so many that looking at them takes
    seconds. Raises TpamTimeout."""
    for row in rows:
        call.deadline.left()
        yield row


# ---- requests of a user --------------------------------------------------------------------------

def active_requests(call, user, system, account):
    """Return the rows of the active requests of a user for an account."""
    rows = call.client().list_request_details(
        RequestorName=user, SystemName=system, AccountName=account, Status='ACTIVE')
    return [row for row in each(call, rows)
            if same(row, UserName=user, SystemName=system, AccountName=account)
            and state_of(row) in ACTIVE and id_of(row)]


def same(row, **columns):
    """Return whether the columns of a row have these values, without regard to case."""
    return all(same_name(column(row, name), value) for name, value in columns.items())


def may_be_about(row, checkout):
    """Return whether a row may be about the account of a check-out. Only a column with another
    value excludes it, because servers omit columns."""
    for name, value in (('SystemName', checkout['system']), ('AccountName', checkout['account'])):
        found = column(row, name).strip()
        if found and not same_name(found, value.strip()):
            return False
    return True


def id_of(row):
    """Return the id of a request (text), u'' if the row has none, or a long text in its place.
    Servers pad it."""
    number = column(row, 'RequestID').strip()
    return number if len(number) <= MAX_ID else u''


def state_of(row, name='Status'):
    """Return the state of a request, folded: one of ACTIVE, OPEN, CLOSED, or another word."""
    return folded(column(row, name).strip()[:_MAX_STATE])


# ---- the notes by which a request is found again -------------------------------------------------

_MARK = u',SPS,request,'


def notes_of(call, user):
    """Return the notes (RequestNotes) of this session's requests for a gateway user."""
    return user + _MARK + call.session_id


def last_notes(call):
    """Return the notes of this session's requests for its last gateway user."""
    return notes_of(call, text(call.state.get('user')))


def is_of_session(call, row, notes):
    """Return whether a request has these notes. Without a session id they identify nobody."""
    return bool(call.session_id) and same_name(column(row, 'RequestNotes'), notes)


def may_be_altered(call, row, notes, is_unlikely):
    """Return whether a row may be the request with these notes, which the server has cut or
    altered. is_unlikely: there is most likely no such request, so that only cut notes count."""
    if not is_unlikely:
        return not _is_of_another_session(call, row)
    if row.get('RequestNotes') is None:
        return True
    found = folded(column(row, 'RequestNotes')[:_MAX_NOTES].strip())
    if not found or folded(notes).startswith(found):
        return found != u''
    found, ours = _letters(found), _letters(folded(notes))
    return found != u'' and (ours.startswith(found) or found.endswith(ours))


def is_for_gateway_user(call, row):
    """Return whether the approval of a request was for the gateway user of this call.

    A request without notes was submitted by hand, and is for everybody. Any other notes have to
    name the gateway user: servers cut and alter them, and without the column they may be anybody's.
    A request for no gateway user serves only its session.
    """
    notes = column(row, 'RequestNotes')
    if row.get('RequestNotes') is not None and not notes.strip():
        return True
    user, mark, _ = notes.rpartition(_MARK)
    if mark and user and same_name(user, call.gateway_user.identity):
        return True
    return is_of_session(call, row, last_notes(call))


def _is_of_another_session(call, row):
    """Return whether the notes of a request certainly name another session.

    Servers cut notes, wrap them, and alter what stands between the letters and digits.
    """
    notes = folded(column(row, 'RequestNotes')[:_MAX_NOTES])
    _, mark, session = notes.rpartition(folded(_MARK))
    session, ours = _letters(session), _letters(folded(call.session_id))
    return mark != u'' and not _may_be_cut_from(session, ours)


def _may_be_cut_from(one, other):
    """Return whether one of two texts, whichever is the shorter, may be a piece of the other."""
    return one in other or other in one


def _letters(name):
    """Return the letters and digits of a name, without the entities of HTML."""
    return re.sub(u'&#?[a-z0-9]{1,8};|[^a-z0-9]', u'', name)
