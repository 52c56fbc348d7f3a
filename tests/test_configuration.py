# -*- coding: utf-8 -*-
"""Configuration text -> settings, and one clear line for each thing that is wrong with it, before anything is sent."""
from __future__ import unicode_literals

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import tpamconfig
from conftest import (API_PASSWORD, GATEWAY_PASSWORD, PASSWORD, certificate, configuration,
                      read)
from fake_tpam import Refusal

CA = certificate('ca')
CLIENT = certificate('client')
KEY = re.search('-----BEGIN [A-Z ]*PRIVATE KEY-----.*END [A-Z ]*PRIVATE KEY-----\n', CLIENT, re.S).group()
INDENTED = 'must be one line; is the next line indented by mistake?'
SERVER = ('must be host, host:port, [ipv6]:port or srv:name, without https:// and user@; an international name is '
          'written with xn--')
PROXY = 'must be a host name or an address alone, without http://; its port is the option port'
STORE = ('$ means a store of the Python 3 environment, which this plugin does not have; write the value '
         'itself')
PLACEHOLDER = 'is the placeholder of default.cfg; write the value in its place, or put ; in front of the line'
NO_PEM = 'must be PEM: -----BEGIN %s----- …'
CERTIFICATE_AND_KEY = 'CERTIFICATE----- … and -----BEGIN PRIVATE KEY'
ENCRYPTED = 'must contain an unencrypted key: nobody can type a pass phrase here'


def whole(**sections):
    """The sections of a configuration that works, changed by these; None takes an option out."""
    found = {'tpam': {'server': 'tpam.example.com', 'username': 'sps', 'password': 'x'}, 'tls': {'ca_cert': CA}}
    for section, options in sections.items():
        found[section] = dict(found.get(section, {}), **options)
    return found


def settings_of(text):
    found, problems = tpamconfig.read_configuration(text)
    assert problems == []
    return found


def problems_of(text):
    return tpamconfig.read_configuration(text)[1]


def option_problems(section, option, value):
    return problems_of(with_option(section, option, value))


def with_option(section, option, value):
    return configuration(**whole(**{section: {option: value}}))


def written(section):
    """The name of a section as it is written in a configuration."""
    return section if section in tpamconfig.OPTIONS else section.replace('_', '-')


def place(text, section, option):
    """Where this option stands in this text, as a problem names it."""
    inside = None
    for number, line in enumerate(text.split('\n'), 1):
        inside = line.strip('[]') if line.startswith('[') else inside
        if inside == written(section) and re.match(re.escape(option) + ' *[=:]', line, re.I):
            return '[%s] %s (line %d)' % (inside, option, number)
    raise AssertionError('no option %s' % option)


def names(problems):
    """The sections and options that problems are about."""
    return sorted(re.sub(' \\(line [0-9]+\\)$', '', problem.partition(':')[0]) for problem in problems)


def test_a_whole_configuration_has_no_problems_and_every_default():
    found = settings_of(configuration(**whole()))
    assert found['tpam']['server'] == [('tpam.example.com', None)]
    assert found['tls']['ca_cert'] == CA.strip()
    given = [('tpam', 'server'), ('tpam', 'username'), ('tpam', 'password'), ('tls', 'ca_cert')]
    for section, options in tpamconfig.OPTIONS.items():
        for option, (_, default) in (options or {}).items():
            assert (section, option) in given or found[section][option] == default


# ---- what is missing

MISSING = [
    '[tpam] server: missing; the host name of the credential server, as in its certificate',
    '[tls] ca_cert: missing; the CA certificate with which the server is verified, as PEM (or pin the certificate of '
    'the server with server_fingerprint)',
    '[tpam] username: missing; the API user of the credential server (or a client_cert under [tls])',
]


@pytest.mark.parametrize('text', ['', None, b'', '\n \n', '; only a comment\n', '\ufeff', '[tpam]\n',
                                  '[tpam]\nserver=\nusername=\n[tls]\nca_cert=\n'])
def test_an_empty_configuration_is_told_all_that_is_missing(text):
    assert problems_of(text) == MISSING


def test_a_user_without_password_is_an_error_unless_a_client_certificate_stands_in():
    assert option_problems('tpam', 'password', None) == [
        '[tpam] password: missing; the password of the API user (or a client_cert under [tls])']
    for given_too in ({'password': None}, {'username': None, 'password': None}):
        assert problems_of(configuration(**whole(tpam=given_too, tls={'client_cert': CLIENT}))) == []


def test_a_pin_or_no_tls_stand_in_for_the_ca():
    assert problems_of(configuration(**whole(tls={'ca_cert': None, 'server_fingerprint': 'sha256:' + 64 * 'a'}))) == []
    assert problems_of(configuration(**whole(tls={'ca_cert': None, 'enabled': 'no'}))) == []


# ---- what is unknown

SECTIONS = ('; known: account, check-in, check-in-trigger, domain_asset_mapping, https-proxy, logging, private_keys, '
            'request, tls, tpam')


@pytest.mark.parametrize('text, problem', [
    ('[tpma]\nserver=x', '; did you mean tpam?'),
    ('[TPAM]\nserver=x', '; did you mean tpam?'),
    ('[https proxy]', '; did you mean https-proxy?'),
    ("[it's\x1b[2J]", SECTIONS),
    ('[DEFAULT]\nserver=x', SECTIONS),
    ('[credential_store]\nname=x',
     '; local Credential Stores are not available: write the values into this text'),
])
def test_an_unknown_section_is_told_which_known_one_it_resembles(text, problem):
    working = configuration(**whole())
    assert problems_of(working + text + '\n') == [
        'Unknown section in line %d%s' % (working.count('\n') + 1, problem)]


def test_a_password_in_brackets_on_a_line_alone_is_not_repeated():
    for password in ('Tr0ub4dor', 'tpam-Tr0ub4dor'):
        text = configuration(**whole(tpam={'password': None})) + '[tpam]\npassword=\n[%s]\n' % password
        assert 'Tr0ub4dor' not in ''.join(problems_of(text))


@pytest.mark.parametrize('text, problem', [
    ('[account]\nprefx=x', '[account] (line %d): unknown option; did you mean prefix?'),
    ('[account]\nprefx=', '[account] (line %d): unknown option; did you mean prefix?'),
    ('[tpam]\nAuthorisation=policy', '[tpam] (line %d): unknown option; did you mean authorization?'),
    ('[check-in-trigger]\nshh=session-ended', '[check-in-trigger] (line %d): unknown option; did you mean ssh?'),
    ('[logging]\nzzz=x', '[logging] (line %d): unknown option; known: log_level'),
    ('[tls]\nchec\u212a_host_name=no', '[tls] (line %d): unknown option; did you mean check_host_name?'),
    ('[account]\n\x0b=x', '[account] (line %d): unknown option; known: prefix, suffix'),
    ('[tpam]\napproval_timeout=60', '[tpam] (line %d): unknown option here; it belongs in [request]'),
    ('[tls]\nPrefix: x', '[tls] (line %d): unknown option here; it belongs in [account]'),
    ('[tpam]\nssh=session-ended', '[tpam] (line %d): unknown option here; it belongs in [check-in-trigger]'),
    ('[request]\nusername=x', '[request] (line %d): unknown option here; it belongs in [https-proxy] or [tpam]'),
    ('[domain_asset_mapping]\nauthorization=request',
     '[domain_asset_mapping] (line %d): unknown option here; it belongs in [tpam]'),
    ('[tpam]\nserver_port=22', '[tpam] (line %d): unknown option; write host:port into [tpam] server'),
    ('[tpam]\nserver_user=x', '[tpam] (line %d): unknown option; the API user is [tpam] username'),
    ('[tpam]\nserver_user_key=x',
     '[tpam] (line %d): unknown option; log in with [tpam] password, or with [tls] client_cert'),
    ('[tls]\nserver_public_key=x',
     '[tls] (line %d): unknown option; the server is verified with [tls] ca_cert or server_fingerprint'),
])
def test_an_unknown_option_is_told_what_to_write_instead(text, problem):
    working = configuration(**whole())
    assert problems_of(working + text + '\n') == [problem % (working.count('\n') + 2)]


# ---- sections in the spellings of the vendor's plugins

def respelled(text):
    """The same configuration, with the other of - and _ in each name of a section."""
    return re.sub(r'(?m)^\[.*\]', lambda name: name.group().translate({ord('-'): '_', ord('_'): '-'}), text)


def test_a_section_may_be_written_with_hyphens_or_underscores():
    text = configuration(**whole(
        https_proxy={'server': 'proxy'}, check_in_trigger={'rdp': 'authentication-completed'},
        check_in={'force_reset': 'yes'}, domain_asset_mapping={'example.com': 'DC'}, private_keys={'enabled': 'no'}))
    assert '[https_proxy]' in respelled(text) and '[private-keys]' in respelled(text)
    assert settings_of(respelled(text)) == settings_of(text)
    assert settings_of(text)['https-proxy']['server'] == ('proxy', None)


def test_a_mistake_in_a_section_of_another_spelling_is_told_its_line():
    working = configuration(**whole())
    assert problems_of(working + '[https_proxy]\nserver=x\nport=0\n') == [
        '[https-proxy] port (line %d): %s' % (working.count('\n') + 3, whole_number(1, 65535))]


@pytest.mark.parametrize('first, second', [
    ('https-proxy', 'https_proxy'), ('check_in_trigger', 'check-in-trigger'), ('private-keys', 'private_keys')])
def test_a_section_in_both_spellings_is_refused(first, second):
    working = configuration(**whole())
    line = working.count('\n') + 1
    assert problems_of(working + '[%s]\n[%s]\n[%s]\n' % (first, first, second)) == [
        '[%s] (line %d): is in line %d in another spelling; use one of them' % (second, line + 2, line)]


def test_a_section_in_both_spellings_gives_nobody_a_credential(world):
    text = configuration(**world.sections()) + '[check-in]\nforce_reset=no\n[check_in]\nforce_reset=yes\n'
    result = world.session(text=text).call('get_password_list')
    assert 'in another spelling' in result.raised['message']
    assert world.server.connections == 0


# ---- a proxy that is switched off

def test_a_proxy_that_is_not_enabled_is_not_used(world):
    proxy = {'enabled': 'no', 'server': '127.0.0.1', 'port': '1', 'username': 'x', 'password': 'proxy-password'}
    assert world.session(https_proxy=proxy).call('get_password_list').credentials == [PASSWORD]


def test_a_proxy_that_is_not_enabled_needs_no_server_and_may_have_one():
    for given_too in ({}, {'server': 'proxy'}, {'username': 'x', 'password': 'y'}):
        assert problems_of(configuration(**whole(https_proxy=dict(given_too, enabled='no')))) == []


def test_the_values_of_a_proxy_that_is_not_enabled_do_not_matter():
    for text in ('server=http://proxy:3128\nenabled=no', 'enabled: NO\nserver=proxy:3128\nport=http'):
        assert problems_of(configuration(**whole()) + '[https_proxy]\n' + text + '\n') == []
    assert len(problems_of('[https-proxy]\nenabled=no\nport=0\n[tls]\nenabled=x\n')) == 1 + len(MISSING)


@pytest.mark.parametrize('text', [
    'authorization=approval', 'gateway_domains=CORP', 'force_reset=yes', 'usr=x', 'port=0\nport=1',
    'port=3128\n [check-in]\n force_reset=yes', 'port=3128\n authorization=request'])
def test_what_is_misplaced_below_a_proxy_that_is_not_enabled_is_an_error(text):
    assert problems_of(configuration(**whole()) + '[https-proxy]\nenabled=no\n' + text + '\n')


@pytest.mark.parametrize('switches', [['no', 'yes'], ['no', 'no'], ['yes', 'no'], [''], ['off'], ['no\n yes']])
def test_a_proxy_that_is_not_clearly_switched_off_is_checked(switches):
    text = ''.join('enabled=%s\n' % value for value in switches)
    found = problems_of(configuration(**whole()) + '[https-proxy]\n' + text + 'port=0\n')
    assert '[https-proxy] port' in names(found)


def test_a_proxy_that_is_enabled_needs_a_server():
    assert option_problems('https_proxy', 'enabled', 'yes') == [
        '[https-proxy] server: missing; enabled=yes, or a username or password for it']


# ---- what has a wrong value

ONE_OF = 'must be one of '
YES_NO = ONE_OF + 'yes, no'
RESOLVERS = ONE_OF + ', '.join(tpamconfig._RESOLVERS)
MODES = ONE_OF + ', '.join(tpamconfig._MODES)
TRIGGERS = ONE_OF + 'session-ended, authentication-completed'
HEX = 'must be sha256: and 64 hexadecimal digits'
PATH = 'must begin with / and contain only ASCII characters, without white space'


SECONDS = 'must be a whole number of seconds from %d to 290, because SPS kills a hook after 300 s'


def whole_number(least, most):
    return 'must be a whole number from %d to %d' % (least, most)


WRONG = [
    ('tpam', 'timeout', ['0', '291', '-1', '1.5', 'x', '٣', '1e2', '9999999999', '600'], SECONDS % 1),
    ('tpam', 'connect_timeout', ['0', '291', ' 1 2'], SECONDS % 1),
    ('request', 'approval_timeout', ['-1', '291'], SECONDS % 0),
    ('request', 'poll_interval', ['0', '61'], whole_number(1, 60)),
    ('request', 'release_duration', ['0', '1000001'], whole_number(1, 1000000)),
    ('request', 'time_required', ['0', '2h'], whole_number(1, 1000000)),
    ('https_proxy', 'port', ['0', '65536', 'http'], whole_number(1, 65535)),
    ('tpam', 'server', ['tpam:0', 'tpam:65536', '[fd00::1]:0', 'a,b:0'], whole_number(1, 65535)),
    ('tpam', 'server', ['https://tpam', 'https://tpam:443', 'user@tpam', 'tpam:', 'tpam:x', 'tpam/x', '-tpam', '*',
                        '[tpam]', '[10.0.0.1]:443', 'fd00::1:x', 'tpäm', 'srv:a b*', 254 * 'x'], SERVER),
    ('https_proxy', 'server', ['http://proxy', 'http://proxy:3128', 'user:geheim@proxy', 'proxy:3128', '[fd00::1]:1',
                               'srv:_proxy._tcp.example.com', 'srv:', 'a, b'], PROXY),
    ('tpam', 'server', ['srv:', 'srv:_tpam._tcp', 'srv:_tpam._tcp.'],
     'must be srv: and a name such as _tpam._tcp.example.com, with its domain'),
    ('tpam', 'server', [',', ' , ,'], 'must name at least one'),
    ('tpam', 'system_name_resolver', [','], 'must name at least one'),
    ('tpam', 'system_name_resolver', ['netbios', 'dns,netbios', 'dns;ip'], RESOLVERS),
    ('tpam', 'use_credential', ['gate way', 'none'], ONE_OF + 'explicit, gateway'),
    ('tpam', 'authorization', ['none', 'approval,policy'], MODES),
    ('tpam', 'system_maptoreal', ['true', '1', 'on'], YES_NO),
    ('tpam', 'reuse_gateway_password', ['maybe'], YES_NO),
    ('tpam', 'require_gateway_user', ['true', 'never'], YES_NO),
    ('tpam', 'gateway_domains', [',', ' , ,'], 'must name at least one'),
    ('tpam', 'path', ['RPC2', '/a b', '/ä'], PATH),
    ('tls', 'enabled', ['false'], YES_NO),
    ('tls', 'check_host_name', ['no way'], YES_NO),
    ('tls', 'protocol', ['sslv3', 'tlsv1.2'], ONE_OF + 'tlsv1, negotiate'),
    ('tls', 'server_fingerprint', ['sha1:' + 40 * 'a', 64 * 'a', 'sha256:' + 63 * 'a', 'sha256:' + 64 * 'g'], HEX),
    ('https_proxy', 'enabled', ['off'], YES_NO),
    ('check_in_trigger', 'default', ['never'], TRIGGERS),
    ('check_in_trigger', 'rdp', ['session_ended'], TRIGGERS),
    ('check_in', 'force_reset', ['always'], YES_NO),
    ('private_keys', 'enabled', ['2'], YES_NO),
    ('private_keys', 'command', ['RetrieveKeys', 'Retrieve\u212aey'],
     ONE_OF + 'retrievekey, retrieve'),
    ('tpam', 'use_credential', ['expl\u0130cit'], ONE_OF + 'explicit, gateway'),
    ('tpam', 'system_name_resolver', ['\u0130p'], RESOLVERS),
    ('logging', 'log_level', ['trace', '10'], ONE_OF + 'debug, info, warning, error, critical'),
    ('tls', 'ca_cert', ['/etc/ssl/ca.pem', 'MIIC', CA.replace('-----END', '----END')], NO_PEM % 'CERTIFICATE'),
    ('tls', 'ca_cert', [KEY, CLIENT, CA + KEY], 'contains a block "PRIVATE KEY"; it ' + NO_PEM % 'CERTIFICATE'),
    ('tls', 'ca_cert', [CA.replace('CERTIFICATE', 'PUBLIC KEY')],
     'contains a block "PUBLIC KEY"; it ' + NO_PEM % 'CERTIFICATE'),
    ('tls', 'ca_cert', [CA + CA.replace('CERTIFICATE', 'X509 CRL')], NO_PEM % 'CERTIFICATE'),
    ('tls', 'ca_cert', [CA.replace('CERTIFICATE', 'X509 CERTIFICATE')],
     'contains a block "X509 CERTIFICATE"; it ' + NO_PEM % 'CERTIFICATE'),
    ('tls', 'ca_cert', [CA.replace('CERTIFICATE', 'TRUSTED CERTIFICATE')],
     'contains a block "TRUSTED CERTIFICATE"; it ' + NO_PEM % 'CERTIFICATE'),
    ('tls', 'client_cert', ['x', CA + 'and -----BEGIN'], NO_PEM % CERTIFICATE_AND_KEY),
    ('tls', 'client_cert', [CA, CA + CA], 'contains no PRIVATE KEY; it ' + NO_PEM % CERTIFICATE_AND_KEY),
    ('tls', 'client_cert', [KEY], 'contains no CERTIFICATE; it ' + NO_PEM % CERTIFICATE_AND_KEY),
    ('tls', 'ca_cert', [CA.replace('MII', 'MIX', 1), CA[:60] + CA[70:], CA.replace(CA.split('\n')[5] + '\n', ''),
                        CA + '-----BEGIN CERTIFICATE-----\n====\n-----END CERTIFICATE-----'],
     'contains a damaged CERTIFICATE: paste it again'),
    ('tls', 'client_cert', [CLIENT.replace(KEY.split('\n')[1], KEY.split('\n')[1][1:])],
     'contains a damaged PRIVATE KEY: paste it again'),
    ('tls', 'client_cert', [
        CA + KEY.replace(' PRIVATE KEY', ' ENCRYPTED PRIVATE KEY').replace('RSA ENC', 'ENC'),
        CA + '-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n'
             '-----END RSA PRIVATE KEY-----'], ENCRYPTED),
]


@pytest.mark.parametrize('section, option, value, must', [
    (section, option, value, must) for section, option, values, must in WRONG for value in values])
def test_a_wrong_value_is_told_what_it_must_be(section, option, value, must):
    text = with_option(section, option, value)
    assert problems_of(text) == ['%s: %s' % (place(text, section, option), must)]


def test_every_placeholder_of_default_cfg_is_refused():
    placeholders = [(section, option, value) for section, option, value in documented()
                    if re.match('(sha256:)?<', value)]
    assert len(placeholders) > 20
    for section, option, value in placeholders:
        assert PLACEHOLDER in option_problems(section.replace('check-in-trigger', 'check_in_trigger').replace(
            'https-proxy', 'https_proxy'), option, value)[0], option


def test_a_password_may_look_like_a_placeholder():
    for value in ('<Tr0ub4dor>', '<API user>'):
        assert settings_of(with_option('tpam', 'password', value))['tpam']['password'] == value


def test_a_value_in_which_angle_brackets_do_not_enclose_everything_is_taken():
    for value in ('<a>b', 'a<b>', '<', '<>>', '<a><b>'):
        assert settings_of(with_option('account', 'suffix', value))['account']['suffix'] == value


@pytest.mark.parametrize('value', ['$', '$[ca]', '$[]', '$[a b]'])
@pytest.mark.parametrize('section, option', [('tpam', 'password'), ('tls', 'ca_cert'), ('tls', 'client_cert'),
                                             ('tpam', 'timeout'), ('domain_asset_mapping', 'example.com')])
def test_a_reference_to_a_store_is_refused(section, option, value):
    text = with_option(section, option, value)
    shown = place(text, section, option).replace(' example.com', '')
    assert problems_of(text) == ['%s: %s' % (shown, STORE)]


def test_a_dollar_is_otherwise_a_character_like_any_other():
    for value in ('$$', 'a$', '$a', '$[a', '$a]', ' $ $ '.strip()):
        assert settings_of(configuration(**whole(tpam={'password': value})))['tpam']['password'] == value


def test_a_line_that_was_indented_by_mistake_is_told_so_and_not_repeated():
    for section, option in (('tpam', 'username'), ('tpam', 'server'), ('logging', 'log_level'),
                            ('domain_asset_mapping', 'example.com')):
        text = with_option(section, option, 'x\npassword=geheim')
        shown = place(text, section, option).replace(' example.com', '')
        assert problems_of(text) == ['%s: %s' % (shown, INDENTED)]


# ---- what contradicts something else

@pytest.mark.parametrize('sections, problems', [
    ({'tpam': {'authorization': 'policy'}},
     ['[tpam] required_policy: missing; the policy that authorization=policy asks for']),
    ({'tpam': {'required_policy': 'Privileged'}},
     ['[tpam] required_policy (line …): has an effect only with authorization=policy; set authorization=policy, '
      'or remove this option']),
    ({'tpam': {'username': None, 'password': None}, 'tls': {'enabled': 'no', 'client_cert': CLIENT}},
     ['[tpam] username: missing; the API user of the credential server (or a client_cert under [tls])']),
    ({'tpam': {'use_credential': 'gateway', 'username': None, 'password': None}, 'check_in': {'force_reset': 'yes'}},
     ['[tpam] use_credential (line …): must be explicit with authorization=request or force_reset=yes, because '
      'SPS does not pass the gateway password to the hooks that check in']),
    ({'tpam': {'authorization': 'request', 'username': None, 'password': None}, 'tls': {'client_cert': CLIENT}},
     ['[tpam] username: missing; authorization=request looks for requests of the API user under this name']),
    ({'check_in': {'force_reset': 'yes'}, 'private_keys': {'command': 'Retrieve'}},
     ['[private_keys] account_suffix: missing; with command=Retrieve and force_reset=yes, keys that are stored as '
      'passwords would be overwritten']),
    ({'https_proxy': {'username': 'x', 'password': 'y'}},
     ['[https-proxy] server: missing; enabled=yes, or a username or password for it']),
])
def test_options_that_contradict_one_another_are_named(sections, problems):
    text = configuration(**whole(**sections))
    assert problems_of(text) == [
        re.sub(r'\[(.*)\] (\w+) \(line …\)', lambda name: place(text, *name.groups()), problem) for problem in problems]


WITHOUT_REQUESTS = [{}, {'authorization': 'gateway'}, {'authorization': 'approval'},
                    {'authorization': 'policy', 'required_policy': 'Privileged'}]
# Values as an administrator may write them, the defaults among them.
OF_REQUESTS = [
    ('access_policy', 'Privileged'), ('approval_timeout', '120'), ('approval_timeout', '0'),
    ('poll_interval', '5'), ('poll_interval', '1'), ('release_duration', '60'),
]


@pytest.mark.parametrize('tpam', WITHOUT_REQUESTS)
@pytest.mark.parametrize('option, value', OF_REQUESTS)
def test_an_option_of_requests_is_an_error_in_another_mode(option, value, tpam):
    problem, = problems_of(configuration(**whole(tpam=tpam, request={option: value})))
    assert problem.startswith('[request] %s (line 2): ' % option)
    assert 'authorization=request' in problem


def test_every_option_of_requests_that_has_no_effect_is_named():
    given = dict(OF_REQUESTS, reason_code='R7')
    found = problems_of(configuration(**whole(request=given)))
    assert names(found) == [
        '[request] access_policy', '[request] approval_timeout', '[request] poll_interval',
        '[request] release_duration']


def test_options_of_requests_are_accepted_where_requests_are_filed():
    by_request = whole(tpam={'authorization': 'request'}, request=dict(OF_REQUESTS))
    assert problems_of(configuration(**by_request)) == []


@pytest.mark.parametrize('tpam', WITHOUT_REQUESTS)
def test_reason_code_ticket_and_time_are_for_every_mode(tpam):
    given = {'reason_code': 'R7', 'ticket_system': 'Jira', 'ticket_question': 'x',
             'time_required': '5'}
    assert problems_of(configuration(**whole(tpam=tpam, request=given))) == []


@pytest.mark.parametrize('leftover', [
    {'username': 'sps', 'password': 'x'}, {'username': 'sps', 'password': None},
    {'username': None, 'password': 'x'},
])
def test_a_leftover_user_or_password_does_not_matter_where_the_gateway_user_logs_in(leftover):
    tpam = dict(leftover, use_credential='gateway')
    assert problems_of(configuration(**whole(tpam=tpam))) == []


def test_the_gateway_user_logs_in_and_a_leftover_password_is_masked(world):
    world.tpam.add_user('jdoe', GATEWAY_PASSWORD)
    session = world.session(tpam={'use_credential': 'gateway', 'system_name_resolver': 'hostname'})
    assert session.call('get_password_list').credentials == [PASSWORD]
    assert [entry.user for entry in world.tpam.audit] == ['jdoe']

    def echo(user, options):
        raise Refusal('it is not %s' % API_PASSWORD)
    world.tpam.do_Retrieve = echo
    assert "reason='it is not ********'" in session.call('get_password_list').log


# ---- what is empty

CHOSEN = [
    ('tpam', 'use_credential'), ('tpam', 'system_name_resolver'), ('tpam', 'system_maptoreal'),
    ('tpam', 'reuse_gateway_password'), ('tpam', 'require_gateway_user'), ('tpam', 'authorization'),
    ('tls', 'enabled'), ('tls', 'server_fingerprint'), ('tls', 'check_host_name'),
    ('tls', 'protocol'), ('check_in', 'force_reset'), ('private_keys', 'enabled'),
    ('private_keys', 'command'), ('logging', 'log_level'),
] + [('check_in_trigger', option) for option in ('default',) + tpamconfig.PROTOCOLS]


@pytest.mark.parametrize('section, option', CHOSEN)
@pytest.mark.parametrize('value', ['', ' \t'])
def test_an_option_that_is_a_choice_is_not_left_empty(section, option, value):
    text = with_option(section, option, value)
    problem, = problems_of(text)
    assert problem.startswith('%s: must ' % place(text, section, option))


def test_an_empty_list_of_domains_does_not_allow_every_domain():
    problem, = option_problems('tpam', 'gateway_domains', '')
    assert problem.startswith('[tpam] gateway_domains (line ') and '): must ' in problem


def test_an_option_that_is_text_may_be_left_empty():
    empty = {'tpam': {'method_prefix': '', 'system_prefix': ''},
             'account': {'prefix': '', 'suffix': ''}, 'https_proxy': {'username': ''},
             'request': {'reason_code': '', 'ticket_system': ''}}
    assert problems_of(configuration(**whole(**empty))) == []


def test_an_empty_mode_is_not_the_laxest_one(world):
    result = world.session(tpam={'authorization': ''}).call('get_password_list')
    assert result.credentials is None
    assert '[tpam] authorization (line ' in result.raised['message']
    assert world.server.connections == 0


# ---- what is no configuration

OUTSIDE = 'Text before the first [section]: line %s; write each option below its section'
UNREADABLE = ('Neither [section] nor option=value: line %s; only the continuation lines of a value are indented')


def test_text_before_a_section_is_named_by_its_lines():
    text = '; a comment\n\npassword=geheim\n\n geheim, too\n'
    assert problems_of(text + configuration(**whole())) == [OUTSIDE % '3, 5']


def test_a_text_without_any_section_is_told_so():
    assert problems_of('server=x\nusername=sps\n') == [OUTSIDE % '1, 2'] + MISSING


def test_lines_that_are_no_options_are_named_by_their_numbers_and_not_repeated():
    text = '[account]\nprefix=x\ngeheim\n\n[tls\nalso geheim\n'
    assert problems_of(text + configuration(**whole())) == [UNREADABLE % '3, 5, 6']


def test_the_options_below_a_damaged_section_do_not_belong_to_the_section_above():
    working = configuration(**whole())
    assert problems_of(working + '[https-proxy\nserver=x\nport=0\n') == [
        UNREADABLE % (working.count('\n') + 1)]


@pytest.mark.parametrize('line', [
    '[tpam] gateway_domains=CORP', '[tls] server_fingerprint=sha256:' + 64 * '0', '[tpam]path=/a',
    '[check-in] force_reset=yes', '[tpam] x', '[tpam]\xa0', '[tpam] [tls]', '[tpam] rem x'])
def test_text_behind_a_section_is_an_error_and_not_a_comment(line):
    working = configuration(**whole())
    problem, = problems_of(working + line + '\n')
    number = working.count('\n') + 1
    assert problem == UNREADABLE % number or '(line %d)' % number in problem


@pytest.mark.parametrize('line', ['[tpam] gateway_domains=CORP', '[tls]enabled: no'])
def test_text_behind_a_section_is_no_domain_with_its_asset(line):
    """[domain_asset_mapping] takes any option."""
    mapping = configuration(**whole()) + '[domain_asset_mapping]\nexample.com=DC\n' + line + '\n'
    assert problems_of(mapping) == [UNREADABLE % mapping.count('\n')]


@pytest.mark.parametrize('behind', ['', ' ', '\t', ' ; a comment', ' # a comment', ';x', '; a=b'])
def test_a_comment_may_stand_behind_a_section(behind):
    text = configuration(**whole()) + '[account]%s\nprefix=x\n' % behind
    assert settings_of(text)['account']['prefix'] == 'x'


def test_an_option_behind_its_section_gives_nobody_a_credential(world):
    """The messages of the plugin write options in this way."""
    text = configuration(**world.sections()) + '[tpam] gateway_domains=CORP\n'
    result = world.session({'gateway_username': 'PARTNER\\jdoe'}, text=text).call(
        'get_password_list')
    assert not result.credentials
    assert 'Wrong configuration' in result.raised['message']
    assert world.tpam.commands() == []


@pytest.mark.parametrize('text', [
    '[tpam]\npath=/a\n[logging]\n[tpam] \nPath: /b\n', '[tpam]\npath=/a\n\n# x\npath =/a\n'])
def test_an_option_that_is_given_twice_is_refused(text):
    assert problems_of(text + configuration(**whole())) == [
        '[tpam] path (line 5): is given in line 2 already; leave one of them out']


def test_a_section_that_is_given_twice_is_one():
    text = configuration(**whole()) + '[tpam]\npath=/other\n'
    assert settings_of(text)['tpam']['server'] == [('tpam.example.com', None)]
    assert settings_of(text)['tpam']['path'] == '/other'


@pytest.mark.parametrize('line', ['rem path=/a', 'REM', 'Rem\tx', '; path=/a', '#path=/a', ' \t'])
def test_a_comment_or_blank_line_is_no_option(line):
    text = configuration(**whole()).replace('[tpam]\n', '[tpam]\n%s\n' % line)
    assert settings_of(text)['tpam']['path'] == '/RPC2'


def test_a_name_that_begins_like_a_comment_is_an_option():
    text = configuration(**whole(domain_asset_mapping={'rem': 'a', 'remote': 'b'}))
    assert settings_of(text)['domain_asset_mapping'] == {'rem': 'a', 'remote': 'b'}


HIDDEN = 'is followed by another option that is indented by mistake'
ONLY_PEM = ('contains text outside of the lines from BEGIN to END: paste only these lines, and write each option in '
            'the first column')


@pytest.mark.parametrize('rest, words', [
    (' server_fingerprint=sha256:00', HIDDEN), ('; a comment\n server_fingerprints = sha256:00', ONLY_PEM),
    ('\n [check-in]\n force_reset=yes', HIDDEN)])
def test_what_hides_behind_pem_by_its_indentation_is_refused(rest, words):
    hidden = '[tls]\nca_cert=%s\n%s\n' % (CA.strip().replace('\n', '\n '), rest)
    assert '[tls] ca_cert (line 2): ' + words in problems_of(hidden)


KNOWN = sorted(set(option for options in tpamconfig.OPTIONS.values() for option in options or ()))


def ca_cert_problems(text):
    """The problems of a ca_cert that is followed by this text, indented."""
    return problems_of('[tpam]\nserver=x\nusername=x\npassword=x\n[tls]\nca_cert=%s' % (
        (CA + text).strip().replace('\n', '\n ') + '\n'))


@pytest.mark.parametrize('rest', [
    'server_fingerprint: sha256:' + 64 * '0', '\tserver_fingerprint : x', 'Server_Fingerprint:x',
    'server_fingerprint:', 'check_host_name: yes', 'Subject: CN = tpam\nserver_fingerprint: x',
])
def test_an_option_with_a_colon_that_hides_behind_pem_is_refused(rest):
    assert ca_cert_problems(rest) == ['[tls] ca_cert (line 6): ' + HIDDEN]


@pytest.mark.parametrize('rest', [
    'server-fingerprint=sha256:%s', 'server-fingerprint: sha256:%s', 'Server-Fingerprint = %s',
    'server_fingerprnt: sha256:%s', 'server_fingerprint sha256:%s', 'sha256:%s', 'pin=sha256:%s',
    'SHA256:%s', 'check-host-name=%s', 'force-reset =%s',
])
def test_anything_like_an_option_that_hides_behind_pem_is_refused(rest):
    """Taken for text of openssl, a pin would not be looked at."""
    rest = rest % (64 * '0')
    for indent in ('', '    '):
        assert ca_cert_problems(indent + rest) == ['[tls] ca_cert (line 6): ' + ONLY_PEM]


DATES = 'notBefore=Nov 24 08:00:00 2025 GMT\nnotAfter=Nov 24 08:00:00 2035 GMT\n'


def test_dates_around_a_pem_are_not_to_be_pasted_wherever_they_stand():
    """openssl x509 -dates prints them."""
    assert ca_cert_problems(DATES) == ['[tls] ca_cert (line 6): ' + ONLY_PEM]
    assert option_problems('tls', 'ca_cert', DATES + CA)[0].endswith(ONLY_PEM)
    found = problems_of(configuration(**whole(tls={'ca_cert': None})) + '[tls]\nca_cert=' + DATES + CA)
    assert [problem for problem in found
            if 'text in front of a PEM: paste only the lines from BEGIN to END' in problem]


def test_every_known_option_is_found_behind_pem():
    missed = [option for option in KNOWN for mark in ('=', ':', ' : ')
              if not ca_cert_problems(option + mark + 'x')]
    assert missed == []


def test_an_option_with_a_colon_is_found_between_two_certificates_and_in_front_of_them():
    for text in (CA + 'server_fingerprint: x\n' + CA, 'server_fingerprint: x\n' + CA):
        whole_text = with_option('tls', 'ca_cert', text)
        assert problems_of(whole_text) == ['%s: %s' % (place(whole_text, 'tls', 'ca_cert'), HIDDEN)]


def test_an_option_that_hides_inside_a_pem_is_found_and_read_if_it_is_not_indented():
    lines = CA.strip().split('\n')
    for option in ('enabled=no', 'check_host_name : no'):
        inside = '\n'.join(lines[:-1] + [option] + lines[-1:])
        assert HIDDEN in option_problems('tls', 'ca_cert', inside)[0]
        found, problems = tpamconfig.read_configuration('[tls]\nca_cert=' + inside + '\n')
        assert not found['tls'][re.match('[a-z_]+', option).group()]
        assert problems


@pytest.mark.parametrize('text', [
    'Subject: C = DE, CN = tpam', 'Bag Attributes', 'Bag Attributes: <No Attributes>',
    '    friendlyName: tpam', '    localKeyID: 01 02 ', 'Key Attributes: <No Attributes>',
    'Certificate:\n    Data:', 'Version: 3 (0x2)', 'Serial Number: 1', 'Issuer: CN = CA',
    'Validity', 'Not Before: Nov 24 08:00:00 2025 GMT', 'Exponent: 65537 (0x10001)',
    'Signature Algorithm: sha256WithRSAEncryption', 'Public Key Algorithm: rsaEncryption',
    'X509v3 Basic Constraints: critical\n    CA:TRUE', 'DNS:tpam.example.com, IP Address:10.0.0.1',
    '00:b5:1f:aa', ' 0 s:CN = tpam\n   i:CN = CA', 'subject=/CN=tpam', '# a comment: server'])
def test_text_that_openssl_writes_around_pem_is_harmless(text):
    assert option_problems('tls', 'ca_cert', text + '\n' + CA) == []
    assert option_problems('tls', 'ca_cert', CA + text) == []


S_CLIENT = """CONNECTED(00000003)
depth=1 O = TPAM test, CN = TPAM test CA
verify error:num=19:self signed certificate in certificate chain
verify return:0
---
Certificate chain
 0 s:/O=TPAM test/CN=good
   i:/O=TPAM test/CN=TPAM test CA
%s---
Server certificate
subject=/O=TPAM test/CN=good
issuer=/O=TPAM test/CN=TPAM test CA
---
No client certificate CA names sent
---
SSL handshake has read 2391 bytes and written 430 bytes
---
New, TLSv1/SSLv3, Cipher is AES256-SHA
Server public key is 2048 bit
Secure Renegotiation IS supported
Compression: NONE
Expansion: NONE
SSL-Session:
    Protocol  : TLSv1
    Cipher    : AES256-SHA
    Session-ID: 8A4F00B5
    Session-ID-ctx:
    Master-Key: 5F1E00
    Key-Arg   : None
    TLS session ticket lifetime hint: 300 (seconds)
    TLS session ticket:
    0000 - 5b 74 6c 73 5d 3d 00 11-22 33 44 55 66 77 88 99   [tls]=.."3DUfw..
    Start Time: 1764000000
    Timeout   : 300 (sec)
    Verify return code: 19 (self signed certificate in certificate chain)
---
DONE
"""


def test_the_whole_output_of_openssl_s_client_is_a_ca_certificate():
    assert option_problems('tls', 'ca_cert', S_CLIENT % CA) == []
    assert option_problems('tls', 'ca_cert', S_CLIENT % (CA + certificate('client-ca'))) == []


def test_a_connection_is_verified_with_the_output_of_openssl_s_client(world):
    played = world.session(tls={'ca_cert': S_CLIENT % CA})
    assert played.call('get_password_list').credentials == [PASSWORD]


def test_a_password_behind_the_name_of_its_option_or_on_a_line_alone_is_not_repeated():
    for line in ('password Tr0ub4dor=3', 'password\tTr0ub4dor=3', 'Tr0ub4dor=3', 'Tr0ub4dor:3', '[Tr0ub4dor'):
        assert not [problem for problem in problems_of('[tpam]\n%s\n' % line) if 'tr0ub' in problem.lower()]


def test_an_indented_line_before_the_first_option_of_a_section_is_named():
    assert problems_of('[logging]\n log_level=info\n' + configuration(**whole())) == [UNREADABLE % '2']


# ---- PEM as people paste it

@pytest.mark.parametrize('indent', ['', ' ', '\t  '])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\n\n', '\n \n', '\n; a comment\n'])
@pytest.mark.parametrize('begin', ['client_cert=', 'client_cert =  ', 'client_cert=\n'])
def test_pem_may_be_pasted_with_and_without_indentation_and_with_blank_lines(begin, end, indent):
    lines = CLIENT.strip().split('\n')
    text = (configuration(**whole()) + '[tls]\n' + begin + (end + indent).join(lines) + '\ncheck_host_name=no\n')
    found = settings_of(text)['tls']
    assert found['client_cert'].strip() == CLIENT.strip()
    assert found['check_host_name'] is False


def test_pem_of_which_only_some_lines_are_indented_is_taken():
    lines = ['%s%s' % (' ' * (number % 2), line) for number, line in enumerate(CA.strip().split('\n'))]
    assert settings_of('[tls]\nca_cert=' + '\n'.join(lines) + '\n' + configuration(
        **whole(tls={'ca_cert': None})))['tls']['ca_cert'] == CA.strip()


def test_several_pasted_certificates_are_one_value():
    text = configuration(**whole(tls={'ca_cert': None})) + '[tls]\nca_cert=' + CA + certificate('client-ca')
    assert settings_of(text)['tls']['ca_cert'] == (CA + certificate('client-ca')).strip()


def test_the_lines_behind_a_pem_are_numbered_as_they_are_written():
    text = '[tls]\nca_cert=' + CA.replace('\n', '\n\n') + 'protocol=x\n'
    assert '[tls] protocol (line %d): must be one of tlsv1, negotiate' % text.count('\n') in problems_of(text)


# ---- PEM that is still commented out, as in default.cfg

COMMENTED = 'has a ; or # in front of it; remove that'


@pytest.mark.parametrize('front', ['; ', ';', '# ', '#\t'])
@pytest.mark.parametrize('begin', ['ca_cert=', 'ca_cert = ', 'ca_cert=\n', 'CA_cert: '])
def test_a_comment_in_front_of_a_pasted_pem_is_named_and_nothing_else(front, begin):
    text = configuration(**whole(tls={'ca_cert': None})) + '[tls]\n' + front + begin + CA + 'check_host_name=no\n'
    line = text[:text.lower().index('ca_cert')].count('\n') + 1
    assert problems_of(text) == ['[tls] ca_cert (line %d): %s' % (line, COMMENTED)]
    assert tpamconfig.read_configuration(text)[0]['tls']['check_host_name'] is False


def test_a_comment_in_front_of_a_key_shows_no_line_of_it():
    for indent in ('', ' '):
        text = configuration(**whole()) + '[tls]\n; client_cert=' + CLIENT.replace('\n', '\n' + indent)
        problem, = problems_of(text)
        assert problem.startswith('[tls] client_cert (line ') and problem.endswith(COMMENTED)


def test_a_pem_below_a_comment_that_is_no_option_is_not_taken_for_one():
    text = configuration(**whole()) + '[tls]\n# the CA of : -----BEGIN CERTIFICATE-----\n' + CA.partition('\n')[2]
    assert not [problem for problem in problems_of(text) if COMMENTED in problem]


def test_a_pem_that_is_a_comment_in_all_of_its_lines_is_a_comment():
    for front in ('; ', '#'):
        text = configuration(**whole()) + '[tls]\n%sclient_cert=' % front + CLIENT.strip().replace('\n', '\n' + front)
        assert settings_of(text + '\ncheck_host_name=no\n')['tls']['check_host_name'] is False
    assert settings_of(configuration(**whole()) + '; client_cert=-----BEGIN CERTIFICATE----- and so on\n')


DAMAGED = {
    'without its END': lambda pem: pem.replace('-----END', '----END'),
    'without its BEGIN': lambda pem: pem.replace('-----BEGIN', '----BEGIN'),
    'cut off': lambda pem: pem[:len(pem) // 2],
    'without dashes': lambda pem: pem.replace('-', ''),
}


@pytest.mark.parametrize('damage', sorted(DAMAGED))
def test_no_line_of_a_damaged_pem_is_repeated_and_no_option_behind_it_is_lost(damage):
    pem = DAMAGED[damage](KEY)
    text = '[tls]\nclient_cert=' + pem + '\nserver_fingerprint=sha256:0\n[tpam]\ntimeout=0\n'
    found = '\n'.join(problems_of(text))
    key = [line.lower() for line in pem.splitlines() if line and 'KEY' not in line]
    assert len(key) > 10 and not [line for line in key if line in found.lower()]
    assert '[tls] client_cert (line 2): must be PEM: ' in found
    assert '[tls] server_fingerprint (line ' in found and '[tpam] timeout (line ' in found


@pytest.mark.parametrize('end', ['', '-----END'])
def test_a_line_of_a_key_that_lost_its_indentation_is_not_shown_as_an_unknown_option(end):
    """Without the END, too: nothing but its indentation made the line a part of the key."""
    text = with_option('tls', 'client_cert', CLIENT)
    if end:
        text = text.replace(end, '')
    lines = text.split('\n')
    secret = [line.strip().lower() for line in KEY.splitlines() if 'KEY' not in line]
    for number, line in enumerate(lines):
        if line.strip().lower() not in secret:
            continue
        changed = lines[:number] + [line.strip()] + lines[number + 1:]
        found = '\n'.join(problems_of('\n'.join(changed))).lower()
        assert line.strip().lower().partition('=')[0] not in found


def test_no_unknown_option_is_shown():
    for name in ('fWpTESitC3Zu5sHYe/f6/NU', 'Tr0ub4dor', 'Tr0ub4dor&3 x'):
        text = configuration(**whole()) + '[tls]\n%s=\n[account]\n%s: x\n' % (name, name)
        found = problems_of(text)
        assert len(found) == 2
        assert name.lower() not in '\n'.join(found).lower()


def test_an_option_behind_a_pem_without_end_is_not_taken_for_a_part_of_the_next_pem():
    cut = CA.strip().rpartition('\n')[0].replace('\n', '\n ')
    text = '[tls]\nca_cert=' + cut + '\nenabled=no\nclient_cert=' + CLIENT
    found, problems = tpamconfig.read_configuration(text)
    assert found['tls']['enabled'] is False
    assert [problem for problem in problems if 'ca_cert' in problem] == [
        '[tls] ca_cert (line 2): ' + NO_PEM % 'CERTIFICATE']


def test_a_password_that_looks_like_the_beginning_of_a_pem_ends_with_its_line():
    text = configuration(**whole(tpam={'password': '-----BEGIN x-----', 'system_prefix': '-----END '}))
    assert settings_of(text)['tpam']['password'] == '-----BEGIN x-----'


@pytest.mark.parametrize('text', [b'[tpam]\npassword=geh\xe4im\n', b'\xff\xfe[\0t\0p\0a\0m\0]\0'])
def test_text_that_is_not_utf_8_is_told_so(text):
    assert problems_of(text) == ['The configuration is not UTF-8 text']


# ---- all of them

def test_all_problems_of_a_text_are_told_at_once_in_the_order_of_their_lines():
    text = """geheim
[tpam]
pasword=x
timeout=0
authorization=policy
timeout=1
geheim
[tls]
ca_cert=x
; a comment
protocol=
[tpma]
a=1
[request]
 poll_interval=1
poll_interval=1
[lgging]
geheim
"""
    assert problems_of(text) == [
        OUTSIDE % '1',
        '[tpam] (line 3): unknown option; did you mean password?',
        '[tpam] timeout (line 4): ' + SECONDS % 1,
        '[tpam] timeout (line 6): is given in line 4 already; leave one of them out',
        UNREADABLE % '7, 15, 18',
        '[tls] ca_cert (line 9): ' + NO_PEM % 'CERTIFICATE',
        '[tls] protocol (line 11): ' + ONE_OF + 'tlsv1, negotiate',
        'Unknown section in line 12; did you mean tpam?',
        'Unknown section in line 17; did you mean logging?',
        MISSING[0], MISSING[2],
        '[tpam] required_policy: missing; the policy that authorization=policy asks for',
        '[request] poll_interval (line 16): has an effect only with [tpam] authorization=request; set '
        'authorization=request, or remove this option',
    ]


LINES = some.one_of(
    some.text(max_size=20),
    some.sampled_from(sorted('[%s]' % section for section in tpamconfig.OPTIONS)),
    some.builds('{0}{1}{2}{3}'.format, some.sampled_from(['', ' ', '\t']),
                some.sampled_from(sorted(set(option for options in tpamconfig.OPTIONS.values() for option in options))),
                some.sampled_from(['=', ':', ' = ', '']), some.text(max_size=10)),
    some.sampled_from(CLIENT.splitlines()))
TEXTS = some.one_of(some.text(), some.binary(), some.builds('\n'.join, some.lists(LINES)),
                    some.builds(lambda lines: '\r\n'.join(lines).encode('utf-8', 'replace'), some.lists(LINES)))


@given(TEXTS)
@settings(max_examples=300)
def test_any_text_ends_with_whole_settings_and_problems(text):
    found, problems = tpamconfig.read_configuration(text)
    for section, options in tpamconfig.OPTIONS.items():
        assert set(options) <= set(found[section])
    assert all(isinstance(problem, type('')) and problem for problem in problems)
    assert '\n' not in ''.join(problems)


def test_no_problem_repeats_a_value():
    secret = 'geheim-и-密'
    for value in (secret, 'x\n' + secret, secret + ':' + secret + '@x', '-----BEGIN ' + secret):
        text = ''.join('[%s]\n%s\nx=%s\n' % (
            section, '\n'.join('%s=%s' % (option, value.replace('\n', '\n ')) for option in sorted(options or ['a'])),
            value.replace('\n', '\n ')) for section, options in sorted(tpamconfig.OPTIONS.items()))
        found = problems_of(text)
        assert len(found) > 30
        assert secret not in '\n'.join(found)


def test_every_hook_tells_all_of_it_and_asks_nobody(world):
    sections = world.sections(tpam={'timeout': '0', 'pasword': 'x'}, logging={'log_level': 'loud'})
    sps = world.sps(text=configuration(**sections))
    result = sps.call('get_password_list', {'server_username': 'root', 'server_ip': '10.0.0.5', 'session_id': 's'})
    lines = [line for line in result.lines if line.startswith('ERROR')]
    assert names(line.split(': ', 1)[1] for line in lines) == ['[logging] log_level', '[tpam]', '[tpam] timeout']
    assert result.raised['message'] in [line[len('ERROR '):].partition("; session_id='s'")[0] for line in lines]
    assert world.server.connections == 0


# ---- values come through as they are written

ODD = ['%(x)s %% 100%', 'a=b==', ': a : b', '; a ; b', '# a # b', '"', '""', "'quoted'", '"quoted"', 'a  b\tc',
       'é密\U0001f511', '\xa0nbsp\xa0', '\u3000wide\u3000', '\x85next\u2028line\u2029', '\ufeffbom', '[section]',
       'rem x', '\\n', '${x}', 'a\x0bb\x0c', '\x1cfs\x1f', '--', '=', ';', '#']


@pytest.mark.parametrize('value', ODD)
def test_a_value_is_taken_as_it_is_written(value):
    assert settings_of(configuration(**whole(tpam={'password': value})))['tpam']['password'] == value


def test_odd_values_reach_the_server_as_they_are_written(world):
    tpam = {'username': '\xa0;s p#s%(x)s"密', 'system_name_resolver': 'hostname', 'system_prefix': ' '.join(ODD[:8])}
    account = {'prefix': '\xa0"; ' + ODD[0], 'suffix': ' '.join(ODD[9:13]) + '\xa0'}
    request = {'reason_code': '""'}
    world.tpam.add_user(tpam['username'], API_PASSWORD)
    world.tpam.add_reason_code(request['reason_code'])
    world.tpam.add_system(tpam['system_prefix'] + 'WEB01')
    world.tpam.add_account(tpam['system_prefix'] + 'WEB01', account['prefix'] + 'root' + account['suffix'], PASSWORD)
    session = world.session(tpam=tpam, account=account, request=request)
    assert session.call('get_password_list').credentials == [PASSWORD]
    entry, = world.tpam.audit
    assert entry.user == tpam['username']


@given(some.text(some.characters(blacklist_categories=('Cs',), blacklist_characters='\r\n\0'), min_size=1, max_size=40))
@settings(max_examples=150)
def test_any_value_is_taken_as_it_is_written(value):
    value = re.sub('[\ufdd0-\ufdef]', 'x', value).strip(' \t')
    if value and not re.match('\\$(\\[.*\\])?$', value):
        assert settings_of(configuration(**whole(tpam={'password': value})))['tpam']['password'] == value


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_lines_may_end_in_any_way_and_pem_may_be_indented_by_any_space(end):
    text = configuration(**whole()).replace('\n ', '\n\t  ').replace('\n', end)
    assert settings_of('\ufeff' + text)['tls']['ca_cert'] == CA.strip()
    assert settings_of(text.encode('utf-8'))['tpam']['username'] == 'sps'


def test_comments_and_blank_lines_end_nothing():
    text = '# a\n[tpam]\n; b = c\nserver=x\n\n# d\nusername=sps\npassword=x\n[tls]\nca_cert=' + CA.replace(
        '\n', '\n\n; comment\n ')
    assert re.sub('\n+', '\n', settings_of(text.rstrip(' ') + '\n')['tls']['ca_cert']) == CA.strip()


def test_servers_are_named_in_every_way():
    text = configuration(**whole(tpam={
        'server': 'a, b:8443\t10.0.0.1:1,,10.0.0.2 [fd00::1]:2 fd00::2, srv:_tpam._tcp.example.com'}))
    assert settings_of(text)['tpam']['server'] == [
        ('a', None), ('b', 8443), ('10.0.0.1', 1), ('10.0.0.2', None), ('fd00::1', 2), ('fd00::2', None),
        ('srv:_tpam._tcp.example.com', None)]


@pytest.mark.parametrize('value, host', [
    ('proxy.example.com', 'proxy.example.com'), ('10.0.0.1', '10.0.0.1'), ('fd00::1', 'fd00::1'),
    ('[fd00::1]', 'fd00::1')])
def test_a_proxy_is_named_by_its_name_or_address(value, host):
    found = settings_of(configuration(**whole(https_proxy={'server': value})))
    assert found['https-proxy']['server'] == (host, None)


def test_choices_and_names_of_options_know_no_case():
    found = settings_of(configuration(**whole(tpam={'Authorization': 'APPROVAL', 'SYSTEM_MAPTOREAL': 'Yes'},
                                              domain_asset_mapping={'EXAMPLE.com': 'Web01'})))
    assert (found['tpam']['authorization'], found['tpam']['system_maptoreal']) == ('approval', True)
    assert found['domain_asset_mapping'] == {'example.com': 'Web01'}


def test_several_ca_certificates_and_text_around_them_are_taken():
    text = 'Bag Attributes: x\n' + CA + 'subject=/CN=y\n' + certificate('client-ca')
    assert settings_of(configuration(**whole(tls={'ca_cert': text})))['tls']['ca_cert'] == text.strip()


# ---- default.cfg

DEFAULT_CFG = read('../default.cfg')


def test_default_cfg_as_it_is_sets_nothing(world):
    assert tpamconfig.read_configuration(DEFAULT_CFG) == tpamconfig.read_configuration('')
    result = world.sps(text=DEFAULT_CFG).call('session_ended', {})
    assert result.lines == ["ERROR Wrong configuration: %s; session_id=''" % problem for problem in MISSING]


def documented():
    """-> [(section, option, value)] of the lines "; option=value" of default.cfg."""
    section = None
    for line in DEFAULT_CFG.splitlines():
        section = line.strip('[]') if line.startswith('[') else section
        option = re.match('; ([a-z_.]+)=(.*)', line)
        if option:
            yield section, option.group(1), option.group(2)


def test_default_cfg_documents_every_option_with_its_default():
    shown = dict(((section, option), value) for section, option, value in documented())
    for section, options in tpamconfig.OPTIONS.items():
        for option, (parse, default) in (options or {}).items():
            if section == 'check-in-trigger' and option in tpamconfig.PROTOCOLS:
                assert re.search(r'\b%s\b' % option, DEFAULT_CFG.partition('[check-in-trigger]')[2]), option
                continue
            value = shown.pop((section, option))
            if default in (None, '', []):
                assert re.match('<.+>|.*<.+>|-----BEGIN', value), option
            else:
                assert parse(value) == default, option
    assert sorted(shown) == [('check-in-trigger', 'ssh'), ('domain_asset_mapping', 'example.com')]


def test_default_cfg_is_as_small_as_sps_demands():
    assert len(DEFAULT_CFG.encode('utf-8')) <= 10240


# ---- domains

@pytest.mark.parametrize('option', ['gateway_domains', 'system_domains'])
@pytest.mark.parametrize('value', [
    'CORP ; PARTNER has left', 'CORP # x', 'CORP system_domains=example.com', 'CORP:', 'CORP\\jdoe',
    'jdoe@CORP', '*.example.com', '"CORP"', '(CORP)'])
def test_a_list_of_domains_takes_nothing_else(option, value):
    problem, = problems_of(with_option('tpam', option, value))
    assert 'must contain only domain names' in problem
