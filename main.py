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
import signal
import sys
import time
import traceback

from tpamclient import (Deadline, TpamClient, TpamError, TpamOutcomeUnknown, TpamRefused, TpamTimeout, basic,
                        canonical_address, certificate, column, describe, escaped, look_up, native, packed_address,
                        text)

COOKIE_KEY = 'SPS_TPAM_XMLRPC'
LOG_LEVELS = ('debug', 'info', 'warning', 'error', 'critical')
PROTOCOLS = ('http', 'ica', 'rdp', 'ssh', 'telnet', 'vnc')
GIVE_BACK_SECONDS = 10  # of the timeout, at most a quarter: kept to give back what a hook that fails has checked out
ACTIVE, OPEN = (u'active/approved',), (u'active/approved', u'approved', u'pending approval')


# ---- configuration text -> settings --------------------------------------------------------------------------------

# What takes a value raises ValueError with what it must be, never with the value: passwords get into wrong lines.

def _choice(*choices):
    def parse(value):
        if value.lower() not in choices:
            raise ValueError(u'must be one of %s' % u', '.join(choices))
        return value.lower()
    return parse


def _flag(value):
    return _choice(u'yes', u'no')(value) == u'yes'


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
    return parse_all


def _server(item):
    """u'host', u'host:port', u'[ipv6]:port' or u'srv:name' -> (host, port or None)."""
    host, port = item, None
    if not item.startswith(u'srv:') and not packed_address(item):
        host, port = re.match(u'(.*?)(?::([0-9]+))?\\Z', item, re.S).groups()
        bracketed = re.match(u'\\[(.*)\\]\\Z', host)
        host = bracketed.group(1) if bracketed and u':' in bracketed.group(1) else host
    name = host[4:] if host.startswith(u'srv:') else host
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


_PEM_BLOCK = re.compile(u'-----BEGIN ([A-Z0-9 ]+)-----\n(.*?)\n-----END \\1-----', re.S)


def _pem(*wanted):
    """Kinds of PEM block, all wanted -> what takes a text of them, checked as far as 2.6 can."""
    def parse(value):
        blocks = [(u'PRIVATE KEY' if label.endswith(u'PRIVATE KEY') else label, content)
                  for label, content in _PEM_BLOCK.findall(value)]
        around = _PEM_BLOCK.sub(u'', value)  # text that openssl writes there is harmless
        if re.search(u'(?im)^(\\[|(?!subject|issuer|depth)[a-z_]+\\s*=)', around):
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
    for section, options in parsed:
        if section not in OPTIONS:
            problems.append(u'[%s]: unknown section%s' % (escaped(section), _resembling(section, OPTIONS)))
            continue
        for option, value in options:
            try:
                settings[section][option] = _setting(section, option, value)
            except ValueError as error:
                name = escaped(option).partition(u' ')[0]  # what follows it may be a password with a : or = inside
                problems.append(u'[%s] %s: %s' % (section, name, text(error)))
    wrong = [problem.partition(u':')[0] for problem in problems]
    problems.extend(problem for problem in _contradictions(settings) if problem.partition(u':')[0] not in wrong)
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
        option = section, name.group(1).strip().lower()
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
    return parse(value) if value else default


def _resembling(word, known):
    import difflib
    near = difflib.get_close_matches(word.lower(), sorted(known), 1)
    return u'; did you mean %s?' % near[0] if near else u'; known: %s' % u', '.join(sorted(known))


def _contradictions(settings):
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
    if not explicit and (tpam['username'] or tpam['password']):
        yield u'[tpam] use_credential: gateway asks as the gateway user; leave out username and password'
    if not explicit and (tpam['authorization'] == u'request' or settings['check-in']['force_reset']):
        yield (u'[tpam] use_credential: must be explicit with authorization=request or force_reset=yes, since the '
               u'hooks that give back are not told the password of the gateway user')
    if tpam['authorization'] == u'policy' and not tpam['required_policy']:
        yield u'[tpam] required_policy: missing; the policy that authorization=policy asks for'
    if tpam['authorization'] != u'policy' and tpam['required_policy']:
        yield u'[tpam] required_policy: is only looked at with authorization=policy; set that, or leave it out'
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


class Resolver(object):
    """The name of the system in TPAM. Each method named as in system_name_resolver gives a name, or None."""

    def __init__(self, settings, client, deadline, target):
        self._settings, self._client, self._deadline, self._target = settings, client, deadline, target

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
        return self._listed('SystemName', name) or self._listed('NetworkAddress', name)

    def dns(self):
        if self._target.host_name or not self._target.address:
            return self.hostname()
        import dns.reversename
        deadline = Deadline(self._settings['tpam']['connect_timeout'], self._deadline)
        records = look_up(dns.reversename.from_address(native(self._target.address)).to_text(), 'PTR', deadline)
        if len(records) > 1:
            raise TpamRefused(u'DNS has more than one name for the address', address=self._target.address)
        return records and text(records[0].target.to_text()).partition(u'.')[0].upper() or None

    def hostname(self):
        return self._target.host_name.partition(u'.')[0].upper() or None

    def fqdn(self):
        return self._target.host_name or None

    def ip(self):
        return self._target.address

    def domain(self):
        mapping = self._settings['domain_asset_mapping']
        return mapping.get((self._target.domain or self._target.gateway_domain).lower())

    def _listed(self, option, value):
        """-> the name of the one system that has this, None without any; anything else is not guessed about."""
        rows = value and self._client.list_systems(**{option: value})  # an empty value would ask for all
        if not rows:
            return None
        found = column(rows[0], option)
        if len(rows) > 1 or (canonical_address(found) or found.lower()) != (canonical_address(value) or value.lower()):
            raise TpamRefused(u'the server lists something other than the one system asked for', rows=len(rows),
                              **{option: value})
        return column(rows[0], 'SystemName') or None


# ---- one hook call -------------------------------------------------------------------------------------------------

# fragment of a refusal -> what an administrator does about it
REMEDIES = (
    (u'reason codes? are required|reason code .*failed validation', u'set [request] reason_code to one of the server'),
    (u'requires a ticket|ticket number and ticket system are required',
     u'set [request] ticket_system and ticket_question'),
    (u'ticket .*(not found|failed validation)', u'check the ticket that the user named, and [request] ticket_system'),
    (u'exceeds account maximum', u'lower [request] release_duration'),
    (u'not authorized|no permission exists', u'give the API user permission on this account'),
    (u'do not have permissions', u'give the API user the right to this command, or choose another [tpam] '
                                 u'system_name_resolver or authorization'),
    (u'locked', u'unlock the account or the user on the credential server'),
)

UNKNOWN_COMMAND = -32601  # of XML-RPC: the method does not exist
_UNKNOWN_COMMAND = re.compile(u'(unknown|unrecognized|no such|not supported).{0,20}(command|method)', re.I)


def remembered(state):
    """The plugin's part of a cookie -> a copy of it to work on; a fresh one for what no hook of this plugin wrote."""
    fresh = {'hooks': [], 'given': 0, 'open': [], 'returned': 0, 'denied': {}, 'server': u''}
    if not isinstance(state, dict) or [name for name, value in fresh.items()
                                       if not isinstance(state.get(name), type(value))]:
        return fresh
    if [checkout for checkout in state['open'] if not isinstance(checkout, dict)
            or not set(('system', 'account', 'request')).issubset(checkout)
            or checkout.get('command') not in ('Cancel', 'ForceReset')]:
        return fresh
    return dict(state, hooks=list(state['hooks']), denied=dict(state['denied']),
                open=[dict(checkout) for checkout in state['open']])


class Call(object):
    """One hook call: its arguments, its time, its connections, its log, and what the session remembers in the cookie.

    The plugin's part of the cookie, all JSON and none of it secret: hooks (names called), given (number of
    credentials), open (what is to be given back: command Cancel or ForceReset, system, account, request; `tried` where
    the command went out and was not answered), returned (number of those that were), denied ({"system/account": why}),
    server (that answered last), and of the last credential user, protocol, mode, system, account, request.
    """

    def __init__(self, settings, hook, arguments):
        self.settings, self.arguments = settings, arguments
        self.cookie, self.session_cookie = [
            dict(arguments[name]) if isinstance(arguments.get(name), dict) else {}
            for name in ('cookie', 'session_cookie')]
        self.state = self.cookie[COOKIE_KEY] = remembered(self.cookie.get(COOKIE_KEY))
        self._known = list(self.state['open'])
        self.state['hooks'].append(hook)
        self.session_id = text(arguments.get('session_id'))
        self.gateway_user = text(arguments.get('gateway_username'))
        self._secrets = []
        for username, password in ((self.gateway_user, text(arguments.get('gateway_password'))),
                                   (settings['tpam']['username'], settings['tpam']['password']),
                                   (settings['https-proxy']['username'], settings['https-proxy']['password'])):
            if password:  # also as the header has it, which a server may repeat
                self._secrets += [password, text(basic(username, password).split()[1])]
        timeout, by_request = settings['tpam']['timeout'], settings['tpam']['authorization'] == u'request'
        self._kept = min(GIVE_BACK_SECONDS, timeout / 4.0) if by_request else 0
        self.deadline = Deadline(timeout - self._kept)
        self._client = None
        self._handler = arm(self.deadline)

    def log(self, level, message, **details):
        """One line to stdout, which SPS logs. What is known to be secret is masked whatever it stands in."""
        if LOG_LEVELS.index(level) < LOG_LEVELS.index(self.settings['logging']['log_level']):
            return
        details = dict((name, self.masked(text(value))) for name, value in details.items())  # before they are cut
        line = describe(message, **details)
        line += (u', ' if details or u"='" in message else u'; ') + u"session_id='%s'" % escaped(self.session_id)
        write_line(level, self.masked(line))

    def masked(self, line):
        for secret in sorted(self._secrets, key=len, reverse=True):
            for shown in (secret, escaped(secret)):
                line = line.replace(shown, u'********') if len(shown) > 3 else line
        return line

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
            credential = (self.gateway_user, text(self.arguments.get('gateway_password')))
            if not (credential[0] and credential[1]):
                raise TpamError(u'[tpam] use_credential=gateway, but SPS passed no gateway user name and password; '
                                u'have the gateway ask for a password, or use explicit')
        return dict(tpam, credential=credential, tls=tls if tls['enabled'] else None,
                    servers=[(host, port or (443 if tls['enabled'] else 80)) for host, port in tpam['server']],
                    proxy=proxy['server'] and dict(proxy, address=(native(proxy['server'][0]), proxy['port'])))

    def finish(self):
        """Ends the alarm and the connections; what the next hook of the session is to be told is in the cookie then."""
        disarm(self._handler)
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

    def explain(self, refusal):
        """The line about why there is no credential."""
        details = dict(about(self.state), **refusal.details)
        for fragment, remedy in REMEDIES:
            if re.search(fragment, text(refusal), re.I):
                details['remedy'] = remedy
        self.log('warning', u'No credential', reason=text(refusal), **details)

    # -- the hooks

    def passwords(self):
        """For get_password_list."""
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
        client = self.client()
        command = client.retrieve if options['command'] == u'retrieve' else client.retrieve_key
        try:
            stored = self._credential(Target(self.arguments), command, options['account_suffix'])
            keys = sshkey.private_keys(stored)
        except sshkey.UnusableKey as error:
            raise TpamRefused(u'the private key cannot be used: %s' % error)
        except TpamRefused as refusal:
            if refusal.code != UNKNOWN_COMMAND and not _UNKNOWN_COMMAND.search(text(refusal)):
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
        done = u'done' if self.state['returned'] else u'nothing to give back'
        self.log('info', u'Session ended', check_in=u'failed' if self.state['open'] else done,
                 credentials=self.state['given'], hooks=u', '.join(self.state['hooks']),
                 **dict((name, self.state.get(name)) for name in ('user', 'account', 'system', 'mode', 'request')))

    def _is_gateway_user(self, target):
        user, domain = split_user(self.gateway_user)
        domains = set(name.lower() for name in (domain or target.gateway_domain, target.domain) if name)
        return bool(user and user == target.account and self.arguments.get('gateway_password') and len(domains) < 2)

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
        self.state.update(user=self.gateway_user, account=account, system=None, request=None, mode=mode,
                          protocol=text(self.arguments.get('protocol')).lower())

    def _credential(self, target, command, suffix=u''):
        """Which account, may they, and its secret by this command of the client."""
        if not target.account:
            raise TpamRefused(u'no account was named: argument server_username')
        account = self.settings['account']['prefix'] + target.account + self.settings['account']['suffix'] + suffix
        mode = self.settings['tpam']['authorization']
        self._begin(account, mode)
        system = Resolver(self.settings, self.client(), self.deadline, target).system()
        if self.settings['tpam']['system_maptoreal']:
            account, system = self._mapped(account, system)
        self.state.update(account=account, system=system)
        options = getattr(self, '_by_' + mode)(system, account)
        try:
            secret = command(**options)
        except TpamRefused:
            held = mode == u'request' and self._held('Cancel', system, account)
            if held not in self._known or not self._closed(held):
                raise
            self.state['open'].remove(held)  # it ran out while the session went on: another one is asked for
            secret = command(**self._by_request(system, account))
        self._secrets.append(secret)
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
        if not [row for row in rows if _same(row, AccessPolicyName=policy, PermissionType='Pwd', EffectiveFl='Y')
                and all(column(row, name).lower() in (u'', value.lower()) for name, value in asked.items())]:
            raise TpamRefused(u'the gateway user does not effectively hold the required policy', policy=policy)
        return self._as_isa(system, account, u'policy,' + policy)

    def _by_request(self, system, account):
        refused = self.state['denied'].get((u'%s/%s' % (system, account)).lower())
        if refused:
            raise TpamRefused(refused)
        held = self._held('Cancel', system, account)
        if held and held['request'] is None:  # whether an earlier hook has filed it is unknown: _file() finds out
            self.state['open'].remove(held)
            held = None
        self.state['request'] = held and held['request'] or self._file(system, account)
        return {'RequestID': self.state['request']}

    def _somebody(self):
        """The gateway user. Without one the question would leave its option out, and be about everybody."""
        if not self.gateway_user or u'*' in self.gateway_user:
            raise TpamRefused(u'SPS passed no name of a gateway user; have the gateway authenticate its users')
        return self.gateway_user

    def _as_isa(self, system, account, finding):
        reason = u'%s,SPS,%s,%s' % (self.gateway_user, finding, self.session_id)
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
                and column(row, 'Status').lower() in (ACTIVE if status == 'ACTIVE' else OPEN)]

    # -- requests

    def _held(self, command, system, account):
        """-> the entry of the cookie by which this account is given back by this command, or None."""
        for checkout in self.state['open']:
            if _same(checkout, command=command, system=system, account=account):
                return checkout

    def _hold(self, command, system, account, request=None):
        checkout = {'command': command, 'system': system, 'account': account, 'request': request}
        self.state['open'].append(checkout)
        return checkout

    def _file(self, system, account):
        """Files a request as the API user and waits for its approval -> its id. The cookie has it before it goes out,
        so that it is given back whatever happens then."""
        request = self.settings['request']
        checkout = self._hold('Cancel', system, account)
        try:
            checkout['request'], message = self.client().add_pwd_request(
                SystemName=system, AccountName=account, RequestNotes=self._notes(), RequestImmediate='Y',
                ReleaseDuration=request['release_duration'], AccessPolicyName=request['access_policy'], **self._why())
            active = text(message).lower().rstrip(u'. ').endswith(ACTIVE)
        except (TpamOutcomeUnknown, TpamTimeout) as error:
            self.log('warning', u'Whether a request was filed is unknown; looking for it', reason=text(error),
                     notes=self._notes(), **about(checkout))
            row = self._filed(system, account)
            if row is None:
                raise
            checkout['request'], active = row.get('RequestID'), column(row, 'Status').lower() in ACTIVE
        except TpamError as error:  # nothing was filed
            self.state['open'].remove(checkout)
            rows = u'is already scheduled' in text(error).lower() and self._own_requests(system, account, 'ACTIVE')
            if not rows:
                raise
            # The API user's own active request may be used, except one that was approved for another gateway user. It
            # is not this session's to give back, unless this session filed it in a hook whose cookie was lost.
            rows = [row for row in rows if self._is_for_gateway_user(row)]
            if not rows:
                raise TpamRefused(u'the account is released to a request for another gateway user')
            if self._is_of_this_session(rows[0]):
                self._hold('Cancel', system, account, rows[0].get('RequestID'))
            return rows[0].get('RequestID')
        self.log('info', u'Filed a request', **about(checkout))
        if not active:
            self._wait(checkout)
        return checkout['request']

    def _wait(self, checkout):
        number, request = checkout['request'], self.settings['request']
        self.log('info', u'Waiting for the approval of a request', **about(checkout))
        end = Deadline(request['approval_timeout'], self.deadline)
        reason = u'the request was not approved in time; see [request] approval_timeout and [tpam] timeout'
        try:
            status = u''
            while status in OPEN or not status:
                time.sleep(min(request['poll_interval'], end.left()))
                status = column(self.client().get_pwd_request(number) or {}, 'RequestStatus').lower()
                if status in ACTIVE:
                    return
            self.state['open'].remove(checkout)  # closed by somebody else
            reason = u'the request is %s' % status
        except TpamTimeout:
            self.give_back([checkout])
        # Approvers are asked once a session, not by each hook again.
        self.state['denied'][(u'%s/%s' % (checkout['system'], checkout['account'])).lower()] = reason
        raise TpamRefused(reason, request=number)

    def _notes(self):
        return u'%s,SPS,request,%s' % (text(self.state.get('user')), self.session_id)

    def _own_requests(self, system, account, status):
        return self._requests(self.settings['tpam']['username'], system, account, status)

    def _is_for_gateway_user(self, row):
        """Do its notes name this user, or nobody, as where it was filed by hand? Without notes it may be anybody's."""
        user, mark, _ = column(row, 'RequestNotes').rpartition(u',SPS,request,')
        return row.get('RequestNotes') is not None and (not mark or user.lower() == self.gateway_user.lower())

    def _is_of_this_session(self, row):
        return bool(self.session_id) and column(row, 'RequestNotes') == self._notes()

    def _filed(self, system, account):
        """-> the row of the open request that this session has filed for this account, or None."""
        rows = [row for row in self._own_requests(system, account, 'OPEN') if self._is_of_this_session(row)]
        return rows and rows[0] or None

    # -- giving back

    def undo(self):
        """Gives back what this call has checked out: SPS drops the cookie of a hook that raises."""
        self.give_back([checkout for checkout in self.state['open'] if checkout not in self._known])

    def give_back(self, checkouts):
        """Gives back what is in the cookie as open; what fails stays there for the next hook. Raises nothing."""
        if not checkouts:
            return
        self.deadline.extend(self._kept)  # it was kept for this
        self._kept = 0
        arm(self.deadline)
        for checkout in checkouts:
            try:
                if checkout in self.state['open']:
                    {'Cancel': self._cancel, 'ForceReset': self._force_reset}[checkout['command']](checkout)
                    self.state['open'].remove(checkout)
                    self.state['returned'] += 1
            except Exception as error:
                checkout['tried'] = checkout.get('tried') or isinstance(error, TpamOutcomeUnknown)
                self.log('error', u'Check-in failed; do it by hand unless a later line says it is done',
                         command=checkout['command'], **dict(about(checkout), reason=(
                             text(error) if isinstance(error, TpamError) else type(error).__name__)))

    def _cancel(self, checkout):
        if checkout['request'] is None:  # whether it was filed is unknown
            row = self._filed(checkout['system'], checkout['account'])
            if row is None and not checkout.get('tried'):
                raise TpamOutcomeUnknown(describe(u'It is unknown whether a request was filed; look for its notes',
                                                  notes=self._notes()))
            if row is None:
                return
            checkout['request'] = row.get('RequestID')
        elif checkout.get('tried') and self._closed(checkout):
            self.log('info', u'The request was given back already', **about(checkout))
            return
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
                self.state['open'].remove(reset)
                self.log('warning', u'The password is not changed again; do it by hand if it was not this session that '
                                    u'closed the request', **about(checkout))

    def _closed(self, checkout):
        """-> the row of a request that is open no more, or None."""
        row = self.client().get_pwd_request(checkout['request']) or {}
        return row if column(row, 'RequestStatus').lower() not in OPEN + (u'',) else None

    def _force_reset(self, checkout):
        self.client().force_reset(checkout['system'], checkout['account'])
        self.log('info', u'Had the password changed', **about(checkout))


def about(state):
    """Account, system and request of the cookie, or of one check-out in it, as far as they are known: for the log."""
    return dict((name, state[name]) for name in ('account', 'system', 'request') if state.get(name))


def _same(row, **columns):
    """Do the columns of a row hold these values, regardless of case? Both ways of folding it, since some letters become
    ASCII ones in one of them (the Kelvin sign is k in lower case)."""
    return all(column(row, name).lower() == text(value).lower() and column(row, name).upper() == text(value).upper()
               for name, value in columns.items())


# ---- time and log --------------------------------------------------------------------------------------------------

def _late(signum, frame):
    raise TpamTimeout()


def arm(deadline):
    """Has SIGALRM end what no time limit of its own ends; again and again, for a destructor may swallow the first.
    -> the handler that was there, or None."""
    previous = None
    try:
        previous = signal.signal(signal.SIGALRM, _late)
        signal.setitimer(signal.ITIMER_REAL, deadline.left() + 0.1, 0.5)
    except (ValueError, TpamTimeout):  # not the main thread, or over: every wait asks the deadline all the same
        pass
    return previous


def disarm(previous):
    """Ends what arm() began, and puts back what it returned."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    if previous is not None:
        signal.signal(signal.SIGALRM, previous)


def write_line(level, line):
    """One line to stdout in UTF-8, whatever the encoding of stdout. A log that takes no more holds up no check-in."""
    line = u'%s %s\n' % (text(level).upper(), line)
    try:
        try:
            sys.stdout.write(native(line))
        except UnicodeError:
            sys.stdout.write(native(line.encode('ascii', 'backslashreplace')))
        sys.stdout.flush()
    except (EnvironmentError, ValueError, AttributeError):  # it is full, closed or None
        pass


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
                call.log('debug', u'Called', hook=hook)
                for problem in self._problems:
                    call.log('error', u'Wrong configuration: ' + problem)
                if not self._problems:
                    call.warn()
                    result = work(call)
            except TpamRefused:
                raise
            except:  # noqa: E722 - also what a signal handler raises
                call.undo()
                raise
            finally:
                call.finish()
        except TpamRefused as refusal:
            call.explain(refusal)
        except TpamError as error:
            call.log('error', text(error))
            failure = error
        except Exception as error:  # its text may hold anything: the log says where, which is what a report needs
            where = u'%s, line %d' % traceback.extract_tb(sys.exc_info()[2])[-1][:2]
            call.log('critical', u'Unexpected failure; please report it', error=type(error).__name__, where=where)
            failure = TpamError(u'Unexpected failure of the plugin; see the log')
        if self._problems:
            failure = TpamError(u'Wrong configuration: ' + self._problems[0])
        if failure is not None:
            failure.args = (native(call.masked(text(failure))),)
        return call, result, failure
