# -*- coding: utf-8 -*-
"""Who may have a credential: the gateway user, and one function for each authorization mode.

Python 2.6.5 code. ISA is TPAM's word for a user who may retrieve a password without a request.
Here it is the API user, once the plugin has found that the gateway user may have the credential.
"""
from tpamcheckout import request_for
from tpamerrors import TpamRefused, column, folded, same_name, text
from tpamrows import active_requests, each, id_of, same


# ---- the gateway user ----------------------------------------------------------------------------

def check_gateway_user(call):
    """Refuse a session without a gateway user, or with one of a domain that is not allowed."""
    user, tpam = call.gateway_user, call.settings['tpam']
    if not user.name and tpam['require_gateway_user']:
        raise TpamRefused(u'SPS passed no name of a gateway user; have the gateway authenticate '
                          u'its users, or set [tpam] require_gateway_user=no')
    if not user.name:
        call.log('warning', u'There is no gateway user: the credential is not tied to a '
                            u'person; set [tpam] require_gateway_user=yes')
    if u'\ufffd' in user.identity:  # the bytes of another user may read the same
        raise TpamRefused(u'SPS passed a gateway user whose name is not UTF-8')
    allowed = tpam['gateway_domains']
    if allowed and not user.domains:
        raise TpamRefused(u'SPS passed no domain of the gateway user, and [tpam] gateway_domains '
                          u'requires one')
    if allowed and not all(folded(domain) in allowed for domain in user.domains):
        raise TpamRefused(u'the gateway user belongs to a domain that is not in [tpam] '
                          u'gateway_domains', user=user.identity)


# ---- authorization: one function for each mode ---------------------------------------------------

# Each takes (call, system, account) and returns the options for Retrieve ({name: value}), or
# raises TpamRefused.

def authorize_by_gateway(call, system, account):
    """Allow everybody whom the gateway has authenticated."""
    return _as_isa(call, system, account, u'gateway')


def authorize_by_approval(call, system, account):
    """Require an active, approved request of the gateway user for the account."""
    rows = active_requests(call, _required_user(call), system, account)
    if not rows:
        raise TpamRefused(u'the gateway user has no active, approved request for this account')
    call.state['request'] = id_of(rows[0])
    return _as_isa(call, system, account, u'approval,' + call.state['request'])


def authorize_by_policy(call, system, account):
    """Require that required_policy is in effect for the gateway user and the account."""
    policy = call.settings['tpam']['required_policy']
    asked = {'UserName': _required_user(call), 'AccountName': account, 'SystemName': system}
    rows = call.client().list_assigned_policies(AllOrEffectiveFlag='E', PermissionType='Pwd',
                                                **asked)
    if not any(_grants(row, policy, asked) for row in each(call, rows)):
        raise TpamRefused(u'the required policy is not in effect for the gateway user',
                          policy=policy)
    return _as_isa(call, system, account, u'policy,' + policy)


def authorize_by_request(call, system, account):
    """Require the approval of a request that the plugin submits for the gateway user."""
    call.state['request'] = request_for(call, system, account, _why(call))
    return {'RequestID': call.state['request']}


AUTHORIZATIONS = {
    u'gateway': authorize_by_gateway,
    u'approval': authorize_by_approval,
    u'policy': authorize_by_policy,
    u'request': authorize_by_request,
}


def _required_user(call):
    """Return the bare name of the gateway user. Raises TpamRefused without one, and for a wildcard:
    the query would match other users, or, since an empty name is omitted, every user."""
    name = call.gateway_user.name
    if u'*' in name:
        raise TpamRefused(u'the name of the gateway user contains a *, which means any text to the '
                          u'server', user=call.gateway_user.identity)
    if not name:
        raise TpamRefused(u'SPS passed no name of a gateway user; have the gateway authenticate '
                          u'its users')
    return name


def _grants(row, policy, asked):
    """Return whether a row of ListAssignedPolicies grants the policy as it was asked for.

    The row of a policy of a group names no user, and PermissionType is filled in only if the server
    was asked to expand it. An empty column therefore contradicts nothing.
    """
    if not same(row, AccessPolicyName=policy):
        return False
    effective = column(row, 'EffectiveFl')
    if not same_name(effective, u'y') and not same_name(effective, u'yes'):
        return False
    for name, value in dict(asked, PermissionType='Pwd').items():
        if column(row, name) and not same(row, **{name: value}):
            return False
    return True


def _as_isa(call, system, account, finding):
    """Return the options of Retrieve without a request. finding: what authorized it, for the
    reason text."""
    reason = u'%s,SPS,%s,%s' % (call.gateway_user.identity, finding, call.session_id)
    return dict(_why(call), SystemName=system, AccountName=account, ReasonText=reason,
                TimeRequired=call.settings['request']['time_required'])


def _why(call):
    """Return the reason code and the ticket as options of Retrieve and AddPwdRequest."""
    request, questions = call.settings['request'], call.session_cookie.get('questions')
    ticket = u''
    if isinstance(questions, dict):
        for question, answer in questions.items():  # the names may be str, not ASCII
            if text(question) == request['ticket_question']:
                ticket = text(answer)
    return {'ReasonCode': request['reason_code'], 'TicketNumber': ticket,
            'TicketSystemName': request['ticket_system'] if ticket else u''}
