# -*- coding: utf-8 -*-
"""Which server a name may mean, which connection may be kept, and what a hook waited for."""
from __future__ import unicode_literals

import contextlib
import socket

import pytest

import bad_server
import fake_tpam
import tpamerrors
from bad_server import DONE, array, member, response, struct
from certs import make
from conftest import PASSWORD, PYTHONS, World, read
from fake_dns import FakeDns
from fake_tpam import EXPIRED
from test_policy import FILED, OWN_OPEN, session, trail
from test_transport import (GOOD, HANGING_LOOK_UP, ONCE, SERVICE, asking, at_once,  # noqa: F401
                            client, idle_server, pin)

OUTSIDE = 'outside the domain'
PLAIN = {'enabled': 'no', 'ca_cert': None}


# ---- which servers an SRV answer may name

def by_service(world, records, name='_tpam._tcp.example.test', proxy=None, **sections):
    """get_password_list of a session whose servers are those of these SRV records."""
    sections['tpam'] = {'server': 'srv:' + name, 'system_name_resolver': 'hostname'}
    if proxy:
        sections['https_proxy'] = {'server': '127.0.0.1', 'port': proxy.port}
    with FakeDns({(name.lower() + '.', 'SRV'): records}) as names:
        return world.session(nameserver=names.address, **sections).call('get_password_list')


def refused_as_outside(result):
    assert result.credentials is None
    assert 'TpamError' in result.raised['type']
    return OUTSIDE in result.raised['message']


def test_a_host_of_the_same_ca_outside_the_domain_of_the_service_gets_nothing(world):
    server = world.serve()
    result = by_service(world, ['10 0 %d localhost.' % server.port])
    assert refused_as_outside(result)
    assert server.connections == 0


@pytest.mark.parametrize('pins', [{}, {'server_fingerprint': 'sha256:' + 64 * '0'}])
def test_a_host_outside_the_domain_of_the_service_gets_nothing_without_tls_either(world, pins):
    server = world.serve(certfile=None)
    result = by_service(world, ['10 0 %d localhost.' % server.port], tls=dict(PLAIN, **pins))
    assert refused_as_outside(result)
    assert server.connections == 0


@pytest.mark.parametrize('target', [
    'notexample.test.', 'example.test.evil.', 'test.', 'other.test.', 'www.example.tes.',
    r'x\.example.test.',    # one label, which has a dot in it
])
def test_a_target_that_resembles_the_domain_is_outside(world, target):
    server = world.serve(certfile=None)
    with bad_server.tunnel() as proxy:
        result = by_service(world, ['10 0 %d %s' % (server.port, target)], proxy=proxy, tls=PLAIN)
    assert result.credentials is None
    assert 'TpamError' in result.raised['type']
    assert proxy.requests == []


@pytest.mark.parametrize('name, target', [
    ('_tpam._tcp.example.test', 'tpam.example.test.'),
    ('_tpam._tcp.example.test', 'a.b.example.test.'),
    ('_tpam._tcp.example.test', 'example.test.'),
    ('_tpam._tcp.example.test', 'TPAM.Example.TEST.'),
    ('_tpam._tcp.Example.Test', 'tpam.example.test.'), ('example.test', 'tpam.example.test.'),
    ('_tpam._tcp.a_b.test', 'tpam.a_b.test.'),
])
def test_a_target_inside_the_domain_of_the_service_is_asked(world, name, target):
    server = world.serve(certfile=None)
    with bad_server.tunnel() as proxy:
        result = by_service(world, ['10 0 %d %s' % (server.port, target)], name, proxy, tls=PLAIN)
    assert result.credentials == [PASSWORD]


def test_a_target_outside_the_domain_is_left_out_and_the_others_are_asked(world):
    outside, inside = world.serve(), world.serve(certfile=make.path('wildcard'))
    records = ['10 0 %d localhost.' % outside.port, '20 0 %d web.example.test.' % inside.port]
    with bad_server.tunnel() as proxy:
        result = by_service(world, records, proxy=proxy)
    assert result.credentials == [PASSWORD]
    line, = [line for line in result.lines if OUTSIDE in line]
    assert line.startswith('WARNING ')
    assert 'localhost' in line
    assert (outside.connections, len(proxy.requests)) == (0, 1)


def test_of_several_services_one_that_names_a_host_outside_is_left_out(world):
    outside, listed = world.serve(), world.serve()
    with FakeDns({SERVICE: ['10 0 %d localhost.' % outside.port]}) as names:
        result = world.session(nameserver=names.address, tpam={
            'server': 'srv:_tpam._tcp.example.test, localhost:%d' % listed.port,
            'system_name_resolver': 'hostname'}).call('get_password_list')
    assert result.credentials == [PASSWORD]
    assert OUTSIDE in result.log
    assert (outside.connections, listed.requests) == (0, 1)


def test_a_pinned_certificate_may_be_that_of_a_host_outside_the_domain(world):
    server = world.serve()
    result = by_service(world, ['10 0 %d localhost.' % server.port],
                        tls={'server_fingerprint': pin('good')})
    assert result.credentials == [PASSWORD]


@pytest.mark.parametrize('name', ['srv:_tpam._tcp', 'srv:_tpam._tcp.', 'srv:_tpam', 'srv:_a._b._c'])
def test_a_service_without_a_domain_is_wrong_configuration(world, name):
    result = world.session(tpam={'server': name}).call('get_password_list')
    assert result.raised['message'].startswith('Wrong configuration: [tpam] server')


# ---- bytes that nobody asked for

PLANTED = 'planted-by-somebody'
BUFFER = 8192   # bytes read at a time: behind an answer of that length, the rest is inside OpenSSL


def answer_of(*members):
    """An answer on a connection that is kept, as bytes."""
    body = response(struct(DONE, *members)).encode('utf-8')
    head = 'HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n' % len(body)
    return head.encode('ascii') + body


def password_of(password):
    return answer_of(member('message', password))


def padded(answer, length):
    """The same answer in `length` bytes, by a header that means nothing."""
    missing = length - len(answer) - len(b'X: \r\n')
    return answer.replace(b'\r\n', b'\r\nX: ' + b'x' * missing + b'\r\n', 1)


def planting(first, certfile, planted=password_of(PLANTED)):
    """A server that sends `planted` right behind its first answer, in one write.

    To every other request of its n-th connection, it gives the password 'of connection n'.
    """
    def behave(connection):
        number = server.connections
        while True:
            server.requests.append(bad_server.read_request(connection))
            answer = password_of('of connection %d' % number)
            connection.sendall(first + planted if len(server.requests) == 1 else answer)
    server = bad_server.Server(behave, certfile)
    return server


ROW = struct(member('SystemName', 'WEB01'), member('NetworkAddress', '10.0.0.5'))
LISTED = answer_of(member('message', 'x'), member('count', '<int>1</int>'),
                   member('rows', array(ROW)))


@pytest.mark.parametrize('length', [BUFFER, len(LISTED) + 50, BUFFER + 1, 2 * BUFFER - 200])
@pytest.mark.parametrize('certfile', ['good', None])
def test_an_answer_that_was_not_asked_for_is_never_taken_for_a_password(world, certfile, length):
    with planting(padded(LISTED, length), certfile and make.path(certfile)) as server:
        played = world.session(tpam={'server': 'localhost:%d' % server.port},
                               tls={} if certfile else PLAIN)
        assert played.call('get_password_list').credentials == ['of connection 2']
    assert (server.connections, len(server.requests)) == (2, 2)


FIRST = password_of('first')


@pytest.mark.parametrize('planted', [
    password_of(PLANTED), password_of(PLANTED)[:-10], b'\r\n', b'H'])
@pytest.mark.parametrize('length', [BUFFER, len(FIRST) + 50, BUFFER + 1])
@pytest.mark.parametrize('certfile', ['good', None])
def test_a_connection_with_bytes_left_is_not_kept(client, certfile, length, planted):  # noqa: F811
    with planting(padded(FIRST, length), certfile and make.path(certfile), planted) as server:
        asked = client(server, **({} if certfile else {'tls': None}))
        found = [asked.retrieve(SystemName='WEB01', AccountName='root') for _ in range(3)]
    assert found == ['first', 'of connection 2', 'of connection 2']
    assert server.connections == 2


# ---- connections that end without a word

ENDING = pytest.mark.parametrize('ends', fake_tpam.ENDS)


def whole_session(world, ends, **options):
    """The Results of all hooks of a session by request whose connections end so."""
    world.serve(ends=ends)
    played = world.session(tpam=dict({'authorization': 'request'}, **options),
                           request={'poll_interval': '1'}, check_in={'force_reset': 'yes'})
    hooks = ('get_password_list', 'authentication_completed', 'session_ended')
    return [played.call(hook) for hook in hooks]


def is_checked_in(world, results):
    assert [result.raised for result in results] == [None, None, None]
    assert results[0].credentials == [PASSWORD]
    assert "check_in='done'" in results[-1].log
    assert 'ERROR' not in results[-1].log
    assert [request.status for _, request in sorted(world.tpam.requests.items())] == [EXPIRED]
    assert world.tpam.account('WEB01', 'root').password != PASSWORD
    return True


@ENDING
@pytest.mark.parametrize('resolver', ['tpam', 'hostname'])
def test_a_session_by_request_survives_connections_that_end_without_a_word(world, ends, resolver):
    assert is_checked_in(world, whole_session(world, ends, system_name_resolver=resolver))
    assert world.tpam.commands().count('AddPwdRequest') == 1


@ENDING
def test_a_request_that_is_waited_for_survives_connections_that_end_without_a_word(world, ends):
    world.tpam.add_account('WEB01', 'root', PASSWORD, min_approvers=1, approve_after=0.5)
    assert is_checked_in(world, whole_session(world, ends))


@ENDING
def test_a_key_and_a_password_survive_connections_that_end_without_a_word(world, ends):
    key = read('keys/rsa-3072.pem')
    world.tpam.account('WEB01', 'root').key = key
    world.serve(ends=ends)
    played = world.session(tpam={'authorization': 'request'})
    assert len(played.call('get_private_key_list').credentials) == 1
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert "check_in='done'" in played.call('session_ended').log
    assert world.tpam.active() == []


class Ending(object):
    """Has the server of a World end the connection in place of an answer to a command, once.

    It does so before the command was carried out, or `after` it.
    """

    def __init__(self, world, command, after):
        self.command, self.after, self.answer = command.encode('ascii'), after, world.server.answer
        world.server.answer = self

    def __call__(self, user, body):
        if self.command and b'<methodName>%s</methodName>' % self.command in body:
            self.command = None
            if self.after:
                self.answer(user, body)
            raise socket.error('hangs up')
        return self.answer(user, body)


def by_request(world, ending, after):
    """get_password_list in request mode on a server that ends a kept connection at this command."""
    world.serve()
    Ending(world, ending, after)
    played = session(world, tpam={'authorization': 'request', 'system_name_resolver': 'tpam'})
    return played, played.call('get_password_list')


LOOK_UP = 'ListSystems NetworkAddress=10.0.0.5'


def test_a_request_that_ended_its_kept_connection_is_filed_once_more_if_none_is_found(world):
    played, result = by_request(world, 'AddPwdRequest', after=False)
    assert result.credentials == [PASSWORD]
    assert trail(world) == [LOOK_UP, OWN_OPEN, FILED, 'Retrieve RequestID=1001']
    assert "check_in='done'" in played.call('session_ended').log
    assert world.tpam.active() == []


def test_a_request_that_ended_its_kept_connection_is_used_if_it_is_found(world):
    played, result = by_request(world, 'AddPwdRequest', after=True)
    assert result.credentials == [PASSWORD]
    assert trail(world) == [LOOK_UP, FILED, OWN_OPEN, 'Retrieve RequestID=1001']
    played.call('session_ended')
    assert world.tpam.active() == []


def test_a_request_that_cannot_be_looked_for_is_not_filed_again(world):
    def refuse(user, options):
        raise fake_tpam.Refusal('ListRequestDetails is under maintenance')
    world.tpam.do_ListRequestDetails = refuse
    _, result = by_request(world, 'AddPwdRequest', after=False)
    assert result.credentials in (None, [])
    assert world.tpam.requests == {}
    assert 'AddPwdRequest' not in world.tpam.commands()


@pytest.mark.parametrize('after', [False, True])
@pytest.mark.parametrize('command', ['Retrieve', 'ForceReset'])
def test_a_call_that_ended_its_kept_connection_is_sent_once_more(world, command, after):
    world.serve()
    Ending(world, command, after)
    played = session(world, tpam={'authorization': 'request'}, check_in={'force_reset': 'yes'})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert "check_in='done'" in played.call('session_ended').log
    assert len(world.tpam.requests) == 1
    assert world.tpam.commands().count(command) == 1 + after
    assert world.tpam.commands()[-1] == 'ForceReset'


REPEATED = sorted(set(ONCE) - set(['AddPwdRequest']))


@pytest.mark.parametrize('command', REPEATED)
def test_a_harmless_call_is_sent_once_more_to_the_same_server(client, command):  # noqa: F811
    with bad_server.serve('good', make.path('good')) as second:
        with idle_server(GOOD, bad_server.close_before_answer) as server:
            asked = client(server, second)
            asked.retrieve(SystemName='WEB01', AccountName='root')
            ONCE[command](asked)
    assert (server.connections, len(server.requests), second.connections) == (2, 3, 0)


@pytest.mark.parametrize('command', REPEATED)
def test_a_call_is_not_sent_a_third_time(client, command):  # noqa: F811
    def behave(connection):
        server.requests.append(bad_server.read_request(connection))
        if len(server.requests) == 1:
            connection.sendall(GOOD)
            server.requests.append(bad_server.read_request(connection))
    server = bad_server.Server(behave, make.path('good'))
    with server:
        asked = client(server)
        asked.retrieve(SystemName='WEB01', AccountName='root')
        pytest.raises(tpamerrors.TpamError, ONCE[command], asked)
    assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize('command', sorted(ONCE))
def test_a_call_whose_answer_was_begun_is_not_sent_again(client, command):  # noqa: F811
    with idle_server(GOOD, lambda connection: connection.sendall(GOOD[:40])) as server:
        asked = client(server)
        asked.retrieve(SystemName='WEB01', AccountName='root')
        pytest.raises(tpamerrors.TpamOutcomeUnknown, ONCE[command], asked)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_call_that_is_not_answered_in_time_is_not_sent_again(client):  # noqa: F811
    def attempt(command):
        with idle_server(GOOD, bad_server.keep_open) as server:
            asked = client(server, timeout=5)
            asked.retrieve(SystemName='WEB01', AccountName='root')
            pytest.raises(tpamerrors.TpamError, ONCE[command], asked)
            return server.connections, len(server.requests)
    assert at_once(attempt, ONCE) == dict.fromkeys(ONCE, (1, 2))


# ---- what was waited for

WAITS = {}      # they do nothing but wait: they are tried all at once


def wait(function):
    """A function of a World and an empty directory -> the Result of a hook that had to wait."""
    WAITS[function.__name__] = function
    return function


@pytest.fixture(scope='module', params=PYTHONS)
def waited(request, plugin_zip, tmpdir_factory):
    """The Result of each of WAITS on this interpreter, by name."""
    world = World(request.param, plugin_zip)
    world.serve()
    directories = dict((name, tmpdir_factory.mktemp(name)) for name in WAITS)
    with contextlib.closing(world):
        return at_once(lambda name: WAITS[name](world, directories[name]), WAITS)


def waiting_for(world, server, **options):
    with server:
        return world.session(**asking(server, **options)).call('get_password_list')


def look_up(world, directory, **options):
    directory.join('sitecustomize.py').write(HANGING_LOOK_UP)
    return world.session(tpam=dict({'server': 'tpam.example.test'}, **options), environment={
        'PYTHONPATH': str(directory)}).call('get_password_list')


@wait
def name_in_time_of_hook(world, directory):
    return look_up(world, directory, timeout=5, connect_timeout=60)


@wait
def name_in_connect_timeout(world, directory):
    return look_up(world, directory, timeout=60, connect_timeout=2)


@wait
def connecting_in_time_of_hook(world, directory):
    return waiting_for(world, bad_server.serve('unroutable'), timeout=5, connect_timeout=60)


@wait
def connecting_in_connect_timeout(world, directory):
    return waiting_for(world, bad_server.serve('unroutable'), timeout=60, connect_timeout=4)


@wait
def handshake_in_time_of_hook(world, directory):
    return waiting_for(world, bad_server.serve('silent'), timeout=5, connect_timeout=60)


@wait
def handshake_in_connect_timeout(world, directory):
    return waiting_for(world, bad_server.serve('silent'), timeout=60, connect_timeout=4)


@wait
def answer_to_retrieve(world, directory):
    return waiting_for(world, bad_server.serve('no_answer', make.path('good')), timeout=6)


@wait
def rest_of_answer_to_retrieve(world, directory):
    return waiting_for(world, bad_server.serve('dripping_body', make.path('good')), timeout=6)


@wait
def answer_to_list_systems(world, directory):
    server = bad_server.serve('no_answer', make.path('good'))
    return waiting_for(world, server, timeout=6, system_name_resolver='tpam')


CONNECT = 'ERROR Cannot connect to the server'


@pytest.mark.parametrize('name, start, expected', [
    ('name_in_time_of_hook', 'ERROR The hook has reached its time limit', 'the look-up of the name'),
    ('connecting_in_time_of_hook', 'ERROR The hook has reached its time limit', 'connecting'),
    ('handshake_in_time_of_hook', 'ERROR The hook has reached its time limit', 'the TLS handshake'),
    ('answer_to_retrieve', 'ERROR The hook has reached its time limit', 'the answer to Retrieve'),
    ('rest_of_answer_to_retrieve', 'ERROR The hook has reached its time limit', 'the answer to Retrieve'),
    ('answer_to_list_systems', 'ERROR The hook has reached its time limit', 'the answer to ListSystems'),
    ('name_in_connect_timeout', CONNECT, 'the look-up of the name'),
    ('connecting_in_connect_timeout', CONNECT, 'connecting'),
    ('handshake_in_connect_timeout', CONNECT, 'the TLS handshake'),
])
def test_a_hook_that_ran_out_of_time_says_what_it_waited_for(waited, name, start, expected):
    result = waited[name]
    line, = [line for line in result.lines if line.startswith('ERROR')]
    assert line.startswith(start)
    assert "waiting_for='%s'" % expected in line
