# -*- coding: utf-8 -*-
"""Whatever is read from outside, each parser ends with a value or with an error class of the plugin.

Random changes are made to texts that are right: a parser gets further into those than into noise.
"""
from __future__ import unicode_literals

import json
import os
import socket
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import bad_server
import fake_dns
import main
import sshkey
import test_policy
import tpamcall
import tpamcert
import tpamclient
import tpamconfig
import tpamerrors
import tpamhttp
import tpamlog
from conftest import API_PASSWORD, HERE, certificate, configuration
from test_policy import BY_REQUEST, asking, session
from test_transport import der

quick = test_policy.quick  # the fixture

some_examples = settings(max_examples=150, deadline=None, database=None)
few_examples = settings(max_examples=50, deadline=None, database=None)

PIECES = [b'', b'\0', b'\xff', b'\r\n', b'\n\n', b' ', b'<', b'>', b'&', b'=', b'-', b'-----', b'0', b'999999999',
          b'\x80', b'\x30\x80', b'\x7f\xff\xff\xff', b'<value>', b'</struct>', b'[tpam]\n', b'chunked', b'\xc3\xa9']


def damaged(*originals):
    """A strategy: one of these bytes with up to four parts of it left out, repeated or replaced."""
    edit = some.tuples(some.integers(0, 10 ** 9), some.integers(0, 60), some.integers(0, 2),
                       some.one_of(some.sampled_from(PIECES), some.binary(max_size=8)))
    return some.builds(_edited, some.sampled_from(originals), some.lists(edit, max_size=4))


def _edited(octets, edits):
    for at, length, times, piece in edits:
        at %= len(octets) + 1
        part = octets[at:at + length]
        octets = octets[:at] + part * times + piece + octets[at + length:]
    return octets


# ---- the configuration

SECTIONS = {
    'tpam': {'server': 'tpam.example.test:8443, [fd00::1]:9, srv:_tpam._tcp.example.test', 'username': 'sps',
             'password': 'x', 'timeout': '60', 'authorization': 'request', 'system_domains': 'example.test, a.test',
             'system_name_resolver': 'tpam, dns'},
    'request': {'approval_timeout': '10', 'release_duration': '60'},
    'tls': {'ca_cert': certificate('ca'), 'client_cert': certificate('client'),
            'server_fingerprint': 'sha256:' + 64 * 'a'},
    'https_proxy': {'server': 'proxy.test', 'port': '3128'},
    'domain_asset_mapping': {'example.test': 'WEB01'},
    'check_in': {'force_reset': 'yes'},
}
CONFIGURATION = configuration(**SECTIONS).encode('utf-8')


def test_the_configuration_that_is_damaged_here_is_right():
    assert tpamconfig.read_configuration(CONFIGURATION)[1] == []


@given(damaged(CONFIGURATION))
@some_examples
def test_a_damaged_configuration_ends_with_settings_that_hooks_can_read_and_one_line_for_each_problem(text):
    found, problems = tpamconfig.read_configuration(text)
    for section, options in tpamconfig.OPTIONS.items():
        assert set(options) <= set(found[section])
    for problem in problems:
        assert isinstance(problem, type('')) and problem
        assert '\n' not in problem


def test_with_a_damaged_configuration_no_session_ends_with_an_exception():
    @given(damaged(CONFIGURATION))
    @few_examples
    def check(text):
        assert main.Plugin(text).session_ended(session_id='1') is None
    check()


# ---- what a server answers

ROWS = bad_server.struct(bad_server.DONE, bad_server.member('message', '<string>2 rows</string>'),
                         bad_server.member('count', '<int>2</int>'),
                         bad_server.member('rows', bad_server.array(*2 * [bad_server.struct(
                             bad_server.member('RequestID', '<i8>7</i8>'), bad_server.member('Note', '<nil/>'),
                             bad_server.member('Data', '<base64>w6k=</base64>'), bad_server.member('Bare', 'x'),
                             bad_server.member('Is', '<boolean>1</boolean>'),
                             bad_server.member('At', '<double>1.5</double>'))])))
BODIES = [text.encode('utf-8') for text in (
    bad_server.GOOD, bad_server.response(ROWS), bad_server.response(bad_server.REFUSED),
    bad_server.fault(bad_server.member('faultCode', '<int>4</int>'),
                     bad_server.member('faultString', '<string>n\xf6</string>')))]


@given(some.one_of(damaged(*BODIES), some.binary(max_size=60)))
@some_examples
def test_any_body_is_an_answer_or_a_refusal_or_no_answer(body):
    try:
        answer = tpamclient.decode_result(body)
    except tpamerrors.TpamRefused as refusal:
        assert isinstance(refusal.message, type(''))
    except tpamerrors.BadAnswer:
        pass
    else:
        assert answer['returnCode'] == 0
        assert isinstance(answer['message'], type(''))


ANSWERS = [answer.replace(b'Connection: close', b'Connection: keep-alive') for name, answer in sorted(
    bad_server.ANSWERS.items()) if name in ('good', 'chunked', 'http_100_continue', 'status_401', 'gzip')]


@pytest.fixture
def answering():
    """A server without TLS: (its port, a list whose one element is its answer to everything)."""
    answer = [b'']

    def behave(connection):
        bad_server.read_request(connection)
        connection.sendall(answer[0])
    with bad_server.Server(behave) as server:
        yield server.port, answer


def test_any_answer_gives_a_credential_or_an_error_of_the_plugin(answering):
    port, answer = answering
    connection = {'servers': [('127.0.0.1', port)], 'path': '/RPC2', 'method_prefix': '', 'credential': ('sps', 'x'),
                  'connect_timeout': 10, 'proxy': None, 'tls': None}

    @given(damaged(*ANSWERS))
    @some_examples
    def check(octets):
        answer[0] = octets
        asked = tpamclient.TpamClient(connection, tpamerrors.Deadline(20), lambda failure: None)
        try:
            with closing(asked):
                assert isinstance(asked.retrieve(SystemName='WEB01', AccountName='root'), type(''))
        except tpamerrors.TpamError as error:
            assert API_PASSWORD not in tpamerrors.describe(error.message, **error.fields())
    check()


@given(damaged(b'HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n', *ANSWERS))
@some_examples
def test_any_answer_of_a_proxy_is_a_connection_or_a_reason_or_an_error_of_the_wire(octets):
    near, far = socket.socketpair()
    with closing(near), closing(far):
        far.sendall(octets)
        far.shutdown(socket.SHUT_WR)
        wire = tpamhttp.Wire(near, tpamerrors.Deadline(20), tpamhttp.MAX_HEADERS)
        try:
            reason = tpamhttp.connect(wire, 'tpam.example.test:443', {})
        except (EnvironmentError, tpamerrors.TpamTimeout):
            return
        assert reason is None or isinstance(reason, type(''))


# ---- certificates

CERTIFICATES = [der(name) for name in ('good', 'ip-san', 'san-first', 'cn-only', 'nul-in-san', 'empty-san', 'wildcard')]


@given(damaged(*CERTIFICATES))
@some_examples
def test_a_damaged_certificate_is_no_certificate_or_has_names_and_dates_that_can_be_shown(octets):
    try:
        peer = tpamcert.certificate(octets)
    except ValueError:
        return
    peer['sha256'] = tpamcert.fingerprint(octets)
    assert all(isinstance(name, type('')) for name in tpamcert.names_of(peer))
    assert tpamcert.matches(peer, 'localhost') in (True, False)
    assert tpamcert.matches(peer, '127.0.0.1') in (True, False)
    assert tpamcert.tls_remedy(peer, '')
    assert tpamerrors.describe('x', **tpamcert.shown(peer))


# ---- private keys

def stored(name):
    with open(os.path.join(HERE, 'keys', name), 'rb') as content:
        return content.read()


KEYS = [stored(name) for name in ('dsa-1024-160.pem', 'dsa-1024-160.pkcs8', 'dsa-1024-160.openssh', 'rsa-3072.pem',
                                  'rsa-3072.openssh', 'rsa-3072.ppk')]
KEYS += [b'\n'.join(KEYS[:2])]


@given(some.one_of(damaged(*KEYS), some.binary(max_size=60)))
@some_examples
def test_a_damaged_key_cannot_be_used_or_is_a_key_that_is_read_again_as_it_is(octets):
    try:
        keys = sshkey.private_keys(octets)
    except sshkey.UnusableKey as reason:
        assert '\n' not in str(reason)
        return
    assert keys
    for key in keys:
        assert sshkey.private_keys(key[1]) == [key]


# ---- cookies

SCALARS = some.one_of(some.none(), some.booleans(), some.integers(-2 ** 70, 2 ** 70),
                      some.floats(allow_nan=False, allow_infinity=False),
                      some.text(some.characters(blacklist_categories=('Cs',)), max_size=10))
JSON = some.recursive(SCALARS, lambda inner: some.one_of(
    some.lists(inner, max_size=3), some.dictionaries(some.text(max_size=5), inner, max_size=3)), max_leaves=6)


def parts(**values):
    """A strategy: a dict with any of these names, whose values are of these strategies or any JSON."""
    pairs = [some.tuples(some.just(name), some.one_of(value, JSON)) for name, value in sorted(values.items())]
    return some.lists(some.one_of(*pairs), max_size=8).map(dict)


CHECK_OUTS = parts(
    command=some.sampled_from(tpamcall.COMMANDS), system=some.just('WEB01'), account=some.just('root'),
    user=some.just('jdoe'), request=some.sampled_from(['1001', '7', None, 9]), pending=some.booleans(),
    tried=some.booleans(), resubmitted=some.booleans(), server=some.just(''))
OURS = parts(
    open=some.lists(CHECK_OUTS, max_size=3), hooks=some.just(['get_password_list']), given=some.integers(0, 9),
    returned=some.integers(0, 9), unknown=some.integers(0, 9), denied=some.just({'jdoe/web01/root': 'no'}),
    names=some.just({}), keyless=some.just(''), server=some.just('localhost:1'), user=some.just('jdoe'),
    mode=some.just('request'), account=some.just('root'), system=some.just('WEB01'), request=some.just('1001'))
COOKIES = some.one_of(JSON, some.fixed_dictionaries({tpamcall.COOKIE_KEY: some.one_of(OURS, JSON)}))


@given(COOKIES)
@some_examples
def test_any_cookie_gives_a_whole_state_that_json_can_carry(cookie):
    state, unreadable = tpamcall.read_cookie(json.loads(json.dumps(cookie)))
    assert set(tpamcall.read_cookie(None)[0]) <= set(state)
    assert all(entry['command'] in tpamcall.COMMANDS for entry in state['open'])
    assert all(isinstance(part, dict) for part in unreadable)
    json.dumps(state)


def test_with_any_cookie_hooks_end_as_the_guide_says(quick):
    @given(COOKIES)
    @few_examples
    def check(cookie):
        for hook in ('get_password_list', 'session_ended'):
            result = session(quick, tpam=dict(BY_REQUEST, timeout='9')).call(hook, cookie=cookie)
            assert 'Unexpected failure' not in result.log
            assert result.raised is None or 'TpamError' in result.raised['type']
            assert result.raised is None or hook != 'session_ended'
            assert result.violations == []
    check()


# ---- DNS

class DamagedDns(fake_dns.FakeDns):
    """A name server whose answers are changed, but for the id that tells what they answer."""

    change = staticmethod(lambda octets: octets)

    def _answer(self, query):
        self._octets = fake_dns.FakeDns._answer(self, query).to_wire()
        return self

    def to_wire(self):
        return self._octets[:2] + self.change(self._octets[2:])


EDITS = some.lists(some.tuples(some.integers(0, 200), some.integers(0, 8), some.integers(0, 2),
                               some.binary(max_size=4)), max_size=3)
SERVICE = '_tpam._tcp.example.test'


def test_any_answer_of_dns_names_servers_or_is_an_error_of_the_plugin(monkeypatch):
    names = DamagedDns({(SERVICE + '.', 'SRV'): ['10 5 443 a.example.test.', '20 0 8443 b.example.test.']})

    @given(EDITS)
    @settings(few_examples, max_examples=25)
    def check(edits):
        names.change = lambda octets: _edited(octets, edits)
        try:
            found, refused = tpamclient.service_addresses(SERVICE, False, tpamerrors.Deadline(0.1))
        except (tpamerrors.TpamUnavailable, tpamerrors.TpamTimeout):
            return
        for host, port in found:
            assert tpamcert.is_in_domain(host, 'example.test')
            assert 0 <= port <= 65535
        assert all(isinstance(failure, tpamerrors.TpamUnavailable) for failure in refused)
    with asking(names, monkeypatch):
        check()


# ---- the log

TEXT = some.text(max_size=30)


@given(some.lists(some.text(some.characters(blacklist_categories=('Cs',), blacklist_characters='*'), min_size=4,
                            max_size=80), min_size=1, max_size=3), some.lists(TEXT, min_size=2, max_size=4))
@some_examples
def test_no_line_of_the_log_has_a_secret_or_a_second_line_in_it(secrets, texts):
    log = tpamlog.Log('info', '1')
    for secret in secrets:
        log.add_secret(secret)
    for secret in secrets:
        masked = log.masked(secret.join(texts))
        assert secret not in masked
        assert len(log.line('x', value=secret.join(texts)).splitlines()) == 1
