# -*- coding: utf-8 -*-
"""The log: a stdout that takes nothing stops no check-in, and no form of a secret is in it."""
from __future__ import unicode_literals

import base64
import io
import json
import re
import sys

import pytest

import bad_server
import fake_sps
import main
import tpamerrors
import tpamlog
from conftest import PASSWORD, SLACK, TOOLS, at_most
from fake_tpam import EXPIRED, Refusal
from sps_child import native
from test_policy import BY_REQUEST, answers, approvers, quick, session  # noqa: F401

try:
    from urllib.parse import quote
except ImportError:
    from urllib import quote


# ---- a stdout that takes nothing

# Runs a hook as sps_child does, after this code has replaced stdout.
CHILD = '''
import fcntl, os, sys, time
sys.path.insert(0, %(tools)r)
import sps_child
call, result = sps_child.begin()
%(code)s
answer = sps_child.run_hook(call)
sys.stdout = sys.__stdout__     # which the interpreter flushes when it ends
sps_child.end(result, answer)
'''
# A pipe that nobody reads, with room for `room` bytes; its reader stays open.
FULL_PIPE = '''
reader, writer = os.pipe()
flags = fcntl.fcntl(writer, fcntl.F_GETFL)
fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
try:
    while True:
        os.write(writer, b'x' * 4096)
except OSError:
    pass
for _ in range(%(room)d // 4096):
    os.read(reader, 4096)
fcntl.fcntl(writer, fcntl.F_SETFL, flags)
os.dup2(writer, 1)
'''
# Says in a file which process it is.
PID = '''
with open(%r, 'w') as pid:
    pid.write('%%d' %% os.getpid())
'''
# Another process may fill a pipe between the look at it and the write.
NEVER_WRITTEN = '''
class Stream(object):
    def write(self, line):
        while True:
            time.sleep(600)
    flush = write
sys.stdout = Stream()
'''

# OpenSSL stays in a call, and no signal is handled until a call of C code ends.
ENDLESS_CALL = '''
import ssl, thread
held = thread.allocate_lock()
held.acquire()
ssl.SSLSocket.%s = lambda *arguments: held.acquire()
'''


def child(tmpdir, code):
    """Path of a script for FakeSps.call()."""
    script = tmpdir.join('child.py')
    script.write(CHILD % {'tools': str(TOOLS), 'code': code})
    return str(script)


def hook_of(played, script, hook):
    """The Result of a hook that runs in this script, with the cookie of the session."""
    arguments = {'session_id': 'session-1'}
    if hook in fake_sps.GET_HOOKS:
        arguments = played.arguments
    return fake_sps.FakeSps.call(played.sps, hook, dict(arguments, cookie=played.cookie), script)


# A line may be longer than what a pipe takes at once (PIPE_BUF, 4096 bytes).
LONG_NAME = 'x' + 498 * '\u2028' + 'x'
LONG_ACCOUNT = LONG_NAME[:256]  # the most that the plugin takes

ROOMS = pytest.mark.parametrize('room', [0, 4096, 8192])
IN_TIME = 40    # s: well before the time of the hook is over, which is 60 s, less 10 s for a check-in


def by_request(world, account='root', level='debug'):
    arguments = {'server_username': account, 'gateway_username': LONG_NAME}
    return session(world, arguments, timeout=120, tpam={'authorization': 'request'},
                   check_in={'force_reset': 'yes'}, logging={'log_level': level})


@ROOMS
@pytest.mark.parametrize('level', ['debug', 'info'])
def test_a_stdout_that_is_a_full_pipe_stops_no_check_in(world, tmpdir, room, level):
    world.tpam.add_account('WEB01', LONG_ACCOUNT, PASSWORD)
    played = by_request(world, LONG_ACCOUNT, level)
    assert played.call('get_password_list').credentials == [PASSWORD]
    ended = hook_of(played, child(tmpdir, FULL_PIPE % {'room': room}), 'session_ended')
    assert not ended.killed
    assert ended.inside < IN_TIME
    assert world.tpam.requests[1001].status == EXPIRED
    assert world.tpam.account('WEB01', LONG_ACCOUNT).password != PASSWORD


@ROOMS
def test_a_stdout_that_is_a_full_pipe_keeps_no_password_back(world, tmpdir, room):
    played = by_request(world)
    result = hook_of(played, child(tmpdir, FULL_PIPE % {'room': room}), 'get_password_list')
    assert not result.killed
    assert result.inside < IN_TIME
    assert result.credentials == [PASSWORD]


@pytest.mark.parametrize('call', ['do_handshake', 'sendall', 'recv'])
def test_a_call_of_openssl_that_no_signal_ends_keeps_no_hook_from_saying_what_is_checked_out(world, tmpdir, call):
    played = world.session(tpam={'authorization': 'request', 'timeout': '6', 'connect_timeout': '2'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    ended = hook_of(played, child(tmpdir, ENDLESS_CALL % call), 'session_ended')
    assert not ended.killed
    assert ended.inside < 6 + SLACK
    error = [line for line in ended.lines if line.startswith('ERROR')][0]
    assert error.startswith("ERROR Check-in failed; do it by hand unless a later line says it is done; account='root'")
    assert "command='Cancel'" in error and "request='1001'" in error


@pytest.mark.parametrize('stdout', [FULL_PIPE % {'room': 0}, NEVER_WRITTEN], ids=['pipe', 'stream'])
def test_a_refusal_that_cannot_be_logged_ends_in_time(world, tmpdir, stdout):
    world.tpam.account('WEB01', 'root').locked = True
    played = session(world, timeout=90, tpam={'timeout': '1'})
    result = hook_of(played, child(tmpdir, stdout), 'get_password_list')
    assert not result.killed
    assert not result.died
    assert result.inside < 1 + SLACK


@pytest.mark.parametrize('stdout', [FULL_PIPE % {'room': 0}, NEVER_WRITTEN], ids=['pipe', 'stream'])
def test_an_error_that_cannot_be_logged_ends_in_time(world, tmpdir, stdout):
    played = session(world, timeout=90, tpam={'timeout': '1', 'password': 'wrong-password'})
    result = hook_of(played, child(tmpdir, stdout), 'get_password_list')
    assert not result.killed
    assert result.inside < 1 + SLACK
    assert 'TpamError' in result.raised['type']


# ---- a stdout of another kind

def raw(encoding):
    """-> (a text stream over bytes, the function that gives its text)."""
    content = io.BytesIO()
    return io.TextIOWrapper(content, encoding=encoding), lambda: content.getvalue().decode(encoding)


def string():
    stream = io.StringIO()
    return stream, stream.getvalue


def of_a_file(tmpdir):
    path = str(tmpdir.join('log'))
    return io.open(path, 'w', encoding='utf-8'), lambda: io.open(path, encoding='utf-8').read()


STREAMS = {
    'StringIO': lambda tmpdir: string(),
    'TextIOWrapper': lambda tmpdir: raw('utf-8'),
    'TextIOWrapper in ASCII': lambda tmpdir: raw('ascii'),
    'TextIOWrapper in Latin-1': lambda tmpdir: raw('iso-8859-1'),
    'a file': of_a_file,
}


@pytest.mark.parametrize('name', sorted(STREAMS))
def test_a_line_arrives_in_a_text_stream(quick, tmpdir, monkeypatch, name):  # noqa: F811
    quick.tpam.add_account('WEB01', 'r\xf6\u5bc6', PASSWORD)
    plugin = main.Plugin(native(session(quick).sps.configuration))
    stream, content = STREAMS[name](tmpdir)
    monkeypatch.setattr(sys, 'stdout', stream)
    returned = plugin.get_password_list(server_username='r\xf6\u5bc6', server_hostname='web01',
                                        session_id='session-1', gateway_username='jdoe')
    monkeypatch.undo()
    assert returned['passwords'] == [native(PASSWORD)]
    line, = [line for line in content().splitlines() if line.startswith('INFO ')]
    account = re.search("account='(.*?)'", line).group(1)
    assert account.replace('\\xf6', '\xf6').replace('\\u5bc6', '\u5bc6') == 'r\xf6\u5bc6'


def test_without_a_stdout_a_request_is_cancelled_all_the_same(quick, monkeypatch):  # noqa: F811
    played = session(quick, tpam=BY_REQUEST)
    played.call('get_password_list')
    plugin = main.Plugin(native(played.sps.configuration))
    monkeypatch.setattr(sys, 'stdout', None)
    plugin.session_ended(session_id='session-1', cookie=played.cookie)
    monkeypatch.undo()
    assert quick.tpam.active() == []


def failing(error):
    """A function that raises this error, whatever it is given."""
    def fail(*_):
        raise error
    return fail


def writable(**functions):
    """A stdout that takes lines, but for these functions."""
    stream = {'write': lambda self, line: None, 'flush': lambda self: None}
    stream.update(functions)
    members = dict((native(name), function) for name, function in stream.items())
    return type(native('Stream'), (object,), members)()


class OddError(Exception):
    """An error of a runner that nobody knows."""


ERRORS = [IOError('x'), ValueError('x'), TypeError('x'), RuntimeError('x'), OddError('x'),
          NotImplementedError('x'), AttributeError('x'), UnicodeError('x'), OverflowError('x')]
ODD_STREAMS = (
    [writable(**{native(name): failing(error)})
     for name in ('fileno', 'write', 'flush') for error in ERRORS]
    + [writable(fileno=lambda self, number=number: number)
       for number in (None, -1, 10 ** 6, 2 ** 70, 'x', 1.5, [])]
    + [5, 'x', object(), type(native('Mute'), (object,), {'write': lambda self, line: None})()])


@pytest.mark.parametrize('stream', ODD_STREAMS, ids=lambda stream: type(stream).__name__)
def test_whatever_stands_in_for_stdout_a_request_is_cancelled(
        quick, monkeypatch, stream):  # noqa: F811
    plugin_text = native(session(quick, tpam=BY_REQUEST).sps.configuration)
    monkeypatch.setattr(sys, 'stdout', stream)
    returned = main.Plugin(plugin_text).get_password_list(
        server_username='root', server_hostname='web01', session_id='session-1',
        gateway_username='jdoe')
    main.Plugin(plugin_text).session_ended(session_id='session-1', cookie=returned['cookie'])
    monkeypatch.undo()
    assert returned['passwords'] == [native(PASSWORD)]
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.active() == []


def test_a_hook_in_a_fresh_process_ends_whatever_stdout_raises(world, tmpdir):
    code = """
class Stream(object):
    def fail(self, *_):
        raise RuntimeError('x')
    write = flush = fileno = fail
sys.stdout = Stream()
"""
    played = by_request(world)
    result = hook_of(played, child(tmpdir, code), 'get_password_list')
    assert result.credentials == [PASSWORD]
    played.cookie = result.returned['cookie']
    assert hook_of(played, child(tmpdir, code), 'session_ended').raised is None
    assert world.tpam.active() == []


# ---- secrets in another form

def b64(secret, user='sps'):
    """The value of a Basic header, without the word Basic."""
    return base64.b64encode(('%s:%s' % (user, secret)).encode('utf-8')).decode('ascii')


def percent(text, safe=''):
    return quote(text.encode('utf-8'), safe=native(safe))


def lower_hex(text):
    return re.sub('%[0-9A-F]{2}', lambda escape: escape.group().lower(), text)


def with_escaped_equals(text):
    return text.replace('=', '\\u003d')


def json_string(text, **options):
    return json.dumps(text, **options)[1:-1]


# One for each length of padding, with + and / in the value and whatever the forms write otherwise.
SECRETS = ['kQ7?>~\xfbz"W9\\v\xe9=%Lm4' + end for end in ('', 'x', 'xY')]


def as_it_is(text):
    return text


PASSWORD_FORMS = {  # name -> what a server makes of a password
    'as it is': as_it_is,
    'percent-encoded': percent,
    'percent-encoded in lower case': lambda text: lower_hex(percent(text)),
    'percent-encoded but for slashes': lambda text: percent(text, '/'),
    'JSON': json_string,
    'JSON in UTF-8': lambda text: json_string(text, ensure_ascii=False),
    'JSON with escaped =': lambda text: with_escaped_equals(json_string(text)),
    'JSON in UTF-8 with escaped =': lambda text: with_escaped_equals(
        json_string(text, ensure_ascii=False)),
}
BASIC_FORMS = {     # name -> what it makes of the value of a Basic header
    'as it is': as_it_is,
    'without =': lambda text: text.rstrip('='),
    'percent-encoded': percent,
    'percent-encoded in lower case': lambda text: lower_hex(percent(text)),
    'with escaped =': with_escaped_equals,
    'with escaped = in upper case': lambda text: text.replace('=', '\\u003D'),
}
EVERY_FORM = ([('password', name) for name in sorted(PASSWORD_FORMS)]
              + [('Basic', name) for name in sorted(BASIC_FORMS)])


def shown_as(form, secret, user='sps'):
    """The password of this user in one of EVERY_FORM."""
    kind, name = form
    if kind == 'Basic':
        return BASIC_FORMS[name](b64(secret, user))
    return PASSWORD_FORMS[name](secret)


PADDING = '(=|%3[Dd]|\\\\u003[Dd])+$'


def parts(text, size=4):
    """Every part of a text that is `size` characters long, as it is and as the log writes it."""
    found = set()
    for whole in (text, tpamerrors.escaped(text)):
        found.update(whole[start:start + size] for start in range(len(whole) - size + 1))
    return found


def leaked(form, *results):
    """The parts of a form of a secret that are in the log, the exception or the cookie of a hook.

    The padding of base64 is no secret, and no digest in the cookie tells one: by chance, it contains the same
    hexadecimal digits as an escape does.
    """
    secret_form = re.sub(PADDING, '', form)
    seen = []
    for result in results:
        seen += [result.log, json.dumps(result.raised, ensure_ascii=False)]
        if isinstance(result.returned, dict):
            cookies = [result.returned.get(name) for name in ('cookie', 'session_cookie')]
            seen.append(json.dumps(cookies, ensure_ascii=False))
    seen = [re.sub('[0-9a-f]{64}', '', text) for text in seen]
    return sorted(part for part in parts(secret_form) if any(part in text for text in seen))


def echo(world, message):
    """The server refuses every credential in these words."""
    def refuse(user, options):
        raise Refusal(message)
    for command in ('Retrieve', 'AddPwdRequest'):
        setattr(world.tpam, 'do_' + command, refuse)


@pytest.mark.parametrize('secret', SECRETS)
@pytest.mark.parametrize('form', EVERY_FORM, ids=' '.join)
def test_no_form_of_the_api_password_is_seen(quick, form, secret):  # noqa: F811
    shown = shown_as(form, secret)
    quick.tpam.add_user('sps', secret)
    echo(quick, 'no: %s.' % shown)
    for mode in ({}, BY_REQUEST):
        result = session(quick, tpam=dict(mode, password=secret)).call('get_password_list')
        assert result.credentials == []
        assert leaked(shown, result) == []
        assert "reason='no: ********" in result.log


@pytest.mark.parametrize('form', EVERY_FORM, ids=' '.join)
def test_no_form_of_the_gateway_password_is_seen(quick, form):  # noqa: F811
    shown = shown_as(form, SECRETS[1], 'jdoe')
    echo(quick, 'no: %s.' % shown)
    result = session(quick, {'gateway_password': SECRETS[1]}).call('get_password_list')
    assert leaked(shown, result) == []


@pytest.mark.parametrize('form', EVERY_FORM, ids=' '.join)
def test_no_form_of_the_password_of_the_proxy_is_seen(quick, form):  # noqa: F811
    shown = shown_as(form, SECRETS[1], 'proxy-user')
    echo(quick, 'no: %s.' % shown)
    with bad_server.tunnel() as proxy:
        played = session(quick, https_proxy={'server': '127.0.0.1', 'port': proxy.port,
                                             'username': 'proxy-user', 'password': SECRETS[1]})
        result = played.call('get_password_list')
    assert result.credentials == []
    assert leaked(shown, result) == []


@pytest.mark.parametrize('secret', ['zq7-wxk9-mvb4-hh3j', 'zq7?wxk9=mvb4&hh3j'])
@pytest.mark.parametrize('form', ['as it is', 'percent-encoded', 'JSON with escaped ='])
def test_no_password_gets_into_the_cookie_with_a_status(quick, form, secret):  # noqa: F811
    shown = PASSWORD_FORMS[form](secret).lower()
    approvers(quick)
    quick.tpam.add_user('sps', secret)
    answers(quick, 'GetPwdRequest', {'RequestID': '1001', 'RequestStatus': 'Denied: ' + shown})
    played = session(quick, tpam=dict(BY_REQUEST, password=secret))
    hooks = ('get_password_list', 'get_password_list', 'session_ended')
    results = [played.call(hook) for hook in hooks]
    assert leaked(shown, *results) == []


@pytest.mark.parametrize('written, masked', [
    ('zq7-wxk9', '********'), ('.zq7-wxk9.', '.********.'), ('\u20aczq7-wxk9\u20ac', '\u20ac********\u20ac'),
    ('%7Aq7-wxk9', '********'), ('.%7Aq7-wxk9.', '.********.'), ('.zq7%2dwxk9.%41', '.********.%41'),
    ('.\\u007aq7-wxk9.', '.********.'), ('.&#122;q7-wxk9.', '.********.'),
    ('q7-wxk9%20z', 'q7-wxk9%20z'), ('zq7-wxk%20', 'zq7-wxk%20'),
])
def test_a_secret_is_masked_from_its_first_character_to_its_last_and_nothing_else_is(written, masked):
    log = tpamlog.Log('info', '1')
    log.add_secret('zq7-wxk9')
    assert log.masked(written) == masked


def test_a_secret_beside_half_of_a_character_is_masked():
    log = tpamlog.Log('info', '1')
    log.add_secret('zq7-wxk9')
    assert log.masked('\ud800 zq7-wxk9') == '\ud800 ********'


def test_the_beginning_of_a_secret_at_the_end_of_what_is_searched_is_not_seen():
    """Masking makes a text shorter, so that the end of what is searched may be in what is shown."""
    secret = ''.join('%d;' % number for number in range(100, 160))
    log = tpamlog.Log('info', '1')
    log.add_secret(secret)
    assert tpamlog.MAX_SEARCHED % len(secret) == 32
    shown = log.line('x', value=secret * 100)
    assert len(shown) < CUT
    assert '100;' not in shown


# ---- secrets where the log cuts a value

CUT = 500  # characters of a value


def test_a_value_of_500_characters_is_shown_whole_and_a_longer_one_with_a_mark():
    log = tpamlog.Log('info', '1')
    assert log.line('x', value='a' * CUT) == "x; value='%s'" % ('a' * CUT)
    assert log.line('x', value='a' * (CUT + 1)) == "x; value='%s\u2026'" % ('a' * CUT)


def test_no_part_of_a_secret_is_seen_where_an_error_cuts_a_name_of_the_server(quick):  # noqa: F811
    """The error quotes a system whose name XML cannot carry."""
    secret = 'zq7-wxk9-mvb4-hh3j'
    quick.tpam.add_user('sps', secret)
    for before in range(CUT - len(secret) - 4, CUT + 2):
        answers(quick, 'ListSystems', {
            'SystemName': '.' * before + secret + '\x01', 'NetworkAddress': '10.0.0.5'})
        played = session(quick, tpam={'password': secret, 'system_name_resolver': 'tpam'})
        result = played.call('get_password_list')
        assert not result.credentials
        assert leaked(secret, result) == []


# ---- secrets that take time

@pytest.mark.parametrize('length', [16, 40, 4000])
@pytest.mark.parametrize('piece', ['\\', '\\"', '%', '%25', '&', '&amp;', '+', 'a'])
def test_a_gateway_password_of_one_piece_over_and_over_keeps_no_hook_busy(world, length, piece):
    """Users choose their own passwords, and what the log is to be searched for with them."""
    arguments = {'gateway_password': piece * length + 'x', 'server_username': 'x\\' + piece * 300}
    played = session(world, arguments, timeout=120)
    with at_most(10):
        result = played.call('get_password_list')
    assert not result.killed


SOME_FORMS = pytest.mark.parametrize('form', [
    ('password', 'as it is'), ('password', 'percent-encoded'), ('password', 'JSON with escaped ='),
    ('Basic', 'as it is'), ('Basic', 'without ='), ('Basic', 'percent-encoded in lower case'),
], ids=' '.join)


@SOME_FORMS
def test_no_part_of_a_secret_is_seen_where_the_log_cuts_a_value(quick, form):  # noqa: F811
    secret = SECRETS[0]
    shown = shown_as(form, secret)
    quick.tpam.add_user('sps', secret)
    for at in range(CUT - len(shown) - 10, CUT + 1):
        echo(quick, '.' * at + shown)
        result = session(quick, tpam={'password': secret}).call('get_password_list')
        assert leaked(shown, result) == []


@SOME_FORMS
def test_no_part_of_a_secret_is_seen_wherever_a_long_text_is_cut(quick, form):  # noqa: F811
    """Masking makes a text shorter: where it is cut first, its end may be in what is shown."""
    secret = SECRETS[0]
    shown = shown_as(form, secret)
    quick.tpam.add_user('sps', secret)
    for before in range(len(shown)):
        echo(quick, '.' * before + shown * (9 * 1024 // len(shown)))
        result = session(quick, tpam={'password': secret}).call('get_password_list')
        assert leaked(shown, result) == []


def test_no_part_of_a_secret_that_is_longer_than_a_value_in_the_log_is_seen(quick):  # noqa: F811
    # Without hexadecimal digits, which the digests in the cookie are made of.
    letters = dict(zip([ord(char) for char in '0123456789'], 'ghijkmnpqr'))
    secret = ''.join(('%d-%d;' % (number * 7919, number)).translate(letters)
                     for number in range(100, 200))
    assert len(secret) > CUT
    quick.tpam.add_user('sps', secret)
    for shown in (secret, b64(secret), b64(secret).rstrip('='), percent(secret)):
        echo(quick, 'no: %s.' % shown)
        result = session(quick, tpam={'password': secret}).call('get_password_list')
        assert leaked(shown, result) == []
        assert "reason='no: ********" in result.log
