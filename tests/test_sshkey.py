"""sshkey against keys that other programs wrote, and other programs against what sshkey writes.

Needs openssl 3 and ssh-keygen in PATH. FORMATS is what the manual's table of formats is made from.
"""
import binascii
import hashlib
import io
import itertools
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile

import pytest

import sshkey
from conftest import at_most

try:
    import paramiko
except ImportError:
    paramiko = None  # the tests that need it say so

KEYS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'keys')  # made by make.sh there

# (name, the shell command that prints the stored text, outcome); the command runs in a copy of KEYS. The outcome is
# '<type> <bits>' of the one key, or 'refused: <words of the reason>'.
FORMATS = []
for _bits in (1024, 2048):
    FORMATS += [
        ('RSA %d, PKCS#1 by openssl' % _bits, 'openssl genrsa -traditional %d' % _bits, 'ssh-rsa %d' % _bits),
        ('RSA %d, PKCS#8 by openssl' % _bits, 'openssl genrsa %d' % _bits, 'ssh-rsa %d' % _bits),
    ] + [
        ('RSA %d, %s by ssh-keygen' % (_bits, _form),
         "ssh-keygen -q -t rsa -b %d -N '' %s -f new && cat new" % (_bits, _option), 'ssh-rsa %d' % _bits)
        for _form, _option in [('PKCS#1', '-m PEM'), ('PKCS#8', '-m PKCS8'), ('OpenSSH', '')]
    ]
for _bits in (3072, 4096):
    FORMATS += [
        ('RSA %d, PKCS#1 by openssl' % _bits, 'openssl rsa -traditional -in rsa-%d.pem' % _bits,
         'ssh-rsa %d' % _bits),
        ('RSA %d, PKCS#8 by openssl' % _bits, 'openssl pkcs8 -topk8 -nocrypt -in rsa-%d.pem' % _bits,
         'ssh-rsa %d' % _bits),
    ] + [
        ('RSA %d, %s by ssh-keygen' % (_bits, _form),
         "ssh-keygen -q -p -P '' -N '' %s -f rsa-%d.pem > /dev/null && cat rsa-%d.pem" % (_option, _bits, _bits),
         'ssh-rsa %d' % _bits)
        for _form, _option in [('PKCS#1', '-m PEM'), ('PKCS#8', '-m PKCS8'), ('OpenSSH', '')]
    ]
for _size in ('1024-160', '2048-224', '2048-256', '3072-256'):
    FORMATS += [
        ('DSA %s, %s' % (_size, _form), 'cat dsa-%s.%s' % (_size, _ending), 'ssh-dss ' + _size[:4])
        for _form, _ending in [('traditional by openssl', 'pem'), ('PKCS#8 by openssl', 'pkcs8'),
                               ('OpenSSH by ssh-keygen', 'openssh')]
    ]
_EXPORT = 'openssl req -x509 -key rsa-3072.pem -subj /CN=example -out new.crt && ' \
          'openssl pkcs12 -export -inkey rsa-3072.pem -in new.crt -passout pass:secret -name example | ' \
          'openssl pkcs12 -passin pass:secret -nodes'
FORMATS += [
    ('RSA, PKCS#1 by PuTTY', 'cat rsa-3072.putty-pem', 'ssh-rsa 3072'),
    ('RSA, OpenSSH by PuTTY', 'cat rsa-3072.putty', 'ssh-rsa 3072'),
    ('DSA, traditional by PuTTY', 'cat dsa-1024-160.putty-pem', 'ssh-dss 1024'),
    ('DSA, OpenSSH by PuTTY', 'cat dsa-1024-160.putty', 'ssh-dss 1024'),
    ('RSA, PKCS#8 with Bag Attributes, from PKCS#12', _EXPORT + ' -nocerts', 'ssh-rsa 3072'),
    ('RSA of 512 bits', 'openssl genrsa -traditional 512', 'ssh-rsa 512'),

    ('RSA, PKCS#1 encrypted', 'openssl rsa -traditional -aes128 -passout pass:secret -in rsa-3072.pem',
     'refused: it is encrypted'),
    ('DSA, traditional encrypted', 'openssl dsa -aes128 -passout pass:secret -in dsa-1024-160.pem',
     'refused: it is encrypted'),
    ('RSA, PKCS#8 encrypted', 'openssl pkcs8 -topk8 -passout pass:secret -in rsa-3072.pem', 'refused: it is encrypted'),
    ('RSA, OpenSSH encrypted', 'ssh-keygen -q -t rsa -b 1024 -N secret -f new && cat new', 'refused: it is encrypted'),
    ('EC, traditional', 'openssl ecparam -name prime256v1 -genkey -noout', 'refused: it is an EC key'),
    ('EC, traditional after its parameters', 'openssl ecparam -name prime256v1 -genkey',
     'refused: it is an EC key'),
    ('EC, PKCS#8', 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256', 'refused: it is an EC key'),
    ('EC, OpenSSH', "ssh-keygen -q -t ecdsa -N '' -f new && cat new", 'refused: it is an EC key'),
    ('Ed25519, PKCS#8', 'openssl genpkey -algorithm ED25519', 'refused: it is an Ed25519 key'),
    ('Ed25519, OpenSSH', "ssh-keygen -q -t ed25519 -N '' -f new && cat new", 'refused: it is an Ed25519 key'),
    ('Ed448, PKCS#8', 'openssl genpkey -algorithm ED448', 'refused: it is an Ed448 key'),
    ('X25519, PKCS#8', 'openssl genpkey -algorithm X25519', 'refused: it is a key of an unknown algorithm'),
    ('RSA-PSS, PKCS#8', 'openssl genpkey -algorithm RSA-PSS', 'refused: it is an RSA key for PSS alone'),
    ('RSA of three primes', 'openssl genrsa -traditional -primes 3 2048',
     'refused: contains an RSA key of more than two'),

    ('public key, PEM', 'openssl rsa -pubout -in rsa-3072.pem', 'refused: it is a public key'),
    ('public key, PKCS#1', 'openssl rsa -RSAPublicKey_out -in rsa-3072.pem', 'refused: it is a public key'),
    ('public key, OpenSSH', 'cat rsa-3072.pub', 'refused: there is an SSH public key line'),
    ('public key, RFC 4716', 'ssh-keygen -e -m RFC4716 -f rsa-3072.pub', 'refused: RFC 4716'),
    ('public key after the private key', 'cat rsa-3072.pem rsa-3072.pub', 'refused: there is an SSH public key line'),
    ('SSH certificate', "ssh-keygen -q -s rsa-4096.openssh -I example rsa-3072.pub && cat rsa-3072-cert.pub",
     'refused: there is an SSH public key line'),
    ('X.509 certificate', 'openssl req -x509 -key rsa-3072.pem -subj /CN=example', 'refused: it is a certificate'),
    ('X.509 certificate after the private key', _EXPORT, 'refused: it is a certificate'),
    ('X.509 certificate request', 'openssl req -new -key rsa-3072.pem -subj /CN=example',
     'refused: it is a certificate'),
    ('PuTTY version 2, RSA', 'cat rsa-3072.ppk', 'refused: it is a PuTTY key file'),
    ('PuTTY version 2, DSA', 'cat dsa-1024-160.ppk', 'refused: it is a PuTTY key file'),
    ('PuTTY version 3, RSA', 'cat rsa-4096.ppk', 'refused: it is a PuTTY key file'),

    ('RSA header over a DSA key', "sed 's/ DSA / RSA /' dsa-1024-160.pem",
     'refused: says RSA PRIVATE KEY but it contains DSA PRIVATE KEY'),
    ('DSA header over an RSA key', "sed 's/ RSA / DSA /' rsa-3072.pem",
     'refused: says DSA PRIVATE KEY but it contains RSA PRIVATE KEY'),
    ('PKCS#8 header over PKCS#1', "sed 's/ RSA / /' rsa-3072.pem",
     'refused: says PRIVATE KEY but it contains RSA PRIVATE KEY'),
    ('PKCS#1 header over PKCS#8', "openssl pkcs8 -topk8 -nocrypt -in rsa-3072.pem | sed 's/ PRIVATE/ RSA PRIVATE/'",
     'refused: says RSA PRIVATE KEY but it contains PRIVATE KEY'),
    ('RSA header over OpenSSH', "sed 's/OPENSSH/RSA/' rsa-3072.openssh",
     'refused: says RSA PRIVATE KEY but it contains something else'),
    ('OpenSSH header over PKCS#1', "sed 's/ RSA / OPENSSH /' rsa-3072.pem",
     'refused: says OPENSSH PRIVATE KEY but it contains something else'),
    ('RSA header over an EC key', "openssl ecparam -name prime256v1 -genkey -noout | sed 's/ EC / RSA /'",
     'refused: says RSA PRIVATE KEY but it contains an EC key'),
    ('RSA header over a certificate',
     "openssl req -x509 -key rsa-3072.pem -subj /CN=example | sed 's/CERTIFICATE/RSA PRIVATE KEY/'",
     'refused: says RSA PRIVATE KEY but it contains a certificate'),

    ('RSA, end cut off', 'head -n 20 rsa-3072.pem', 'refused: do not pair up'),
    ('RSA, a line missing', 'sed 5d rsa-3072.pem', 'refused: it is truncated or damaged'),
    ('OpenSSH, a line missing', 'sed 5d rsa-3072.openssh', 'refused: truncated'),
    ('nothing', 'printf ""', 'refused: there is no private key'),
    ('a password', 'echo correct-horse-battery-staple', 'refused: there is no private key'),
    ('RSA without its BEGIN and END lines', "sed '/-----/d' rsa-3072.pem", 'refused: there is no private key'),
]
TAKEN = [row for row in FORMATS if not row[2].startswith('refused')]
REFUSED = [row for row in FORMATS if row[2].startswith('refused')]

_texts = {}


def stored_text(command):
    """What the command prints, as unicode; each command runs once, in a directory of its own with a copy of KEYS."""
    if command not in _texts:
        directory = tempfile.mkdtemp()
        try:
            for name in os.listdir(KEYS):
                shutil.copy(os.path.join(KEYS, name), directory)
                os.chmod(os.path.join(directory, name), 0o600)  # ssh-keygen insists
            # a pipe's exit status is its last command's: an empty text is as telling
            shell = subprocess.Popen(command, shell=True, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            output, errors = shell.communicate()
            assert shell.returncode == 0, (command, errors)
            _texts[command] = output.decode('utf-8')
        finally:
            shutil.rmtree(directory)
    return _texts[command]


def outcome(command):
    """'<type> <bits>' or 'refused: <reason>', as in FORMATS with the whole reason, for the text the command prints."""
    try:
        (kind, _, _, bits), = sshkey.private_keys(stored_text(command))
    except sshkey.UnusableKey as problem:
        return 'refused: %s' % problem
    return '%s %d' % (kind, bits)


def run(*command):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    return process.returncode, output, errors


def output_of(*command):
    status, output, errors = run(*command)
    assert status == 0, (command, errors)
    return output


def refusal(text):
    with pytest.raises(sshkey.UnusableKey) as caught:
        sshkey.private_keys(text)
    return str(caught.value)


def armoured(label, data):
    base64 = binascii.b2a_base64(data).decode('ascii').strip()
    lines = [base64[start:start + 64] for start in range(0, len(base64), 64)]
    return '-----BEGIN %s-----\n%s\n-----END %s-----\n' % (label, '\n'.join(lines), label)


def binary(pem):
    return binascii.a2b_base64(''.join(line for line in pem.splitlines() if '-----' not in line).encode('ascii'))


def label_of(pem):
    return re.search('-----BEGIN (.*)-----', pem).group(1)


@pytest.fixture
def key_file(tmpdir):
    """Writes a text to a file that ssh-keygen agrees to read; gives its name."""
    numbers = itertools.count()

    def write(text):
        path = str(tmpdir.join('key%d' % next(numbers)))
        with io.open(path, 'wb') as stream:
            stream.write(text if isinstance(text, bytes) else text.encode('utf-8'))
        os.chmod(path, 0o600)
        return path
    return write


PKCS1 = 'openssl genrsa -traditional 1024'
PKCS8 = 'openssl genrsa 1024'
OPENSSH = "ssh-keygen -q -t rsa -b 1024 -N '' -f new && cat new"
DSA = 'cat dsa-1024-160.pem'
DSA_PKCS8 = 'cat dsa-1024-160.pkcs8'
DSA_OPENSSH = 'cat dsa-1024-160.openssh'
SMALL = [PKCS1, PKCS8, OPENSSH, DSA, DSA_PKCS8, DSA_OPENSSH]


# Formats

def rows(table):
    table = list(table)
    return pytest.mark.parametrize('command, expected', [row[1:] for row in table], ids=[row[0] for row in table])


@rows(TAKEN)
def test_a_usable_key_is_taken_in_every_form(command, expected):
    assert outcome(command) == expected


@rows(REFUSED)
def test_anything_else_is_refused_with_its_reason(command, expected):
    found = outcome(command)
    assert found.startswith('refused: ') and expected[len('refused: '):] in found


@rows(TAKEN)
def test_the_result_is_pem_in_lines_of_64_characters_in_native_strings(command, expected):
    (kind, pem, fingerprint, bits), = sshkey.private_keys(stored_text(command))
    label = {'ssh-rsa': 'RSA PRIVATE KEY', 'ssh-dss': 'DSA PRIVATE KEY'}[kind]
    assert re.match('-----BEGIN %s-----\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{1,64}={0,2}\n-----END %s-----\n\\Z'
                    % (label, label), pem)
    assert max(len(line) for line in pem.splitlines()) == 64
    assert [type(value) for value in (kind, pem, fingerprint, bits)] == [str, str, str, int]


@rows(TAKEN)
def test_openssl_accepts_the_result_and_finds_the_same_public_key(command, expected, key_file):
    stored = stored_text(command)
    (kind, pem, _, _), = sshkey.private_keys(stored)
    written = key_file(pem)
    if kind == 'ssh-rsa':
        assert b'RSA key ok' in output_of('openssl', 'rsa', '-check', '-noout', '-in', written)
    if 'OPENSSH' not in stored:  # which openssl does not read
        public = output_of('openssl', 'pkey', '-pubout', '-in', written)
        assert public == output_of('openssl', 'pkey', '-pubout', '-in', key_file(stored))
    assert binary(pem) == output_of('openssl', 'pkey', '-traditional', '-outform', 'DER', '-in', written)


def ssh_keygen_reads_dsa():
    """OpenSSH 10 no longer does; the public halves committed with the DSA keys then stand for it."""
    return bool(stored_text('ssh-keygen -y -f dsa-1024-160.openssh || true'))


def known_to_ssh_keygen(row):
    """It refuses RSA below 1024 bits."""
    kind, bits = row[2].split()
    return int(bits) >= 1024 and (kind == 'ssh-rsa' or ssh_keygen_reads_dsa())


@rows(filter(known_to_ssh_keygen, TAKEN))
def test_ssh_keygen_accepts_the_result_and_finds_the_same_public_key(command, expected, key_file):
    stored = stored_text(command)
    (kind, pem, fingerprint, bits), = sshkey.private_keys(stored)
    public = output_of('ssh-keygen', '-y', '-f', key_file(pem))
    assert public.split()[0].decode('ascii') == kind
    if 'Bag Attributes' not in stored:  # which ssh-keygen does not skip
        assert public.split()[:2] == output_of('ssh-keygen', '-y', '-f', key_file(stored)).split()[:2]
    listed = output_of('ssh-keygen', '-l', '-E', 'sha256', '-f', key_file(public)).decode('ascii').split()
    assert listed[:2] == [str(bits), fingerprint]


@pytest.mark.parametrize('name', sorted(name[:-4] for name in os.listdir(KEYS) if name.endswith('.pub')))
def test_the_fingerprint_is_that_of_the_committed_public_half(name):
    blob = binascii.a2b_base64(stored_text('cat %s.pub' % name).split()[1].encode('ascii'))
    expected = binascii.b2a_base64(hashlib.sha256(blob).digest()).decode('ascii').strip().rstrip('=')
    for ending in ('pem', 'openssh'):
        (_, _, fingerprint, _), = sshkey.private_keys(stored_text('cat %s.%s' % (name, ending)))
        assert fingerprint == 'SHA256:' + expected


def known_to_paramiko(row):
    """It dropped DSA in 4.0, and refuses RSA below 1024 bits."""
    kind, bits = row[2].split()
    return int(bits) >= 1024 and (kind == 'ssh-rsa' or hasattr(paramiko, 'DSSKey'))


@rows(filter(known_to_paramiko, TAKEN))
def test_paramiko_accepts_the_result_and_finds_the_same_public_key(command, expected):
    assert paramiko, 'this test needs paramiko'
    (kind, pem, fingerprint, bits), = sshkey.private_keys(stored_text(command))
    reader = paramiko.RSAKey if kind == 'ssh-rsa' else paramiko.DSSKey
    key = reader.from_private_key(io.StringIO(pem if isinstance(pem, type(u'')) else pem.decode('ascii')))
    assert (key.get_name(), key.get_bits()) == (kind, bits)
    digest = binascii.b2a_base64(hashlib.sha256(key.asbytes()).digest()).decode('ascii')
    assert fingerprint == 'SHA256:' + digest.strip().rstrip('=')


@rows(TAKEN)
def test_the_result_is_taken_again_and_comes_out_the_same(command, expected):
    keys = sshkey.private_keys(stored_text(command))
    assert sshkey.private_keys(keys[0][1]) == keys


# How the text is written

def folded(pem, width):
    begin, body, end = re.match('(-.*-\n)([^-]*)(-.*-\n)', pem).groups()
    body = body.replace('\n', '')
    return begin + ''.join(body[start:start + width] + '\n' for start in range(0, len(body), width)) + end


def with_headers(pem, headers):
    return pem.replace('-----\n', '-----\n' + headers, 1)


WRITINGS = [
    ('CRLF', lambda pem: pem.replace('\n', '\r\n')),
    ('CR', lambda pem: pem.replace('\n', '\r')),
    ('indented by tabs', lambda pem: '\t' + pem.replace('\n', '\n\t')),
    ('indented as in a configuration file', lambda pem: ' ' + pem.replace('\n', '\n ')),
    ('trailing blanks', lambda pem: pem.replace('\n', '  \t\n')),
    ('empty lines', lambda pem: '\n\n' + pem.replace('\n', '\n\n')),
    ('lines of 76', lambda pem: folded(pem, 76)),
    ('lines of 10', lambda pem: folded(pem, 10)),
    ('one long line', lambda pem: folded(pem, 10 ** 5)),
    ('blanks for line ends', lambda pem: pem.replace('\n', ' ')),
    ('no line ends at all', lambda pem: pem.replace('\n', '')),
    ('no last line end', lambda pem: pem[:-1]),
    ('byte order mark', lambda pem: u'\ufeff' + pem),
    ('Bag Attributes',
     lambda pem: u'Bag Attributes\n    friendlyName: Schl\xfcssel - 1\nKey Attributes: <No Attributes>\n' + pem),
    ('text after the key', lambda pem: pem + '----------\nstored by jdoe\n'),
    ('harmless RFC 1421 headers', lambda pem: with_headers(pem, 'Comment: not encrypted\nX-Note: a\n continued\n\n')),
    ('a harmless RFC 1421 header, CRLF',
     lambda pem: with_headers(pem, 'Comment: made by jdoe\n \n').replace('\n', '\r\n')),
]
small_keys = pytest.mark.parametrize('command', SMALL)


@small_keys
@pytest.mark.parametrize('written', [write for _, write in WRITINGS], ids=[name for name, _ in WRITINGS])
def test_white_space_and_text_around_the_key_do_not_matter(command, written):
    pem = stored_text(command)
    assert written(pem) != pem
    assert sshkey.private_keys(written(pem)) == sshkey.private_keys(pem)


def test_the_encoding_of_the_text_around_the_key_does_not_matter():
    key = stored_text(PKCS1)
    text = u'Schl\xfcssel f\xfc' + key
    for stored in (text, text.encode('utf-8'), text.encode('latin-1')):
        assert sshkey.private_keys(stored) == sshkey.private_keys(key)


def with_noncanonical_padding(pem):
    position = pem.index('=') - 1
    alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
    return pem[:position] + alphabet[alphabet.index(pem[position]) + 1] + pem[position + 1:]


MISWRITINGS = [
    ('a character missing', lambda pem: pem[:100] + pem[101:], 'base64'),
    ('a foreign character', lambda pem: pem[:100] + '*' + pem[101:], 'base64'),
    ('a foreign character more', lambda pem: pem[:100] + '*' + pem[100:], 'base64'),
    ('a non-ASCII blank', lambda pem: pem[:100] + u'\xa0' + pem[100:], 'base64'),
    ('a vertical tab', lambda pem: pem[:100] + '\x0b' + pem[100:], 'base64'),
    ('the alphabet for URLs', lambda pem: folded(pem, 64).replace('+', '*').replace('/', '_'), 'base64'),
    ('padding missing', lambda pem: pem.replace('=', ''), 'base64'),
    ('padding twice', lambda pem: pem.replace('\n-----END', '====\n-----END'), 'base64'),
    ('padding inside', lambda pem: pem[:100] + '=' + pem[101:], 'base64'),
    ('bits after the last octet', with_noncanonical_padding, 'base64'),
    ('text after the base64', lambda pem: pem.replace('\n-----END', '\nend of key\n-----END'), 'base64'),
    ('quoted as in a mail', lambda pem: '> ' + pem.replace('\n', '\n> '), 'base64'),
    ('line ends as backslash and n', lambda pem: pem.replace('\n', '\\n'), 'base64'),
    ('nothing between BEGIN and END', lambda pem: re.sub('-\n[^-]*-', '-\n-', pem), 'base64'),
    ('headers without an empty line', lambda pem: with_headers(pem, 'Comment: made by jdoe\n'), 'base64'),
    ('a hyphen missing before BEGIN', lambda pem: pem[1:], 'hyphens'),
    ('a hyphen missing after BEGIN', lambda pem: pem.replace('-\n', '\n', 1), 'hyphens'),
    ('a hyphen missing after END', lambda pem: pem[:-2], 'hyphens'),
    ('dashes of a word processor', lambda pem: pem.replace('-', u'\u2013'), 'hyphens'),
    ('END of another name', lambda pem: pem.replace('END ', 'END X'), 'pair up'),
    ('END missing', lambda pem: pem[:pem.index('-----END')], 'pair up'),
    ('BEGIN missing', lambda pem: pem[pem.index('\n'):], 'pair up'),
    ('BEGIN twice', lambda pem: pem[:pem.index('\n') + 1] + pem, 'pair up'),
    ('END before BEGIN', lambda pem: pem[pem.index('-----END'):] + pem[:pem.index('-----END')], 'pair up'),
    ('a name that is not known', lambda pem: pem.replace('DSA PRIVATE', 'FOO PRIVATE'), 'names no private key'),
]


@pytest.mark.parametrize('miswritten, reason', [row[1:] for row in MISWRITINGS], ids=[row[0] for row in MISWRITINGS])
def test_a_damaged_text_is_refused(miswritten, reason):
    pem = stored_text(DSA)
    assert pem.count('=') == 2
    assert reason in refusal(miswritten(pem))


# Several keys, bounds

@pytest.mark.parametrize('label, reason', [
    ('EC PARAMETERS', 'it is an EC key; only RSA and DSA keys can be used'),
    ('DSA PARAMETERS', 'it contains parameters and no key'),
])
def test_parameters_say_what_kind_of_key_they_belong_to(label, reason):
    assert reason in refusal('-----BEGIN %s-----\nBggqhkjOPQMBBw==\n-----END %s-----\n' % (label, label))


def test_several_keys_come_out_in_their_order():
    texts = [stored_text(command) for command in SMALL]
    assert sshkey.private_keys('and\n'.join(texts)) == [sshkey.private_keys(text)[0] for text in texts]


def test_one_unusable_key_spoils_the_others_and_is_named():
    good, bad = stored_text(PKCS1), stored_text('openssl genpkey -algorithm ED25519')
    assert refusal(good + bad + good) == ('key 2 of 3 cannot be used: it is an Ed25519 key; '
                                          'only RSA and DSA keys can be used')
    assert 'PuTTY' in refusal(good + stored_text('cat rsa-3072.ppk'))
    assert 'hyphens' in refusal(good + good.replace('-----', '----'))


def test_sixteen_keys_are_taken_and_seventeen_are_refused():
    pem = stored_text(DSA)
    assert len(sshkey.private_keys(pem * 16)) == 16
    assert 'more than 16 keys' in refusal(pem * 17)


def test_64_kib_of_utf8_are_taken_and_a_byte_more_is_refused():
    pem = stored_text(DSA)
    for filling in (u'.', u'\xe9'):
        text = pem + filling * ((65536 - len(pem)) // len(filling.encode('utf-8')))
        assert len(text.encode('utf-8')) == 65536
        assert len(sshkey.private_keys(text)) == 1
        assert '65536 bytes' in refusal(text + u'.')


# Structure and numbers

def der(tag, content):
    size = len(content)
    length = [size] if size < 128 else [0x81, size] if size < 256 else [0x82, size >> 8, size & 255]
    return bytes(bytearray([tag] + length) + content)


def octets(number):
    digits = '%x' % number
    digits = '0' * (len(digits) % 2) + digits
    return binascii.unhexlify('00' + digits if digits[0] >= '8' else digits)


def integer(number):
    return der(2, octets(number))


def sequence(items):
    return der(0x30, b''.join(items))


def numbers_by_openssl(pem, key_file):
    """All the INTEGERs in a PEM, as openssl reads them."""
    output = output_of('openssl', 'asn1parse', '-in', key_file(pem)).decode('ascii')
    return [int(number, 16) for number in re.findall(r'INTEGER +:([0-9A-F]+)', output)]


@pytest.fixture
def rsa(key_file):
    """[0, n, e, d, p, q, dp, dq, qinv] of a key of 1024 bits"""
    return numbers_by_openssl(stored_text(PKCS1), key_file)


@pytest.fixture
def dsa(key_file):
    """[0, p, q, g, y, x] of a key of 1024 bits"""
    return numbers_by_openssl(stored_text(DSA), key_file)


def rsa_pem(numbers):
    return armoured('RSA PRIVATE KEY', sequence(integer(number) for number in numbers))


def dsa_pem(numbers):
    return armoured('DSA PRIVATE KEY', sequence(integer(number) for number in numbers))


def pkcs8_pem(algorithm, key, version=0, rest=b''):
    return armoured('PRIVATE KEY', sequence([integer(version), sequence(algorithm), der(4, key), rest]))


RSA_OID = der(6, binascii.unhexlify('2a864886f70d010101'))
DSA_OID = der(6, binascii.unhexlify('2a8648ce380401'))
NULL = der(5, b'')


def openssh_pem(public, private, cipher=b'none', kdf=b'none', options=b'', count=b'\0\0\0\1', rest=b''):
    def string(data):
        return struct.pack('>I', len(data)) + data
    return armoured('OPENSSH PRIVATE KEY', b'openssh-key-v1\0' + string(cipher) + string(kdf) + string(options)
                    + count + string(public) + string(private) + rest)


def openssh_parts(pem):
    """The public and the private section of an unencrypted key."""
    data = binary(pem)[len(b'openssh-key-v1\0') + 8 + 8 + 4 + 4:]
    size = int(binascii.hexlify(data[:4]), 16)
    return data[4:4 + size], data[8 + size:]


def test_the_tests_own_encoders_write_what_the_tools_write(rsa, dsa):
    assert binary(rsa_pem(rsa)) == binary(stored_text(PKCS1))
    assert binary(dsa_pem(dsa)) == binary(stored_text(DSA))
    pkcs8 = pkcs8_pem([DSA_OID, sequence(integer(number) for number in dsa[1:4])], integer(dsa[5]))
    assert binary(pkcs8) == binary(stored_text(DSA_PKCS8))
    assert binary(openssh_pem(*openssh_parts(stored_text(OPENSSH)))) == binary(stored_text(OPENSSH))


@pytest.mark.parametrize('index', range(1, 9), ids=['n', 'e', 'd', 'p', 'q', 'dp', 'dq', 'qinv'])
def test_an_rsa_number_that_does_not_fit_is_refused(rsa, index):
    for other in (rsa[index] + 2, rsa[index] - 2, 0, 1, 2, rsa[1], rsa[1] + rsa[index]):
        if other != rsa[index]:
            changed = rsa[:index] + [other] + rsa[index + 1:]
            message = refusal(rsa_pem(changed))
            assert 'RSA numbers do not fit' in message or index == 1 and ' bits; ' in message


def test_rsa_numbers_that_fit_only_in_part_are_refused(rsa):
    _, n, e, d, p, q, dp, dq, qinv = rsa
    period = (p - 1) * (q - 1)
    for changed in ([0, n, e, d + p - 1, p, q, dp, (d + p - 1) % (q - 1), qinv],
                    [0, n, e, d + q - 1, p, q, (d + q - 1) % (p - 1), dq, qinv],
                    [0, n, e + period * 2, d, p, q, dp, dq, qinv], [0, n, 1, period // 2 + 1, p, q, 1, 1, qinv],
                    [0, n, e, d, q, p, dq, dp, qinv], [0, n, e, d, 1, n, 0, d, 0], [0, n, e, d, n, 1, d, 0, 1],
                    [0, n, e, inverse(e, n - 1), n, 1, inverse(e, n - 1), 0, 1],
                    [0, n, 1, 1, p, q, 1, 1, qinv], [0, n, e, d, p, q, dp + p - 1, dq, qinv],
                    [0, n, e, d, p, q, dp, dq, qinv + p], [0, n, e, d + period * 2, p, q, dp, dq, qinv]):
        assert 'RSA numbers do not fit' in refusal(rsa_pem(changed))


def inverse(number, modulus):
    a, b, x, y = number % modulus, modulus, 1, 0
    while b:
        a, b, x, y = b, a % b, y, x - a // b * y
    assert a == 1
    return x % modulus


def test_an_even_rsa_modulus_is_refused_though_all_else_fits():
    def pem(p, q, e=65537):
        d = inverse(e, (p - 1) * (q - 1))
        return rsa_pem([0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), inverse(q, p)])
    assert len(sshkey.private_keys(pem(2 ** 521 - 1, 2 ** 607 - 1))) == 1  # Mersenne primes
    assert 'RSA numbers do not fit' in refusal(pem(2 ** 521, 2 ** 607 - 1))


@pytest.mark.parametrize('index', range(1, 6), ids=['p', 'q', 'g', 'y', 'x'])
def test_a_dsa_number_that_does_not_fit_is_refused(dsa, index):
    for other in (dsa[index] + 2, dsa[index] - 2, 0, 1, 2, dsa[1], dsa[1] + dsa[index]):
        if other != dsa[index]:
            message = refusal(dsa_pem(dsa[:index] + [other] + dsa[index + 1:]))
            assert 'DSA numbers do not fit' in message or index == 1 and ' bits; ' in message


@pytest.mark.parametrize('change', [
    lambda p, q, g, x: (p, q, g, 0), lambda p, q, g, x: (p, q, g, q), lambda p, q, g, x: (p, q, g, x + q),
    lambda p, q, g, x: (p, q, 1, x), lambda p, q, g, x: (p, q, g + 1, x), lambda p, q, g, x: (p, 0, g, x),
    lambda p, q, g, x: (p + 1, q, g, x), lambda p, q, g, x: (p, q, g + p, x), lambda p, q, g, x: (p, 1, g, x),
    lambda p, q, g, x: (p, p - 1, g, x),
])
def test_pkcs8_dsa_is_checked_though_its_public_number_is_not_stored(dsa, change):
    p, q, g, x = change(dsa[1], dsa[2], dsa[3], dsa[5])
    assert 'DSA numbers do not fit' in refusal(pkcs8_pem([DSA_OID, sequence(map(integer, (p, q, g)))], integer(x)))


def test_a_dsa_modulus_with_a_factor_that_does_not_belong_there_is_refused_though_all_else_fits(dsa):
    _, p, q, g, _, x = dsa
    for factor in (q + 1, 3):  # makes p even; makes q no divisor of p - 1
        extended = g + p * ((1 - g) * inverse(p, factor) % factor)
        assert pow(extended, q, p * factor) == 1
        pem = dsa_pem([0, p * factor, q, extended, pow(extended, x, p * factor), x])
        assert 'DSA numbers do not fit' in refusal(pem)


def test_an_rsa_key_may_have_the_smaller_prime_first(rsa):
    _, n, e, d, p, q, dp, dq, _ = rsa
    swapped = rsa_pem([0, n, e, d, q, p, dq, dp, pow(p, q - 2, q)])
    assert sshkey.private_keys(swapped)[0][2] == sshkey.private_keys(rsa_pem(rsa))[0][2]


def test_sizes_out_of_bounds_are_refused(rsa, dsa):
    for bits in (1, 511, 16385, 300000):
        assert 'it has %d bits' % bits in refusal(rsa_pem([0, 2 ** bits - 1] + rsa[2:]))
    for bits in (1, 511, 8193, 300000):
        assert 'it has %d bits' % bits in refusal(dsa_pem([0, 2 ** bits - 1] + dsa[2:]))


def test_lengths_that_lie_or_are_not_der_are_refused(rsa):
    good = binary(rsa_pem(rsa))
    content = good[4:]
    for bad in (b'\x30\x80' + content + b'\0\0',  # indefinite
                b'\x30\x83\0' + good[2:4] + content,  # not the shortest
                b'\x30\x84\0\0' + good[2:4] + content,
                b'\x30\x82\xff\xff' + content,
                good[:2] + octets(len(content) + 1).rjust(2, b'\0') + content,
                good[:-1],
                sequence([b'\x02\x81\x01\x00', content[3:]]),
                sequence([b'\x02\x02\x00', content[3:]]),
                b'\x30', b'\x30\x82', b'\x30\x82\x01', b'\xff' * 100):
        assert 'a length in it is wrong' in refusal(armoured('RSA PRIVATE KEY', bad))


def test_bytes_after_the_structure_are_refused(rsa, dsa):
    algorithm, key = [RSA_OID, NULL], sequence(map(integer, rsa))
    for bad in (armoured('RSA PRIVATE KEY', key + b'\0'), armoured('RSA PRIVATE KEY', key + key),
                armoured('PRIVATE KEY', binary(pkcs8_pem(algorithm, key)) + b'\0'), pkcs8_pem(algorithm, key + b'\0'),
                openssh_pem(*openssh_parts(stored_text(OPENSSH)), **{'rest': b'\0'})):
        assert 'bytes after its end' in refusal(bad)
    parameters = sequence(map(integer, dsa[1:4]))
    assert 'a number in it' in refusal(pkcs8_pem([DSA_OID, parameters], integer(dsa[5]) + integer(1)))


def test_integers_that_are_negative_padded_or_empty_are_refused(rsa):
    for index in range(1, 9):
        plain = octets(rsa[index])
        stripped = plain.lstrip(b'\0')
        for bad in (b'', b'\0' + plain, b'\xff' + plain, b'\x80' + stripped[1:]):
            items = [integer(number) for number in rsa]
            items[index] = der(2, bad)
            assert 'a number in it is missing' in refusal(armoured('RSA PRIVATE KEY', sequence(items)))


def test_another_version_or_another_number_of_numbers_is_refused(rsa, dsa):
    for version in (1, 2, 255):
        assert 'version' in refusal(rsa_pem([version] + rsa[1:]))
        assert 'version' in refusal(dsa_pem([version] + dsa[1:]))
        assert 'version' in refusal(pkcs8_pem([RSA_OID, NULL], sequence(map(integer, rsa)), version))
    for count in (0, 1, 2, 8):
        assert 'says RSA PRIVATE KEY but it contains' in refusal(rsa_pem(rsa[:count]))
    assert 'says RSA PRIVATE KEY but it contains' in refusal(rsa_pem(rsa + [1]))
    assert 'says DSA PRIVATE KEY but it contains' in refusal(dsa_pem(dsa[:5]))


def test_pkcs8_attributes_are_skipped_and_anything_else_in_their_place_is_refused(rsa):
    key = sequence(map(integer, rsa))
    usage = sequence([der(6, b'\x55\x1d\x0f'), der(0x31, der(3, b'\0\x10'))])  # keyUsage, as Windows writes it
    expected = sshkey.private_keys(rsa_pem(rsa))
    assert sshkey.private_keys(pkcs8_pem([RSA_OID, NULL], key, rest=der(0xa0, usage))) == expected
    for rest in (der(0xa1, usage), usage, der(0xa0, usage) * 2):
        assert 'says PRIVATE KEY but it contains' in refusal(pkcs8_pem([RSA_OID, NULL], key, rest=rest))
    assert 'a length in it' in refusal(pkcs8_pem([RSA_OID, NULL], key, rest=b'\xa0\x20'))


def test_pkcs8_with_an_algorithm_or_parameters_that_do_not_match_is_refused(rsa, dsa):
    rsa_key, dsa_key = sequence(map(integer, rsa)), integer(dsa[5])
    parameters = sequence(map(integer, dsa[1:4]))
    for algorithm in ([RSA_OID], [RSA_OID, NULL, NULL], [RSA_OID, der(5, b'\0')], [RSA_OID, parameters], [NULL], [],
                      [NULL, RSA_OID]):
        assert 'unknown parameters' in refusal(pkcs8_pem(algorithm, rsa_key))
    for algorithm in ([DSA_OID], [DSA_OID, NULL], [DSA_OID, parameters, NULL]):
        assert 'unknown parameters' in refusal(pkcs8_pem(algorithm, dsa_key))
    assert 'a number in it' in refusal(pkcs8_pem([DSA_OID, sequence(map(integer, dsa[1:3]))], dsa_key))
    assert 'a number in it' in refusal(pkcs8_pem([DSA_OID, parameters], rsa_key))
    assert 'says RSA PRIVATE KEY but it contains' in refusal(pkcs8_pem([RSA_OID, NULL], dsa_key))


def test_the_parts_of_an_openssh_key_must_agree():
    public, private = openssh_parts(stored_text(OPENSSH))
    other_public, other_private = openssh_parts(stored_text("ssh-keygen -q -t rsa -b 1024 -C jdoe@example.com -N '' "
                                                            "-f new && cat new"))
    for bad, reason in (
            (openssh_pem(other_public, private), 'another key'), (openssh_pem(public, other_private), 'another key'),
            (openssh_pem(b'', private), 'another key'),
            (openssh_pem(public, private, count=b'\0\0\0\2'), 'exactly one key'),
            (openssh_pem(public, private, count=b'\0\0\0\0'), 'exactly one key'),
            (openssh_pem(public, private, cipher=b'aes256-ctr', kdf=b'bcrypt', options=b'x' * 24), 'encrypted'),
            (openssh_pem(public, private, cipher=b'aes256-ctr'), 'encrypted'),
            (openssh_pem(public, private, options=b'x'), 'encrypted'),
            (openssh_pem(public, b'\xff' + private[1:]), 'check numbers'),
            (openssh_pem(public, private + b'\x01'), 'check numbers'), (openssh_pem(public, b''), 'a length in it'),
            (openssh_pem(public, private + bytes(bytearray(range(1, 9)))), 'padding'),
            (openssh_pem(public, private[:-1] + b'\x2a'), 'padding'),
            (openssh_pem(public, private[:8] + b'\0\0\0\7ssh-foo' + private[19:]), 'unknown algorithm')):
        assert reason in refusal(bad)


def test_openssh_padding_is_taken_up_to_a_whole_block():
    stored = stored_text(OPENSSH)
    public, private = openssh_parts(stored)
    size = bytearray(private)[-1] if bytearray(private)[-1] < 8 else 0  # a comment does not end in such octets
    for blocks in (0, 1, 2, 40):
        padding = bytearray(number & 0xff for number in range(1, size + 8 * blocks + 1))
        text = openssh_pem(public, private[:len(private) - size] + bytes(padding))
        if len(padding) <= 8:
            assert sshkey.private_keys(text) == sshkey.private_keys(stored)
        else:
            assert 'padding' in refusal(text)


# Damage

def reread_by_openssl(text, key_file):
    """The traditional DER of what openssl makes of the text, or None."""
    status, output, _ = run('openssl', 'pkey', '-traditional', '-outform', 'DER', '-passin', 'pass:', '-in',
                            key_file(text))
    return output if status == 0 else None


def assert_damage_shows(stored, damaged_texts, key_file):
    """Each is refused, or is the same key, or is the key that openssl reads in it; gives the reasons."""
    good = sshkey.private_keys(stored)
    reasons, taken = set(), 0
    for damaged in damaged_texts:
        try:
            keys = sshkey.private_keys(damaged)
        except sshkey.UnusableKey as problem:
            reasons.add(str(problem))
            continue
        taken += 1
        if keys != good:
            assert [binary(pem) for _, pem, _, _ in keys] == [reread_by_openssl(damaged, key_file)]
    assert len(reasons) > 3
    return reasons, taken


@small_keys
def test_a_changed_byte_of_the_text_never_gives_a_wrong_key(command, key_file):
    stored = stored_text(command).encode('ascii')

    def damaged():
        for position in range(len(stored)):
            for mask in (0x01, 0x20, 0x80):
                changed = bytearray(stored)
                changed[position] ^= mask
                yield bytes(changed)
    assert_damage_shows(stored, damaged(), key_file)


@small_keys
def test_a_changed_byte_of_the_structure_never_gives_a_wrong_key(command, key_file):
    stored = stored_text(command)
    data, label, source = binary(stored), label_of(stored), random.Random(1421)

    def damaged():
        for position in range(len(data)):
            for mask in (0x01, 0x80, source.randrange(1, 256)):
                changed = bytearray(data)
                changed[position] ^= mask
                yield armoured(label, bytes(changed))
    _, taken = assert_damage_shows(stored, damaged(), key_file)
    # the secret number of a PKCS#8 DSA key has nothing beside it to be checked against, the comment of an OpenSSH key
    # need not be
    assert taken == 0 or command in (DSA_PKCS8, OPENSSH, DSA_OPENSSH)


@small_keys
def test_bytes_missing_or_repeated_never_give_a_key(command):
    stored = stored_text(command)
    data, label = binary(stored), label_of(stored)
    for position in range(len(data)):
        for damaged in (data[:position], data[:position] + data[position + 1:],
                        data[:position] + data[position:position + 1] + data[position:]):
            refusal(armoured(label, damaged))


def pieces(text, size=6):
    return set(text[start:start + size] for start in range(len(text) - size + 1))


def assert_nothing_of_the_key(reasons, stored):
    """No six characters in a row of the base64, hexadecimal or decimal spelling of the key."""
    data = binary(stored)
    hexadecimal = binascii.hexlify(data).decode('ascii')
    secrets = pieces(binascii.b2a_base64(data).decode('ascii').strip()) | pieces(hexadecimal)
    for reason in reasons:
        assert re.match('[ -~]+\\Z', reason)
        assert not pieces(reason) & secrets
        assert not [number for number in re.findall('[0-9]+', reason) if len(number) > 5]


@small_keys
def test_no_reason_holds_a_byte_of_the_key_and_each_is_one_line(command, key_file):
    stored = stored_text(command)
    data, label = binary(stored), label_of(stored)
    texts = [armoured(label, data[:position] + b'\xff' + data[position + 1:]) for position in range(len(data))]
    texts += [stored[:position] + stored[position + 1:] for position in range(len(stored))]
    texts += [stored[:position] + '-' + stored[position:] for position in range(len(stored))]
    reasons, _ = assert_damage_shows(stored, texts, key_file)
    assert_nothing_of_the_key(reasons, stored)


@rows(REFUSED)
def test_no_reason_of_a_refused_format_holds_a_byte_of_it(command, expected):
    stored = stored_text(command)
    body = ''.join(line for line in stored.splitlines() if re.match('[A-Za-z0-9+/=]{10,}$', line))
    reason = refusal(stored)
    assert re.match('[ -~]+\\Z', reason) and not pieces(reason) & pieces(body)


# Cost

@pytest.mark.parametrize('text', [
    '-----BEGIN RSA PRIVATE KEY' * 2400,
    '-----BEGIN RSA PRIVATE KEY-----' * 2100,
    '-----BEGIN RSA PRIVATE KEY-----\n' + '4,' + ' ' * 65000,
    '-----BEGIN ' + 'A ' * 32000,
    'BEGIN ' * 10900,
    'BEGIN ' + 'A' * 65000,
    'END ' * 16000,
    'ssh-' * 16384,
    '-' * 65536,
    '\n \n' * 21000,
    armoured('RSA PRIVATE KEY', sequence([integer(0)] + [integer(2 ** 43000 - 1)] * 8)),
    armoured('RSA PRIVATE KEY', sequence([integer(1)] * 15000)),
    armoured('DSA PRIVATE KEY', sequence([integer(0)] + [integer(2 ** 70000 - 1)] * 5)),
    armoured('RSA PRIVATE KEY', sequence(integer(number) for number in [0] + [2 ** 16384 - 1] * 8)) * 2,
    dsa_pem([0, 2 ** 7936 * (2 ** 255 + 1) + 1, 2 ** 255 + 1, 3, 4, 2 ** 255]) * 10,
], ids=lambda text: text[:40].replace('\n', ' ') + '...')
def test_a_hostile_text_is_refused_in_moments(text):
    assert len(text) <= sshkey.MAX_TEXT
    with at_most(2):
        assert refusal(text)
