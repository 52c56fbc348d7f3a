# -*- coding: utf-8 -*-
"""Rare events: parts of the configuration that few use, servers and requests in odd states, and broken connections."""
from __future__ import unicode_literals

import contextlib
import errno
import os
import socket
import ssl
import sys
import threading
import time

import pytest

import bad_server
import main
import test_policy
import test_sshkey
import test_transport
import tpamcall
import tpamcert
import tpamclient
import tpamconfig
import tpamerrors
import tpamhttp
import tpamtransport
import tpamxml
from certs import make
from conftest import PASSWORD, SLACK, certificate, configuration, read
from sps_child import native
from test_check_in import check_in, checked_out, errors
from test_log import echo, writable
from test_policy import BY_REQUEST, answers, broken, session
from test_transport import GOOD, ONCE, asking, idle_server, through

quick, client = test_policy.quick, test_transport.client  # the fixtures


# ---- the configuration

def test_a_certificate_beside_a_block_of_another_kind_is_refused_with_what_is_wanted():
    revoked = '-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n'
    text = configuration(tls={'ca_cert': certificate('ca') + revoked})
    problems = [problem for problem in tpamconfig.read_configuration(text)[1] if 'ca_cert' in problem]
    assert problems == ['[tls] ca_cert (line 2): must be PEM: -----BEGIN CERTIFICATE----- …']


def test_a_certificate_below_a_comment_that_names_no_option_belongs_to_none():
    found, problems = tpamconfig.read_configuration('[tls]\n# of the office:\n' + certificate('ca'))
    assert found['tls']['ca_cert'] is None
    assert problems
    assert 'remove that' not in ''.join(problems)


@pytest.mark.parametrize('length, is_asked', [(256, True), (257, False)])
def test_no_server_is_asked_about_an_account_of_more_than_256_characters(quick, length, is_asked):
    result = session(quick, {'server_username': 'x' * length}).call('get_password_list')
    assert result.credentials == []
    assert quick.tpam.commands() == ['Retrieve'] * is_asked


# ---- private keys

def test_without_private_keys_in_the_configuration_no_server_is_asked_for_one(world):
    result = world.session(private_keys={'enabled': 'no'}).call('get_private_key_list')
    assert result.credentials == []
    assert world.tpam.commands() == []


def small_key():
    """An RSA key of 648 bits, whose primes are Mersenne's."""
    p, q, e = 2 ** 521 - 1, 2 ** 127 - 1, 65537
    d = test_sshkey.inverse(e, (p - 1) * (q - 1))
    return test_sshkey.rsa_pem([0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), test_sshkey.inverse(q, p)])


@pytest.mark.parametrize('key, bits', [
    (small_key(), 648), (read('keys/dsa-1024-160.pem'), None), (read('keys/rsa-3072.pem'), None)])
def test_a_key_of_less_than_1024_bits_is_given_out_with_a_warning_and_any_other_without(quick, key, bits):
    quick.tpam.account('WEB01', 'root').key = key
    result = session(quick).call('get_private_key_list')
    assert len(result.credentials) == 1
    warnings = [line for line in test_policy.lines(result) if line.startswith('WARNING')]
    assert len(warnings) == (bits is not None)
    assert all("too short to be safe; replace it; account='root', bits='%d'" % bits in line for line in warnings)


@pytest.mark.parametrize('last', [0, 2, 255])
def test_pkcs8_of_an_algorithm_whose_number_is_next_to_that_of_dsa_is_refused(last):
    pem = read('keys/dsa-1024-160.pkcs8')
    algorithm = test_sshkey.DSA_OID[:-1] + bytes(bytearray([last]))
    octets = test_sshkey.binary(pem).replace(test_sshkey.DSA_OID, algorithm)
    assert 'unknown algorithm' in test_sshkey.refusal(test_sshkey.armoured('PRIVATE KEY', octets))


# ---- requests

def test_a_new_check_out_that_looks_like_one_of_an_earlier_hook_is_not_taken_for_it():
    settings = tpamconfig.read_configuration('')[0]
    entry = {'command': 'ForceReset', 'system': 'WEB01', 'account': 'root', 'request': None, 'user': ''}
    call = tpamcall.Call(settings, 'session_ended', {'cookie': {tpamcall.COOKIE_KEY: {'open': [entry]}}})
    old, = call.state['open']
    new = call.check_out('ForceReset', 'WEB01', 'root')
    assert new == old
    assert (call.is_known(old), call.is_known(new)) == (True, False)
    call.forget(old)
    assert (call.is_checked_out(old), call.is_checked_out(new)) == (False, True)


@pytest.mark.parametrize('name, value', [
    ('system', 5), ('system', None), ('account', ['root']), ('user', 5), ('user', ['jdoe']), ('server', {}),
    ('request', True), ('request', 1.5), ('command', 'Retrieve')])
def test_a_check_out_with_a_value_of_another_type_is_reported_and_not_checked_in(quick, name, value):
    played = checked_out(quick)
    played.cookie['SPS_TPAM_XMLRPC']['open'][0][name] = value
    ended = played.call('session_ended')
    line, = errors(ended, 'cannot be read')
    for known in {'system': "system='WEB01'", 'account': "account='root'", 'request': "request='1001'"}.items():
        assert (known[1] in line) == (known[0] != name)
    assert check_in(ended) == 'unknown'
    assert 'Cancel' not in quick.tpam.commands()


def test_a_request_that_somebody_cancelled_is_not_submitted_again_in_the_same_session(quick):
    played = checked_out(quick)
    request, = quick.tpam.active()
    request.status = 'Canceled'
    assert played.call('get_password_list').credentials == []
    assert quick.tpam.commands().count('AddPwdRequest') == 1


@pytest.mark.parametrize('column, value', [('SystemName', 'DB01'), ('AccountName', 'oracle'), ('Status', 'Expired')])
def test_a_lost_request_is_not_found_in_the_row_of_another_account_or_of_a_closed_one(quick, column, value):
    row = {'RequestID': '9', 'UserName': 'sps', 'SystemName': 'WEB01', 'AccountName': 'root',
           'Status': 'Active/Approved', 'RequestNotes': 'jdoe,SPS,request,session-1'}
    answers(quick, 'ListRequestDetails', dict(row, **{str(column): value}))
    with broken(quick, 'AddPwdRequest'):
        result = session(quick, tpam=BY_REQUEST).call('get_password_list')
    assert 'TpamOutcomeUnknown' in result.raised['type']
    assert set(quick.tpam.commands()) == set(['ListRequestDetails'])


@pytest.mark.parametrize('end', ['', '.', '. ', ' .'])
def test_a_request_that_is_active_at_once_is_not_waited_for_whatever_ends_the_sentence(quick, end):
    work = quick.tpam.do_AddPwdRequest

    def add(user, options):
        answer = work(user, options)
        return dict(answer, message=answer['message'] + end)
    quick.tpam.do_AddPwdRequest = add
    assert session(quick, tpam=BY_REQUEST).call('get_password_list').credentials == [PASSWORD]
    assert quick.tpam.commands() == ['AddPwdRequest', 'Retrieve']


def test_a_session_that_ends_twice_changes_the_password_once_and_says_so(quick):
    played = checked_out(quick, check_in={'force_reset': 'yes'})
    cookie = dict(played.cookie)
    assert check_in(played.call('session_ended')) == 'done'
    again = played.call('session_ended', cookie=cookie)
    warning, = [line for line in again.lines if 'The password is not changed again' in line]
    assert warning.startswith('WARNING ')
    assert "account='root'" in warning
    assert quick.tpam.commands().count('ForceReset') == 1


def test_a_hook_that_is_interrupted_cancels_its_request_and_stays_interrupted(quick, monkeypatch):
    def interrupt(*_, **options):
        raise KeyboardInterrupt
    plugin = main.Plugin(native(session(quick, tpam=BY_REQUEST).sps.configuration))
    monkeypatch.setattr(tpamclient.TpamClient, 'retrieve', interrupt)
    with pytest.raises(KeyboardInterrupt):
        plugin.get_password_list(server_username='root', server_hostname='web01', session_id='session-1',
                                 gateway_username='jdoe')
    assert len(quick.tpam.requests) == 1
    assert quick.tpam.active() == []


def test_an_end_of_a_session_that_is_interrupted_says_what_is_still_checked_out(quick, monkeypatch, capsys):
    def interrupt(*_, **options):
        raise KeyboardInterrupt
    played = checked_out(quick)
    monkeypatch.setattr(tpamclient.TpamClient, 'cancel', interrupt)
    with pytest.raises(KeyboardInterrupt):
        main.Plugin(native(played.sps.configuration)).session_ended(session_id='session-1', cookie=played.cookie)
    line, = [line for line in capsys.readouterr()[0].splitlines() if 'This is still checked out' in line]
    assert "request='1001'" in line


# ---- answers

@pytest.mark.parametrize('value', [bad_server.SECRET, '<int>0</int>', bad_server.array(bad_server.RESULT)])
def test_an_answer_that_is_not_a_struct_is_not_used_and_not_repeated(world, value):
    def behave(connection):
        bad_server.read_request(connection)
        bad_server.send(bad_server.http(bad_server.response(value)), connection)
    with bad_server.Server(behave, make.path('good')) as server:
        result = world.session(**asking(server)).call('get_password_list')
    assert result.raised['message'].startswith('No usable answer; ')
    assert 'no struct with returnCode and message' in result.raised['message']
    assert bad_server.PASSWORD not in result.log + result.raised['message']


def test_half_of_a_character_beyond_the_basic_plane_is_not_sent_and_pairs_of_halves_only_by_a_narrow_python():
    narrow = sys.maxunicode == 0xffff
    for value, is_sent in (('\ud83d', False), ('\ude00', False), ('\ude00\ud83d', False), ('\ud83d\ude00', narrow)):
        if is_sent:
            assert b'\xf0\x9f\x98\x80' in tpamxml.encode_call('x', {'Name': value})
        else:
            pytest.raises(tpamerrors.TpamError, tpamxml.encode_call, 'x', {'Name': value})


def test_half_of_a_character_in_the_name_of_a_user_ends_the_hook_with_a_line_that_shows_it(quick):
    result = session(quick, {'gateway_username': 'j\ud800doe'}).call('get_password_list')
    assert 'XML cannot carry a character of this option; nothing was sent' in result.raised['message']
    assert '\\ud800' in result.log
    assert quick.tpam.commands() == []


# ---- secrets that a server repeats as XML writes them

@pytest.mark.parametrize('form', ['&#%d;', '&#%05d;', '&#x%x;', '&#x%X;', '&#X00%x;'])
def test_no_password_is_seen_where_a_server_repeats_it_as_character_references(quick, form):
    secret = 'kQ7\xe9\u5bc6-b9\\v=%L4'
    shown = ''.join(form % ord(char) for char in secret)
    echo(quick, 'Rejected: <%s>' % shown)
    result = session(quick, tpam={'password': secret}).call
    quick.tpam.add_user('sps', secret)
    seen = result('get_password_list')
    assert "reason='Rejected: <********>'" in seen.log
    assert shown[:12] not in seen.log


@pytest.mark.parametrize('reference', ['&#1114112;', '&#x110000;', '&#9999999;', '&#xd800;', '&#55296;'])
def test_a_reference_to_no_character_hides_no_password_beside_it(quick, reference):
    secret = 'kQ7-b9-L4'
    echo(quick, reference + ''.join('&#%d;' % ord(char) for char in secret) + reference)
    quick.tpam.add_user('sps', secret)
    seen = session(quick, tpam={'password': secret}).call('get_password_list')
    assert "reason='%s********%s'" % (reference, reference) in seen.log


# ---- a log that cannot be written

def test_a_descriptor_that_is_closed_takes_no_line_and_keeps_no_password_back(quick, monkeypatch):
    written, closed = [], 200
    os.dup2(0, closed)  # select() of Linux looks at no descriptor beyond the largest that there was
    os.close(closed)
    stream = writable(fileno=lambda self: closed, write=lambda self, line: written.append(line))
    call = session(quick).sps.call
    arguments = {'server_username': 'root', 'server_hostname': 'web01', 'gateway_username': 'jdoe'}
    monkeypatch.setattr(test_policy, 'Log', lambda: stream)
    stream.content = ''
    assert call('get_password_list', arguments).credentials == [PASSWORD]
    assert written == []


# ---- connections

@pytest.mark.parametrize('certfile, tls', [
    ('wrong-host', {}), ('other-ca', {}), ('expired', {}), ('not-yet-valid', {}),
    ('good', {'server_fingerprint': 'sha256:' + 64 * '0'}),
], ids=['for another host name', 'of another CA', 'that has expired', 'that is not yet valid', 'that is not pinned'])
def test_a_server_is_sent_nothing_that_has_a_certificate(world, certfile, tls):
    server = world.serve(certfile=make.path(certfile))
    result = world.session(tls=tls).call('get_password_list')
    assert 'TpamError' in result.raised['type']
    assert server.requests == 0


@pytest.mark.parametrize('behaviour, most', [
    ('one_endless_header_line', 64 * 1024), ('endless_body', 16 * 1024 * 1024)])
def test_an_answer_is_read_as_far_as_its_bound_and_no_further(world, behaviour, most):
    with bad_server.serve(behaviour, make.path('good')) as server:
        result = world.session(**asking(server)).call('get_password_list')
    assert result.raised['message'].startswith('No usable answer; ')
    assert "reason='more than %d bytes'" % most in result.raised['message']


def test_a_name_that_cannot_be_looked_up_is_an_error_with_its_address(world):
    result = world.session(tpam={'server': 'tpam..example.test:8443'}).call('get_password_list')
    assert result.raised['message'].startswith('Cannot connect to the server; ')
    assert "address='tpam..example.test, port 8443'" in result.raised['message']
    assert 'TpamUnavailable' in result.raised['type']


UNKNOWN_NAME = """
import socket
known = socket.getaddrinfo
def getaddrinfo(host, *arguments):
    if host == 'tpam.example.test':
        raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')
    return known(host, *arguments)
socket.getaddrinfo = getaddrinfo
"""


def test_a_name_that_dns_does_not_know_has_the_next_server_asked(world, tmpdir):
    world.serve()
    tmpdir.join('sitecustomize.py').write(UNKNOWN_NAME)
    played = world.session(tpam={'server': 'tpam.example.test, localhost:%d' % world.server.port},
                           environment={'PYTHONPATH': str(tmpdir)})
    result = played.call('get_password_list')
    assert result.credentials == [PASSWORD]
    assert "reason='Name or service not known'" in result.lines[0]
    assert "next='the next server'" in result.lines[0]


def test_the_newest_tls_may_be_negotiated(world):
    assert world.session(tls={'protocol': 'negotiate'}).call('get_password_list').credentials == [PASSWORD]


NO_PROC = """
import os
isdir = os.path.isdir
os.path.isdir = lambda path: path != '/proc/self/fd' and isdir(path)
"""


def test_without_proc_the_certificates_are_read_all_the_same_and_no_file_is_left(world, tmpdir):
    patches, files = tmpdir.mkdir('patches'), tmpdir.mkdir('files')
    patches.join('sitecustomize.py').write(NO_PROC)
    world.serve(client_ca=make.path('client-ca'))
    played = world.session(tls={'client_cert': certificate('client')}, environment={
        'PYTHONPATH': str(patches), 'TMPDIR': str(files)})
    assert played.call('get_password_list').credentials == [PASSWORD]
    assert files.listdir() == []


def test_a_thread_that_is_too_late_closes_the_socket_when_it_ends():
    """Nobody else may, as long as it reads."""
    sock, peer = socket.socketpair()
    peer.settimeout(SLACK)
    wire = tpamhttp.Wire(sock, tpamerrors.Deadline(0.1), 1)
    pytest.raises(tpamerrors.TpamTimeout, wire.in_thread, sock.recv, 1)
    assert wire.abandon()
    peer.sendall(b'x')
    assert peer.recv(1) == b''
    assert not wire.abandon()


def test_a_proxy_that_goes_right_after_it_accepted_gets_nothing(world):
    def behave(connection):
        proxy.requests.append(bad_server.read_request(connection))
        connection.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
    proxy = bad_server.Server(behave)
    with proxy:
        result = world.session(**through(proxy)).call('get_password_list')
    assert result.raised['message'].startswith('TLS cannot be set up with the server; ')
    assert [request.body for request in proxy.requests] == [b''] * len(proxy.requests)


ANONYMOUS = 'AECDH-AES128-SHA:@SECLEVEL=0'


def anonymous(context):
    """Have a context know no cipher but one that needs no certificate."""
    context.set_ciphers(ANONYMOUS)
    context.options |= getattr(ssl, 'OP_NO_TLSv1_3', 0)
    return context


def test_a_server_without_a_certificate_gets_no_byte(client, monkeypatch):
    def wrap_socket(sock, ssl_version, do_handshake_on_connect, **_):
        return anonymous(ssl.SSLContext(ssl_version)).wrap_socket(sock, do_handshake_on_connect=False)
    monkeypatch.setattr(ssl, 'wrap_socket', wrap_socket, raising=False)
    tls = {'ca_cert': None, 'client_cert': None, 'server_fingerprint': [64 * '0'], 'check_host_name': True,
           'protocol': 'negotiate'}
    with bad_server.serve('good', make.path('good')) as server:
        anonymous(server._context)
        with pytest.raises(tpamerrors.TpamUnavailable) as caught:
            client(server, tls=tls).retrieve(SystemName='WEB01', AccountName='root')
    assert caught.value.details['reason'] == 'no certificate'
    assert server.requests == []


def test_a_call_that_cannot_be_written_was_certainly_not_carried_out(client):
    with bad_server.serve('good', make.path('good')) as server:
        pytest.raises(tpamerrors.TpamUnavailable, client(server, path='/a b').cancel, 1001, 'done')
    assert server.requests == []


def leaving_server():
    """A server that goes, connection and port, in place of the answer to the second request."""
    server = idle_server(GOOD, lambda connection: bad_server.hang_up(server._listener))
    return server


def test_a_harmless_call_goes_to_the_next_server_when_one_has_gone_in_place_of_an_answer(client):
    with bad_server.serve('good', make.path('good')) as second, leaving_server() as first:
        asked = client(first, second)
        for _ in range(2):
            assert asked.retrieve(SystemName='WEB01', AccountName='root') == bad_server.PASSWORD
    assert (len(first.requests), len(second.requests)) == (2, 1)


@pytest.mark.parametrize('command', sorted(set(ONCE) - set(['AddPwdRequest'])))
def test_a_call_that_changes_something_does_not_go_to_the_next_server_when_one_has_gone(client, command):
    with bad_server.serve('good', make.path('good')) as second, leaving_server() as first:
        asked = client(first, second)
        asked.retrieve(SystemName='WEB01', AccountName='root')
        with pytest.raises(tpamerrors.TpamOutcomeUnknown) as caught:
            ONCE[command](asked)
    assert 'it is unknown whether the call was carried out' in caught.value.message
    assert second.connections == 0


def test_an_address_of_an_odd_length_in_a_certificate_is_shown_as_such_and_matches_nothing():
    peer = {'alternative_names': [(0x87, b'\x0a\0\0')], 'common_names': ['10.0.0.0']}
    assert tpamcert.names_of(peer) == ['?']
    assert not tpamcert.matches(peer, '10.0.0.0')


# ---- a handshake waits

class Counted(object):
    """A TLS socket that counts how often a handshake is continued."""

    def __init__(self, sock):
        self._sock, self.turns = sock, 0

    def __getattr__(self, name):
        return getattr(self._sock, name)

    def do_handshake(self):
        self.turns += 1
        return self._sock.do_handshake()


@contextlib.contextmanager
def shaking_hands(is_full=False):
    """(Counted, the socket of the peer) before any handshake; `is_full`: what was sent fills all buffers."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen(1)
        near, count = socket.create_connection(listener.getsockname()), 0
        far = listener.accept()[0]
    near.setblocking(False)
    while is_full:
        try:
            count += near.send(b'x' * 4096)
        except socket.error as error:
            assert error.errno == errno.EAGAIN
            break
    context = ssl.SSLContext(getattr(ssl, 'PROTOCOL_TLS_CLIENT', ssl.PROTOCOL_SSLv23))
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.closing(context.wrap_socket(near, do_handshake_on_connect=False)) as wrapped:
        with contextlib.closing(far):
            yield Counted(wrapped), far, count


def test_a_handshake_with_a_silent_peer_waits_and_does_not_spin():
    with shaking_hands() as (counted, _, _):
        pytest.raises(tpamerrors.TpamTimeout, tpamtransport._do_handshake, counted, tpamerrors.Deadline(0.5))
    assert counted.turns < 10


def test_a_handshake_with_a_peer_that_reads_nothing_waits_until_it_does():
    def serve():
        while counted.turns == 0:
            time.sleep(0.01)
        time.sleep(0.3)  # a handshake that spins takes thousands of turns meanwhile
        left = count
        while left:
            left -= len(far.recv(min(left, 65536)))
        context = bad_server.tls_context(make.path('good'), None)
        with contextlib.closing(context.wrap_socket(far, server_side=True)):
            pass
    with shaking_hands(is_full=True) as (counted, far, count):
        thread = threading.Thread(target=serve)
        thread.start()
        tpamtransport._do_handshake(counted, tpamerrors.Deadline(20))
        thread.join()
    assert 1 < counted.turns < 100
