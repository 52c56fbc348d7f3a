"""The misbehaving servers and their certificates are what they are called: other tests rest on it."""

import contextlib
import socket
import ssl
import time

import pytest

try:
    import http.client as httplib
    import xmlrpc.client as xmlrpclib
except ImportError:     # Python 2
    import httplib
    import xmlrpclib

import bad_server
from certs import make

GOOD_PEM = make.path('good')
REQUEST = b'POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n<a/>'
SECRET = bad_server.PASSWORD.encode('ascii')

# What OpenSSL says of the certificates that ca.pem does not verify. Python tells it from 3.7 on.
UNVERIFIED = {
    'chain-missing': 'unable to get local issuer certificate',
    'expired': 'certificate has expired',
    'not-yet-valid': 'certificate is not yet valid',
    'other-ca': 'unable to get local issuer certificate',
    'same-name-ca': 'certificate signature failure',
    'self-signed': 'self',      # "self-signed" or "self signed"
}
LOCALHOST = (('DNS', 'localhost'), ('IP Address', '127.0.0.1'), ('IP Address', '0:0:0:0:0:0:0:1'))
OTHER_NAMES = {
    'cn-only': None,
    'cn-right-san-wrong': (('DNS', 'other.example.test'),),
    'empty-san': (),
    'ip-as-dns': (('DNS', '127.0.0.1'),),
    'ip-san': LOCALHOST[1:],
    'ip-san-wrong': (('IP Address', '192.0.2.1'), ('IP Address', '2001:DB8:0:0:0:0:0:1')),
    'nul-in-cn': None,
    'nul-in-san': (('DNS', 'localhost\0.evil.example'),),
    'punycode': (('DNS', 'xn--mnchen-3ya.example.test'),),
    'san-without-dns': (('email', 'tpam@example.test'), ('URI', 'https://localhost/')),
    'trailing-dot': (('DNS', 'localhost.'),),
    'upper-case': (('DNS', 'LOCALHOST'),),
    'wildcard': (('DNS', '*.example.test'),),
    'wildcard-for-ip': (('DNS', '*.0.0.1'),),
    'wildcard-partial': (('DNS', 'l*.example.test'), ('DNS', 'loc*host')),
    'wildcard-sole': (('DNS', '*'),),
    'wildcard-two-labels': (('DNS', '*.*.example.test'),),
    'wrong-host': (('DNS', 'other.example.test'),),
}
COMMON_NAMES = {
    'cn-only': 'localhost',
    'cn-right-san-wrong': 'localhost',
    'empty-san': 'localhost',
    'nul-in-cn': 'localhost\0.evil.example',
    'san-without-dns': 'localhost',
    'wrong-host': 'other.example.test',
}


def connect(port, ca=None, client=None, host=bad_server.LOOPBACK):
    """A TLS connection to a server that ``ca`` (a name in CERTIFICATES) verifies; without one, a TCP connection."""
    connection = socket.create_connection((host, port), timeout=30)
    return tls(connection, ca, client) if ca else connection


def connected(*arguments, **options):
    return contextlib.closing(connect(*arguments, **options))


def tls(connection, ca, client=None):
    context = ssl.SSLContext(getattr(ssl, 'PROTOCOL_TLS_CLIENT', ssl.PROTOCOL_SSLv23))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(make.path(ca))
    if client:
        context.load_cert_chain(make.path(client))
    return context.wrap_socket(connection)


def exchange(connection, request=REQUEST):
    """What comes for a request until the server ends the connection."""
    connection.sendall(request)
    received = b''
    while True:
        some = connection.recv(65536)
        if not some:
            return received
        received += some


@pytest.mark.parametrize('certificate', [None, 'good'])
@pytest.mark.parametrize('name', sorted(set(bad_server.BEHAVIOURS) - set(bad_server.NOT_LISTENING)))
def test_a_behaviour_ends_promptly_whatever_it_is_doing(name, certificate):
    before_tls = name in bad_server.BEFORE_TLS
    with bad_server.serve(name, certificate and make.path(certificate)) as server:
        client = connect(server.port, None if before_tls else certificate and 'ca')
        client.sendall(REQUEST)
        deadline = time.time() + 30
        while not (server.connections if before_tls else server.requests) and time.time() < deadline:
            time.sleep(0.01)
        client.settimeout(0.1)
        try:
            client.recv(100)
        except socket.error:    # nothing came in that time, or an end
            pass
        leaving = time.time()
    assert time.time() - leaving < 30
    client.close()
    assert server.connections == 1
    assert [request.body for request in server.requests] == ([] if before_tls else [b'<a/>'])


@pytest.mark.parametrize('certificate', [None, 'good'])
@pytest.mark.parametrize('name', sorted(bad_server.ANSWERS))
def test_an_answer_arrives_whole_and_ends(name, certificate):
    with bad_server.serve(name, certificate and make.path(certificate)) as server:
        with connected(server.port, certificate and 'ca') as connection:
            assert exchange(connection) == bad_server.ANSWERS[name]


@pytest.mark.parametrize('name', bad_server.GOOD_BEHAVIOURS)
def test_a_good_answer_is_what_common_clients_take(name):
    with bad_server.serve(name) as server:
        client = httplib.HTTPConnection(bad_server.LOOPBACK, server.port, timeout=30)
        client.request('POST', '/RPC2', '<a/>')
        values, _ = xmlrpclib.loads(client.getresponse().read())
        client.close()
    assert values == ({'returnCode': 0, 'message': bad_server.PASSWORD},)


@pytest.mark.parametrize('name', sorted(bad_server.NOT_LISTENING))
def test_nobody_gets_a_connection_where_nobody_listens(name):
    with bad_server.serve(name) as server:
        with pytest.raises(socket.error) as caught:
            socket.create_connection((bad_server.LOOPBACK, server.port), timeout=0.5)
    assert isinstance(caught.value, socket.timeout) == (name == 'unroutable')


def test_an_ipv6_server_listens_on_ipv6():
    with bad_server.serve('good', host='::1') as server:
        with connected(server.port, host='::1') as connection:
            assert SECRET in exchange(connection)


def test_a_server_that_asks_for_a_client_certificate_answers_with_one_of_its_ca_only():
    with bad_server.serve('good', GOOD_PEM, client_ca=make.path('client-ca')) as server:
        with connected(server.port, 'ca', 'client') as connection:
            assert SECRET in exchange(connection)
        for client in (None, 'client-of-other-ca'):
            with pytest.raises(socket.error):   # in the handshake, or with TLS 1.3 at the first read
                with connected(server.port, 'ca', client) as connection:
                    exchange(connection)
        assert len(server.requests) == 1


@pytest.mark.parametrize('name', make.SERVERS)
def test_a_certificate_is_wrong_in_what_its_name_says_only(name):
    with bad_server.serve('good', make.path(name)) as server:
        if name in UNVERIFIED:
            with pytest.raises(ssl.SSLError) as caught:
                with connected(server.port, 'ca'):
                    pass
            assert UNVERIFIED[name] in getattr(caught.value, 'verify_message', UNVERIFIED[name])
            assert server.requests == []
        else:
            with connected(server.port, 'ca') as connection:
                certificate = connection.getpeercert()
            names = certificate.get('subjectAltName')
            if names:   # Python ends IPv6 addresses with a newline before 3.7
                names = tuple((kind, text.rstrip('\n')) for kind, text in names)
            assert names == OTHER_NAMES.get(name, LOCALHOST)
            assert dict(sum(certificate['subject'], ()))['commonName'] == COMMON_NAMES.get(name, name)


def test_the_subject_alternative_name_comes_first_where_the_certificate_says_so():
    subject_alternative_name, basic_constraints = b'\x55\x1d\x11', b'\x55\x1d\x13'
    for name in ('good', 'san-first'):
        with open(make.path(name)) as stream:
            der = ssl.PEM_cert_to_DER_cert(stream.read().partition('-----BEGIN PRIVATE KEY')[0])
        assert (der.index(subject_alternative_name) < der.index(basic_constraints)) == (name == 'san-first')


def test_the_certificate_of_the_other_ca_is_good_for_those_who_trust_it():
    with bad_server.serve('good', make.path('other-ca')) as server:
        with connected(server.port, 'other-ca-root') as connection:
            assert connection.getpeercert()['subjectAltName'][0] == LOCALHOST[0]


def connect_request(port, *headers):
    lines = ('CONNECT tpam.example.test:%d HTTP/1.1' % port, 'Host: tpam.example.test') + headers + ('', '')
    return '\r\n'.join(lines).encode('ascii')


def test_a_tunnel_carries_tls_to_loopback_whatever_the_name():
    with bad_server.serve('good', GOOD_PEM) as server, bad_server.tunnel() as proxy:
        with connected(proxy.port) as connection:
            connection.sendall(connect_request(server.port))
            assert connection.recv(1000) == b'HTTP/1.1 200 Connection established\r\n\r\n'
            with contextlib.closing(tls(connection, 'ca')) as inner:
                assert SECRET in exchange(inner)
        line = 'CONNECT tpam.example.test:%d HTTP/1.1' % server.port
        assert proxy.requests == [(line, {'host': 'tpam.example.test'}, b'')]


@pytest.mark.parametrize('options, headers, status', [
    ({'refusal': '403 Forbidden'}, (), b'403'),
    ({'credentials': 'jdoe:secret'}, (), b'407'),
    ({'credentials': 'jdoe:secret'}, ('Proxy-Authorization: Basic amRvZTp3cm9uZw==',), b'407'),
    ({'credentials': 'jdoe:secret'}, ('Proxy-Authorization: Basic amRvZTpzZWNyZXQ=',), b'502'),
])
def test_a_tunnel_refuses_as_told_and_when_the_port_is_closed(options, headers, status):
    with bad_server.serve('refused') as server, bad_server.tunnel(**options) as proxy:
        with connected(proxy.port) as connection:
            assert exchange(connection, connect_request(server.port, *headers)).startswith(b'HTTP/1.1 ' + status)


def test_a_link_delays_each_direction_once_whatever_the_size_of_the_answer():
    with bad_server.serve('large_answer') as server, bad_server.link(server.port, delay=0.2) as line:
        with connected(line.port) as connection:
            begun = time.time()
            assert len(exchange(connection)) > 20 * bad_server.MIB
            assert 0.4 <= time.time() - begun < 30
