# -*- coding: utf-8 -*-
"""Judge the answers of a server for check_server.py: their shape, and what is in them. Python 2.6 code.

The modules of the plugin are imported, so that this module can only be imported after sps_child.begin().
"""
import re

import sshkey
import tpamclient
import tpamxml
from tpamerrors import (
    MAX_ID, MAX_MATCHED, BadAnswer, TpamRefused, column, escaped, folded, is_number, is_text, text)

OK, WRONG = u'ok', u'WRONG'
# Members in which servers have put a credential. Others are not named, since a name may be a credential, too.
_USUAL = re.compile(u'(password|pwd|secret|credential|(private_?)?key|pem|value|result|text|data|output|msg|status|code'
                    u'|return_?code|error|message)\\Z', re.I)


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


# ---- what an answer should be: functions of the answer that return (what came, verdict) ------------------------------

def judged(came, problems):
    """Return what came as OK, or the problems as WRONG."""
    if problems:
        return u'; '.join(problems), WRONG
    return came, OK


def a_password(value):
    """Judge the answer of Retrieve."""
    secret = value['message']
    came = u'a password'
    if secret != secret.strip():
        came += u' with white space at an end, which is part of it'
    return judged(came, credential_problems(secret))


def a_key(value):
    """Judge the answer of RetrieveKey."""
    problems = credential_problems(value['message'])
    if problems:
        return judged(u'', problems)
    try:
        keys = sshkey.private_keys(value['message'])
    except sshkey.UnusableKey as error:
        return u'the key cannot be used: %s' % text(error), WRONG
    return u', '.join(u'%s key of %d bits' % (key[0], key[3]) for key in keys), OK


def done(value):
    """Judge the answer of a command that returns nothing."""
    return u'done', OK


def carried_out(value):
    """Judge an answer that should have been a refusal."""
    return u'returnCode is 0: it was carried out, or found', WRONG


def any_refusal(refusal, reason):
    """Judge a refusal that is right. reason: its text for display."""
    return u'refused', OK


def wrong_refusal(why):
    """Return a judge of a refusal that is wrong; `why` says what the page asks for."""
    return lambda refusal, reason: (u'refused: %s; %s' % (reason, why), WRONG)


def rows_where(needed, is_right, wrong):
    """Return a judge of rows: needed columns, and a function that a row must pass; `wrong` names one that does not."""
    def judge(value):
        rows = value.get('rows') or []
        problems = rows_problems(value, needed)
        if not problems and not all(is_right(row) for row in rows):
            problems = [wrong]
        return judged(counted(rows), problems)
    return judge


def one_row(needed, is_right, wrong, if_none=(u'an empty list; there must be one row', WRONG)):
    """Return a judge of an answer that must have one row. if_none: (what came, verdict) if there is no row."""
    judge_all = rows_where(needed, is_right, wrong)

    def judge(value):
        came, verdict = judge_all(value)
        count = len(value.get('rows') or [])
        if verdict == OK and count == 0:
            return if_none
        if verdict == OK and count > 1:
            return u'%s; there must be one' % came, WRONG
        return came, verdict
    return judge


def is_empty_list(refusal):
    """Return whether a refusal says that a list is empty."""
    return tpamclient._NOTHING_TO_LIST.search(refusal.message[:MAX_MATCHED]) is not None


def ended_in(message, states):
    """Return whether the message of AddPwdRequest ends in one of these states, as the plugin reads it."""
    return folded(message[-MAX_MATCHED:]).rstrip(u'. ').endswith(states)


def counted(rows):
    """Return '1 row'."""
    return u'%d row%s' % (len(rows), u's'[len(rows) == 1:]) if rows else u'an empty list'


def word_shown(row, name):
    """Return a column of a row for display."""
    return escaped(column(row, name).strip()[:40])


NO_ROWS = rows_where((), lambda row: False, u'rows about something else than what was asked for')
