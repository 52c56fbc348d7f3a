# -*- coding: utf-8 -*-
"""The configuration: text -> settings and problems, each problem with the number of its line.

Python 2.6.5 code. tpamini reads the lines. This module has parsers, which turn the value of an
option into a setting; the table of all options; and the rules about options that are missing or
contradict one another.
"""
import base64
import re

from tpamcert import certificate, packed_address, service_domain
from tpamerrors import folded, text
from tpamini import instead_of_option, instead_of_section, is_option, read_lines

LOG_LEVELS = ('debug', 'info', 'warning', 'error', 'critical')
PROTOCOLS = ('http', 'ica', 'rdp', 'ssh', 'telnet', 'vnc')
MAPPING = 'domain_asset_mapping'  # the section of domain=system, for any domain


def read_configuration(configuration):
    """Return (settings, problems) of a configuration (unicode, bytes in UTF-8, or None).

    settings ({section: {option: value}}) are complete, with defaults. Use them only if there are no
    problems, and never write to them. problems ([text]) lists every problem in the order of the
    lines; missing options and options that contradict one another come last. Problems never repeat
    a value or an unknown option, because people paste passwords into the wrong line.
    Raises nothing.
    """
    settings = dict((section, dict((option, default) for option, (_, default) in options.items()))
                    for section, options in OPTIONS.items())
    try:
        sections, options, problems = read_lines(configuration, KNOWN)
    except ValueError as error:
        return settings, [text(error)]
    _check_sections(sections, problems)
    given, wrong = _set_options(settings, options, problems)
    problems.sort(key=lambda problem: problem[0])
    found = [problem for _, problem in problems]
    contradictions = list(_missing(settings, given)) + list(_misplaced(settings, given))
    for section, option, sentence in contradictions:
        if (section, option) not in wrong:
            line = given.get((section, option))
            found.append(u'%s: %s' % (_place(section, option, line), sentence))
    return settings, found


def known_section(name):
    """Return the name in OPTIONS of a section as it is written, or None if there is none.

    The vendor's plugins write https_proxy as well as https-proxy.
    """
    return _SPELLINGS.get(name.replace(u'-', u'_'))


def _check_sections(sections, problems):
    """Add unknown sections, and sections in two spellings, to the problems."""
    first = {}
    for line, written in sections:
        section = known_section(written)
        if section is None:
            problems.append((line, u'Unknown section in line %d%s' % (
                line, instead_of_section(written, OPTIONS))))
            continue
        earlier, spelling = first.setdefault(section, (line, written))
        if spelling != written:
            problems.append((line, u'[%s] (line %d): is in line %d in another spelling; use one of '
                                   u'them' % (written, line, earlier)))


def _set_options(settings, options, problems):
    """Add the options to the settings, and each mistake in them to problems.

    Return the options with a value ({(section, option): line}) and the wrong ones (a set).
    """
    first, given, wrong = {}, {}, set()
    is_proxy_off = _has_proxy_off(options)
    for line, written, option, value in options:
        section = known_section(written)
        if section is None:
            continue
        name = section, option
        try:
            parse = _parser(section, option, value)
            earlier = first.setdefault(name, line)
            if earlier != line:
                raise ValueError(u'is given in line %d already; leave one of them out' % earlier)
            _check_form(section, option, value)
            if is_proxy_off and name in _OF_PROXY:
                continue
            settings[section][option] = parse(value)
            if value:
                given[name] = line
        except ValueError as error:
            wrong.add(name)
            problems.append((line, u'%s: %s' % (_place(section, option, line), text(error))))
    return given, wrong


_OF_PROXY = (('https-proxy', 'server'), ('https-proxy', 'port'))


def _has_proxy_off(options):
    """Return whether [https-proxy] has enabled=no, so that the values of _OF_PROXY do not matter.
    What else is in the section may be meant for another one, and is checked."""
    switches = [value for _, written, option, value in options
                if (known_section(written), option) == ('https-proxy', 'enabled')]
    return [folded(value) for value in switches] == [u'no']


def _place(section, option, line):
    shown = u'[%s]' % section
    if option in OPTIONS[section]:
        shown += u' %s' % option
    if line is not None:
        shown += u' (line %d)' % line
    return shown


def _parser(section, option, value):
    if section == MAPPING and option not in KNOWN:
        return text
    if option not in OPTIONS[section] and u'-----BEGIN ' in value:
        raise ValueError(u'text in front of a PEM: paste only the lines from BEGIN to END')
    if option not in OPTIONS[section]:
        raise ValueError(u'unknown option' + instead_of_option(section, option, OPTIONS))
    return OPTIONS[section][option][0]


_PLACEHOLDER = re.compile(u'(sha256:)?<[^<>\n]*>\\Z')  # a password may look like one


def _check_form(section, option, value):
    if u'\n' in value and (section, option) not in _OF_SEVERAL_LINES:
        raise ValueError(u'must be one line; is the next line indented by mistake?')
    if re.match(u'\\$(\\[.*\\])?\\Z', value):
        raise ValueError(u'$ means a store of the Python 3 environment, which this plugin does not '
                         u'have; write the value itself')
    if _PLACEHOLDER.match(value) and (option != 'password' or value == u'<password>'):
        raise ValueError(u'is the placeholder of default.cfg; write the value in its place, or put '
                         u'; in front of the line')


# ---- value -> setting ----------------------------------------------------------------------------

# Parsers take a value (unicode) and return the setting, or raise ValueError saying what is allowed.
# They refuse an empty value, which would silently mean the default, and that may be the weaker
# choice.

def _may_be_empty(parse, default):
    """Return a row of OPTIONS whose option has its default if the value is empty."""
    def parse_unless_empty(value):
        if value:
            return parse(value)
        return default
    return parse_unless_empty, default


def _choice(*choices):
    def parse(value):
        if folded(value) not in choices:
            raise ValueError(u'must be one of %s' % u', '.join(choices))
        return folded(value)
    return parse


def _yes_no(value):
    return _choice(u'yes', u'no')(value) == u'yes'


def _number(least, most):
    def parse(value):
        if not re.match(u'[0-9]{1,9}\\Z', value) or not least <= int(value) <= most:
            raise ValueError(u'must be a whole number from %d to %d' % (least, most))
        return int(value)
    return parse


def _seconds(least):
    parse = _number(least, 290)

    def parse_seconds(value):
        try:
            return parse(value)
        except ValueError:
            raise ValueError(u'must be a whole number of seconds from %d to 290, because SPS kills '
                             u'a hook after 300 s' % least)
    return parse_seconds


def _items(parse):
    def parse_all(value):
        items = [parse(item) for item in re.split(u'[ \t\x0b\x0c,]+', value) if item]
        if len(items) == 0:
            raise ValueError(u'must name at least one')
        return items
    return parse_all


def _domain(item):
    if re.search(u'[;#=:"\'\\\\/|<>*?()\\[\\]{}$@]', item):
        raise ValueError(u'must contain only domain names')
    return folded(item)


def _path(value):
    if not re.match(u'/[!-~]*\\Z', value):
        raise ValueError(u'must begin with / and contain only ASCII characters, without white '
                         u'space')
    return value


def _fingerprint(item):
    digits = item.lower().replace(u':', u'')
    if not re.match(u'sha256[0-9a-f]{64}\\Z', digits):
        raise ValueError(u'must be sha256: and 64 hexadecimal digits')
    return digits[len(u'sha256'):]


def _server(item):
    """Return u'host', u'host:port', u'[ipv6]:port' or u'srv:name' as (host, port or None)."""
    if item.startswith(u'srv:'):
        _check_service(item[len(u'srv:'):])
        return item, None
    if _is_ipv6(item):
        return item, None
    host, port = re.match(u'(.*?)(?::([0-9]+))?\\Z', item, re.S).groups()
    if host.startswith(u'[') and host.endswith(u']') and _is_ipv6(host[1:-1]):
        host = host[1:-1]
    else:
        _check_host(host)
    if port is None:
        return host, None
    return host, _number(1, 65535)(port)


def _proxy(value):
    """Return a host name or address as _server() does."""
    try:
        host, port = _server(value)
    except ValueError:
        host, port = u'', None
    if not host or host.startswith(u'srv:') or port is not None:
        raise ValueError(u'must be a host name or an address alone, without http://; its port is '
                         u'the option port')
    return host, None


def _check_service(name):
    if not service_domain(name):
        raise ValueError(u'must be srv: and a name such as _tpam._tcp.example.com, with its domain')
    _check_host(name)


def _check_host(name):
    if not re.match(u'[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}\\Z', name):
        raise ValueError(u'must be host, host:port, [ipv6]:port or srv:name, without https:// and '
                         u'user@; an international name is written with xn--')


def _is_ipv6(host):
    # The colons are counted first: packed_address() loads OpenSSL on Python 2.
    return host.count(u':') > 1 and packed_address(host) is not None


PEM_BLOCK = re.compile(u'-----BEGIN ([A-Z0-9 ]+)-----\n(.*?)\n-----END \\1-----', re.S)
_KINDS = (u'CERTIFICATE', u'PRIVATE KEY', u'PUBLIC KEY', u'CERTIFICATE REQUEST',
          u'TRUSTED CERTIFICATE', u'X509 CERTIFICATE')
_ONLY_PEM = (u'contains text outside of the lines from BEGIN to END: paste only these lines, and '
             u'write each option in the first column')
_ANY_OPTION = re.compile(u'(\\[|(?!subject|issuer|depth)[a-z_-]+\\s*=|.*sha256:)', re.I)


def _pem(*kinds):
    """Return a parser of PEM (RFC 7468) with these kinds of block, checked as far as 2.6 can."""
    def parse(value):
        if value.startswith(u';'):  # also where tpamini found it in front of the option
            raise ValueError(u'has a ; or # in front of it; remove that')
        around = PEM_BLOCK.sub(u'', value)  # text that openssl writes here is harmless
        blocks = [(re.sub(u'.* PRIVATE KEY\\Z', u'PRIVATE KEY', label), content)
                  for label, content in PEM_BLOCK.findall(value)]
        if any(is_option(line, KNOWN) for line in value.split(u'\n')):
            raise ValueError(u'is followed by another option that is indented by mistake')
        if any(_ANY_OPTION.match(line) for line in around.split(u'\n')):
            raise ValueError(_ONLY_PEM)
        _check_kinds([kind for kind, _ in blocks], kinds, is_whole=u'-----' not in around)
        if u'ENCRYPTED' in value:
            raise ValueError(u'must contain an unencrypted key: nobody can type a pass phrase here')
        for kind, content in blocks:
            _check_block(kind, content)
        return value
    return parse


def _check_kinds(found, kinds, is_whole):
    """Check which kinds of block a PEM has. is_whole: whether all of it is blocks that end."""
    wanted = u' and '.join([u'-----BEGIN %s----- …' % kind for kind in kinds])
    if not found or not is_whole:
        raise ValueError(u'must be PEM: %s' % wanted)
    for kind in _KINDS:
        if kind in found and kind not in kinds:
            raise ValueError(u'contains a block "%s"; it must be PEM: %s' % (kind, wanted))
    for kind in kinds:
        if kind not in found:
            raise ValueError(u'contains no %s; it must be PEM: %s' % (kind, wanted))
    if set(found) != set(kinds):
        raise ValueError(u'must be PEM: %s' % wanted)


def _check_block(kind, content):
    # b64decode() skips other characters, which are damage here.
    is_whole = re.match(u'[A-Za-z0-9+/=\\s]*\\Z', content) is not None
    try:
        der = base64.b64decode(content.encode('ascii', 'replace'))
        if kind == u'CERTIFICATE':
            certificate(der)
    except (ValueError, TypeError):  # TypeError: Python 2, from b64decode()
        is_whole = False
    if not is_whole:
        raise ValueError(u'contains a damaged %s: paste it again' % kind)


# ---- the options ---------------------------------------------------------------------------------

_TRIGGER = _choice(u'session-ended', u'authentication-completed')
_RESOLVERS = (u'tpam', u'dns', u'hostname', u'fqdn', u'ip', u'domain')
_MODES = (u'gateway', u'approval', u'policy', u'request')

# section -> option -> (parser, default); text() accepts anything, also an empty value
OPTIONS = {
    'tpam': {
        'server': _may_be_empty(_items(_server), []), 'path': _may_be_empty(_path, u'/RPC2'),
        'method_prefix': (text, u''),
        'use_credential': (_choice(u'explicit', u'gateway'), u'explicit'),
        'username': (text, u''), 'password': (text, u''),
        'timeout': _may_be_empty(_seconds(1), 60),
        'connect_timeout': _may_be_empty(_seconds(1), 10),
        'system_name_resolver': (_items(_choice(*_RESOLVERS)), [u'tpam']),
        'system_domains': (_items(_domain), []),
        'system_prefix': (text, u''),
        'system_maptoreal': (_yes_no, False), 'reuse_gateway_password': (_yes_no, False),
        'authorization': (_choice(*_MODES), u'gateway'),
        'required_policy': (text, u''),
        'require_gateway_user': (_yes_no, True), 'gateway_domains': (_items(_domain), []),
    },
    'request': {
        'approval_timeout': _may_be_empty(_seconds(0), 120),
        'poll_interval': _may_be_empty(_number(1, 60), 5),
        'release_duration': _may_be_empty(_number(1, 1000000), None),
        'access_policy': (text, u''), 'reason_code': (text, u''),
        'ticket_system': (text, u''), 'ticket_question': (text, u''),
        'time_required': _may_be_empty(_number(1, 1000000), None),
    },
    'account': {'prefix': (text, u''), 'suffix': (text, u'')},
    MAPPING: {},
    'tls': {
        'enabled': (_yes_no, True), 'check_host_name': (_yes_no, True),
        'ca_cert': _may_be_empty(_pem(u'CERTIFICATE'), None),
        'client_cert': _may_be_empty(_pem(u'CERTIFICATE', u'PRIVATE KEY'), None),
        'server_fingerprint': (_items(_fingerprint), []),
        'protocol': (_choice(u'tlsv1', u'negotiate'), u'tlsv1'),
    },
    'https-proxy': {
        'enabled': (_yes_no, True),
        'server': _may_be_empty(_proxy, None),
        'port': _may_be_empty(_number(1, 65535), 3128),
        'username': (text, u''), 'password': (text, u''),
    },
    'check-in-trigger': dict([(protocol, (_TRIGGER, None)) for protocol in PROTOCOLS],
                             default=(_TRIGGER, u'session-ended')),
    'check-in': {'force_reset': (_yes_no, False)},
    'private_keys': {
        'enabled': (_yes_no, True), 'account_suffix': (text, u''),
        'command': (_choice(u'retrievekey', u'retrieve'), u'retrievekey'),
    },
    'logging': {'log_level': (_choice(*LOG_LEVELS), u'info')},
}
_SPELLINGS = dict((section.replace('-', '_'), section) for section in OPTIONS)
KNOWN = frozenset(option for options in OPTIONS.values() for option in options)
_OF_SEVERAL_LINES = (('tls', 'ca_cert'), ('tls', 'client_cert'))


# ---- options that are missing or contradict one another ------------------------------------------

# Only authorization=request uses these. Whoever sets them without it believes that requests are
# submitted.
_OF_REQUESTS = ('access_policy', 'approval_timeout', 'poll_interval', 'release_duration')


def _missing(settings, given):
    """Generate (section, option, sentence) for each option that others require. given: {(section,
    option): line} of the options with a value."""
    tpam, tls, proxy = settings['tpam'], settings['tls'], settings['https-proxy']
    keys, force_reset = settings['private_keys'], settings['check-in']['force_reset']
    explicit = tpam['use_credential'] == u'explicit'
    certified = tls['enabled'] and tls['client_cert'] is not None
    if not tpam['server']:
        yield 'tpam', 'server', (
            u'missing; the host name of the credential server, as in its certificate')
    if tls['enabled'] and not tls['ca_cert'] and not tls['server_fingerprint']:
        yield 'tls', 'ca_cert', (
            u'missing; the CA certificate with which the server is verified, as PEM '
            u'(or pin the certificate of the server with server_fingerprint)')
    if explicit and not tpam['username'] and not certified:
        yield 'tpam', 'username', (
            u'missing; the API user of the credential server (or a client_cert under [tls])')
    if explicit and tpam['username'] and not tpam['password'] and not certified:
        yield 'tpam', 'password', (
            u'missing; the password of the API user (or a client_cert under [tls])')
    if tpam['authorization'] == u'request' and not tpam['username'] and certified:
        yield 'tpam', 'username', (
            u'missing; authorization=request looks for requests of the API user under this name')
    if tpam['authorization'] == u'policy' and not tpam['required_policy']:
        yield 'tpam', 'required_policy', u'missing; the policy that authorization=policy asks for'
    overwrites = force_reset and keys['enabled'] and keys['command'] == u'retrieve'
    if overwrites and not keys['account_suffix']:
        yield 'private_keys', 'account_suffix', (
            u'missing; with command=Retrieve and force_reset=yes, keys that are stored as '
            u'passwords would be overwritten')
    if proxy['enabled'] and not proxy['server'] and (
            ('https-proxy', 'enabled') in given or proxy['username'] or proxy['password']):
        yield 'https-proxy', 'server', u'missing; enabled=yes, or a username or password for it'


def _misplaced(settings, given):
    """Generate (section, option, sentence) for each option that contradicts another. given: see
    _missing()."""
    tpam = settings['tpam']
    checks_in = tpam['authorization'] == u'request' or settings['check-in']['force_reset']
    if tpam['use_credential'] == u'gateway' and checks_in:
        yield 'tpam', 'use_credential', (
            u'must be explicit with authorization=request or force_reset=yes, because SPS does '
            u'not pass the gateway password to the hooks that check in')
    if tpam['authorization'] != u'policy' and tpam['required_policy']:
        yield 'tpam', 'required_policy', (
            u'has an effect only with authorization=policy; set authorization=policy, or remove '
            u'this option')
    for option in _OF_REQUESTS:
        if tpam['authorization'] != u'request' and ('request', option) in given:
            yield 'request', option, (
                u'has an effect only with [tpam] authorization=request; set authorization=request, '
                u'or remove this option')
