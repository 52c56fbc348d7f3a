# -*- coding: utf-8 -*-
"""SPS Credential Store plugin for a TPAM-style password server that speaks XML-RPC.

SPS makes Plugin(configuration), calls one hook by name and exits (guide: "The main.py module"). Top to bottom:
configuration text -> settings -> what to ask for -> the answer for SPS. What is on the wire is tpamclient's. This is
Python 2.6.5 code, for the environment that SPS gives to plugins without an entry_point.
"""
import base64
import ConfigParser
import io
import re
import select
import signal
import sys
import time
import traceback

from tpamclient import (MAX_MATCHED, Deadline, TpamClient, TpamConnectionEnded, TpamError, TpamOutcomeUnknown,
                        TpamRefused, TpamTimeout, TpamUnavailable, basic, canonical_address, certificate, column,
                        describe, escaped, folded, is_text, look_up, native, packed_address, service_domain, text)

COOKIE_KEY = 'SPS_TPAM_XMLRPC'
LOG_LEVELS = ('debug', 'info', 'warning', 'error', 'critical')
PROTOCOLS = ('http', 'ica', 'rdp', 'ssh', 'telnet', 'vnc')
GIVE_BACK_SECONDS = 10  # of the timeout, at most a quarter: kept to give back what a hook that fails has checked out
ACTIVE, OPEN = (u'active/approved',), (u'active/approved', u'approved', u'pending approval')
CLOSED = (u'denied', u'canceled', u'expired')  # another word of the server may hold anything, and gets into no cookie


# ---- configuration text -> settings --------------------------------------------------------------------------------

# What takes a value raises ValueError with what it must be, never with the value: passwords get into wrong lines.

def _choice(*choices):
    def parse(value):
        if folded(value) not in choices:
            raise ValueError(u'must be one of %s' % u', '.join(choices))
        return folded(value)
    parse.takes_empty = False
    return parse


def _flag(value):
    return _choice(u'yes', u'no')(value) == u'yes'


_flag.takes_empty = False  # an empty value would silently be the default, which may be the weaker choice


def _number(least, most):
    def parse(value):
        if not re.match(r'[0-9]{1,9}\Z', value) or not least <= int(value) <= most:
            raise ValueError(u'must be a whole number from %d to %d' % (least, most))
        return int(value)
    return parse


def _items(parse):
    def parse_all(value):
        items = [parse(item) for item in re.split(u'[\\s,]+', value) if item]
        if not items:
            raise ValueError(u'must name at least one')
        return items
    parse_all.takes_empty = getattr(parse, 'takes_empty', True)
    return parse_all


def _server(item):
    """u'host', u'host:port', u'[ipv6]:port' or u'srv:name' -> (host, port or None)."""
    host, port = item, None
    if not item.startswith(u'srv:') and not packed_address(item):
        host, port = re.match(u'(.*?)(?::([0-9]+))?\\Z', item, re.S).groups()
        bracketed = re.match(u'\\[(.*)\\]\\Z', host)
        host = bracketed.group(1) if bracketed and u':' in bracketed.group(1) else host
    name = host
    if host.startswith(u'srv:'):
        name = host[len(u'srv:'):]
        if not service_domain(name):
            raise ValueError(u'must be srv: and a name such as _tpam._tcp.example.com, with its domain')
    if not packed_address(name) and not re.match(u'[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})\\Z', name):
        raise ValueError(u'must be host, host:port, [ipv6]:port or srv:name, without https:// and user@; '
                         u'an international name is written with xn--')
    return host, port and _number(1, 65535)(port)


def _path(value):
    if not re.match(u'/[!-~]*\\Z', value):
        raise ValueError(u'must begin with / and hold ASCII characters without white space')
    return value


def _fingerprint(item):
    digits = item.lower().replace(u':', u'')
    if not re.match(u'sha256[0-9a-f]{64}\\Z', digits):
        raise ValueError(u'must be sha256: and 64 hexadecimal digits')
    return digits[6:]


_fingerprint.takes_empty = False


def _gateway_domain(item):
    return folded(item)


_gateway_domain.takes_empty = False


_OPTION_LINE = u'(?im)^(\\[|(?!subject|issuer|depth)[a-z_]+\\s*=)'


def _names_option(lines):
    """Return whether one of the lines is a known option written with a colon, as ConfigParser takes it, too."""
    names = [folded(line.partition(u':')[0].strip()) for line in lines.split(u'\n') if u':' in line]
    return any(name in options for options in OPTIONS.values() if options for name in names)


_PEM_BLOCK = re.compile(u'-----BEGIN ([A-Z0-9 ]+)-----\n(.*?)\n-----END \\1-----', re.S)


def _pem(*wanted):
    """Kinds of PEM block, all wanted -> what takes a text of them, checked as far as 2.6 can."""
    def parse(value):
        blocks = [(u'PRIVATE KEY' if label.endswith(u'PRIVATE KEY') else label, content)
                  for label, content in _PEM_BLOCK.findall(value)]
        around = _PEM_BLOCK.sub(u'', value)  # text that openssl writes there is harmless
        if re.search(_OPTION_LINE, around) or _names_option(around):
            raise ValueError(u'has another option behind it that is indented by mistake')
        if u'-----' in around or set(label for label, _ in blocks) != set(wanted):
            raise ValueError(u'must be PEM: %s, each line after the first indented by one space'
                             % u' and '.join(u'-----BEGIN %s----- …' % kind for kind in wanted))
        if u'ENCRYPTED' in value:
            raise ValueError(u'must hold an unencrypted key: nobody can type a pass phrase here')
        for label, content in blocks:
            try:
                der = base64.b64decode(native(content).encode('ascii'))
                if label == u'CERTIFICATE':
                    certificate(der)
            except (ValueError, TypeError, IndexError):
                raise ValueError(u'holds a damaged %s: paste it again' % label)
        return value
    return parse


_TRIGGER = _choice(u'session-ended', u'authentication-completed')
_RESOLVERS = (u'tpam', u'dns', u'hostname', u'fqdn', u'ip', u'domain')

# section -> option -> (text -> value, or ValueError that says what it must be; value where it is not given)
OPTIONS = {
    'tpam': {
        'server': (_items(_server), []), 'path': (_path, u'/RPC2'), 'method_prefix': (text, u''),
        'use_credential': (_choice(u'explicit', u'gateway'), u'explicit'),
        'username': (text, u''), 'password': (text, u''),
        'timeout': (_number(1, 290), 60), 'connect_timeout': (_number(1, 290), 10),
        'system_name_resolver': (_items(_choice(*_RESOLVERS)), [u'tpam']), 'system_prefix': (text, u''),
        'system_maptoreal': (_flag, False), 'reuse_gateway_password': (_flag, False),
        'authorization': (_choice(u'gateway', u'approval', u'policy', u'request'), u'gateway'),
        'required_policy': (text, u''),
        'require_gateway_user': (_flag, True), 'gateway_domains': (_items(_gateway_domain), []),
    },
    'request': {
        'approval_timeout': (_number(0, 290), 120), 'poll_interval': (_number(1, 60), 5),
        'release_duration': (_number(1, 1000000), None), 'access_policy': (text, u''),
        'reason_code': (text, u''), 'ticket_system': (text, u''), 'ticket_question': (text, u''),
        'time_required': (_number(1, 1000000), None),
    },
    'account': {'prefix': (text, u''), 'suffix': (text, u'')},
    'domain_asset_mapping': None,  # any option: domain=asset
    'tls': {
        'enabled': (_flag, True), 'ca_cert': (_pem(u'CERTIFICATE'), None),
        'client_cert': (_pem(u'CERTIFICATE', u'PRIVATE KEY'), None),
        'server_fingerprint': (_items(_fingerprint), []), 'check_host_name': (_flag, True),
        'protocol': (_choice(u'tlsv1', u'negotiate'), u'tlsv1'),
    },
    'https-proxy': {'server': (_server, None), 'port': (_number(1, 65535), 3128), 'username': (text, u''),
                    'password': (text, u'')},
    'check-in-trigger': dict([(protocol, (_TRIGGER, None)) for protocol in PROTOCOLS],
                             default=(_TRIGGER, u'session-ended')),
    'check-in': {'force_reset': (_flag, False)},
    'private_keys': {'enabled': (_flag, True), 'command': (_choice(u'retrievekey', u'retrieve'), u'retrievekey'),
                     'account_suffix': (text, u'')},
    'logging': {'log_level': (_choice(*LOG_LEVELS), u'info')},
}

# ConfigParser cuts a value at ' ;', takes '""' for nothing and strips white space of other scripts. Such characters go
# through it as noncharacters, which Unicode keeps for a program's own use: a password is taken as it is written.
_LITERAL = ([ord(char) for char in u';#"\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2028\u2029\u202f\u205f\u3000']
            + list(range(0x2000, 0x200b)))
_HIDE = dict((char, 0xfdd0 + index) for index, char in enumerate(_LITERAL))
_REVEAL = dict((0xfdd0 + index, char) for index, char in enumerate(_LITERAL))


def read_configuration(configuration):
    """Configuration text (UTF-8) -> (settings {section: {option: value}}, problems [text]). Settings are whole, with
    defaults, and to be used only where there are no problems. No problem repeats a value."""
    settings = dict((section, dict((name, default) for name, (_, default) in (options or {}).items()))
                    for section, options in OPTIONS.items())
    problems = []
    try:
        parsed = _parsed(configuration)
    except ValueError as error:
        return settings, [text(error)]
    given = set()
    for section, options in parsed:
        if section not in OPTIONS:
            problems.append(u'[%s]: unknown section%s' % (escaped(section), _resembling(section, OPTIONS)))
            continue
        for option, value in options:
            try:
                settings[section][option] = _setting(section, option, value)
                if value:
                    given.add((section, option))
            except ValueError as error:
                name = escaped(option).partition(u' ')[0]  # what follows it may be a password with a : or = inside
                problems.append(u'[%s] %s: %s' % (section, name, text(error)))
    wrong = [problem.partition(u':')[0] for problem in problems]
    problems.extend(problem for problem in _contradictions(settings, given) if problem.partition(u':')[0] not in wrong)
    return settings, problems


def _parsed(configuration):
    """INI text -> [(section, [(option, value)])], all text. Raises ValueError for what is no INI, and for nothing else:
    what would follow from the rest of it misleads."""
    try:
        written = configuration if isinstance(configuration, type(u'')) else (configuration or b'').decode('utf-8')
    except UnicodeDecodeError:
        raise ValueError(u'The configuration is not UTF-8 text')
    lines = re.split(u'\r\n|\r|\n', written.lstrip(u'\ufeff'))
    hidden = u'\n'.join(line if line[:1] in (u';', u'#') else line.translate(_HIDE) for line in lines)
    parser = ConfigParser.RawConfigParser()
    parser.optionxform = folded
    try:
        parser.readfp(io.StringIO(hidden + u'\n'))
    except ConfigParser.MissingSectionHeaderError as error:
        raise ValueError(u'Line %d stands before the first [section]' % error.lineno)
    except ConfigParser.ParsingError as error:  # its own text repeats the lines
        raise ValueError(u'Neither [section] nor option=value: line %s; only the further lines of a value are indented'
                         % u', '.join(u'%d' % number for number, _ in error.errors))
    if parser.defaults():
        raise ValueError(u'[DEFAULT]: unknown section; each option stands in its own')
    section, given = u'', set()
    for number, line in enumerate(lines, 1):  # of an option that is given twice ConfigParser takes the later one
        name = re.match(u'(?![Rr][Ee][Mm]\\s)([^\\s;#:=\\[][^:=]*)[:=]', line)  # 2.6 takes rem for a comment
        section = line.partition(u']')[0] if line[:1] == u'[' else section
        if not name:
            continue
        option = section, folded(name.group(1).strip())
        if option in given:
            raise ValueError(u'Line %d gives an option of its section a second time; leave one of them out' % number)
        given.add(option)
    return [(text(section), [(text(option).translate(_REVEAL), text(value).translate(_REVEAL))
                             for option, value in parser.items(section)]) for section in parser.sections()]


def _setting(section, option, value):
    options = OPTIONS[section]
    if options is not None and option not in options:
        raise ValueError(u'unknown option' + _resembling(option, options))
    if u'\n' in value and option not in ('ca_cert', 'client_cert'):
        raise ValueError(u'must be one line; is the next line indented by mistake?')
    if re.match(u'\\$(\\[.*\\])?\\Z', value):
        raise ValueError(u'$ means a store of the Python 3 environment, which this plugin has not; write the value '
                         u'itself')
    parse, default = (text, u'') if options is None else options[option]
    if not value and getattr(parse, 'takes_empty', True):
        return default
    return parse(value)


def _resembling(word, known):
    import difflib
    near = difflib.get_close_matches(word.lower(), sorted(known), 1)
    return u'; did you mean %s?' % near[0] if near else u'; known: %s' % u', '.join(sorted(known))


# What only authorization=request looks at: who sets it without that mode believes that requests are filed.
_OF_REQUESTS = ('access_policy', 'approval_timeout', 'poll_interval', 'release_duration')


def _contradictions(settings, given):
    tpam, tls, proxy = settings['tpam'], settings['tls'], settings['https-proxy']
    explicit = tpam['use_credential'] == u'explicit'
    if not tpam['server']:
        yield u'[tpam] server: missing; the host name of the credential server, as in its certificate'
    if tls['enabled'] and not tls['ca_cert'] and not tls['server_fingerprint']:
        yield (u'[tls] ca_cert: missing; the CA certificate that the server is verified with, as PEM '
               u'(or pin the certificate of the server with server_fingerprint)')
    certified = tls['enabled'] and tls['client_cert']
    if explicit and not tpam['username'] and not certified:
        yield u'[tpam] username: missing; the API user of the credential server (or a client_cert under [tls])'
    if explicit and tpam['username'] and not tpam['password'] and not certified:
        yield u'[tpam] password: missing; the password of the API user (or a client_cert under [tls])'
    if not explicit and (tpam['authorization'] == u'request' or settings['check-in']['force_reset']):
        yield (u'[tpam] use_credential: must be explicit with authorization=request or force_reset=yes, since the '
               u'hooks that give back are not told the password of the gateway user')
    if tpam['authorization'] == u'policy' and not tpam['required_policy']:
        yield u'[tpam] required_policy: missing; the policy that authorization=policy asks for'
    if tpam['authorization'] != u'policy' and tpam['required_policy']:
        yield u'[tpam] required_policy: is only looked at with authorization=policy; set that, or leave it out'
    for option in _OF_REQUESTS:
        if tpam['authorization'] != u'request' and ('request', option) in given:
            yield (u'[request] %s: is only looked at with [tpam] authorization=request; set that, or leave it out'
                   % text(option))
    if tpam['authorization'] == u'request' and not tpam['username'] and certified:
        yield u'[tpam] username: missing; authorization=request looks for requests of the API user under this name'
    keys = settings['private_keys']
    if settings['check-in']['force_reset'] and keys['enabled'] and keys['command'] == u'retrieve' \
            and not keys['account_suffix']:
        yield (u'[private_keys] account_suffix: missing; with command=Retrieve and force_reset=yes, keys that are '
               u'stored as passwords would be overwritten')
    if proxy['server'] and (proxy['server'][1] or proxy['server'][0].startswith(u'srv:')):
        yield u'[https-proxy] server: must be a host name or an address alone; its port is the option port'
    if not proxy['server'] and (proxy['username'] or proxy['password']):
        yield u'[https-proxy] server: missing; there is a username or password for it'


# ---- settings and arguments -> what to ask for ---------------------------------------------------------------------

def split_user(name):
    """u'jdoe', u'jdoe@example.com' or u'EXAMPLE\\jdoe' -> (u'jdoe', domain or u'')."""
    domain, backslash, user = name.partition(u'\\')
    if backslash:
        return user, domain
    user, _, domain = name.rpartition(u'@')
    return (user, domain) if user else (name, u'')


class Target(object):
    """Whom the credential is for, from the hook's arguments as any release of SPS names them: server_*, else target_*,
    which alone the older ones pass. All text, u'' where nothing was given."""

    def __init__(self, arguments):
        def first(*names):
            return ([text(arguments[name]) for name in names if arguments.get(name)] or [u''])[0]
        self.address = canonical_address(first('server_ip', 'target_host', 'server_hostname'))
        name = first('server_hostname', 'server_ip', 'target_host').rstrip(u'.')
        self.host_name = u'' if canonical_address(name) else name
        self.account, domain = split_user(first('server_username', 'target_username'))
        self.domain = first('server_domain', 'target_domain') or domain
        self.gateway_domain = first('gateway_domain')


class GatewayUser(object):
    """The user of the gateway, from the arguments of a get_* hook. All text; u'' where SPS names nobody.

    login: as SPS passes it. name: without a domain, as the credential server knows the user. domains: every distinct
    domain that SPS names, in the login (CORP\\jdoe, jdoe@corp) or as gateway_domain. identity: name and domains
    (jdoe@CORP), which is one person; compare it with folded().
    """

    def __init__(self, arguments):
        self.login = text(arguments.get('gateway_username'))
        before, _, name = self.login.rpartition(u'\\')
        parts = [part.strip() for part in name.split(u'@') + [before, text(arguments.get('gateway_domain'))]]
        self.name = parts.pop(0)
        self.domains = []
        for given in parts:
            if given and folded(given) not in [folded(known) for known in self.domains]:
                self.domains.append(given)
        self.identity = u'@'.join([self.name] + self.domains) if self.name else u''


class Resolver(object):
    """The name of the system in TPAM. Each method named as in system_name_resolver gives a name, or None."""

    def __init__(self, settings, client, deadline, target, log):
        self._settings, self._client, self._deadline, self._target = settings, client, deadline, target
        self._log = log

    def system(self):
        """The first name that the server knows; the last one left is not asked about, since Retrieve will tell."""
        resolvers = self._settings['tpam']['system_name_resolver']
        for number, resolver in enumerate(resolvers):
            name = getattr(self, resolver)()
            if name:
                name = self._settings['tpam']['system_prefix'] + name
                if resolver == u'tpam' or number == len(resolvers) - 1 or self._listed('SystemName', name):
                    return name
        raise TpamRefused(u'no name of the system was found', address=self._target.address,
                          host_name=self._target.host_name, system_name_resolver=u', '.join(resolvers))

    def tpam(self):
        if self._target.address:
            return self._listed('NetworkAddress', self._target.address)
        name = self._target.host_name  # whole: a host of that name in another domain is another system
        return (self._listed('SystemName', name) or self._listed('NetworkAddress', name)
                or self._listed_by_addresses(name))

    def _listed_by_addresses(self, name):
        """Return the one system that has an address of this host name, or None. Older releases pass no address."""
        systems = []
        for address in self._addresses(name):
            system = self._listed('NetworkAddress', address)
            if system and folded(system) not in [folded(known) for known in systems]:
                systems.append(system)
        if len(systems) > 1:
            raise TpamRefused(u'the addresses of this host name belong to more than one system', host_name=name)
        return systems[0] if systems else None

    def _addresses(self, name):
        """Return the addresses that DNS has for a host name, at most 8. DNS that fails has none: this is a last resort
        after the name itself, and another resolver may follow."""
        if not re.match(u'[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}\\Z', name):
            return []
        try:
            found = [record for kind in ('A', 'AAAA') for record in look_up(name, kind, self._look_up_deadline())]
        except TpamUnavailable as error:
            self._log('warning', text(error))
            return []
        return [canonical_address(record.address) for record in found[:8]]

    def _look_up_deadline(self):
        return Deadline(self._settings['tpam']['connect_timeout'], self._deadline)

    def dns(self):
        if self._target.host_name or not self._target.address:
            return self.hostname()
        import dns.reversename
        address = self._target.address
        records = look_up(dns.reversename.from_address(native(address)).to_text(), 'PTR', self._look_up_deadline())
        if len(records) > 1:
            raise TpamRefused(u'DNS has more than one name for the address', address=address)
        if not records:
            return None
        # Whoever controls the reverse zone may claim any name for an address: the owner of the name must agree.
        name = text(records[0].target.to_text())
        forward = look_up(name, 'AAAA' if u':' in address else 'A', self._look_up_deadline())
        if address not in [canonical_address(record.address) for record in forward]:
            raise TpamRefused(u'the name that DNS has for the address does not lead back to the address',
                              address=address, host_name=name)
        return _upper(name.partition(u'.')[0])

    def hostname(self):
        return _upper(self._target.host_name.partition(u'.')[0]) or None

    def fqdn(self):
        return self._target.host_name or None

    def ip(self):
        return self._target.address

    def domain(self):
        mapping = self._settings['domain_asset_mapping']
        return mapping.get(folded(self._target.domain or self._target.gateway_domain))

    def _listed(self, option, value):
        """-> the name of the one system that has this, None without any; anything else is not guessed about."""
        rows = value and self._client.list_systems(**{option: value})  # an empty value would ask for all
        if not rows:
            return None
        found = column(rows[0], option)
        if len(rows) > 1 or (canonical_address(found) or folded(found)) != (canonical_address(value) or folded(value)):
            raise TpamRefused(u'the server lists something other than the one system asked for', rows=len(rows),
                              **{option: value})
        return column(rows[0], 'SystemName') or None


def _upper(name):
    """Return a name with a-z in upper case. upper() would make ASCII letters of others, such as the long s."""
    return name.translate(dict((code, code - 32) for code in range(ord(u'a'), ord(u'z') + 1)))


# ---- one hook call -------------------------------------------------------------------------------------------------

# fragment of a refusal -> what an administrator does about it
REMEDIES = (
    (u'reason codes? are required|reason code .{0,200}failed validation',
     u'set [request] reason_code to one of the server'),
    (u'requires a ticket|ticket number and ticket system are required',
     u'set [request] ticket_system and ticket_question'),
    (u'ticket .{0,200}(not found|failed validation)',
     u'check the ticket that the user named, and [request] ticket_system'),
    (u'exceeds account maximum', u'lower [request] release_duration'),
    (u'not authorized|no permission exists', u'give the API user permission on this account'),
    (u'do not have permissions|is not authorized to',
     u'give the API user the right to this command, or choose another [tpam] system_name_resolver or authorization'),
    (u'locked', u'unlock the account or the user on the credential server'),
)

UNKNOWN_COMMAND = -32601  # of XML-RPC: the method does not exist
_UNKNOWN_COMMAND = re.compile(u'(unknown|unrecognized|no such|not supported).{0,20}(command|method)'
                              u'|method \\W?[\\w.]{0,60}Retrieve(Key)?\\W? is not supported', re.I)


COUNTS = ('given', 'returned', 'unknown')


def remembered(cookie):
    """Read the plugin's part of a cookie -> (state, unreadable).

    state: a copy to work on, as described at Call, its strings as text whatever the runner made of them. unreadable: a
    dict {name: value} of what can be told for each thing that no hook of this plugin wrote like that.
    """
    state = {'hooks': [], 'open': [], 'denied': {}, 'server': u''}
    state.update((name, 0) for name in COUNTS)
    if not cookie:
        return state, []
    if not isinstance(cookie, dict):
        return state, [{}]
    part = _with_text(cookie.get(COOKIE_KEY, {}))
    if not part and isinstance(part, dict):
        return state, []
    if not isinstance(part, dict) or not isinstance(part.get('open'), list):
        return state, [{}]
    unreadable = []
    for checkout in part.pop('open'):
        if _is_checkout(checkout):
            state['open'].append(checkout)
        else:
            unreadable.append(about(checkout) if isinstance(checkout, dict) else {})
    state.update((name, value) for name, value in part.items()
                 if name not in state or isinstance(value, type(state[name])))
    return state, unreadable


def _with_text(value):
    """Return a JSON value whose strings, keys included, are text: Python 2 may pass either kind."""
    if isinstance(value, dict):
        return dict((native(name), _with_text(member)) for name, member in value.items())
    if isinstance(value, list):
        return [_with_text(member) for member in value]
    return text(value) if is_text(value) else value


def _is_checkout(entry):
    if not isinstance(entry, dict) or entry.get('command') not in ('Cancel', 'ForceReset'):
        return False
    if not is_text(entry.get('system')) or not is_text(entry.get('account')) or 'request' not in entry:
        return False
    return entry['request'] is None or is_text(entry['request']) or _is_number(entry['request'])


def _is_number(value):
    return isinstance(value, (int, type(2 ** 64))) and not isinstance(value, bool)


class Call(object):
    """One hook call: its arguments, its time, its connections, its log, and what the session remembers in the cookie.

    The plugin's part of the cookie, all JSON and none of it secret: hooks (names called), given (number of
    credentials), open (what is to be given back: command Cancel or ForceReset, system, account, user, request, which is
    None where it is unknown whether one was filed; `pending` until the request was seen active; `tried` where the
    command went out and was not answered), returned (number of those that were), unknown (number of those of which
    nobody knows), denied ({"user/system/account": why}), server (that answered last), and of the last credential user,
    protocol, mode, system, account, request.
    """

    def __init__(self, settings, hook, arguments):
        self.settings, self.arguments = settings, arguments
        self.cookie, self.session_cookie = [
            dict(arguments[name]) if isinstance(arguments.get(name), dict) else {}
            for name in ('cookie', 'session_cookie')]
        self.state, self.unreadable = remembered(arguments.get('cookie'))
        self.cookie[COOKIE_KEY] = self.state
        self._known = list(self.state['open'])
        self.state['hooks'].append(text(hook))
        self.session_id = text(arguments.get('session_id'))
        self.gateway_user = GatewayUser(arguments)
        self._masks = []
        for username, password in ((self.gateway_user.login, text(arguments.get('gateway_password'))),
                                   (settings['tpam']['username'], settings['tpam']['password']),
                                   (settings['https-proxy']['username'], settings['https-proxy']['password'])):
            if password:  # also as the header has it, which a server may repeat, with or without its padding
                self.add_secret(password)
                value = text(basic(username, password).split()[1])
                self.add_secret(value)
                self.add_secret(value.rstrip(u'='))
        timeout, by_request = settings['tpam']['timeout'], settings['tpam']['authorization'] == u'request'
        self._kept = min(GIVE_BACK_SECONDS, timeout / 4.0) if by_request else 0
        self.deadline = Deadline(timeout - self._kept)
        self._client = None
        self.alarm = Alarm()
        self.alarm.start(self.deadline)

    def log(self, level, message, **details):
        """One line to stdout, which SPS logs. What is known to be secret is masked whatever it stands in."""
        if LOG_LEVELS.index(level) < LOG_LEVELS.index(self.settings['logging']['log_level']):
            return
        details = dict((name, self.masked(text(value))) for name, value in details.items())  # before they are cut
        line = describe(message, **details)
        line += (u', ' if details or u"='" in message else u'; ') + u"session_id='%s'" % escaped(self.session_id)
        write_line(level, self.masked(line))

    def add_secret(self, secret):
        """Have the log mask a secret (text). Up to three characters would mask half of the log, and are not masked."""
        if len(secret) > 3:
            self._masks.append((secret, escaped(secret)))
            self._masks.sort(key=lambda mask: len(mask[0]), reverse=True)  # one may begin like another

    def masked(self, line):
        """Return the line with every secret masked, as it stands and as URLs, JSON and XML write it.

        A long line is cut first, behind a whole secret at least. That may leave the beginning of a secret at its end:
        nothing behind the last mask is kept then.
        """
        longest = max([len(secret) for secret, _ in self._masks] or [0])
        masked = line[:MAX_MASKED + 6 * longest]  # \u003d stands for one character
        for secret, shown in self._masks:
            masked = masked.replace(secret, MASK).replace(shown, MASK)
            if re.search(u'[%&+\\\\]', masked) and re.search(spelled(secret[:8]), masked):
                masked = re.sub(spelled(secret), MASK, masked)
        if len(line) > MAX_MASKED + 6 * longest and MASK in masked:
            masked = masked.rpartition(MASK)[0] + MASK
        return masked

    def client(self):
        if self._client is None:
            self._client = TpamClient(self._connection(), self.deadline, self._leave_out, self.state['server'])
        return self._client

    def _leave_out(self, line):
        self.log('warning', line + u", next='the next server'")

    def _connection(self):
        """Settings as TpamClient takes them."""
        tpam, tls, proxy = [self.settings[section] for section in ('tpam', 'tls', 'https-proxy')]
        credential = (tpam['username'], tpam['password'])
        if tpam['use_credential'] == u'gateway':
            credential = (self.gateway_user.login, text(self.arguments.get('gateway_password')))
            if not (credential[0] and credential[1]):
                raise TpamError(u'[tpam] use_credential=gateway, but SPS passed no gateway user name and password; '
                                u'have the gateway ask for a password, or use explicit')
        return dict(tpam, credential=credential, tls=tls if tls['enabled'] else None,
                    servers=[(host, port or (443 if tls['enabled'] else 80)) for host, port in tpam['server']],
                    proxy=proxy['server'] and dict(proxy, address=(native(proxy['server'][0]), proxy['port'])))

    def finish(self):
        """Close the connections, and record in the cookie which server answered."""
        if self._client is not None:
            self.state['server'] = self._client.server or self.state['server']
            self._client.close()
        self._client = None

    def warn(self):
        """What is laxer than it should be is said at every call."""
        tls = self.settings['tls']
        if not tls['enabled']:
            self.log('warning', u'TLS is off: passwords cross the network in the clear; set [tls] enabled=yes')
        elif not tls['check_host_name']:
            self.log('warning', u'The name in the certificate is not checked; set [tls] check_host_name=yes')

    def report_unreadable(self):
        """Log an ERROR line for each part of the cookie that cannot be read, and remember it for the summary."""
        for details in self.unreadable:
            self.state['unknown'] += 1
            self.log('error', u'A part of the cookie cannot be read, so that something may still be checked out; look '
                              u'for it on the server', **(details or {'notes': self._notes()}))

    def report_checked_out(self):
        """Log an ERROR line for each thing that a session under a wrong configuration cannot check in."""
        for checkout in self.state['open']:
            details = about(checkout) if checkout['request'] else dict(about(checkout), notes=self._notes(checkout))
            self.log('error', u'This is still checked out; check it in by hand', command=checkout['command'], **details)

    def explain(self, refusal):
        """The line about why there is no credential."""
        details = dict(about(self.state), **refusal.details)
        for fragment, remedy in REMEDIES:
            if re.search(fragment, text(refusal)[:MAX_MATCHED], re.I):
                details['remedy'] = remedy
        self.log('warning', u'No credential', reason=text(refusal), **details)

    # -- the hooks

    def passwords(self):
        """For get_password_list."""
        self._check_gateway_user()
        target = Target(self.arguments)
        if not self.settings['tpam']['reuse_gateway_password'] or not self._is_gateway_user(target):
            return self._passwords_of(target)
        self._begin(target.account, u'gateway password')
        self.state['given'] += 1
        self.log('info', u'Using the gateway password', account=target.account)
        password = self.arguments['gateway_password']
        return [password if isinstance(password, str) else native(password)]

    def remote_app_passwords(self):
        """For get_remote_app_credentials: the asset stands for the host; what an AA plugin put into the session cookie
        goes first."""
        self._check_gateway_user()
        asset = text(self.session_cookie.get('asset') or self.arguments.get('asset'))
        if not asset:
            raise TpamRefused(u'no asset was named: argument asset, or asset in the session cookie')
        account = self.session_cookie.get('account') or self.arguments.get('server_username')
        return self._passwords_of(Target(dict(self.arguments, server_ip=None, server_hostname=None, target_host=asset,
                                              server_username=account)))

    def private_keys(self):
        """For get_private_key_list. Where there is none that SPS can use, the password hook still has its turn."""
        import sshkey  # its tables take time to compile, and the other hooks do without
        options = self.settings['private_keys']
        if not options['enabled']:
            return []
        self._check_gateway_user()
        client = self.client()
        command = client.retrieve if options['command'] == u'retrieve' else client.retrieve_key
        try:
            stored = self._credential(Target(self.arguments), command, options['account_suffix'])
            keys = sshkey.private_keys(stored)
        except sshkey.UnusableKey as error:
            raise TpamRefused(u'the private key cannot be used: %s' % error)
        except TpamRefused as refusal:
            if refusal.code != UNKNOWN_COMMAND and not _UNKNOWN_COMMAND.search(text(refusal)[:MAX_MATCHED]):
                raise
            self.log('info', u'The server gives out no private keys',
                     remedy=u'[private_keys] enabled=no spares the call', **about(self.state))
            return []
        for kind, _, fingerprint, bits in keys:
            if bits < 1024:
                self.log('warning', u'The private key is too short to be safe; replace it', bits=bits, type=kind,
                         fingerprint=fingerprint, **about(self.state))
            self.log('info', u'Retrieved a private key', type=kind, fingerprint=fingerprint, **about(self.state))
        self.state['given'] += len(keys)
        return [(kind, pem) for kind, pem, _, _ in keys]

    def authentication_completed(self):
        """Gives back what the configuration wants given back as soon as the login has worked."""
        triggers = self.settings['check-in-trigger']
        if (triggers.get(self.state.get('protocol')) or triggers['default']) == u'authentication-completed':
            self.give_back(list(self.state['open']))

    def session_ended(self):
        """Gives back what is left, and sums the session up."""
        self.give_back(list(self.state['open']))
        self.log('info', u'Session ended', check_in=self._check_in_summary(),
                 credentials=self.state['given'], hooks=u', '.join(self.state['hooks']),
                 **dict((name, self.state.get(name)) for name in ('user', 'account', 'system', 'mode', 'request')))

    def _check_in_summary(self):
        if self.state['open']:
            return u'failed'
        if self.state['unknown']:
            return u'unknown'
        return u'done' if self.state['returned'] else u'nothing to give back'

    def _check_gateway_user(self):
        """Refuse a session without a gateway user, or with one of another domain than the configuration allows."""
        user, tpam = self.gateway_user, self.settings['tpam']
        if not user.name and tpam['require_gateway_user']:
            raise TpamRefused(u'SPS passed no name of a gateway user; have the gateway authenticate its users, or set '
                              u'[tpam] require_gateway_user=no')
        if not user.name:
            self.log('warning', u'There is no gateway user, so that the credential goes to nobody in particular; set '
                                u'[tpam] require_gateway_user=yes')
        allowed = tpam['gateway_domains']
        if allowed and not user.domains:
            raise TpamRefused(u'SPS passed no domain of the gateway user, and [tpam] gateway_domains asks for one')
        if allowed and not all(folded(domain) in allowed for domain in user.domains):
            raise TpamRefused(u'the gateway user belongs to a domain that is not in [tpam] gateway_domains',
                              user=user.identity)

    def _is_gateway_user(self, target):
        user = self.gateway_user
        domains = set(folded(domain) for domain in user.domains + [target.domain] if domain)
        if not user.name or user.name != target.account or not self.arguments.get('gateway_password'):
            return False
        return len(domains) < 2

    def _passwords_of(self, target):
        password = self._credential(target, self.client().retrieve)
        held = self.state['system'], self.state['account']
        if self.settings['check-in']['force_reset'] and not self._held('ForceReset', *held):
            self._hold('ForceReset', *held)
        self.state['given'] += 1
        self.log('info', u'Retrieved passwords', **about(self.state))
        return [native(password)]

    # -- which account

    def _begin(self, account, mode):
        """Has the cookie say whom the credential is for, in place of what it says of an earlier one."""
        self.state.update(user=self.gateway_user.identity, account=account, system=None, request=None, mode=mode,
                          protocol=folded(text(self.arguments.get('protocol'))))

    def _credential(self, target, command, suffix=u''):
        """Which account, may they, and its secret by this command of the client."""
        if not target.account:
            raise TpamRefused(u'no account was named: argument server_username')
        account = self.settings['account']['prefix'] + target.account + self.settings['account']['suffix'] + suffix
        mode = self.settings['tpam']['authorization']
        self._begin(account, mode)
        system = Resolver(self.settings, self.client(), self.deadline, target, self.log).system()
        if self.settings['tpam']['system_maptoreal']:
            account, system = self._mapped(account, system)
        self.state.update(account=account, system=system)
        options = getattr(self, '_by_' + mode)(system, account)
        try:
            secret = command(**options)
        except TpamRefused:
            held = mode == u'request' and self._held_request(system, account)
            if not held or not self._is_known(held) or not self._closed(held):
                raise
            self._forget(held)  # it ran out while the session went on: another one is asked for
            secret = command(**self._by_request(system, account))
        self.add_secret(secret)
        return secret

    def _mapped(self, account, system):
        rows = self.client().list_accounts(SystemName=system, AccountName=account)
        if len(rows) != 1 or not _same(rows[0], SystemName=system, AccountName=account):
            raise TpamRefused(u'the server does not list this one account', rows=len(rows))
        mapped = column(rows[0], 'AccountCustom1'), column(rows[0], 'AccountCustom2')
        if not all(mapped):
            raise TpamRefused(u'no real account is given in AccountCustom1 and AccountCustom2 of this account')
        return mapped

    # -- may they: each mode gives the options for Retrieve, or raises TpamRefused

    def _by_gateway(self, system, account):
        return self._as_isa(system, account, u'gateway')

    def _by_approval(self, system, account):
        rows = self._requests(self._somebody(), system, account, 'ACTIVE')
        if not rows:
            raise TpamRefused(u'the gateway user has no active, approved request for this account')
        self.state['request'] = rows[0].get('RequestID')
        return self._as_isa(system, account, u'approval,' + column(rows[0], 'RequestID'))

    def _by_policy(self, system, account):
        policy = self.settings['tpam']['required_policy']
        asked = {'UserName': self._somebody(), 'AccountName': account, 'SystemName': system}
        rows = self.client().list_assigned_policies(AllOrEffectiveFlag='E', PermissionType='Pwd', **asked)
        if not any(_grants(row, policy, asked) for row in rows):
            raise TpamRefused(u'the gateway user does not effectively hold the required policy', policy=policy)
        return self._as_isa(system, account, u'policy,' + policy)

    def _by_request(self, system, account):
        refused = self.state['denied'].get(self._denied_key(system, account))
        if refused:
            raise TpamRefused(refused)
        held = self._held_request(system, account)
        if held and held['request'] is None and not self._find(held):
            self._forget(held)
            held = None
        if held is None:
            number = self._file(system, account)
        else:
            number = held['request']
            if held.get('pending'):
                self._wait(held)
        self.state['request'] = number
        return {'RequestID': number}

    def _somebody(self):
        """The gateway user's name. Without one the question would leave its option out, and be about everybody."""
        name = self.gateway_user.name
        if not name or u'*' in name:
            raise TpamRefused(u'SPS passed no name of a gateway user; have the gateway authenticate its users')
        return name

    def _as_isa(self, system, account, finding):
        reason = u'%s,SPS,%s,%s' % (self.gateway_user.identity, finding, self.session_id)
        return dict(self._why(), SystemName=system, AccountName=account, ReasonText=reason,
                    TimeRequired=self.settings['request']['time_required'])

    def _why(self):
        """Reason code and ticket, as Retrieve and AddPwdRequest take them."""
        request, questions = self.settings['request'], self.session_cookie.get('questions')
        ticket = text(questions.get(request['ticket_question'])) if isinstance(questions, dict) else u''
        return {'ReasonCode': request['reason_code'], 'TicketNumber': ticket,
                'TicketSystemName': ticket and request['ticket_system']}

    def _requests(self, user, system, account, status):
        """-> rows of requests of this user for this account that are active, or with 'OPEN' may become so."""
        rows = self.client().list_request_details(RequestorName=user, AccountName=account, SystemName=system,
                                                  Status=status,
                                                  MaxRows=None if status == 'ACTIVE' else 1000)
        return [row for row in rows if _same(row, UserName=user, SystemName=system, AccountName=account)
                and folded(column(row, 'Status')) in (ACTIVE if status == 'ACTIVE' else OPEN)]

    # -- requests

    def _held(self, command, system, account):
        """-> the entry of the cookie by which this account is given back by this command, or None."""
        for checkout in self.state['open']:
            if _same(checkout, command=command, system=system, account=account):
                return checkout

    def _held_request(self, system, account):
        """Return the entry of the request of this gateway user for this account, or None. Another gateway user's
        approval is no use to this one."""
        for checkout in self.state['open']:
            if _same(checkout, command='Cancel', system=system, account=account, user=self.gateway_user.identity):
                return checkout

    def _hold(self, command, system, account, request=None):
        checkout = {'command': command, 'system': system, 'account': account, 'request': request,
                    'user': text(self.state.get('user'))}
        self.state['open'].append(checkout)
        return checkout

    def _forget(self, checkout):
        self.state['open'] = [entry for entry in self.state['open'] if entry is not checkout]

    def _is_known(self, checkout):
        """Return whether an earlier hook of the session checked this out."""
        return any(known is checkout for known in self._known)

    def _denied_key(self, system, account):
        return folded(u'%s/%s/%s' % (self.gateway_user.identity, system, account))

    def _file(self, system, account, fresh=False):
        """Files a request as the API user and waits for its approval -> its id. The cookie has it before it goes out,
        so that it is given back whatever happens then. If a kept connection ended before the answer, and a look-up
        shows that it was not filed, it is filed once more: `fresh`, on a new connection."""
        request = self.settings['request']
        checkout = self._hold('Cancel', system, account)
        failure = None
        try:
            checkout['request'], message = self.client().add_pwd_request(
                fresh, SystemName=system, AccountName=account, RequestNotes=self._notes(checkout), RequestImmediate='Y',
                ReleaseDuration=request['release_duration'], AccessPolicyName=request['access_policy'], **self._why())
            checkout['pending'] = not folded(text(message)[-MAX_MATCHED:]).rstrip(u'. ').endswith(ACTIVE)
        except TpamError as error:
            failure = error
        if isinstance(failure, (TpamOutcomeUnknown, TpamTimeout)):
            self.log('warning', u'Whether a request was filed is unknown; looking for it', reason=text(failure),
                     notes=self._notes(checkout), **about(checkout))
            if not self._find(checkout):
                if not isinstance(failure, TpamConnectionEnded):
                    raise failure
                self._forget(checkout)
                return self._file(system, account, fresh=True)
        elif failure is not None:  # nothing was filed
            self._forget(checkout)
            if u'is already scheduled' not in folded(text(failure)[:MAX_MATCHED]):
                raise failure
            return self._scheduled(system, account, failure)
        self.log('info', u'Filed a request', **about(checkout))
        if checkout['pending']:
            self._wait(checkout)
        return checkout['request']

    def _scheduled(self, system, account, refusal):
        """Return the id of the API user's own active request. It may be used, except if it was approved for another
        gateway user. It is not this session's to give back, unless this session filed it in a hook whose cookie was
        lost."""
        rows = self._own_requests(system, account, 'ACTIVE')
        if not rows:
            raise refusal
        rows = [row for row in rows if self._is_for_gateway_user(row)]
        if not rows:
            raise TpamRefused(u'the account is released to a request for another gateway user')
        if self._is_of_this_session(rows[0], self._notes()):
            self._hold('Cancel', system, account, rows[0].get('RequestID'))
        return rows[0].get('RequestID')

    def _find(self, checkout):
        """Look for a request whose outcome is unknown, by its notes -> whether it was found. Every open request of this
        session is one, and is given back."""
        rows = [row for row in self._own_requests(checkout['system'], checkout['account'], 'OPEN')
                if self._is_of_this_session(row, self._notes(checkout))]
        rows.sort(key=lambda row: folded(column(row, 'Status')) not in ACTIVE)
        for number, row in enumerate(rows):
            if number > 0:
                checkout = self._hold('Cancel', checkout['system'], checkout['account'])
            checkout.update(request=row.get('RequestID'), pending=folded(column(row, 'Status')) not in ACTIVE)
        return bool(rows)

    def _wait(self, checkout):
        number, request = checkout['request'], self.settings['request']
        self.log('info', u'Waiting for the approval of a request', **about(checkout))
        end = Deadline(request['approval_timeout'], self.deadline)
        reason = u'the request was not approved in time; see [request] approval_timeout and [tpam] timeout'
        try:
            status = u''
            while status in OPEN or not status:
                pause(min(request['poll_interval'], end.left()))
                status = folded(column(self.client().get_pwd_request(number) or {}, 'RequestStatus'))
                if status in ACTIVE:
                    checkout['pending'] = False
                    return
            self._forget(checkout)  # closed by somebody else
            reason = u'the request is %s' % (status if status in CLOSED else u'no longer open')
        except TpamTimeout:
            self.give_back([checkout])
        # Approvers are asked once a session, not by each hook again.
        self.state['denied'][self._denied_key(checkout['system'], checkout['account'])] = reason
        raise TpamRefused(reason, request=number)

    def _notes(self, checkout=None):
        """Return the notes by which a request of this session is found: those of a check-out, or of the last user."""
        user = self.state.get('user') if checkout is None else checkout.get('user', self.state.get('user'))
        return u'%s,SPS,request,%s' % (text(user), self.session_id)

    def _own_requests(self, system, account, status):
        return self._requests(self.settings['tpam']['username'], system, account, status)

    def _is_for_gateway_user(self, row):
        """Do its notes name this user, or nobody, as where it was filed by hand? Without notes it may be anybody's, and
        one that was filed for no gateway user is for its session only."""
        user, mark, _ = column(row, 'RequestNotes').rpartition(u',SPS,request,')
        if row.get('RequestNotes') is None:
            return False
        if not mark or self._is_of_this_session(row, self._notes()):
            return True
        return bool(user) and folded(user) == folded(self.gateway_user.identity)

    def _is_of_this_session(self, row, notes):
        return bool(self.session_id) and folded(column(row, 'RequestNotes')) == folded(notes)

    # -- giving back

    def undo(self):
        """Gives back what this call has checked out: SPS drops the cookie of a hook that raises."""
        self.give_back([checkout for checkout in self.state['open'] if not self._is_known(checkout)])

    def give_back(self, checkouts):
        """Gives back what is in the cookie as open; what fails stays there for the next hook. Raises nothing."""
        if not checkouts:
            return
        self.deadline.extend(self._kept)  # it was kept for this
        self._kept = 0
        self.alarm.start(self.deadline)
        waiting = list(checkouts)
        while waiting:
            waiting += self._settle(waiting.pop(0))

    def _settle(self, checkout):
        """Give one thing back -> what was found to be checked out, too. Raises nothing."""
        if not any(entry is checkout for entry in self.state['open']):
            return []  # by the look at another one
        before = list(self.state['open'])
        try:
            done = CHECK_INS[checkout['command']](self, checkout)
        except Exception as error:
            checkout['tried'] = checkout.get('tried') or isinstance(error, TpamOutcomeUnknown)
            self.log('error', u'Check-in failed; do it by hand unless a later line says it is done',
                     command=checkout['command'], **dict(about(checkout), reason=(
                         text(error) if isinstance(error, TpamError) else type(error).__name__)))
        else:
            self._forget(checkout)
            self.state['returned'] += 1 if done else 0
        return [entry for entry in self.state['open'] if not any(entry is known for known in before)]

    def _cancel(self, checkout):
        """Cancel a request -> whether it is closed now; False where there was none."""
        if checkout['request'] is None and not self._find(checkout):
            if not self._is_known(checkout):  # the server may still be carrying it out
                raise TpamOutcomeUnknown(describe(u'It is unknown whether a request was filed; look for its notes',
                                                  notes=self._notes(checkout)))
            self.state['unknown'] += 1
            self.log('warning', u'It was unknown whether a request was filed, and no request was found; look for its '
                                u'notes', notes=self._notes(checkout), **about(checkout))
            return False
        if checkout.get('tried') and self._closed(checkout):
            self.log('info', u'The request was given back already', **about(checkout))
            return True
        try:
            self.client().cancel(checkout['request'],
                                 u'%s,SPS,check-in,%s' % (text(self.state.get('user')), self.session_id))
            self.log('info', u'Gave back the request', **about(checkout))
        except TpamRefused:
            row = self._closed(checkout)
            if not row:
                raise
            self.log('info', u'The request was given back already', **about(checkout))
            # By this session, called again with an old cookie: then its password was changed, too. One that ran out
            # still has its password changed.
            reset = self._held('ForceReset', checkout['system'], checkout['account'])
            if reset and column(row, 'CloseDt') != column(row, 'ExpiresDt'):
                self._forget(reset)
                self.log('warning', u'The password is not changed again; do it by hand if it was not this session that '
                                    u'closed the request', **about(checkout))
        return True

    def _closed(self, checkout):
        """-> the row of a request that is open no more, or None."""
        row = self.client().get_pwd_request(checkout['request']) or {}
        return row if folded(column(row, 'RequestStatus')) not in OPEN + (u'',) else None

    def _force_reset(self, checkout):
        self.client().force_reset(checkout['system'], checkout['account'])
        self.log('info', u'Had the password changed', **about(checkout))
        return True


CHECK_INS = {'Cancel': Call._cancel, 'ForceReset': Call._force_reset}


def about(state):
    """Account, system and request of the cookie, or of one check-out in it, as far as they are known: for the log."""
    return dict((name, state[name]) for name in ('account', 'system', 'request')
                if state.get(name) and (is_text(state[name]) or _is_number(state[name])))


def _same(row, **columns):
    """Do the columns of a row hold these values, regardless of case?"""
    return all(folded(column(row, name)) == folded(value) for name, value in columns.items())


def _grants(row, policy, asked):
    """Return whether a row of ListAssignedPolicies is about the policy, and about whom and what was asked. A row that
    a group holds names no user, and the type of the permission stands there only if the server was asked to expand it:
    an empty column contradicts nothing."""
    if not _same(row, AccessPolicyName=policy) or folded(column(row, 'EffectiveFl')) not in (u'y', u'yes'):
        return False
    return all(not column(row, name) or _same(row, **{name: value})
               for name, value in dict(asked, PermissionType='Pwd').items())


# ---- time and log --------------------------------------------------------------------------------------------------

MASK = u'********'
MAX_MASKED = 8192     # characters of a text that are searched for secrets; at most MAX_SHOWN of them are shown
WRITE_SECONDS = 0.2   # that a log line waits for a pipe to take it


def spelled(secret):
    """Return a pattern for a secret as it stands, and as URLs, JSON and XML write it, in any mixture."""
    return u''.join(u'(?:%s)' % u'|'.join(_spellings(char)) for char in secret)


def _spellings(char):
    code = ord(char)
    forms = [re.escape(char), u'\\\\' + re.escape(char), u'\\\\u' + _hex(u'%04x' % code), u'&#%d;' % code,
             u'&#x0*%s;' % _hex(u'%x' % code)]
    if not 0xd800 <= code < 0xe000:  # half of a pair has no bytes
        forms.append(u''.join(u'%' + _hex(u'%02x' % byte) for byte in bytearray(char.encode('utf-8'))))
    if char in _ENTITIES:
        forms.append(_ENTITIES[char])
    return forms


_ENTITIES = {u'&': u'&amp;', u'<': u'&lt;', u'>': u'&gt;', u'"': u'&quot;', u"'": u'&apos;', u' ': u'\\+'}


def _hex(digits):
    """Return a pattern for hexadecimal digits in either case."""
    return u''.join(u'[%s%s]' % (digit, digit.upper()) if digit.isalpha() else digit for digit in digits)


def write_line(level, line):
    """One line to stdout in UTF-8, whatever the encoding of stdout. A log that takes no more holds up no check-in: a
    pipe that nobody reads would block for ever."""
    line = u'%s %s\n' % (text(level).upper(), line)
    try:
        for start in range(0, len(line), 1000):  # a pipe that is ready takes 4096 bytes, and UTF-8 has up to 4 each
            if not _is_writable(sys.stdout):
                return
            _write(line[start:start + 1000])
    except (EnvironmentError, ValueError, AttributeError, TpamTimeout):  # it is closed, None, or takes nothing
        pass


def _write(piece):
    """Write to a stream that takes text or the interpreter's own str, in whatever encoding it has."""
    plain = piece.encode('ascii', 'backslashreplace')
    for form in (native(piece), piece, native(plain), text(plain)):
        try:
            sys.stdout.write(form)
            break
        except (TypeError, UnicodeError):
            pass
    sys.stdout.flush()


def _is_writable(stream):
    try:
        descriptor = stream.fileno()
    except (AttributeError, ValueError, EnvironmentError):  # it has none: it is no pipe
        return True
    for _ in range(2):
        try:
            return bool(select.select([], [descriptor], [], WRITE_SECONDS)[1])
        except select.error:  # the alarm interrupts the first wait at most
            pass
    return False


class Alarm(object):
    """SIGALRM, which interrupts calls that have no time limit of their own. It repeats, because an exception raised in
    a destructor is lost. Outside the main thread there is none; every wait asks the deadline all the same.

    It raises only inside the functions in INTERRUPTIBLE, where something can hang: between two lines of the code around
    them it would leave something checked out unsaid.
    """

    def __init__(self):
        self._previous = None

    def start(self, deadline):
        """Raise TpamTimeout when the deadline is over."""
        try:
            previous = signal.signal(signal.SIGALRM, _ring)
            if previous is not _ring:
                self._previous = previous
            signal.setitimer(signal.ITIMER_REAL, deadline.left() + 0.1, 0.5)
        except (ValueError, TpamTimeout):  # not the main thread; or over
            pass

    def stop(self):
        """End the alarm and put back the handler that was there."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._previous is not None:
            signal.signal(signal.SIGALRM, self._previous)


def _ring(signum, frame):
    while frame is not None:
        if frame.f_code in INTERRUPTIBLE:
            raise TpamTimeout()
        frame = frame.f_back


def pause(seconds):
    """Sleep; the alarm ends it."""
    time.sleep(seconds)


INTERRUPTIBLE = [function.__code__ for function in (TpamClient.call, look_up, pause, _write)]


# ---- SPS -----------------------------------------------------------------------------------------------------------

class Plugin(object):
    """The hooks of a Credential Store plugin (guide: "The main.py module"). All arguments are passed by name, and any
    of them may be missing. The get_* hooks raise TpamError when the server cannot be asked or the configuration is
    wrong, which ends the session; the other two never raise."""

    def __init__(self, configuration=''):
        self._settings, self._problems = read_configuration(configuration)

    def get_password_list(self, **arguments):
        """-> {'passwords': [str], 'cookie': dict, 'session_cookie': dict}"""
        return self._get('get_password_list', 'passwords', Call.passwords, arguments)

    def get_private_key_list(self, **arguments):
        """-> {'private_keys': [(type, PEM)], 'cookie': dict, 'session_cookie': dict}"""
        return self._get('get_private_key_list', 'private_keys', Call.private_keys, arguments)

    def get_remote_app_credentials(self, **arguments):
        """-> {'passwords': [str], 'cookie': dict, 'session_cookie': dict}, for the account of an application"""
        return self._get('get_remote_app_credentials', 'passwords', Call.remote_app_passwords, arguments)

    def authentication_completed(self, **arguments):
        """-> {'cookie': dict, 'session_cookie': dict}"""
        call, _, _ = self._run('authentication_completed', arguments, Call.authentication_completed)
        return {'cookie': call.cookie, 'session_cookie': call.session_cookie}

    def session_ended(self, **arguments):
        """-> None"""
        self._run('session_ended', arguments, Call.session_ended)

    def _get(self, hook, key, fetch, arguments):
        call, found, error = self._run(hook, arguments, fetch)
        if error is not None:
            raise error
        return {key: found or [], 'cookie': call.cookie, 'session_cookie': call.session_cookie}

    def _run(self, hook, arguments, work):
        """-> (the Call, what the work returned, None or the TpamError that ended it, which is in the log already)."""
        call, result, failure = Call(self._settings, hook, arguments), None, None
        try:
            try:
                result = self._work(call, hook, work)
                call.finish()
            except:  # noqa: E722 - also what a signal handler raises
                error = sys.exc_info()[1]
                call.undo()
                call.finish()
                failure = self._failure(call, error)
                if not isinstance(error, Exception):
                    raise
            if self._problems:
                failure = TpamError(u'Wrong configuration: ' + self._problems[0])
            if failure is not None:
                failure.args = (native(call.masked(text(failure))),)
        finally:
            call.alarm.stop()
        return call, result, failure

    def _work(self, call, hook, work):
        """Do the work of a hook -> what it returns; None without a credential, or if the configuration is wrong."""
        call.log('debug', u'Called', hook=hook)
        call.report_unreadable()
        for problem in self._problems:
            call.log('error', u'Wrong configuration: ' + problem)
        if self._problems:
            if hook == 'session_ended':
                call.report_checked_out()
            return None
        call.warn()
        try:
            return work(call)
        except TpamRefused as refusal:
            call.explain(refusal)
            return None

    def _failure(self, call, error):
        """Log the error that ended a hook -> the TpamError that SPS is given."""
        if isinstance(error, TpamError):
            call.log('error', text(error))
            return error
        # Its text may hold anything: the log says where it was raised, which is what a report needs.
        where = u'%s, line %d' % traceback.extract_tb(sys.exc_info()[2])[-1][:2]
        call.log('critical', u'Unexpected failure; please report it', error=type(error).__name__, where=where)
        return TpamError(u'Unexpected failure of the plugin; see the log')
