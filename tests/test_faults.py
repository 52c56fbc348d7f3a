# -*- coding: utf-8 -*-
"""What comes of every bad server and every bad certificate, end to end; docs/faults.md is the table of it.

All of them are tried once for each interpreter, several at a time; the tests look at what was found. With
UPDATE_DOCS=1 in the environment the table is written anew: look at what changed in it.
"""
from __future__ import unicode_literals

import collections
import contextlib
import hashlib
import io
import multiprocessing.pool
import os
import re
import shutil
import ssl
import tempfile
import warnings

import pytest

import bad_server
from certs import make
from conftest import API_PASSWORD, HERE, PYTHONS, SLACK, World, certificate, configuration

TABLE = os.path.join(os.path.dirname(HERE), 'docs', 'faults.md')
# s, as configured for servers that have to be waited for: (connect_timeout, timeout)
UNCONNECTED, UNANSWERED = (2, 60), (60, 5)
LOCALHOST = ('localhost', '127.0.0.1', '[::1]')

# One thing that is tried. title: what it is; gives: whether the password may come out; behaviour: of bad_server;
# certificate: the server's; host: what the configuration calls the server; client_ca: issues the client certificates
# that it asks for; tls: options of that section.
Case = collections.namedtuple('Case', 'title gives behaviour certificate host client_ca tls')
# What came of it. connections, requests: as counted by the server; left: files in the plugin's TMPDIR.
Outcome = collections.namedtuple('Outcome', 'result connections requests left')


def case(title, gives, behaviour='good', certificate='good', host='localhost', client_ca=None, **tls):
    return Case(title, gives, behaviour, certificate, host, client_ca, tls)


def named(certificate, host, gives):
    return case('%s.pem' % certificate, gives, certificate=certificate, host=host)


def fingerprint(name):
    """`[tls] server_fingerprint` of a certificate."""
    der = ssl.PEM_cert_to_DER_cert(str(certificate(name).partition('-----BEGIN PRIVATE KEY')[0]))
    return 'sha256:' + hashlib.sha256(der).hexdigest()


FOR_LOCALHOST = ('good', 'chain', 'san-first', 'upper-case', 'trailing-dot', 'cn-only')
SECTIONS = (
    ('Servers that misbehave', [
        case(name.replace('_', ' '), name in bad_server.GOOD_BEHAVIOURS, behaviour=name)
        for name in bad_server.BEHAVIOURS]),
    ('Certificates of the server', [
        case('%s.pem: %s' % (name, make.CERTIFICATES[name]), name in FOR_LOCALHOST, certificate=name)
        for name in make.SERVERS]),
    ('Certificates and other names of the server', [
        named('good', '127.0.0.1', True),
        named('good', '[::1]', True),
        named('ip-san', '127.0.0.1', True),
        named('ip-san', '[::1]', True),
        named('ip-san-wrong', '127.0.0.1', False),
        named('ip-as-dns', '127.0.0.1', False),
        named('cn-only', '127.0.0.1', False),
        named('wildcard-for-ip', '127.0.0.1', False),
        named('wildcard-sole', '127.0.0.1', False),
        named('wildcard', 'web.example.test', True),
        named('wildcard', 'WEB.EXAMPLE.TEST', True),
        named('wildcard', 'a.web.example.test', False),
        named('wildcard', 'example.test', False),
        named('wildcard-two-labels', 'a.web.example.test', False),
        named('wildcard-partial', 'lab.example.test', False),
        named('punycode', 'xn--mnchen-3ya.example.test', True),
        named('good', 'localhost.', True),
    ]),
    ('Client certificates', [
        case('client.pem', True, client_ca='client-ca', client_cert=certificate('client')),
        case('none', False, client_ca='client-ca'),
        case('client-of-other-ca.pem', False, client_ca='client-ca', client_cert=certificate('client-of-other-ca')),
    ]),
    ('Options of [tls]', [
        case('other-ca.pem, ca_cert=other-ca-root.pem', True, certificate='other-ca',
             ca_cert=certificate('other-ca-root')),
        case('wrong-host.pem, check_host_name=no', True, certificate='wrong-host', check_host_name='no'),
        case('other-ca.pem, check_host_name=no', False, certificate='other-ca', check_host_name='no'),
        case('good.pem, server_fingerprint is its SHA-256', True, server_fingerprint=fingerprint('good')),
        case('good.pem, server_fingerprint is another SHA-256', False, server_fingerprint=fingerprint('chain')),
        case('expired.pem, server_fingerprint is its SHA-256', False, certificate='expired',
             server_fingerprint=fingerprint('expired')),
        case('self-signed.pem, no ca_cert, server_fingerprint is its SHA-256', True, certificate='self-signed',
             ca_cert=None, server_fingerprint=fingerprint('self-signed')),
        case('self-signed.pem, no ca_cert, server_fingerprint is another SHA-256', False, certificate='self-signed',
             ca_cert=None, server_fingerprint=fingerprint('good')),
    ]),
)
CASES = [each for _, cases in SECTIONS for each in cases]
WAITING = dict.fromkeys(('silent', 'half_handshake', 'unroutable'), UNCONNECTED)
WAITING.update(dict.fromkeys(('no_answer', 'dripping_headers', 'dripping_body', 'endless_chunks',
                              'lying_content_length_long'), UNANSWERED))


# ---- trying them ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module', params=PYTHONS)
def outcomes(request, plugin_zip):
    """What came of each of CASES on this interpreter, in that order."""
    world = World(request.param, plugin_zip)
    world.tpam.account('WEB01', 'root').password = bad_server.PASSWORD      # so that no log may show it
    pool = multiprocessing.pool.ThreadPool(4)
    try:
        return pool.map(lambda each: attempt(world, each), CASES, 1)
    finally:
        pool.terminate()


def attempt(world, case):
    directory = tempfile.mkdtemp()
    client_ca = case.client_ca and make.path(case.client_ca)
    connect_timeout, timeout = WAITING.get(case.behaviour, (60, 60))
    with contextlib.closing(Closing()) as open_until_then:
        server = open_until_then.enter(bad_server.serve(
            case.behaviour, make.path(case.certificate), client_ca, '::1' if case.host == '[::1]' else '127.0.0.1'))
        if client_ca:   # TLS 1.3 refuses a client certificate later than those that 2.6 knows: see test_transport.py
            without_tls_1_3(server)
        sections = {
            'tpam': {'server': '%s:%d' % (case.host, server.port), 'username': 'sps', 'password': API_PASSWORD,
                     'system_name_resolver': 'hostname', 'timeout': timeout, 'connect_timeout': connect_timeout},
            'tls': dict({'ca_cert': certificate('ca')}, **case.tls)}
        if case.host not in LOCALHOST:  # a name that only the proxy knows
            proxy = open_until_then.enter(bad_server.tunnel())
            sections['https_proxy'] = {'server': '127.0.0.1', 'port': proxy.port}
        # Python 3 then shows sockets and files that were left to the garbage collector.
        session = world.session(text=configuration(**sections),
                                environment={'TMPDIR': directory, 'PYTHONWARNINGS': 'default'})
        result = session.call('get_password_list')
        outcome = Outcome(result, server.connections, list(server.requests), os.listdir(directory))
    shutil.rmtree(directory)
    return outcome


def without_tls_1_3(server):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        server._context.options |= getattr(ssl, 'OP_NO_TLSv1_3', 0)


class Closing(object):
    """Context managers that were entered, to be left together."""

    def __init__(self):
        self._entered = []

    def enter(self, manager):
        self._entered.append(manager)
        return manager.__enter__()

    def close(self):
        for manager in reversed(self._entered):
            manager.__exit__(None, None, None)


def titles(*cases):
    return ['%s, asked as %s' % (each.title, each.host) for each in cases]


def tried(outcomes, wanted=lambda case, outcome: True):
    return [(each, outcome) for each, outcome in zip(CASES, outcomes) if wanted(each, outcome)]


def line_of(result):
    """The first line of the plugin's own in the log that is no warning about the configuration."""
    return [line for line in result.lines if re.match('(ERROR|WARNING|INFO) (?!The name in)', line)][0]


def when(line):
    """When the hook that logged this line ends, and how many seconds that may take."""
    if 'has reached its time limit' in line:
        return 'at timeout', UNANSWERED[1] + SLACK
    if 'timed out' in line:
        return 'at connect_timeout', UNCONNECTED[0] + SLACK
    return 'at once', SLACK


# ---- what has to be true of all ------------------------------------------------------------------------------------

def test_a_password_comes_out_of_a_good_answer_of_a_verified_server_only(outcomes):
    assert (titles(*[each for each, outcome in tried(outcomes) if outcome.result.credentials])
            == titles(*[each for each in CASES if each.gives]))
    for _, outcome in tried(outcomes, lambda case, _: case.gives):
        assert outcome.result.credentials == [bad_server.PASSWORD]


def test_every_hook_ends_within_its_time_and_a_second(outcomes):
    for each, outcome in tried(outcomes):
        assert outcome.result.inside < when(line_of(outcome.result))[1], each.title


def test_every_failure_is_one_clear_line_and_then_at_most_one_exception_that_says_the_same(outcomes):
    for each, outcome in tried(outcomes, lambda case, _: not case.gives):
        result, line = outcome.result, line_of(outcome.result)
        if result.raised:
            assert 'TpamError' in result.raised['type'], each.title
            assert line.startswith('ERROR ' + result.raised['message']), each.title
        else:
            assert line.startswith("WARNING No credential; account='root', reason='"), each.title
        assert 'Traceback' not in result.log, each.title


def test_no_hook_reports_a_bug_or_something_that_was_left_open(outcomes):
    for each, outcome in tried(outcomes):
        for noise in ('Unexpected failure', 'ResourceWarning', 'Exception ignored', 'Exception in'):
            assert noise not in outcome.result.log, each.title


def test_no_temporary_file_is_left(outcomes):
    assert [(each.title, outcome.left) for each, outcome in tried(outcomes) if outcome.left] == []


def test_a_server_that_was_not_verified_is_sent_nothing(outcomes):
    unverified = tried(outcomes, lambda case, _: case.behaviour == 'good' and not case.gives)
    assert len(unverified) > 30
    assert [each.title for each, outcome in unverified if outcome.requests] == []


def test_every_question_is_asked_once_and_no_answer_leads_to_another_server(outcomes):
    asked = tried(outcomes, lambda case, _: case.behaviour in bad_server.AFTER_REQUEST)
    assert [each.title for each, outcome in asked if len(outcome.requests) > 1] == []
    assert [each.title for each, outcome in asked if outcome.requests and outcome.connections > 1] == []


# ---- the table -----------------------------------------------------------------------------------------------------

INTRODUCTION = """\
# Faults: what was tried, and what came of it

Made by `tests/test_faults.py`, which tries all of it and fails if this page is not what it found on each interpreter;
with `UPDATE_DOCS=1` in its environment it writes the page anew. The hook is `get_password_list`, the account `root` on
`WEB01`, `ca_cert` is `tests/certs/ca.pem`. In no case was a secret logged or a temporary file left, and no hook ended
later than `timeout` + 1 s. What came to the same end stands in one row.

- **Credential**: what SPS gets. *password*; *none* is an empty list, after which SPS goes on; otherwise the exception.
- **Ends**: *at once*, or when one of the time limits is over (`connect_timeout=%d` and `timeout=%d` in those cases).
- **Log**: its line, without the session id. `…` stands for what differs: names, dates, and the words of OpenSSL.
""" % (UNCONNECTED[0], UNANSWERED[1])

# What differs between runs or interpreters -> what stands for it.
DIFFERENT = (
    (r", session_id='[^']*'", ''),
    (r"(address|issuer|names|not_after|not_before|server|sha256|subject)='[^']*'", r"\1='…'"),
    (r"(TLS cannot be set up with the server;.* reason=)'[^']*'", r"\1'…'"),
    # Python 3 bounds the number of headers before the plugin bounds their bytes; an end without TLS's own is an error
    # in some pairs of Python and OpenSSL, and an empty read in others.
    (r'more than 65536 bytes|\[SSL: [A-Z0-9_]+\] unexpected eof while reading \(_ssl\.c:[0-9]+\)',
     'an answer that is cut short or is not HTTP'),
)


def cells(outcome):
    """What came of a case, as the cells of a row."""
    line = line_of(outcome.result)
    for pattern, replacement in DIFFERENT:
        line = re.sub(pattern, replacement, line)
    raised, credentials = outcome.result.raised, outcome.result.credentials
    credential = '`%s`' % raised['type'][0] if raised else 'password' if credentials else 'none'
    return credential, when(line)[0], '`%s`' % line


def table(outcomes):
    """The text of docs/faults.md."""
    found, lines = dict(zip([id(each) for each in CASES], outcomes)), [INTRODUCTION]
    for title, cases in SECTIONS:
        lines += ['## %s' % title, '', '| Tried | Credential | Ends | Log |', '|---|---|---|---|']
        rows, has_hosts = collections.OrderedDict(), len(set(each.host for each in cases)) > 1
        for each in cases:
            tried = '%s as %s' % (each.title, each.host) if has_hosts else each.title
            rows.setdefault(cells(found[id(each)]), []).append(tried)
        for came, tried in rows.items():
            lines.append('| %s |' % ' | '.join(cell.replace('|', '\\|') for cell in ('<br>'.join(tried),) + came))
        lines.append('')
    return '\n'.join(lines).rstrip('\n') + '\n'


def test_the_table_in_the_documentation_is_what_was_found(outcomes):
    found = table(outcomes)
    if os.environ.get('UPDATE_DOCS'):
        with io.open(TABLE, 'w', encoding='utf-8') as written:
            written.write(found)
    with io.open(TABLE, encoding='utf-8') as written:
        assert written.read().splitlines() == found.splitlines()
