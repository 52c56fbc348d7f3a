# -*- coding: utf-8 -*-
"""Which system and which account: from the arguments of a hook to the names that the server knows.

Python 2.6.5 code.
"""
import re

from tpamcert import canonical_address, is_in_domain
from tpamerrors import (MAX_NAME, TpamRefused, TpamUnavailable, column, folded, is_text, native,
                        same_name, text)
from tpamrows import same

MAX_ADDRESSES = 8  # of one host name; the server is asked about each


# ---- the target ----------------------------------------------------------------------------------

def split_user(name):
    """Return (user, domain) of jdoe, jdoe@example.com or EXAMPLE\\jdoe; the domain may be u''."""
    domain, backslash, user = name.partition(u'\\')
    if backslash:
        return user, domain
    user, _, domain = name.rpartition(u'@')
    if not user:
        return name, u''
    return user, domain


class Target(object):
    """The target of a session, from the arguments of a hook.

    SPS names the target server_*; older releases pass only target_*. All are text, u'' if nothing
    was passed: address (canonical), host_name, account, domain, gateway_domain.
    """

    def __init__(self, arguments):
        def first(*names):
            for name in names:
                if arguments.get(name):
                    return text(arguments[name])
            return u''
        address = canonical_address(first('server_ip', 'target_host', 'server_hostname'))
        name = first('server_hostname', 'server_ip', 'target_host').rstrip(u'.')
        self.address = address or u''
        self.host_name = u'' if canonical_address(name) else name
        self.account, domain = split_user(first('server_username', 'target_username'))
        self.domain = first('server_domain', 'target_domain') or domain
        self.gateway_domain = first('gateway_domain')


# ---- resolvers: one function for each choice of system_name_resolver -----------------------------

# Each takes (call, target) and returns the name of the system, or None if it finds none.

def system_by_tpam(call, target):
    """Ask the server for the system that has the target's address.

    Only if SPS passes no address (older releases): ask for its name, then for the addresses that
    DNS has for it. The name is used with its domain: in another domain it is another system.
    """
    if target.address:
        return _listed(call, 'NetworkAddress', target.address)
    return (_listed(call, 'SystemName', target.host_name)
            or _listed(call, 'NetworkAddress', target.host_name)
            or _listed_by_addresses(call, target.host_name))


def system_by_dns(call, target):
    """Return the host part of the target's name, which DNS has for its address.

    Whoever controls the reverse zone may claim any name for an address. The name must therefore
    lead back to the address, and lie in system_domains.
    """
    if target.host_name or not target.address:
        return system_by_hostname(call, target)
    import dns.reversename
    pointer = dns.reversename.from_address(native(target.address)).to_text()
    records = call.look_up(pointer, 'PTR')
    if len(records) > 1:
        raise TpamRefused(u'DNS has more than one name for the address', address=target.address)
    if not records:
        return None
    name = text(records[0].target.to_text())
    kind = 'AAAA' if u':' in target.address else 'A'
    addresses = [canonical_address(record.address) for record in call.look_up(name, kind)]
    if target.address not in addresses:
        raise TpamRefused(u'the name that DNS has for the address does not lead back to the '
                          u'address', address=target.address, host_name=name)
    return _host_part(call, name.rstrip(u'.'))


def system_by_hostname(call, target):
    """Return the host part of the target's name."""
    return _host_part(call, target.host_name)


def _host_part(call, name):
    """Return the first label of a host name in upper case, or None for u''.

    The label does not tell the domain: web01 of any domain is WEB01, unless system_domains names
    the domains that count.
    """
    _check_domain(call, name)
    return _upper(name.partition(u'.')[0]) or None


def _check_domain(call, name):
    """Refuse a host whose domain is not in system_domains. A name without a domain is accepted: SPS
    resolves it in its own."""
    _, _, domain = name.partition(u'.')
    allowed = call.settings['tpam']['system_domains']
    if domain and allowed and not any(is_in_domain(domain, each) for each in allowed):
        raise TpamRefused(u'the host is in a domain that is not in [tpam] system_domains',
                          host_name=name)


def system_by_fqdn(call, target):
    """Return the target's name as SPS passes it."""
    return target.host_name or None


def system_by_ip(call, target):
    """Return the target's address."""
    return target.address or None


def system_by_domain(call, target):
    """Return the entry in [domain_asset_mapping] for the domain of the target or gateway user."""
    mapping = call.settings['domain_asset_mapping']
    return mapping.get(folded(target.domain or target.gateway_domain))


RESOLVERS = {
    u'tpam': system_by_tpam,
    u'dns': system_by_dns,
    u'hostname': system_by_hostname,
    u'fqdn': system_by_fqdn,
    u'ip': system_by_ip,
    u'domain': system_by_domain,
}


def find_system(call, target):
    """Return the first name that a resolver gives and the server knows. Raises TpamRefused.

    The server is not asked about the name of the last resolver: Retrieve refuses a wrong one.
    """
    resolvers = call.settings['tpam']['system_name_resolver']
    for number, resolver in enumerate(resolvers, 1):
        name = RESOLVERS[resolver](call, target)
        if not name:
            continue
        name = call.settings['tpam']['system_prefix'] + name
        is_last = number == len(resolvers)
        if resolver == u'tpam' or is_last or _listed(call, 'SystemName', name):
            return name
    raise TpamRefused(u'no resolver found the name of the system', address=target.address,
                      host_name=target.host_name, system_name_resolver=u', '.join(resolvers),
                      remedy=u'check that the server lists a system with this address or name to '
                             u'the API user, or choose another [tpam] system_name_resolver')


def _listed(call, option, value):
    """Return the name of the one system that has this value, or None if there is none.

    Anything else is refused: the plugin does not guess which of several systems is meant.
    """
    if not value:  # it would ask for all systems
        return None
    rows = call.client().list_systems(**{option: value})
    if not rows:
        return None
    found = column(rows[0], option)
    if len(rows) > 1 or not same_name(_canonical(found), _canonical(value)):
        raise TpamRefused(u'the server did not list exactly the one system that was asked for',
                          rows=len(rows), **{option: value})
    return column(rows[0], 'SystemName') or None


def _canonical(value):
    return canonical_address(value) or value


def _listed_by_addresses(call, name):
    """Return the one system that has every address of this host name, or None if none has any.

    Whoever owns the name may give it the address of a system as well as that of their own host, and
    SPS connects to either.
    """
    addresses = _addresses(call, name)
    systems = [_listed(call, 'NetworkAddress', address) for address in addresses]
    if not any(systems):
        return None
    if not all(system and same_name(system, systems[0]) for system in systems):
        raise TpamRefused(u'the addresses of this host name do not all belong to one system',
                          host_name=name)
    return systems[0]


def _addresses(call, name):
    """Return the addresses that DNS has for a host name, [] if DNS fails. Raises TpamRefused for
    more than MAX_ADDRESSES, because each costs a command.

    DNS is a last resort after the name itself, and another resolver may follow.
    """
    if not re.match(u'[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}\\Z', name):
        return []
    _check_domain(call, name)
    try:
        records = call.look_up(name, 'A') + call.look_up(name, 'AAAA')
    except TpamUnavailable as error:
        call.log('warning', error.message, **error.fields())
        return []
    if len(records) > MAX_ADDRESSES:
        raise TpamRefused(u'DNS has too many addresses for this host name', host_name=name,
                          addresses=len(records))
    return [canonical_address(record.address) for record in records]


def _upper(name):
    """Return a name with a-z in upper case. upper() would turn others, such as the long s, into
    ASCII letters."""
    return name.translate(dict((code, code - 32) for code in range(ord(u'a'), ord(u'z') + 1)))


# ---- which account -------------------------------------------------------------------------------

def find_account(call, target, account):
    """Return (system, account) as the credential server names them. Raises TpamRefused.

    The cookie remembers the names that an earlier hook found, for the very same target and
    configuration: a real TPAM takes seconds for each command. Only names are remembered; the
    authorization is checked again.
    """
    names, key = call.state['names'], digest(call, u'system', target.address, target.host_name,
                                             target.domain, target.gateway_domain)
    if not _are_names(names.get(key), 1):
        names[key] = _bounded(find_system(call, target))
    system, = names[key]
    _bounded(account)
    if not call.settings['tpam']['system_maptoreal']:
        return system, account
    key = digest(call, u'account', system, account)
    if not _are_names(names.get(key), 2):
        names[key] = _bounded(*_real_account(call, system, account))
    return tuple(names[key])


def _are_names(known, count):
    return isinstance(known, list) and len(known) == count and all(
        is_text(name) and 0 < len(name) <= MAX_NAME for name in known)


def _bounded(*names):
    """Return names as a list. Raises TpamRefused for a name that is too long to be one: names go
    into the cookie and are compared with thousands of rows."""
    if max(len(name) for name in names) > MAX_NAME:
        raise TpamRefused(u'the name of a system or an account has more than %d characters'
                          % MAX_NAME)
    return list(names)


def digest(call, *parts):
    """Return a digest of the configuration that names depend on, and of the parts (text).

    It goes into the cookie, which is not secret: no password is in it.
    """
    import hashlib
    settings = call.settings
    tpam = dict(settings['tpam'], password=None)
    sections = [sorted(section.items()) for section in (tpam, settings['domain_asset_mapping'],
                                                        settings['private_keys'])]
    question = u'%r' % (sections + list(parts),)
    return text(hashlib.sha256(question.encode('utf-8', 'replace')).hexdigest())


def _real_account(call, system, account):
    """Return [system, account] that system_maptoreal=yes puts in place of an account."""
    rows = call.client().list_accounts(SystemName=system, AccountName=account)
    if len(rows) != 1 or not same(rows[0], SystemName=system, AccountName=account):
        raise TpamRefused(u'the server did not list exactly this account', rows=len(rows))
    real_account = column(rows[0], 'AccountCustom1')
    real_system = column(rows[0], 'AccountCustom2')
    if not real_account or not real_system:
        raise TpamRefused(u'AccountCustom1 and AccountCustom2 of this account do not name a real '
                          u'account and its system')
    return [real_system, real_account]
