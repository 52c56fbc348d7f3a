# -*- coding: utf-8 -*-
"""docs/protocol.md is what the plugin does: every word and number on it, and each example, played from both ends.

The examples serve whole sessions of the plugin, whose calls must be those on the page, and are sent to the fake, whose
answers must be those on the page.
"""
from __future__ import unicode_literals

import ast
import io
import os
import re
import socket
import threading

import pytest

import fake_tpam
import main
import tpamclient
import tpamerrors
import tpamhttp
import tpamrows
import tpamxml
from conftest import ROOT, configuration
from fake_tpam import FakeTpam, FakeTpamServer

try:
    from xmlrpc.client import Fault, loads
except ImportError:
    from xmlrpclib import Fault, loads

PAGE = os.path.join(ROOT, 'docs', 'protocol.md')
SPEAKING = ('tpamclient', 'tpamrows', 'tpamcheckout', 'tpamauthorize', 'tpamtarget')    # what names options and columns
NAME = re.compile('(?:[A-Z][a-z]+(?:[A-Z][a-z]*)*[A-Z]?[a-z0-9]*)\\Z')


# ---- the page


def page():
    with io.open(PAGE, encoding='utf-8') as content:
        return content.read()


def sections():
    """{heading: its text, up to the next heading}, without the examples."""
    parts = re.split('(?m)^#+ (.*)\n', re.sub('(?ms)^```.*?^```\n', '', page()))
    return dict(zip(parts[1::2], parts[2::2]))


def tables(heading):
    """The tables of a section; each a list of rows, which are lists of cells."""
    found = re.findall('(?m)(?:^\\|.*\n)+', sections()[heading])
    return [[[cell.strip() for cell in line.strip('|').split(' | ')] for line in table.splitlines()[2:]]
            for table in found]


def quoted(cell):
    """What stands in backticks."""
    return re.findall('`([^`]+)`', cell)


class Example(object):
    """One request or answer of the page. nth: its place among the answers under its heading; command, options: of a
    request."""

    def __init__(self, heading, nth, kind, text):
        self.heading, self.nth = heading, nth
        head, body = '', text
        if kind == 'http':
            head, _, body = text.partition('\n\n')
        self.head, self.body = head.splitlines(), body.encode('utf-8')
        self.is_request = '<methodCall>' in body
        self.is_answer = '<methodResponse' in body or head.startswith('HTTP/1.1 ')
        if self.is_request:
            (self.options,), self.command = loads(self.body)
        self.status = int(self.head[0].split()[1]) if self.is_answer and head else 200

    def value(self):
        """What the XML-RPC library of Python reads: a dict, or a Fault."""
        try:
            return loads(self.body)[0][0]
        except Fault as fault:
            return fault

    def answer_bytes(self):
        """The answer on the wire; where the page shows its body alone, with a head like that of the others."""
        head = self.head or ['HTTP/1.1 200 OK', 'Content-Type: text/xml', 'Content-Length: %d' % len(self.body)]
        return '\r\n'.join(head + ['', '']).encode('ascii') + self.body


def examples():
    found, heading = [], ''
    for line, kind, text in re.findall('(?ms)^#+ ([^\n]*)$|^```(\\w+)\n(.*?)^```$', page()):
        heading = line or heading
        if kind:
            nth = len([example for example in found if example.heading == heading and example.is_answer])
            found.append(Example(heading, nth, kind, text))
    return found


def request_of(command, **options):
    """The request on the page with this command and, if any are given, these options."""
    found = [example for example in examples() if example.is_request and example.command == command]
    return [example for example in found if not options or example.options == options][0]


def answers_of(heading):
    return [example for example in examples() if example.is_answer and example.heading == heading]


def as_on_the_page(head, body):
    """A call with its headers, without the length, and its members in a fixed order."""
    headers = sorted(line for line in head[1:] if not line.startswith('Content-Length'))
    first, last = body.find(b'<member>'), body.rfind(b'</member>\n')
    members = sorted(body[first:last].replace(b'</member>\n', b'').split(b'<member>\n'))
    return [head[0]] + headers, body[:first], members, body[last:]


# ---- a server that has nothing but the page


class PageServer(object):
    """Gives the answers of `script` ({command: bytes, or None for the end of the connection}); over plain HTTP.

    calls: [(lines of the head, body)]. A list in place of bytes is used up from its front; the last one stays.
    """

    def __init__(self, script, keep=True):
        self.script, self.keep, self.calls = script, keep, []
        self._listener = socket.socket()
        self._listener.bind(('127.0.0.1', 0))
        self._listener.listen(16)
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        thread = threading.Thread(target=self._accept)
        thread.daemon = True
        thread.start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection = self._listener.accept()[0]
            except (socket.error, ValueError):
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.daemon = True
            thread.start()

    def _serve(self, connection):
        try:
            received = connection.makefile('rb')
            while self._answer(connection, received):
                pass
        except (socket.error, ValueError):
            pass
        finally:
            received.close()
            connection.close()

    def _answer(self, connection, received):
        head = []
        for line in iter(received.readline, b'\r\n'):
            if not line:
                return False
            head.append(line.decode('ascii').rstrip('\r\n'))
        length = [line.partition(': ')[2] for line in head if line.lower().startswith('content-length')]
        body = received.read(int(length[0])) if length else b''
        self.calls.append((head, body))
        command = loads(body)[1] if body else 'CONNECT'
        answer = self.script[command]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            return False
        connection.sendall(answer)
        return self.keep

    def commands(self):
        return [loads(body)[1] for _, body in self.calls]


def client_of(*ports, **settings):
    """A client in this process, without TLS."""
    settings = dict({'servers': [('127.0.0.1', port) for port in ports], 'path': '/RPC2', 'method_prefix': '',
                     'credential': ('sps', 'secret'), 'connect_timeout': 10, 'proxy': None, 'tls': None}, **settings)
    return tpamclient.TpamClient(settings, tpamerrors.Deadline(30), lambda failure: None)


METHODS = {     # command -> method of the client, the names of its arguments in place of options
    'Retrieve': 'retrieve', 'RetrieveKey': 'retrieve_key', 'AddPwdRequest': 'add_pwd_request',
    'GetPwdRequest': 'get_pwd_request', 'Cancel': 'cancel', 'ForceReset': 'force_reset',
    'ListRequestDetails': 'list_request_details', 'ListAssignedPolicies': 'list_assigned_policies',
    'ListAccounts': 'list_accounts', 'ListSystems': 'list_systems'}
ARGUMENTS = {'GetPwdRequest': {'RequestID': 'request_id'}, 'Cancel': {'RequestID': 'request_id', 'Comment': 'comment'},
             'ForceReset': {'SystemName': 'system', 'AccountName': 'account'}}


def arguments_of(request):
    names = ARGUMENTS.get(request.command, {})
    return dict((str(names.get(name, name)), value) for name, value in request.options.items())


def played(answer, request):
    """What the client makes of an answer on the page to a request on the page."""
    with PageServer({request.command: answer.answer_bytes()}, keep=False) as server:
        client = client_of(server.port)
        try:
            return getattr(client, METHODS[request.command])(**arguments_of(request))
        finally:
            client.close()


# ---- words


def tree_of(module):
    """The syntax tree of a module that ships; ast takes no text that names its encoding."""
    with io.open(os.path.join(ROOT, module + '.py'), encoding='utf-8') as content:
        return ast.parse(content.read().replace('# -*- coding: utf-8 -*-', ''))


def string_of(node):
    """The text of a literal, or None; Python 3.8 renamed the attribute."""
    value = getattr(node, 'value', getattr(node, 's', None))
    return value if isinstance(value, (str, type(''))) else None


def words_in_code():
    """The names of commands, options and columns in the code: strings, and keywords of calls."""
    found = set()
    for module in SPEAKING:
        for node in ast.walk(tree_of(module)):
            found.add(string_of(node) or '')
            if isinstance(node, ast.Call):
                found.update(keyword.arg or '' for keyword in node.keywords)
    return set(tpamerrors.text(word) for word in found if NAME.match(word))


def words_in_tables():
    """Names of options and columns in the first cells of the tables of the commands."""
    return set(name for heading in METHODS for table in tables(heading) for row in table for name in quoted(row[0]))


def test_each_command_of_the_code_has_a_row_and_a_section_and_the_reverse():
    listed = [quoted(row[0])[0] for row in tables('Commands')[0]]
    assert sorted(listed) == sorted(METHODS) and set(METHODS) <= set(sections())
    with io.open(os.path.join(ROOT, 'tpamclient.py'), encoding='utf-8') as content:
        sent = re.findall("(?:call|_rows|_credential)\\(\n? *'(\\w+)'", content.read())
    assert sorted(sent) == sorted(METHODS)
    assert set(METHODS) <= set(fake_tpam.COMMANDS)


def test_each_option_and_column_of_the_code_is_on_the_page():
    assert words_in_code() - set(quoted(' '.join(sections().values()))) == set()


def test_each_option_and_column_of_a_table_is_in_the_code():
    assert words_in_tables() - words_in_code() == set()


def test_the_fake_takes_each_option_of_the_page():
    for command in METHODS:
        known = set(re.findall('\\w+', ' '.join(fake_tpam.COMMANDS[command])))
        assert options_of(command) <= known, command


def options_of(command):
    """The options of a command: the table under its heading that is not about columns, or the sentence."""
    text = ' '.join(sections()[command].split())
    sentence = re.search('Options?: (.*?)[.;] ', text)
    if sentence:
        return set(name for name in quoted(sentence.group(0)) if NAME.match(name))
    if 'rules are those of `Retrieve`' in text:
        return options_of('Retrieve')
    return set(name for row in tables(command)[0] for name in quoted(row[0]))


# ---- phrases


def phrases(number):
    """[(phrases, last cell)] of the first or second table of phrases; … becomes a word."""
    return [([phrase.replace('…', 'X-1') for phrase in quoted(row[0])], row[-1]) for row in tables('Phrases')[number]]


def phrases_in_code():
    """The texts that modules look for in a folded text of the server: `u'…' in folded(…)`."""
    found = []
    for module in ('main', 'tpamclient', 'tpamcheckout'):
        tree = tree_of(module)
        constants = dict((node.targets[0].id, string_of(node.value)) for node in tree.body
                         if isinstance(node, ast.Assign))
        for node in ast.walk(tree):
            is_search = isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn))
            searched = node.comparators[0] if is_search else None
            if isinstance(searched, ast.Call) and getattr(searched.func, 'id', None) == 'folded':
                found.append(string_of(node.left) or constants[node.left.id])
    return found


def test_each_phrase_that_has_an_effect_is_in_the_code_and_the_reverse():
    (active,), _ = phrases(0)[0]
    assert (active.lower(),) == tpamrows.ACTIVE
    assert all(tpamclient._NOTHING_TO_LIST.match(phrase) for phrase in phrases(0)[1][0])
    assert len(phrases(0)[1][0]) == tpamclient._NOTHING_TO_LIST.pattern.count('|') + 1
    others = [phrase for shown, _ in phrases(0)[2:5] for phrase in shown]
    assert sorted(others) == sorted(phrases_in_code())
    assert len(phrases(0)) == 6


def test_each_way_of_saying_that_a_command_is_unknown_is_understood():
    shown = phrases(0)[5][0]
    for word in shown[:4]:
        for thing in shown[4:6]:
            assert main.is_unknown_command(tpamerrors.TpamRefused('x: %s%s%s' % (word, 20 * ' ', thing)))
            assert not main.is_unknown_command(tpamerrors.TpamRefused('x: %s%s%s' % (word, 21 * ' ', thing)))
    assert main.is_unknown_command(tpamerrors.TpamRefused(shown[6]))
    alternatives = re.match('\\((.*?)\\)', main._UNKNOWN_COMMAND.pattern).group(1).split('|')
    assert alternatives == shown[:4] and 'within 20 characters' in page()
    for code in (-32601, '-32601'):
        assert main.has_unknown_code(tpamerrors.TpamRefused('', code))
        assert main.is_unknown_command(tpamerrors.TpamRefused('', code))


def test_each_phrase_with_a_remedy_chooses_that_of_its_row_and_the_last_one_counts():
    assert len(phrases(1)) == len(main.REMEDIES)
    for (shown, _), (pattern, _) in zip(phrases(1), main.REMEDIES):
        for phrase in shown:
            assert re.search(pattern, phrase, re.I), phrase
        for alternative in pattern.split('|') if '(' not in pattern else shown:
            assert [phrase for phrase in shown if re.search(alternative, phrase, re.I)], alternative


def test_the_states_are_those_of_the_code():
    states = [quoted(row[0])[0].lower() for row in tables('States')[0]]
    assert sorted(states) == sorted(tpamrows.OPEN + tpamrows.CLOSED)


# ---- numbers


def test_the_limits_are_those_of_the_code():
    limits = [int(re.match('[0-9,]+', row[1]).group().replace(',', '')) for row in tables('Limits')[0][:11]]
    import tpamcheckout
    assert limits[:6] == [tpamhttp.MAX_HEADERS, tpamhttp.MAX_BODY, tpamclient.MAX_CREDENTIAL, tpamerrors.MAX_ID,
                          tpamerrors.MAX_MATCHED, tpamxml.MAX_DEPTH]
    assert limits[6:8] == [tpamxml.MAX_STRUCTS, tpamerrors.MAX_NAME]
    digits, attributes, rows = limits[8:]
    assert rows == tpamcheckout.MANY_ROWS
    assert tpamxml._integer('9' * digits)
    with pytest.raises(ValueError):
        tpamxml._integer('9' * (digits + 1))
    for length, is_refused in ((attributes, False), (attributes + 1, True)):
        element = b'<string a="b">' + (length - len('a="b">')) * b'x' + b'</string>'
        assert bool(tpamxml._MANY_ATTRIBUTES.search(element)) == is_refused


# ---- statuses


OTHERS = {'1xx': (101, 102), '2xx': (201, 204), '3xx': (301, 302, 304, 307), '4xx': (400, 407, 408, 413, 418, 429, 431),
          '5xx': tuple(range(500, 512))}    # of which a row stands for those that no row names


def rows_of_statuses():
    """[(status, effect)]"""
    rows = [(re.findall('\\b[1-5][0-9x]{2}\\b', row[0]), row[1]) for row in tables('Statuses and codes')[0]]
    named = dict((int(code), effect) for codes, effect in rows for code in codes if code.isdigit())
    others = dict((code, effect) for codes, effect in rows for group in codes for code in OTHERS.get(group, ()))
    others.update(named)
    return sorted((code, effect) for code, effect in others.items() if code not in (100, 200))


@pytest.mark.parametrize('code, effect', rows_of_statuses())
def test_a_status_has_the_effect_that_its_row_says(code, effect):
    expected = tpamerrors.TpamUnavailable if 'next server' in effect else tpamerrors.TpamError
    answer = ('HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n' % code).encode('ascii')
    with PageServer({'ListSystems': answer, 'Cancel': answer}) as server:
        client = client_of(server.port)
        with pytest.raises(tpamerrors.TpamError) as repeatable:
            client.list_systems()
        with pytest.raises(tpamerrors.TpamError) as once:
            client.cancel('1001-1', '')
        client.close()
    assert repeatable.type is expected
    assert (once.type is tpamerrors.TpamOutcomeUnknown) == ('**outcome unknown**' in effect)
    assert server.commands() == ['ListSystems', 'Cancel']


def test_100_is_skipped():
    answer = b'HTTP/1.1 100 Continue\r\n\r\n' + answers_of('An answer')[0].answer_bytes()
    with PageServer({'Retrieve': answer}) as server:
        assert client_of(server.port).retrieve(RequestID='1') == answers_of('An answer')[0].value()['message']


# ---- what is sent again


def row_of_repeats(request):
    """The cell of the table for this call; the two that retrieve have a row for each of their two forms."""
    for calls, effect in tables('What is sent again')[0]:
        if request.command in quoted(calls):
            if request.command not in ('Retrieve', 'RetrieveKey') or (
                    'RequestID' in quoted(calls)) == ('RequestID' in request.options):
                return effect
    raise AssertionError('no row for ' + request.command)


@pytest.mark.parametrize('request_on_page', [example for example in examples() if example.is_request],
                         ids=lambda example: example.command)
def test_what_is_sent_again_after_a_kept_connection_ends_is_what_the_page_says(request_on_page):
    request, effect = request_on_page, row_of_repeats(request_on_page)
    empty = answers_of('A list')[1].answer_bytes()
    script = {'ListAccounts': [empty, None], request.command: None}
    if request.command == 'ListAccounts':
        script = {'ListAccounts': [empty, None]}
    with PageServer(script) as server:
        client = client_of(server.port)
        assert client.list_accounts() == []
        with pytest.raises(tpamerrors.TpamError) as failure:
            getattr(client, METHODS[request.command])(**arguments_of(request))
        client.close()
    sent = 1 if effect == 'no' else 2
    assert server.commands()[1:] == [request.command] * sent
    assert issubclass(failure.type, tpamerrors.TpamOutcomeUnknown) == (effect != 'yes')
    assert (failure.type is tpamerrors.TpamConnectionEnded) == (effect == 'no')


@pytest.mark.parametrize('method, options', [('list_systems', {}), ('cancel', {'request_id': '1', 'comment': 'x'})])
def test_a_new_connection_that_breaks_is_not_tried_again(method, options):
    with PageServer(dict.fromkeys(METHODS)) as server, PageServer(dict.fromkeys(METHODS)) as other:
        with pytest.raises(tpamerrors.TpamError) as failure:
            getattr(client_of(server.port, other.port), method)(**options)
    assert len(server.calls) == 1 and not other.calls
    assert failure.type is (tpamerrors.TpamOutcomeUnknown if method == 'cancel' else tpamerrors.TpamError)


# ---- the examples, played through the client


def test_the_lengths_in_the_examples_are_right():
    for example in examples():
        for line in example.head:
            if line.startswith('Content-Length'):
                assert line == 'Content-Length: %d' % len(example.body), example.heading


def request_before(answer):
    """The request that an answer on the page is for."""
    if answer.heading in ('A list', 'How XML-RPC may be written'):
        return request_of('ListSystems')
    before = [example for example in examples() if example.is_request]
    found = [example for example in before if example.heading == answer.heading]
    return (found or before)[0]


def answers():
    return [example for example in examples() if example.is_answer]


def result_of(request, value):
    """What the method of the client returns for this answer (a dict, as a library of others reads it)."""
    if request.command in ('Retrieve', 'RetrieveKey'):
        return value['message']
    if request.command == 'AddPwdRequest':
        return value['id'], value['message']
    if request.command == 'GetPwdRequest':
        return value['rows'][0]
    return value.get('rows')


OTHERWISE = ('Who asks', 'A list', 'How XML-RPC may be written')    # the answers that have tests of their own


@pytest.mark.parametrize('answer', [answer for answer in answers() if answer.heading not in OTHERWISE],
                         ids=lambda answer: answer.heading)
def test_the_client_understands_each_answer(answer):
    request, value = request_before(answer), answer.value()
    if isinstance(value, Fault):
        value = {'returnCode': value.faultCode, 'message': value.faultString}
    if value['returnCode'] == 0:
        assert played(answer, request) == result_of(request, value)
        return
    with pytest.raises(tpamerrors.TpamRefused) as refusal:
        played(answer, request)
    assert (refusal.value.code, refusal.value.message) == (value['returnCode'], value['message'])


@pytest.mark.parametrize('answer', answers_of('A list'), ids=['a refusal', 'no rows'])
def test_the_client_understands_each_empty_list(answer):
    assert played(answer, request_before(answer)) == []


def test_the_client_understands_an_answer_that_is_written_in_every_other_way():
    answer, = answers_of('How XML-RPC may be written')
    assert played(answer, request_before(answer)) == [
        {'SystemName': 'WEB01', 'NetworkAddress': '10.0.0.5', 'PlatformName': None}]


def test_the_client_fails_after_a_refused_log_in():
    with pytest.raises(tpamerrors.TpamError) as failure:
        played(answers_of('Who asks')[0], examples()[0])
    assert failure.value.remedy == 'check [tpam] username and password'


def test_the_client_asks_a_proxy_as_in_the_example():
    example = [example for example in examples() if example.head and example.head[0].startswith('CONNECT')][0]
    with PageServer({'CONNECT': b'HTTP/1.1 200 Connection established\r\n\r\n'}, keep=False) as proxy:
        client = client_of(443, servers=[('tpam.example.com', 443)], proxy={
            'address': ('127.0.0.1', proxy.port), 'username': 'proxy', 'password': 'word'})
        with pytest.raises(tpamerrors.TpamError):
            client.list_systems()
    assert sorted(proxy.calls[0][0]) == sorted(example.head)


# ---- the examples, played against the fake


class Clock(object):
    now = 1767603600    # 2026-01-05 09:00:00 UTC

    def __call__(self):
        return self.now


def prepared(monkeypatch, answer):
    """A fake in which the request of an answer's example gets that answer -> (the fake, options of its server)."""
    nth = answer.nth
    tpam = FakeTpam(Clock(), request_ids='tpam')
    tpam.add_user('sps', 'secret' if answer.heading != 'Who asks' else 'another')
    tpam.add_system('WEB01', '10.0.0.5')
    options = {}
    if answer.heading == 'A list':
        tpam.systems.clear()
        tpam.refuses_empty_lists = nth == 0
        return tpam, options
    if answer.heading != 'A refusal':
        tpam.add_account('WEB01', 'root', 's3cret & <two words>', key=answers_of('RetrieveKey')[0].value()['message'])
        tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    tpam.add_account('WEB01', 'alias', custom1='root', custom2='WEB01')
    if answer.heading == 'A refusal' and nth == 1:
        options['dialect'] = 'faults'
    if answer.heading == 'RetrieveKey' and nth == 1:
        monkeypatch.delitem(fake_tpam.COMMANDS, 'RetrieveKey')
    if (answer.heading, nth) in (('Retrieve', 0), ('AddPwdRequest', 0)):
        tpam.account('WEB01', 'root').min_approvers = 1
    if answer.heading in ('Retrieve', 'GetPwdRequest', 'Cancel', 'ListRequestDetails') or (
            answer.heading, nth) == ('AddPwdRequest', 2):
        tpam.call('sps', 'AddPwdRequest', dict(request_of('AddPwdRequest').options))
    return tpam, options


def posted(server, request):
    """The raw answer to a request of the page, whose head may be that of the first one."""
    head = [line for line in examples()[0].head if not line.startswith('Content-Length')]
    head += ['Content-Length: %d' % len(request.body), 'Connection: close']
    connection = socket.create_connection((server.host, server.port), 30)
    try:
        connection.sendall('\r\n'.join(head + ['', '']).encode('ascii') + request.body)
        received = connection.makefile('rb')
        head, _, body = received.read().partition(b'\r\n\r\n')
        received.close()
    finally:
        connection.close()
    return int(head.split()[1]), body


@pytest.mark.parametrize('answer', [answer for answer in answers() if answer.heading != 'How XML-RPC may be written'],
                         ids=lambda answer: answer.heading)
def test_the_fake_gives_each_answer_to_its_request(monkeypatch, answer):
    tpam, options = prepared(monkeypatch, answer)
    with FakeTpamServer(tpam, ends='at once', **options) as server:
        status, body = posted(server, request_before(answer))
    assert status == answer.status
    if status != 200:
        return
    expected = answer.value()
    if isinstance(expected, Fault):
        with pytest.raises(Fault) as fault:
            loads(body)
        assert (fault.value.faultCode, fault.value.faultString) == (expected.faultCode, expected.faultString)
        return
    got = loads(body)[0][0]
    for row, shown in zip(got.get('rows', ()), expected.get('rows', ())):
        for column in set(row) - set(shown):    # the page leaves out columns that nobody reads
            del row[column]
    assert got == expected


# ---- the examples, played through the plugin


def shown_answer(heading, nth=0):
    return answers_of(heading)[nth].answer_bytes()


def session(world, server, hooks, account='root', **more):
    """Run hooks of the session of the page -> (result of each, calls as on the page)."""
    given = dict(more, tpam=dict({'server': '127.0.0.1:%d' % server.port, 'username': 'sps', 'password': 'secret'},
                                 **more.get('tpam', {})), tls={'enabled': 'no'})
    session = world.sps(text=configuration(**given)).session(
        session_id='svc/abc-1', protocol='ssh', server_username=account, server_ip='10.0.0.5',
        server_hostname='web01', gateway_username='jdoe', gateway_domain='CORP')
    return [session.call(hook) for hook in hooks], session


def calls_as_on_the_page(server):
    host = 'Host: 127.0.0.1:%d' % server.port
    return [as_on_the_page([line.replace(host, 'Host: tpam.example.com:443') for line in head], body)
            for head, body in server.calls]


def requests_as_on_the_page(*requests):
    head = examples()[0].head
    return [as_on_the_page(head, request.body) for request in requests]


RELEASE = {'authorization': 'request', 'system_name_resolver': 'hostname'}
IN_REQUESTS = {'poll_interval': '1', 'release_duration': '60'}


def test_the_examples_serve_a_session_of_keys_and_passwords(world):
    with PageServer({'ListSystems': shown_answer('ListSystems'), 'RetrieveKey': shown_answer('RetrieveKey', 1),
                     'Retrieve': shown_answer('An answer')}) as server:
        (keys, passwords), _ = session(world, server, ('get_private_key_list', 'get_password_list'))
    assert keys.credentials == [] and passwords.credentials == ['s3cret & <two words>']
    assert 'The server gives out no private keys' in keys.log
    assert calls_as_on_the_page(server) == requests_as_on_the_page(
        request_of('ListSystems'), request_of('RetrieveKey'), request_of('Retrieve'))


def test_the_examples_serve_the_mode_policy_and_the_real_account(world):
    with PageServer({'ListSystems': shown_answer('ListSystems'), 'ListAccounts': shown_answer('ListAccounts'),
                     'ListAssignedPolicies': shown_answer('ListAssignedPolicies'),
                     'Retrieve': shown_answer('An answer')}) as server:
        (passwords,), _ = session(world, server, ('get_password_list',), 'alias', tpam={
            'authorization': 'policy', 'required_policy': 'privileged', 'system_maptoreal': 'yes'})
    assert passwords.credentials == ['s3cret & <two words>']
    assert calls_as_on_the_page(server)[:3] == requests_as_on_the_page(
        request_of('ListSystems'), request_of('ListAccounts'), request_of('ListAssignedPolicies'))


def test_the_examples_serve_the_mode_request_from_submission_to_check_in(world):
    with PageServer({'AddPwdRequest': shown_answer('AddPwdRequest'), 'GetPwdRequest': shown_answer('GetPwdRequest'),
                     'Retrieve': shown_answer('An answer'), 'Cancel': shown_answer('Cancel'),
                     'ForceReset': shown_answer('ForceReset')}) as server:
        (passwords, end), _ = session(world, server, ('get_password_list', 'session_ended'), tpam=RELEASE,
                                      request=IN_REQUESTS, check_in={'force_reset': 'yes'})
    assert passwords.credentials == ['s3cret & <two words>']
    assert "check_in='done'" in end.log
    assert calls_as_on_the_page(server) == requests_as_on_the_page(
        request_of('AddPwdRequest'), request_of('GetPwdRequest'), request_of('Retrieve', RequestID='1001-1'),
        request_of('Cancel'), request_of('ForceReset'))


def test_the_examples_show_how_a_request_is_found_whose_answer_was_lost(world):
    with PageServer({'AddPwdRequest': None, 'ListRequestDetails': shown_answer('ListRequestDetails'),
                     'Retrieve': shown_answer('An answer'), 'Cancel': shown_answer('Cancel')}) as server:
        (passwords, end), _ = session(world, server, ('get_password_list', 'session_ended'), tpam=RELEASE,
                                      request=IN_REQUESTS)
    assert passwords.credentials == ['s3cret & <two words>'] and "check_in='done'" in end.log
    assert calls_as_on_the_page(server) == requests_as_on_the_page(
        request_of('AddPwdRequest'), request_of('ListRequestDetails'), request_of('Retrieve', RequestID='1001-1'),
        request_of('Cancel'))


# ---- what is sent, and by which configuration

TICKET = {'reason_code': 'R1', 'ticket_system': 'Remedy', 'ticket_question': 'ticket'}
CONFIGURATIONS = {
    'gateway': {'request': dict(TICKET, time_required='30')},
    'approval': {'tpam': {'authorization': 'approval', 'system_name_resolver': 'hostname'}},
    'policy': {'tpam': {'authorization': 'policy', 'required_policy': 'Privileged', 'system_maptoreal': 'yes',
                        'system_name_resolver': 'fqdn, hostname'}},
    'request': {'tpam': {'authorization': 'request'}, 'check_in': {'force_reset': 'yes'},
                'request': dict(TICKET, access_policy='Privileged', release_duration='60', poll_interval='1')},
}
HOOKS = ('get_private_key_list', 'get_password_list', 'session_ended')


def prepare(world):
    tpam = world.tpam
    tpam.add_reason_code('R1')
    tpam.add_ticket('Remedy', '7')
    account = tpam.account('WEB01', 'root')
    account.min_approvers, account.approve_after, account.custom1, account.custom2 = 1, 0, 'root', 'WEB01'
    tpam.add_policy('jdoe', 'WEB01', 'root', 'Privileged')
    tpam.add_user('jdoe')


def test_the_options_of_each_command_are_those_that_sessions_send(world):
    prepare(world)
    for mode, sections in CONFIGURATIONS.items():
        if mode == 'approval':
            number = world.tpam.add_request('jdoe', 'WEB01', 'root')
        session = world.session(**sections)
        session.session_cookie = {'questions': {'ticket': '7'}}
        for hook in HOOKS:
            session.call(hook)
        if mode == 'approval':
            world.tpam.expire(number)
    sent = {}
    for entry in world.tpam.audit:
        sent.setdefault(entry.command, set()).update(entry.options)
    # The look-up for a lost request has a test of its own.
    sent['ListRequestDetails'].add('MaxRows')
    assert sorted(sent) == sorted(METHODS)
    for command in sorted(METHODS):
        assert sent[command] == options_of(command), command
