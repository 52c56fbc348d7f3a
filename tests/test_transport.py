# -*- coding: utf-8 -*-
"""What is on the wire: names and certificates, XML-RPC, several servers, DNS, proxies, connections kept, and time.

Where what a library does matters, tables of cases run in one process of each interpreter, see `answers`; conversations
run end to end, and in this process where an interpreter makes no difference.
"""
from __future__ import unicode_literals

import base64
import contextlib
import hashlib
import json
import multiprocessing.pool
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import textwrap
import threading

import dns.rrset
import pytest
from hypothesis import given, settings, strategies

import bad_server
import tpamcert
import tpamclient
import tpamerrors
import tpamtransport
import tpamxml
from certs import make
from conftest import (API_PASSWORD, HERE, PASSWORD, PROXY_PASSWORD, PYTHONS, SLACK, World, certificate,
                      configuration)
from fake_dns import FakeDns
from test_log import PID, child, hook_of


@pytest.fixture(params=PYTHONS)
def python(request):
    """Each interpreter that the plugin is to run on."""
    return request.param


CHILD = '''
import json, sys
sys.dont_write_bytecode = True
sys.path[:0] = %r
import shim
shim.install()
import tpamcert, tpamerrors, tpamxml
%s
found = []
for case in json.load(sys.stdin):
    try:
        found.append(function(case))
    except Exception:
        found.append({'raised': sys.exc_info()[0].__name__})
sys.stdout.write(json.dumps(found))
'''


def answers(python, function, cases):
    """What `function` (source text of a function of that name) gives for each case, in one process of this interpreter:
    its result, or {'raised': name of a class}. Cases and results are JSON."""
    code = CHILD % ([str(HERE), str(os.path.dirname(HERE))], str(function))
    child = subprocess.Popen([python, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    output = child.communicate(json.dumps(cases).encode('ascii'))[0]
    assert child.returncode == 0
    return json.loads(output.decode('ascii'))


def raised(name):
    return {'raised': name}


# ---- the names in a certificate ------------------------------------------------------------------------------------

def dns_names(*names):
    return {'alternative_names': [(0x82, name) for name in names], 'common_names': []}


def addresses(*names):
    return {'alternative_names': [(0x87, socket.inet_pton(socket.AF_INET6 if ':' in name else socket.AF_INET, name)
                                   .decode('latin-1')) for name in names], 'common_names': []}


def common_names(*names, **others):
    return {'alternative_names': others.get('alternative_names'), 'common_names': names}


NAMES = [   # what is in the certificate, host, whether it is for that host
    (dns_names('tpam.example.test'), 'tpam.example.test', True),
    (dns_names('other.example.test', 'tpam.example.test'), 'tpam.example.test', True),
    (dns_names('TPAM.example.TEST'), 'tpam.EXAMPLE.test', True),
    (dns_names('tpam.example.test.'), 'tpam.example.test', True),
    (dns_names('tpam.example.test'), 'tpam.example.test.', True),
    (dns_names('tpam.example.test'), 'tpam.example.tes', False),
    (dns_names('tpam.example.test'), 'example.test', False),
    (dns_names('example.test'), 'tpam.example.test', False),
    (dns_names('tpam'), 'tpam', True),
    (dns_names('xn--mnchen-3ya.example.test'), 'xn--mnchen-3ya.example.test', True),
    (dns_names('*.example.test'), 'tpam.example.test', True),
    (dns_names('*.EXAMPLE.test'), 'TPAM.example.test', True),
    (dns_names('*.example.test'), 'tpam.example.test.', True),
    (dns_names('*.example.test'), 'xn--mnchen-3ya.example.test', True),
    (dns_names('*.example.test'), 'a.tpam.example.test', False),
    (dns_names('*.example.test'), 'example.test', False),
    (dns_names('*.example.test'), '.example.test', False),
    (dns_names('*.example.test'), 'tpam.example.test.evil.test', False),
    (dns_names('*.*.example.test'), 'a.b.example.test', False),
    (dns_names('a.*.example.test'), 'a.b.example.test', False),
    (dns_names('t*.example.test'), 'tpam.example.test', False),
    (dns_names('*m.example.test'), 'tpam.example.test', False),
    (dns_names('xn--*.example.test'), 'xn--mnchen-3ya.example.test', False),
    (dns_names('*'), 'tpam', False),
    (dns_names('*.'), 'tpam.', False),
    (dns_names('*'), 'tpam.example.test', False),
    (dns_names(''), 'tpam', False),
    (dns_names('tpam.example.test\0.evil.test'), 'tpam.example.test', False),
    (dns_names('tpam.example.test\n'), 'tpam.example.test', False),
    (dns_names(' tpam.example.test'), 'tpam.example.test', False),
    (dns_names('\u212apam.example.test'.encode('utf-8').decode('latin-1')), 'kpam.example.test', False),
    (dns_names('10.0.0.1'), '10.0.0.1', False),
    (dns_names('*.0.0.1'), '10.0.0.1', False),
    (dns_names('fd00::1'), 'fd00::1', False),
    (addresses('10.0.0.1'), '10.0.0.1', True),
    (addresses('10.0.0.1'), '10.0.0.2', False),
    (addresses('10.0.0.1', 'fd00::1'), 'fd00::1', True),
    (addresses('fd00::1'), 'fd00:0:0:0:0:0:0:1', True),
    (addresses('fd00::1'), 'fd00::2', False),
    (addresses('10.0.0.1'), 'tpam.example.test', False),
    (common_names('tpam.example.test'), 'tpam.example.test', True),
    (common_names('other', 'tpam.example.test'), 'tpam.example.test', True),
    (common_names('*.example.test'), 'tpam.example.test', True),
    (common_names('10.0.0.1'), '10.0.0.1', True),
    (common_names('*.0.0.1'), '10.0.0.1', False),
    (common_names('tpam.example.test\0.evil.test'), 'tpam.example.test', False),
    (common_names('\u212apam.example.test'), 'kpam.example.test', False),
    (common_names(), 'tpam.example.test', False),
    (common_names('tpam.example.test', alternative_names=[]), 'tpam.example.test', False),
    (common_names('tpam.example.test', alternative_names=[(0x81, 'a@example.test')]), 'tpam.example.test', False),
    (common_names('10.0.0.1', alternative_names=[]), '10.0.0.1', False),
    (common_names('10.0.0.1', alternative_names=[(0x82, 'tpam')]), '10.0.0.1', False),
]

MATCHES = '''
def function(case):
    names = case[0]['alternative_names']
    if names is not None:
        names = [(tag, value.encode('latin-1')) for tag, value in names]
    return tpamcert.matches(dict(case[0], alternative_names=names), case[1])
'''


def test_a_certificate_is_for_the_names_that_rfc_6125_says(python):
    found = answers(python, MATCHES, NAMES)
    assert [case for case, result in zip(NAMES, found) if result is not case[2]] == []


DESCRIBED = '''
import ssl
def function(pem):
    der = ssl.PEM_cert_to_DER_cert(str(pem))
    peer = tpamcert.certificate(der)
    return dict(peer, names=tpamcert.names_of(peer), alternative_names=None, sha256=tpamcert.fingerprint(der))
'''


def leaf(name):
    """PEM of the first certificate in a file of tests/certs/."""
    return certificate(name).partition('-----END CERTIFICATE-----')[0] + '-----END CERTIFICATE-----\n'


def der(name):
    return ssl.PEM_cert_to_DER_cert(str(leaf(name)))


def test_a_certificate_is_read_whole_whatever_the_order_of_its_extensions(python):
    names = {'good': ['localhost', '127.0.0.1', '::1'], 'nul-in-san': ['localhost\0.evil.example'], 'empty-san': [],
             'nul-in-cn': ['localhost\0.evil.example'], 'cn-only': ['localhost'], 'san-without-dns': [],
             'ip-san-wrong': ['192.0.2.1', '2001:db8::1']}
    names['san-first'] = names['good']
    found = dict(zip(sorted(names), answers(python, DESCRIBED, [leaf(name) for name in sorted(names)])))
    assert dict((name, found[name]['names']) for name in names) == names
    assert found['good'] == {
        'subject': 'O=TPAM test, CN=good', 'issuer': 'O=TPAM test, CN=TPAM test CA', 'common_names': ['good'],
        'names': names['good'], 'alternative_names': None, 'not_before': '2000-01-01 00:00:00',
        'not_after': '2049-12-31 23:59:59', 'sha256': hashlib.sha256(der('good')).hexdigest()}


# The certificate cut at each place, and with each of its bytes replaced by each of some others.
DAMAGED = """
import ssl
def function(pem):
    der = bytearray(ssl.PEM_cert_to_DER_cert(str(pem)))
    damaged = [der[:at] for at in range(len(der))]
    damaged += [der[:at] + bytearray([byte]) + der[at + 1:] for at in range(len(der)) for byte in (0, 5, 128, 255)]
    return sorted(set(outcome(bytes(each)) for each in damaged))
def outcome(der):
    try:
        tpamcert.names_of(tpamcert.certificate(der))
        return 'read'
    except ValueError:
        return 'ValueError'
    except Exception:
        return sys.exc_info()[0].__name__
"""


def test_a_damaged_certificate_is_read_or_a_value_error(python):
    assert answers(python, DAMAGED, [leaf('good'), leaf('nul-in-cn')]) == [['ValueError', 'read']] * 2


@settings(max_examples=200)
@given(strategies.binary(max_size=40), strategies.integers(0, 800), strategies.integers(0, 40))
def test_a_certificate_with_anything_in_it_is_read_or_a_value_error(inserted, at, dropped):
    good = der('good')
    try:
        tpamcert.names_of(tpamcert.certificate(good[:at] + inserted + good[at + dropped:]))
    except ValueError:
        pass


@pytest.mark.parametrize('octets', [b'', b'\x30', b'\x30\x80\x00\x00', b'\x30\x84', b'\x30\xff' + b'\xff' * 127,
                                    b'\x30\x00', b'\x30\x02\x30\x00', b'\x02\x01\x00'])
def test_what_is_no_certificate_is_a_value_error(octets):
    with pytest.raises(ValueError):
        tpamcert.certificate(octets)


# ---- XML-RPC -------------------------------------------------------------------------------------------------------

def response(value, head='<?xml version="1.0"?>'):
    return '%s<methodResponse><params><param>%s</param></params></methodResponse>' % (head, value)


def value(content):
    return response('<value>%s</value>' % content)


EX = 'xmlns:ex="http://ws.apache.org/xmlrpc/namespaces/extensions"'
MEMBER = '<member><name>a</name><value>1</value></member>'
DECODED = [     # the answer, as text of latin-1 bytes, and its value
    (value('text'), 'text'),
    (value('<string>text</string>'), 'text'),
    (value(''), ''), (response('<value/>'), ''), (value('<string/>'), ''), (value('<string></string>'), ''),
    (value(' \t two  spaces \n'), ' \t two  spaces \n'),
    (value('<string> kept </string>'), ' kept '),
    (value('\n <string> kept </string>\n '), ' kept '),
    (value('<string>&lt;&amp;&#13;&#10;&#x5bc6;&#128512;</string>'), '<&\r\n\u5bc6\U0001f600'),
    (value('<string>a<![CDATA[<b>&amp;]]]]><![CDATA[>]]>c</string>'), 'a<b>&amp;]]>c'),
    (value('<![CDATA[<string>x</string>]]>'), '<string>x</string>'),
    (value('<string>a<!-- not -->b<?not this?>c</string>'), 'abc'),
    (value('a<!-- not -->b'), 'ab'),
    (value('<!-- before --><int>5</int><!-- behind -->'), 5),
    (value('<int>5</int>'), 5), (value('<i4>-5</i4>'), -5), (value('<int> +5\n</int>'), 5),
    (value('<i8>9223372036854775807</i8>'), 9223372036854775807), (value('<i1>1</i1>'), 1), (value('<i2>2</i2>'), 2),
    (value('<boolean>1</boolean>'), True), (value('<boolean>0</boolean>'), False),
    (value('<double>1.5</double>'), 1.5),
    (value('<dateTime.iso8601>20260102T03:04:05</dateTime.iso8601>'), '20260102T03:04:05'),
    (value('<nil/>'), None), (value('<nil></nil>'), None),
    (value('<ex:nil %s/>' % EX), None),
    (value('<ex:nil/>'), None),     # its prefix not declared, as some servers write it
    (value('<ex:i8>5</ex:i8>'), 5), (value('<ex:i1>5</ex:i1>'), 5),
    (value('<base64>w6k=</base64>'), '\xe9'), (value('<base64>\n w6\n k=\n</base64>'), '\xe9'),
    (value('<base64/>'), ''),
    (value('<array><data/></array>'), []), (value('<array><data></data></array>'), []),
    (value('<array> <data> <value>a</value> <value><int>1</int></value> </data> </array>'), ['a', 1]),
    (value('<struct/>'), {}),
    (value('<struct>%s</struct>' % MEMBER), {'a': '1'}),
    (value('<struct> <member> <name>a</name> <value>1</value> </member> </struct>'), {'a': '1'}),
    (value('<struct><member><name/><value>1</value></member></struct>'), {'': '1'}),
    (value('<struct>%s<member><name>b</name><value><struct>%s</struct></value></member></struct>' % (MEMBER, MEMBER)),
     {'a': '1', 'b': {'a': '1'}}),
    (response('<value>\xe9</value>', '<?xml version="1.0" encoding="ISO-8859-1"?>'), '\xe9'),
    (response('<value>\xe9</value>', "<?xml version='1.0' encoding = 'iso-8859-1' standalone='yes'?>"), '\xe9'),
    (response('<value>&#233;</value>', '<?xml version="1.0" encoding="us-ascii"?>'), '\xe9'),
    (response('<value>\xc3\xa9</value>', '<?xml version="1.0" encoding="UTF-8"?>'), '\xe9'),
    (response('<value>\xc3\xa9</value>', '\xef\xbb\xbf<?xml version="1.0"?>'), '\xe9'),
    (response('<value>\xc3\xa9</value>', ''), '\xe9'),
    (response('<value>\xc3\xa9</value>', '\n<!-- first -->'), '\xe9'),
]

NESTED = '<struct><member><name>a</name><value>'


def nested(levels):
    return value(NESTED * levels + '</value></member></struct>' * levels)


def arrays(levels):
    return value('<array><data><value>' * levels + '</value></data></array>' * levels)


BROKEN = [
    '', ' ', 'null', '{}', '<', '<a', '<?xml version="1.0"?>', value('')[:-5], value('') + 'x', value('') + value(''),
    '<methodResponse/>', '<methodResponse><params/></methodResponse>', '<methodCall/>',
    '<methodResponse><params><param/></params></methodResponse>', response(''), response('text'),
    response('<value>a</value><value>b</value>'), response('<value>a</value></param><param><value>b</value>'),
    response('<value>a</value></param></params><params><param><value>b</value>'),
    '<x:methodResponse xmlns:x="urn:x"/>', response('<string>a</string>'),
    value('<int/>'), value('<int>x</int>'), value('<int>1.0</int>'), value('<int>1_0</int>'), value('<int>0x1</int>'),
    value('<int>%s</int>' % ('9' * 20)), value('<int>%s</int>' % ('9' * 100000)), value('<int><int>1</int></int>'),
    value('<int>\xd9\xa1</int>'),
    value('<boolean>2</boolean>'), value('<boolean>true</boolean>'), value('<boolean/>'),
    value('<double>x</double>'), value('<double/>'),
    value('<base64>w6k</base64>'), value('<base64>w6k=w6k=</base64>'), value('<base64>w6!k=</base64>'),
    value('<base64>/w==</base64>'), value('<base64>\xc3\xa9</base64>'), value('<base64>====</base64>'),
    value('<string>a</string><string>b</string>'), value('a<string>b</string>'), value('<string>a</string>b'),
    value('<string><b/></string>'), value('<unknown>1</unknown>'), value('<value>a</value>'), value('<y:nil/>'),
    value('<array/>'), value('<array><value>a</value></array>'), value('<array><data>a<x/></data></array>'),
    value('<array><data/><data/></array>'), value('<array><data><string>a</string></data></array>'),
    value('<struct>%s%s</struct>' % (MEMBER, MEMBER)), value('<struct><name>a</name></struct>'),
    value('<struct><member><name>a</name></member></struct>'), value('<struct><member/></struct>'),
    value('<struct><member><value>1</value><name>a</name></member></struct>'),
    value('<struct><member><name>a</name><value>1</value><value>2</value></member></struct>'),
    value('<struct><member><name><b/></name><value>1</value></member></struct>'),
    nested(17), nested(1000), arrays(18), arrays(1000),
    value('a\0b'), value('&#0;'), value('&x;'), value('\x01'), value('\xff'),
    '<!DOCTYPE methodResponse>' + value('')[21:], '<!DOCTYPE x [<!ENTITY x "y">]>' + value('&x;')[21:],
    response('<value/>', '<!-- --><!DOCTYPE x>'), response('<value/>', '<?xml version="1.0" encoding="UTF-7"?>'),
    response('<value/>', '<?xml version="1.0" encoding="utf-16"?>'), response('<value/>', '<?xml encoding="cp037"?>'),
    response('<value/>', '<?xml version="1.0" x="encoding=\'utf-8\'" encoding="utf-7"?>'),
    '\xff\xfe<\0?\0', '\x4c\x6f\xa7\x94',
    '<methodResponse><fault/></methodResponse>',
    '<methodResponse><fault><value>text</value></fault></methodResponse>',
    '<methodResponse><fault><value><struct>%s</struct></value></fault></methodResponse>' % MEMBER,
]

DECODE = """
def function(body):
    return tpamxml.decode_answer(body.encode('latin-1'))
"""


def test_every_way_to_write_an_answer_is_read(python):
    found = answers(python, DECODE, [body for body, _ in DECODED])
    assert [(case, got) for case, got in zip(DECODED, found) if (got, type(got)) != (case[1], type(case[1]))] == []


def test_whatever_is_no_answer_is_refused_as_such(python):
    found = answers(python, DECODE, BROKEN)
    assert [(body[:200], got) for body, got in zip(BROKEN, found) if got != raised('BadAnswer')] == []


def test_nesting_within_the_bound_is_read(python):
    found = answers(python, DECODE, [nested(16), arrays(16)])
    assert [json.dumps(got).count('{') + json.dumps(got).count('[') for got in found] == [16, 16]


FAULT = """
def function(body):
    try:
        tpamxml.decode_answer(body.encode('latin-1'))
    except tpamerrors.TpamRefused:
        error = sys.exc_info()[1]
        return [error.args[0], error.code]
"""


def test_a_fault_is_a_refusal_whether_its_code_is_a_number_or_text(python):
    fault = ('<methodResponse><fault><value><struct><member><name>faultCode</name><value>%s</value></member>'
             '<member><name>faultString</name><value><string>not \xc3\xa9 authorized</string></value></member></struct>'
             '</value></fault></methodResponse>')
    assert (answers(python, FAULT, [fault % '<int>4</int>', fault % '4', fault % '<nil/>'])
            == [['not \xe9 authorized', code] for code in (4, '4', None)])


ENCODE = """
import xmlrpclib
def function(escaped):
    value = escaped.encode('ascii').decode('unicode_escape')
    body = tpamxml.encode_call('Retrieve', {'ReasonText': value, 'Absent': None, 'Empty': '', 'TimeRequired': 5})
    (options,), method = xmlrpclib.loads(body)
    assert (method, sorted(options), options['TimeRequired']) == ('Retrieve', ['ReasonText', 'TimeRequired'], 5)
    return options['ReasonText']
"""


def escaped(texts):
    """As Python writes them: the json of 2.6 takes no lone surrogate."""
    return [text.encode('unicode_escape').decode('ascii') for text in texts]


WRITTEN = ['x', ' ', '\t\n', 'a\rb\r\nc', '<&>]]>"\'', '\x7f\x85\xa0', 'j\xfcrgen\u5bc6', '\U0001f600', '\ufffd',
           '\ue000']
NOT_WRITTEN = ['\0', 'a\x01', '\x08', '\x0b', '\x0c', '\x1f', '\x1b[2J', '\ufffe', 'a\uffff', '\ud800', 'a\udc00b',
               '\udc00\ud800']


def test_a_text_arrives_as_it_was_whatever_is_in_it(python):
    assert answers(python, ENCODE, escaped(WRITTEN)) == WRITTEN


def test_what_xml_cannot_carry_is_an_error_before_anything_is_sent(python):
    assert answers(python, ENCODE, escaped(NOT_WRITTEN)) == [raised('TpamError')] * len(NOT_WRITTEN)


# ---- several servers -----------------------------------------------------------------------------------------------

def names(*servers):
    """`[tpam] server` of these servers, in this order."""
    return ', '.join('localhost:%d' % server.port for server in servers)


def asking(*servers, **options):
    """Sections for a session that asks these servers for one password, in one call."""
    return {'tpam': dict({'server': names(*servers), 'system_name_resolver': 'hostname'}, **options)}


def test_the_first_server_is_asked_and_no_other(world):
    first, second = world.serve(), world.serve()
    assert world.session(**asking(first, second)).call('get_password_list').credentials == [PASSWORD]
    assert (first.requests, second.connections) == (1, 0)


@pytest.mark.parametrize('behaviour, certificate, line', [
    ('refused', 'good', 'Cannot connect to the server; '),
    ('close_before_handshake', 'good', 'TLS cannot be set up with the server; '),
    ('good', 'expired', 'TLS cannot be set up with the server; '),
    ('good', 'wrong-host', 'The certificate of the server is for another name; '),
    ('status_502', 'good', 'The server answered with an error; '),
    ('status_503', 'good', 'The server answered with an error; '),
    ('status_504', 'good', 'The server answered with an error; '),
])
def test_the_next_server_is_asked_when_one_cannot_be_and_the_log_says_why(world, behaviour, certificate, line):
    second = world.serve()
    with bad_server.serve(behaviour, make.path(certificate)) as first:
        result = world.session(**asking(first, second)).call('get_password_list')
    assert result.credentials == [PASSWORD]
    warning, information = result.lines
    assert warning.startswith('WARNING ' + line)
    assert "server='localhost:%d'" % first.port in warning
    assert "next='the next server'" in warning
    assert information.startswith('INFO Retrieved passwords; ')


def test_the_next_server_is_asked_when_one_is_a_replica(world):
    other = World(world.python, world.plugin_zip)
    other.tpam.replica = True
    try:
        first, second = other.serve(), world.serve()
        result = world.session(**asking(first, second)).call('get_password_list')
    finally:
        other.close()
    assert result.credentials == [PASSWORD]
    assert result.lines[0].startswith('WARNING The server is a replica; ')
    assert 'not available on a failed over replica' in result.lines[0]


def test_with_no_server_left_each_has_its_line_and_the_last_is_the_error(world):
    with contextlib.closing(world), bad_server.serve('status_503', make.path('good')) as first:
        with bad_server.serve('refused') as second:
            result = world.session(**asking(first, second)).call('get_password_list')
    assert [line.partition(';')[0] for line in result.lines[:2]] == [
        'WARNING The server answered with an error', 'ERROR Cannot connect to the server']
    assert "server='localhost:%d'" % second.port in result.raised['message']


def test_a_refusal_is_final(world):
    other = World(world.python, world.plugin_zip)
    other.tpam.account('WEB01', 'root').locked = True
    try:
        first, second = other.serve(), world.serve()
        assert world.session(**asking(first, second)).call('get_password_list').credentials == []
    finally:
        other.close()
    assert second.connections == 0


@pytest.mark.parametrize('behaviour', ['status_401', 'status_500_html', 'json', 'close_before_answer'])
def test_an_answer_of_no_use_is_final(world, behaviour):
    second = world.serve()
    with bad_server.serve(behaviour, make.path('good')) as first:
        result = world.session(**asking(first, second)).call('get_password_list')
    assert result.raised['type'][0] == 'TpamError'
    assert second.connections == 0


def pin(name):
    """`sha256:` with colons, as openssl prints it."""
    digits = hashlib.sha256(der(name)).hexdigest().upper()
    return 'sha256:' + ':'.join(digits[at:at + 2] for at in range(0, 64, 2))


def test_a_pinned_certificate_may_be_one_of_several(world):
    session = world.session(tls={'server_fingerprint': '%s, %s' % (pin('chain'), pin('good'))})
    assert session.call('get_password_list').credentials == [PASSWORD]


def test_another_certificate_than_the_pinned_ones_is_final(world):
    first, second = world.serve(certfile=make.path('chain')), world.serve()
    session = world.session(tls={'server_fingerprint': pin('good')}, **asking(first, second))
    result = session.call('get_password_list')
    assert result.raised['message'].startswith('The certificate of the server is not the pinned one; ')
    assert hashlib.sha256(der('chain')).hexdigest() in result.raised['message']
    assert (first.requests, second.connections) == (0, 0)


def test_without_the_check_of_the_name_every_call_warns(world):
    world.serve(certfile=make.path('wrong-host'))
    session = world.session(tls={'check_host_name': 'no'})
    for hook in ('get_password_list', 'session_ended'):
        assert session.call(hook).lines[0].startswith('WARNING The name in the certificate is not checked; ')
    assert session.calls[0].credentials == [PASSWORD]


def test_the_server_that_answered_is_asked_first_by_the_next_hook(world):
    second = world.serve()
    with bad_server.serve('refused') as first:
        session = world.session(**asking(first, second))
        assert len(session.call('get_password_list').lines) == 2
        assert len(session.call('get_password_list').lines) == 1
    assert second.requests == 2


# ---- calls that must not be repeated

@pytest.fixture
def client():
    """TpamClient in this process: call with servers, and settings that differ. Its log is the attribute `log`."""
    made = []

    def make_client(*servers, **options):
        tls = {'ca_cert': certificate('ca'), 'client_cert': None, 'server_fingerprint': [], 'check_host_name': True,
               'protocol': 'tlsv1'}
        log = []
        made.append(tpamclient.TpamClient(dict({
            'servers': [('localhost', server.port) for server in servers], 'path': '/RPC2', 'method_prefix': '',
            'credential': ('sps', API_PASSWORD), 'connect_timeout': 60, 'proxy': None, 'tls': tls}, **options),
            tpamerrors.Deadline(options.get('timeout', 60)), log.append))
        made[-1].log = log
        return made[-1]
    yield make_client
    for each in made:
        each.close()


ONCE = {
    'AddPwdRequest': lambda client: client.add_pwd_request(SystemName='WEB01', AccountName='root'),
    'Cancel': lambda client: client.cancel(1001, 'done'),
    'ForceReset': lambda client: client.force_reset('WEB01', 'root'),
    'Retrieve': lambda client: client.retrieve(RequestID=1001),
    'RetrieveKey': lambda client: client.retrieve_key(RequestID=1001),
}
LOST = ['close_before_answer', 'half_answer', 'status_500_html', 'status_502', 'status_503', 'status_504', 'json',
        'status_204']


@pytest.mark.parametrize('behaviour', LOST)
@pytest.mark.parametrize('command', sorted(ONCE))
def test_a_call_that_changes_something_is_never_sent_again_and_its_outcome_is_unknown(client, command, behaviour):
    with bad_server.serve(behaviour, make.path('good')) as first, bad_server.serve('good', make.path('good')) as second:
        with pytest.raises(tpamerrors.TpamOutcomeUnknown) as caught:
            ONCE[command](client(first, second))
    assert 'it is unknown whether the call was carried out' in caught.value.message
    assert caught.value.details['server'] == 'localhost:%d' % first.port
    assert (len(first.requests), second.connections) == (1, 0)


def at_once(function, names):
    """What a function that does little but wait gives for each of these names, by name. They are tried all at once."""
    pool = multiprocessing.pool.ThreadPool(len(names))
    try:
        return dict(zip(names, pool.map(function, names, 1)))
    finally:
        pool.terminate()


def test_the_outcome_of_a_call_that_changes_something_is_unknown_if_it_is_not_answered_in_time(client):
    def attempt(command):
        with bad_server.serve('no_answer', make.path('good')) as first, bad_server.serve('good') as second:
            pytest.raises(tpamerrors.TpamOutcomeUnknown, ONCE[command], client(first, second, timeout=5))
            return len(first.requests), second.connections
    assert at_once(attempt, ONCE) == dict.fromkeys(ONCE, (1, 0))


@pytest.mark.parametrize('command', sorted(ONCE))
def test_a_call_that_changes_something_goes_to_the_next_server_if_it_did_not_go_out(client, command):
    with bad_server.serve('refused') as first, bad_server.serve('status_503', make.path('wrong-host')) as second:
        with bad_server.serve('good', make.path('good')) as third:
            asked = client(first, second, third)
            if command == 'AddPwdRequest':  # that server says no id, which is a reason to look for the request
                pytest.raises(tpamerrors.TpamOutcomeUnknown, ONCE[command], asked)
            else:
                ONCE[command](asked)
    assert (len(second.requests), len(third.requests), len(asked.log)) == (0, 1, 2)


def test_a_request_that_may_have_been_filed_is_filed_once_and_looked_for(world):
    second = world.serve()
    with bad_server.serve('status_503', make.path('good')) as first:
        session = world.session(**asking(first, second, authorization='request'))
        result = session.call('get_password_list')
    assert 'it is unknown whether the call was carried out' in result.log
    assert 'It is unknown whether a request was submitted' in result.raised['message']
    assert 'came from another server' in result.raised['message']
    assert len([request for request in first.requests if b'AddPwdRequest' in request.body]) == 1
    assert set(world.tpam.commands()) == set(['ListRequestDetails'])


# ---- connections that are kept -------------------------------------------------------------------------------------

def test_three_calls_cost_one_connection_and_one_handshake(world):
    world.tpam.add_request('jdoe', 'WEB01', 'root')
    result = world.session(tpam={'authorization': 'approval'}).call('get_password_list')
    assert result.credentials == [PASSWORD]
    assert world.tpam.commands() == ['ListSystems', 'ListRequestDetails', 'Retrieve']
    assert (world.server.connections, world.server.handshakes, world.server.requests) == (1, 1, 3)


def test_three_calls_to_a_server_that_ends_each_connection_cost_three(world):
    world.serve(dialect='close')
    world.tpam.add_request('jdoe', 'WEB01', 'root')
    result = world.session(tpam={'authorization': 'approval'}).call('get_password_list')
    assert result.credentials == [PASSWORD]
    assert (world.server.connections, world.server.requests) == (3, 3)


GOOD = bad_server.ANSWERS['close_after_answer']     # which does not say that the connection ends


def idle_server(first, then):
    """A server that answers each connection's first request so, and does `then` with it at the second."""
    def behave(connection):
        server.requests.append(bad_server.read_request(connection))
        connection.sendall(first)
        server.requests.append(bad_server.read_request(connection))
        then(connection)
    server = bad_server.Server(behave, make.path('good'))
    return server


def test_a_connection_that_ended_while_idle_is_opened_again_for_a_call_that_may_be_repeated(client):
    with idle_server(GOOD, bad_server.close_before_answer) as server:
        asked = client(server)
        assert [asked.retrieve(SystemName='WEB01', AccountName='root') for _ in range(2)] == [bad_server.PASSWORD] * 2
    assert (server.connections, len(server.requests)) == (2, 3)


def test_a_connection_that_ended_while_idle_is_not_opened_again_to_file_a_request(client):
    with idle_server(GOOD, bad_server.close_before_answer) as server:
        asked = client(server)
        asked.retrieve(SystemName='WEB01', AccountName='root')
        pytest.raises(tpamerrors.TpamOutcomeUnknown, ONCE['AddPwdRequest'], asked)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_connection_that_is_seen_to_have_ended_is_opened_again_for_any_call(client):
    left = threading.Event()

    def behave(connection):
        server.requests.append(bad_server.read_request(connection))
        connection.sendall(GOOD)
        left.wait(SLACK)
    server = bad_server.Server(behave, make.path('good'))
    with server:
        asked = client(server)
        asked.retrieve(RequestID=1001)
        left.set()
        kept, = asked._in_order()
        assert select.select([kept.connection.sock], [], [], SLACK)[0]
        asked.retrieve(RequestID=1001)
    assert (server.connections, len(server.requests)) == (2, 2)


def test_an_answer_that_was_begun_on_a_kept_connection_is_not_asked_for_again(client):
    with idle_server(GOOD, lambda connection: connection.sendall(GOOD[:40])) as server:
        asked = client(server)
        asked.retrieve(SystemName='WEB01', AccountName='root')
        with pytest.raises(tpamerrors.TpamError):
            asked.retrieve(SystemName='WEB01', AccountName='root')
    assert len(server.requests) == 2


# ---- client certificates -------------------------------------------------------------------------------------------

def test_a_client_certificate_is_enough_to_ask_with(world):
    world.serve(client_ca=make.path('client-ca'))
    session = world.session(tpam={'username': None, 'password': None}, tls={'client_cert': certificate('client')})
    assert session.call('get_password_list').credentials == [PASSWORD]
    assert world.tpam.audit[-1].user == 'sps'


@pytest.mark.parametrize('name', [None, 'client-of-other-ca'])
def test_a_refused_client_certificate_is_an_error_that_names_the_option_whatever_the_tls(world, name):
    world.serve(client_ca=make.path('client-ca'))   # TLS 1.3 where both know it: refused at the first read only
    result = world.session(tls={'client_cert': name and certificate(name)}).call('get_password_list')
    assert 'client_cert' in result.raised['message']
    assert world.tpam.commands() == []


def test_a_client_certificate_that_cannot_be_loaded_is_an_error_that_names_the_options(world):
    key = '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n'
    result = world.session(tls={'client_cert': leaf('client') + key}).call('get_password_list')
    assert result.raised['message'].startswith('[tls] client_cert cannot be loaded; ')


def unloadable(pem):
    """A certificate (PEM) whose names and dates can be read, but whose public key OpenSSL does not accept."""
    der = base64.b64decode(''.join(pem.strip().split('\n')[1:-1]))
    damaged = der.replace(b'\x03\x82\x01\x0f\x00', b'\x04\x82\x01\x0f\x00')    # no BIT STRING
    assert damaged != der
    lines = textwrap.wrap(base64.b64encode(damaged).decode('ascii'), 64)
    return '\n'.join(['-----BEGIN CERTIFICATE-----'] + lines + ['-----END CERTIFICATE-----', ''])


@pytest.mark.parametrize('client_cert', [None, 'client'])
def test_a_ca_that_cannot_be_loaded_is_named_and_the_client_certificate_is_not(world, client_cert):
    result = world.session(tls={'ca_cert': unloadable(certificate('ca')),
                                'client_cert': client_cert and certificate(client_cert)}).call('get_password_list')
    assert result.raised['message'].startswith('[tls] ca_cert cannot be loaded; ')
    assert 'client_cert' not in result.log
    assert world.server.requests == 0


# ---- TLS that is off, where the server has it ----------------------------------------------------------------------

def test_a_tls_port_that_is_asked_without_tls_is_named(world):
    result = world.session(tls={'enabled': 'no', 'ca_cert': None}).call('get_password_list')
    assert "is this a TLS port? then set [tls] enabled=yes" in result.raised['message']


def test_a_server_that_answers_400_without_tls_may_want_tls(world):
    with bad_server.Server(lambda connection: (bad_server.read_request(connection), connection.sendall(
            b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'))) as server:
        sections = {'tpam': {'server': 'localhost:%d' % server.port}, 'tls': {'enabled': 'no', 'ca_cert': None}}
        result = world.session(**sections).call('get_password_list')
    assert "status='400 Bad Request'" in result.raised['message']
    assert "is this a TLS port? then set [tls] enabled=yes" in result.raised['message']


# ---- SRV -----------------------------------------------------------------------------------------------------------

SERVICE = ('_tpam._tcp.example.test.', 'SRV')


def by_srv(world, dns_server, proxy=None, **options):
    sections = {'tpam': dict({'server': 'srv:_tpam._tcp.example.test', 'system_name_resolver': 'hostname'}, **options)}
    if proxy:
        sections['https_proxy'] = {'server': '127.0.0.1', 'port': proxy.port}
    return world.session(nameserver=dns_server.address, **sections).call('get_password_list')


def test_srv_names_servers_and_the_lower_priority_value_is_asked_first(world):
    last = world.serve(certfile=make.path('wildcard'))
    with bad_server.serve('refused') as first, bad_server.serve('status_503', make.path('wildcard')) as second:
        records = ['30 0 %d last.example.test.' % last.port, '10 0 %d first.example.test.' % first.port,
                   '20 9 %d second.example.test.' % second.port]
        with FakeDns({SERVICE: records}) as dns_server, bad_server.tunnel() as proxy:
            result = by_srv(world, dns_server, proxy)
    assert result.credentials == [PASSWORD]
    assert ["server='%s.example.test:%d'" % (name, server.port) in line for name, server, line in zip(
        ('first', 'second'), (first, second), result.lines)] == [True, True]
    assert dns_server.asked == [SERVICE]


@pytest.mark.parametrize('name, given', [('web.example.test.', True), ('a.web.example.test.', False)])
def test_the_certificate_has_to_be_for_the_name_that_srv_gave(world, name, given):
    server = world.serve(certfile=make.path('wildcard'))
    with FakeDns({SERVICE: ['10 0 %d %s' % (server.port, name)]}) as dns_server, bad_server.tunnel() as proxy:
        result = by_srv(world, dns_server, proxy)
    assert bool(result.credentials) == given
    assert proxy.requests[0].line == 'CONNECT %s:%d HTTP/1.1' % (name.rstrip('.'), server.port)


@pytest.mark.parametrize('records', [{}, {SERVICE: ['0 0 0 .']}])
def test_a_service_without_servers_is_an_error_that_says_so(world, records):
    with FakeDns(records) as dns_server:
        result = by_srv(world, dns_server)
    assert result.raised['message'].startswith('DNS has no SRV record of this name; ')


def test_of_servers_with_the_same_priority_the_heavier_comes_first_more_often(client, monkeypatch):
    targets = [str('%s.example.test.' % target) for target in ('1 90 1 heavy', '1 10 1 light', '1 0 1 none',
                                                               '0 0 1 first')]
    records = list(dns.rrset.from_text(str('x.'), 60, str('IN'), str('SRV'), *targets))
    monkeypatch.setattr(tpamclient, 'look_up', lambda name, kind, deadline: records)
    orders = []
    for _ in range(1000):
        asked = client(servers=[('srv:_tpam._tcp.example.test', None)])
        orders.append([server.name.partition('.')[0] for server in asked._in_order()])
    assert set(order[0] for order in orders) == set(['first'])
    assert 850 < len([order for order in orders if order[1] == 'heavy']) < 950
    assert len([order for order in orders if order[1] == 'none']) < 20


# ---- proxy ---------------------------------------------------------------------------------------------------------

def through(proxy, **options):
    return {'https_proxy': dict({'server': '127.0.0.1', 'port': proxy.port}, **options)}


def credentials(**others):
    return dict({'username': 'pröxy', 'password': PROXY_PASSWORD}, **others)


def test_through_a_proxy_tls_is_that_of_the_server(world):
    server = world.serve()
    with bad_server.tunnel() as proxy:
        assert world.session(**through(proxy)).call('get_password_list').credentials == [PASSWORD]
    request, = proxy.requests
    assert request.line == 'CONNECT localhost:%d HTTP/1.1' % server.port
    assert request.headers['host'] == 'localhost:%d' % server.port
    assert server.handshakes == 1


def test_an_ipv6_server_behind_a_proxy_and_without_one_is_named_in_brackets(world):
    with bad_server.serve('good', make.path('good')) as server, bad_server.tunnel() as proxy:
        name = '[::1]:%d' % server.port
        session = world.session(tpam={'server': name, 'system_name_resolver': 'hostname'}, **through(proxy))
        assert session.call('get_password_list').credentials == [bad_server.PASSWORD]
    assert proxy.requests[0].line == 'CONNECT %s HTTP/1.1' % name
    assert proxy.requests[0].headers['host'] == server.requests[0].headers['host'] == name


def test_the_credential_of_the_proxy_goes_to_the_proxy_and_that_of_the_server_to_the_server(world):
    expected = 'pröxy:' + PROXY_PASSWORD
    with bad_server.serve('good', make.path('good')) as server, bad_server.tunnel(credentials=expected) as proxy:
        session = world.session(**dict(asking(server), **through(proxy, **credentials())))
        assert session.call('get_password_list').credentials == [bad_server.PASSWORD]
    assert 'authorization' not in proxy.requests[0].headers
    assert 'proxy-authorization' not in server.requests[0].headers
    assert 'authorization' in server.requests[0].headers


@pytest.mark.parametrize('options, given, status', [
    ({'credentials': 'x:y'}, {}, '407 Proxy Authentication Required'),
    ({'credentials': 'x:y'}, credentials(), '407 Proxy Authentication Required'),
    ({'refusal': '403 Forbidden'}, {}, '403 Forbidden'),
    ({'refusal': '407 cHJveHk6cGFzc3dvcmQ='}, {}, '407 Proxy Authentication Required'),
    ({'refusal': '301 Moved Permanently'}, {}, '301 Moved Permanently'),
])
def test_a_proxy_that_refuses_is_an_error_with_its_status(world, options, given, status):
    server = world.serve()
    with bad_server.tunnel(**options) as proxy:
        result = world.session(**through(proxy, **given)).call('get_password_list')
    assert result.raised['message'].startswith('The proxy does not connect to the server; ')
    assert "answer='%s'" % status in result.raised['message']
    assert '[https-proxy]' in result.raised['message']
    assert server.connections == 0


@pytest.mark.parametrize('behaviour', ['good', 'http_0_9', 'garbage', 'endless_headers', 'one_endless_header_line',
                                       'endless_100_continue', 'close_before_answer', 'upgrade'])
def test_a_hostile_proxy_gets_no_credential_of_the_server_and_gives_none(world, behaviour):
    with bad_server.serve(behaviour) as proxy:  # some of them answer 200, and go on in plain text
        result = world.session(**through(proxy)).call('get_password_list')
    assert 'TpamUnavailable' in result.raised['type']
    assert [request.line.split()[0] for request in proxy.requests] == ['CONNECT'] * len(proxy.requests)
    assert [request for request in proxy.requests if 'authorization' in request.headers] == []


def test_a_proxy_that_is_the_server_itself_is_no_better_than_its_certificate(world):
    elsewhere = world.serve(certfile=make.path('other-ca'))
    with bad_server.tunnel() as proxy:
        session = world.session(tpam={'server': 'tpam.example.test:%d' % elsewhere.port}, **through(proxy))
        assert 'TLS cannot be set up' in session.call('get_password_list').raised['message']
    assert elsewhere.requests == 0


def test_a_proxy_that_is_not_there_is_an_error_with_its_address(world):
    with bad_server.serve('refused') as proxy:
        message = world.session(**through(proxy)).call('get_password_list').raised['message']
    assert "address='127.0.0.1, port %d'" % proxy.port in message


# ---- time ----------------------------------------------------------------------------------------------------------

HOOKS = {}      # those that do little but wait: they are tried all at once


def hook(function):
    """A function of a World and an empty directory -> what came of a hook that had to wait."""
    HOOKS[function.__name__] = function
    return function


@pytest.fixture(scope='module', params=PYTHONS)
def waited(request, plugin_zip, tmpdir_factory):
    """What came of each of HOOKS on this interpreter, by name."""
    world = World(request.param, plugin_zip)
    world.serve()
    directories = dict((name, tmpdir_factory.mktemp(name)) for name in HOOKS)
    with contextlib.closing(world):
        return at_once(lambda name: HOOKS[name](world, directories[name]), HOOKS)


@hook
def silent_servers(world, directory):
    with bad_server.serve('silent') as silent:
        session = world.session(**asking(silent, silent, silent, silent, timeout=6, connect_timeout=3))
        return session.call('get_password_list'), silent


def test_several_servers_that_are_silent_share_the_time_of_the_hook(waited):
    result, silent = waited['silent_servers']
    assert 'TpamTimeout' in result.raised['type']
    assert result.inside < 6 + SLACK
    assert silent.connections in (1, 2)     # 1 if the hook took half of its time to start


@hook
def silent_dns_server(world, directory):
    with FakeDns({SERVICE: None}) as dns_server:
        return by_srv(world, dns_server, timeout=3)


def test_a_dns_server_that_does_not_answer_is_an_error_in_time(waited):
    result = waited['silent_dns_server']
    assert result.raised['type'][0] in ('TpamTimeout', 'TpamUnavailable')
    assert result.inside < 3 + SLACK


def dripping_handshake(connection):
    bad_server.receive(connection)
    connection.sendall(b'\x16\x03\x01\x40\x00')     # the head of a record of 16 KiB
    bad_server.drip(connection, [b'\x02'] * 1000)


@hook
def first_handshake_drips(world, directory):
    with bad_server.Server(dripping_handshake) as first:
        return world.session(**asking(first, world.server, connect_timeout=5)).call('get_password_list')


@hook
def first_handshake_stops(world, directory):
    with bad_server.serve('half_handshake') as first:
        return world.session(**asking(first, world.server, connect_timeout=5)).call('get_password_list')


HANGING_LOOK_UP = """
import ctypes, socket
numeric = socket.getaddrinfo
def getaddrinfo(host, port, family=0, kind=0, protocol=0, flags=0):
    while not flags & socket.AI_NUMERICHOST:
        ctypes.CDLL(None).sleep(60)     # in C, where no signal handler of Python runs
    return numeric(host, port, family, kind, protocol, flags)
socket.getaddrinfo = getaddrinfo
"""
HANGING_TLS = """
import ssl, time
def wrap_socket(*arguments, **options):
    while True:
        time.sleep(0.1)
ssl.wrap_socket = wrap_socket
"""


def patched(world, directory, code, **options):
    """What comes of a hook in a process that ran this code first."""
    directory.join('sitecustomize.py').write(code)
    return world.session(tpam=options, environment={'PYTHONPATH': str(directory)}).call('get_password_list')


@hook
def first_look_up_hangs(world, directory):
    servers = 'tpam.example.test, 127.0.0.1:%d' % world.server.port
    return patched(world, directory, HANGING_LOOK_UP, server=servers, connect_timeout=5)


@pytest.mark.parametrize('name', ['first_handshake_drips', 'first_handshake_stops', 'first_look_up_hangs'])
def test_a_server_that_is_late_ends_with_connect_timeout_and_the_next_one_is_asked(waited, name):
    result = waited[name]
    assert result.credentials == [PASSWORD]
    assert "reason='timed out; see [tpam] connect_timeout'" in result.lines[0]
    assert result.inside < 5 + SLACK


@hook
def look_up_hangs(world, directory):
    return patched(world, directory, HANGING_LOOK_UP, timeout=2)


@hook
def something_without_a_time_limit_hangs(world, directory):
    return patched(world, directory, HANGING_TLS, timeout=2)


@pytest.mark.parametrize('name', ['look_up_hangs', 'something_without_a_time_limit_hangs'])
def test_what_hangs_ends_with_the_hook(waited, name):
    result = waited[name]
    assert 'TpamTimeout' in result.raised['type']
    assert result.inside < 2 + SLACK


IN_A_THREAD = """
import threading, time
import main
import tpamlog
tpamlog.write_piece = lambda piece: None
def function(configuration):
    raised = []
    def hook():
        try:
            main.Plugin(configuration).get_password_list(server_username='root', server_hostname='web01',
                                                         gateway_username='jdoe')
        except Exception:
            raised.append(sys.exc_info()[0].__name__)
    thread, began = threading.Thread(target=hook), time.time()
    thread.start()
    thread.join()
    return [raised, time.time() - began]
"""


def outside_the_main_thread(behaviour):
    def in_a_thread(world, directory):
        with bad_server.serve(behaviour, make.path('good')) as server:
            sections = world.sections(**asking(server, timeout=3))
            return answers(world.python, IN_A_THREAD, [configuration(**sections)])[0]
    return in_a_thread


WITHOUT_ALARM = ('silent', 'no_answer', 'dripping_headers', 'dripping_body')
HOOKS.update((behaviour, outside_the_main_thread(behaviour)) for behaviour in WITHOUT_ALARM)


@pytest.mark.parametrize('behaviour', WITHOUT_ALARM)
def test_outside_the_main_thread_where_there_is_no_alarm_a_hook_ends_in_time_too(waited, behaviour):
    raised, seconds = waited[behaviour]
    assert raised == ['TpamTimeout']
    assert 2.9 < seconds < 3 + SLACK


# ---- what is left behind -------------------------------------------------------------------------------------------

def test_a_hook_that_is_killed_in_the_middle_of_a_handshake_leaves_no_file_behind(world, tmpdir):
    pid, directory = tmpdir.join('pid'), tmpdir.mkdir('temporary')

    def kill(connection):
        bad_server.receive(connection)
        os.kill(int(pid.read()), signal.SIGKILL)
    with bad_server.Server(kill) as server:
        played = world.session(tls={'client_cert': certificate('client')}, environment={
            'TMPDIR': str(directory)}, **asking(server))
        result = hook_of(played, child(tmpdir, PID % str(pid)), 'get_password_list')
    assert result.died
    assert server.connections == 1
    assert directory.listdir() == []


def test_the_file_with_a_key_can_be_read_by_its_owner_only():
    pem_files = []
    name = tpamtransport._pem_name('secret', pem_files)
    with contextlib.closing(pem_files[0]):
        assert os.stat(name).st_mode & 0o777 == 0o600
        with open(name) as again:
            assert again.read() == 'secret'


# ---- what an attacker tried

MANY = ' '.join('a%d=""' % number for number in range(300))


@pytest.mark.parametrize('start', ['<methodResponse %s>' % MANY, '<methodResponse a=">" %s>' % MANY,
                                   '<methodResponse\n%s>' % MANY])
def test_an_element_of_many_attributes_is_refused_before_it_is_parsed(start):
    with pytest.raises(tpamerrors.BadAnswer) as refusal:
        tpamxml.decode_answer((start + '<params/></methodResponse>').encode('ascii'))
    assert 'attributes' in str(refusal.value)


def test_a_long_text_is_not_taken_for_attributes():
    text = 'x = "y" ' * 1000
    body = '<methodResponse><params><param><value>%s</value></param></params></methodResponse>' % text
    assert tpamxml.decode_answer(body.encode('ascii')) == text


def test_a_byte_order_mark_goes_with_utf_8_only():
    body = b'\xef\xbb\xbf<?xml version="1.0" encoding="%s"?><methodResponse><params><param><value>x</value></param>' \
           b'</params></methodResponse>'
    assert tpamxml.decode_answer(body.replace(b'%s', b'utf-8')) == 'x'
    with pytest.raises(tpamerrors.BadAnswer):
        tpamxml.decode_answer(body.replace(b'%s', b'iso-8859-1'))


def test_a_signal_has_its_turn_while_a_long_answer_is_parsed():
    class Late(Exception):
        pass

    def ring(*_):
        raise Late()
    body = b'<methodResponse>' + b'<a/>' * 3000000
    previous = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)   # CPU time
    try:
        with pytest.raises(Late):
            tpamxml.decode_answer(body)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


class Socket(object):
    """A TLS socket after a handshake that came to this cipher."""

    def __init__(self, cipher):
        self._cipher = cipher

    def getpeercert(self, binary_form):
        return der('good')

    def cipher(self):
        return self._cipher

    def close(self):
        pass


@pytest.mark.parametrize('cipher, taken', [
    (('AES256-SHA', 'TLSv1/SSLv3', 256), True), (('DES-CBC3-SHA', 'TLSv1/SSLv3', 168), True),
    (('EXP-RC4-MD5', 'TLSv1/SSLv3', 40), False), (('DES-CBC-SHA', 'TLSv1/SSLv3', 56), False),
    (('RC4-MD5', 'SSLv2', 128), False), (None, False),
])
def test_a_weak_cipher_gets_no_byte(cipher, taken, monkeypatch):
    settings = {'tls': {'ca_cert': certificate('ca'), 'client_cert': None, 'server_fingerprint': [],
                        'check_host_name': True, 'protocol': 'tlsv1'}, 'proxy': None}
    connection = tpamtransport.Connection('localhost', 443, settings, tpamerrors.Deadline(5))
    monkeypatch.setattr(tpamtransport, '_do_handshake', lambda sock, limit: None)
    monkeypatch.setattr(connection, '_look', lambda limit: None)
    connection.sock = Socket(cipher)
    if taken:
        connection._shake_hands(tpamerrors.Deadline(5))
    else:
        with pytest.raises(tpamerrors.TpamUnavailable) as refusal:
            connection._shake_hands(tpamerrors.Deadline(5))
        assert 'too weak' in refusal.value.details['reason']


def element(tag, *contents):
    """One DER element, of less than 64 KiB."""
    content = b''.join(contents)
    return struct.pack('>BBH', tag, 0x82, len(content)) + content


def certificate_with(*extensions):
    moment, nothing = element(0x17, b'300101000000Z'), element(0x30)
    return element(0x30, element(0x30, element(0x02, b'1'), nothing, nothing, element(0x30, moment, moment), nothing,
                                 nothing, element(0xa3, element(0x30, *extensions))))


def test_an_extension_that_comes_twice_or_a_tag_of_several_bytes_is_no_certificate():
    names = element(0x30, element(0x06, b'\x55\x1d\x11'), element(0x04, element(0x30, element(0x82, b'localhost'))))
    assert tpamcert.certificate(certificate_with(names))['alternative_names'] == [(0x82, b'localhost')]
    several = element(0x30, element(0x06, b'\x55\x1d\x11'),
                      element(0x04, element(0x30, b'\x9f\x00\x82\x0bvictim.test')))
    for wrong in ((names, names), (several,)):
        with pytest.raises(ValueError):
            tpamcert.certificate(certificate_with(*wrong))


def test_a_direction_of_writing_that_this_unicode_does_not_know_is_escaped_everywhere(python):
    function = 'def function(case):\n    return tpamerrors.escaped(case)\n'
    assert answers(python, function, ['\u2066', '\u061c', '\u202e', 'é密']) == ['\\u2066', '\\u061c', '\\u202e', 'é密']
