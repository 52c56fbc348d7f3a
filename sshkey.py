"""Convert SSH private keys to the one form that every SSH client reads.

The input may be an unencrypted key in one of these formats:
- RSA as PKCS#1 (RFC 8017 A.1.2)
- DSA as OpenSSL's traditional structure
- either of them as PKCS#8 (RFC 5208, RFC 3279 2.3)
- either of them in OpenSSH's own format (PROTOCOL.key in OpenSSH's source)
Everything else is refused, and the message gives the reason.

No key is passed through. Its numbers are read, checked against each other, and written anew as
PKCS#1 or traditional DSA. The result therefore contains no unchecked byte, and it does not depend
on how a client treats malformed input. The primality of p and q is not tested, because damage
would break the other relations as well.
"""
import binascii
import hashlib
import re
import struct

MAX_TEXT = 64 * 1024  # bytes of UTF-8
MAX_KEYS = 16
MIN_BITS = 512  # a smaller key is a toy or damaged
MAX_RSA_BITS = 16384  # the limit of OpenSSH and OpenSSL
MAX_DSA_BITS = 3072  # the limit of FIPS 186-4; keeps the two exponentiations short

_RSA = 'RSA PRIVATE KEY'
_DSA = 'DSA PRIVATE KEY'
_PKCS8 = 'PRIVATE KEY'
_OPENSSH = 'OPENSSH PRIVATE KEY'

_MARK = re.compile('-----(BEGIN|END) ([A-Z0-9 ]+)-----')
# The repetition is bounded because the text may be hostile: without a bound, the search takes
# seconds for 64 KiB.
_DAMAGED_MARK = re.compile('(?:BEGIN|END) [A-Z0-9 ]{0,40}PRIVATE KEY')
_ENCRYPTED_HEADER = re.compile('DEK-Info *:|4, *ENCRYPTED')

_ENCRYPTED = ('it is encrypted and nobody can be asked for its passphrase; '
              'store it without one (ssh-keygen -p -N "")')
_BAD_BASE64 = 'its base64 text is truncated, damaged or mixed with other text; store the key again'
_BAD_LENGTH = ('it is truncated or damaged: a length in it is wrong or not written the DER way; '
               'store the key again')
_BAD_NUMBER = ('it is damaged: a number in it is missing, negative or not written '
               'the shortest way; store the key again')
_BAD_FIT = 'it is damaged: its %s numbers do not fit together; store the key again'
_MISLABELLED = ('its BEGIN line says %s but it contains %s; '
                'store an RSA or DSA key as its tool wrote it')
_TRAILING = 'it is damaged: there are bytes after its end; store the key again'

_FOREIGN_TEXT = [
    (re.compile('PuTTY-User-Key-File-'),
     'it is a PuTTY key file; export it first (puttygen -O private-openssh)'),
    (re.compile('---- BEGIN SSH2 '),
     'it is a key in the format of ssh.com (RFC 4716); convert it first'),
    (re.compile(r'(?:ssh|ecdsa|sk)-\S{1,60} AAAA'),
     'there is an SSH public key line; store the private key alone'),
]
_FOREIGN_LABELS = [  # the first entry whose name occurs in the label applies
    ('ENCRYPTED', _ENCRYPTED),
    ('CERTIFICATE', 'it is a certificate; store the private key alone'),
    ('PUBLIC KEY', 'it is a public key; store the private key alone'),
    ('EC PARAMETERS', 'it is an EC key; only RSA and DSA keys can be used'),
    ('PARAMETERS', 'it contains parameters and no key; store the private key alone'),
    ('EC PRIVATE KEY', 'it is an EC key; only RSA and DSA keys can be used'),
    ('', 'its BEGIN line names no private key that is known here; store an RSA or DSA key'),
]

_INTEGER = 0x02
_OCTETS = 0x04
_NULL = 0x05
_OID = 0x06
_SEQUENCE = 0x30
_CONTEXT_0 = 0xa0
_CONTEXT_1 = 0xa1
_SHAPES = {  # the tags inside the outer SEQUENCE identify the structure
    (_INTEGER,) * 9: _RSA,
    (_INTEGER,) * 6: _DSA,
    (_INTEGER, _SEQUENCE, _OCTETS): _PKCS8,
    (_INTEGER, _SEQUENCE, _OCTETS, _CONTEXT_0): _PKCS8,  # the attributes do not affect the key
    (_INTEGER,) * 9 + (_SEQUENCE,): 'an RSA key of more than two primes',
    (_INTEGER, _OCTETS, _CONTEXT_0, _CONTEXT_1): 'an EC key',
    (_INTEGER, _INTEGER): 'an RSA public key',
    (_SEQUENCE, 0x03): 'a public key',
    (_SEQUENCE, _OCTETS): 'an encrypted key',
    (_SEQUENCE, _SEQUENCE, 0x03): 'a certificate',
}
_RSA_OID = b'\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01'  # 1.2.840.113549.1.1.1
_DSA_OID = b'\x2a\x86\x48\xce\x38\x04\x01'  # 1.2.840.10040.4.1
_OTHER_ALGORITHMS = {  # by OID (PKCS#8) or by name (OpenSSH format)
    b'\x2a\x86\x48\xce\x3d\x02\x01': 'an EC key',  # 1.2.840.10045.2.1
    b'\x2b\x65\x70': 'an Ed25519 key',  # 1.3.101.112
    b'\x2b\x65\x71': 'an Ed448 key',  # 1.3.101.113
    b'\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a': 'an RSA key for PSS alone',  # 1.2.840.113549.1.1.10
    b'ecdsa-sha2-nistp256': 'an EC key',
    b'ecdsa-sha2-nistp384': 'an EC key',
    b'ecdsa-sha2-nistp521': 'an EC key',
    b'ssh-ed25519': 'an Ed25519 key',
}
_OPENSSH_MAGIC = b'openssh-key-v1\0'


class UnusableKey(Exception):
    """Report a stored key that cannot be used.

    The message is one line with the reason and the remedy. It never contains a byte of the key.
    """


def private_keys(text):
    """Return the private keys in `text`, in their order, as [(type, pem, fingerprint, bits), ...].

    text         unicode, or a str of UTF-8
    type         'ssh-rsa' or 'ssh-dss', according to the key itself, not to its label
    pem          PKCS#1 or traditional DSA: header, base64 lines of exactly 64 characters (the last
                 may be shorter), footer; every line ends with a newline
    fingerprint  of the public half, in OpenSSH's notation: 'SHA256:...'
    bits         size of the modulus; the caller decides which sizes are too small

    type, pem and fingerprint are native strings. Text around the PEM blocks is ignored, for example
    "Bag Attributes".

    Raises UnusableKey, and returns no key at all, if any part of the text that claims to be key
    material is not a usable private key, if the text contains no private key, or if it exceeds
    MAX_TEXT bytes or MAX_KEYS keys.
    """
    raw = text if isinstance(text, bytes) else text.encode('utf-8', 'replace')
    if len(raw) > MAX_TEXT:
        raise UnusableKey(
            'the text is longer than %d bytes; store the private key alone' % MAX_TEXT)
    # Keys are ASCII, but the text around them may contain any byte, and Latin-1 decodes every byte.
    # The UTF-8 decoder of Python 2.6 swallows valid bytes after an invalid one.
    blocks = _pem_blocks(raw.decode('latin-1').replace('\r\n', '\n').replace('\r', '\n'))
    keys = []
    for label, body in blocks:
        try:
            keys.append(_read(label, body))
        except UnusableKey as problem:
            raise UnusableKey('key %d of %d cannot be used: %s' % (
                len(keys) + 1, len(blocks), problem))
    return keys


def _pem_blocks(text):
    """Return [(label, text between its BEGIN and END), ...].

    A mark need not stand on a line by itself, because some stores join the lines of a key.
    """
    for pattern, why in _FOREIGN_TEXT:
        if pattern.search(text):
            raise UnusableKey(why)
    if _DAMAGED_MARK.search(_MARK.sub('', text)):
        raise UnusableKey('a BEGIN or END line is damaged (five hyphens on either side); '
                          'store the key again')
    marks = list(_MARK.finditer(text))
    if not marks:
        raise UnusableKey('there is no private key in PEM form; '
                          'store it with its BEGIN and END lines')
    if len(marks) > 2 * MAX_KEYS:
        raise UnusableKey('there are more than %d keys; store fewer' % MAX_KEYS)
    words = [mark.group(1) for mark in marks]
    labels = [str(mark.group(2)) for mark in marks]
    if words != ['BEGIN', 'END'] * (len(marks) // 2) or labels[::2] != labels[1::2]:
        raise UnusableKey('a BEGIN line and the END line of the same name do not pair up; '
                          'store the whole key again')
    bodies = [text[begin.end():end.start()] for begin, end in zip(marks[::2], marks[1::2])]
    return list(zip(labels[::2], bodies))


def _read(label, body):
    if label == _OPENSSH:
        return _read_openssh(_binary(body))
    if label in (_RSA, _DSA, _PKCS8):
        return _read_der(label, _binary(body))
    raise UnusableKey([why for name, why in _FOREIGN_LABELS if name in label][0])


def _binary(body):
    if _ENCRYPTED_HEADER.search(body):
        raise UnusableKey(_ENCRYPTED)
    if ':' in body:  # RFC 1421 headers end at an empty line
        body = re.split(r'\n[ \t]*\n', body.lstrip(' \t\n'), maxsplit=1)[-1]
    base64 = re.sub('[ \t\n]', '', body).encode('ascii', 'replace')
    try:
        data = binascii.a2b_base64(base64)
    except binascii.Error:
        raise UnusableKey(_BAD_BASE64)
    # Encode it again to compare, because a2b_base64 silently skips characters that are not base64.
    if not data or binascii.b2a_base64(data)[:-1] != base64:
        raise UnusableKey(_BAD_BASE64)
    return data


def _read_der(label, der):
    tag, content, rest = _der_value(der)
    if tag != _SEQUENCE:
        raise UnusableKey(_MISLABELLED % (label, 'something else'))
    if rest:
        raise UnusableKey(_TRAILING)
    items = _der_items(content)
    found = _SHAPES.get(tuple(tag for tag, _ in items), 'something else')
    if found != label:
        raise UnusableKey(_MISLABELLED % (label, found))
    if items[0][1] != b'\0':
        raise UnusableKey('its version is not 0; convert it (openssl pkey, ssh-keygen -p)')
    if label == _PKCS8:
        return _read_pkcs8(_der_items(items[1][1]), items[2][1])
    numbers = _naturals(items[1:], len(items) - 1)
    if label == _DSA:
        p, q, g, y, x = numbers
        return _dsa(p, q, g, x, y)
    n, e, d, p, q, dp, dq, qinv = numbers
    return _rsa(n, e, d, p, q, qinv, (dp, dq))


def _read_pkcs8(algorithm, key):
    """Return the key in a PKCS#8 structure.

    algorithm  items of the AlgorithmIdentifier (RFC 3279 2.3.1, 2.3.2)
    key        octets of the privateKey
    """
    if algorithm == [(_OID, _RSA_OID), (_NULL, b'')]:
        return _read_der(_RSA, key)
    if len(algorithm) == 2 and algorithm[0] == (_OID, _DSA_OID) and algorithm[1][0] == _SEQUENCE:
        p, q, g = _naturals(_der_items(algorithm[1][1]), 3)
        x, = _naturals(_der_items(key), 1)
        return _dsa(p, q, g, x)
    raise _other_algorithm(b''.join([value for _, value in algorithm[:1]]))


def _read_openssh(blob):
    if not blob.startswith(_OPENSSH_MAGIC):
        raise UnusableKey(_MISLABELLED % (_OPENSSH, 'something else'))
    cipher, kdf, options, rest = _ssh_strings(blob[len(_OPENSSH_MAGIC):], 3)
    if (cipher, kdf, options) != (b'none', b'none', b''):
        raise UnusableKey(_ENCRYPTED)
    if rest[:4] != b'\0\0\0\1':
        raise UnusableKey('its OpenSSH block does not contain exactly one key; '
                          'store each key in a block of its own')
    public, private, rest = _ssh_strings(rest[4:], 2)
    if rest:
        raise UnusableKey(_TRAILING)
    if len(private) % 8 or private[:4] != private[4:8]:
        raise UnusableKey('it is damaged: its check numbers or its size are wrong; '
                          'store the key again')
    algorithm, rest = _ssh_strings(private[8:], 1)
    if algorithm == b'ssh-rsa':
        fields = _ssh_strings(rest, 7)
        n, e, d, qinv, p, q = [_natural(field) for field in fields[:6]]
        key = _rsa(n, e, d, p, q, qinv)
    elif algorithm == b'ssh-dss':
        fields = _ssh_strings(rest, 6)
        p, q, g, y, x = [_natural(field) for field in fields[:5]]
        key = _dsa(p, q, g, x, y)
    else:
        raise _other_algorithm(algorithm)
    padding = bytearray(fields[-1])  # the comment before it is dropped: it may be private
    if len(padding) > 8 or padding != bytearray(range(1, len(padding) + 1)):
        raise UnusableKey('it is damaged: its padding is wrong; store the key again')
    if _fingerprint(public) != key[2]:
        raise UnusableKey('it is damaged: its public half belongs to another key; '
                          'store the key again')
    return key


def _other_algorithm(identifier):
    found = _OTHER_ALGORITHMS.get(
        identifier, 'a key of an unknown algorithm or with unknown parameters')
    return UnusableKey('it is %s; only RSA and DSA keys can be used' % found)


def _rsa(n, e, d, p, q, qinv, exponents=None):
    """Check the numbers of an RSA key and return it as an item of private_keys().

    `exponents` is (d mod p-1, d mod q-1), or None if the format does not store them.
    """
    bits = _checked_bits(n, MAX_RSA_BITS)
    fits = (n & 1 and 1 < e < n and 1 < d < n and 0 < qinv < p < n and p * q == n
            and e * d % (p - 1) == 1 and e * d % (q - 1) == 1 and qinv * q % p == 1)
    if not fits or exponents not in (None, (d % (p - 1), d % (q - 1))):
        raise UnusableKey(_BAD_FIT % 'RSA')
    pem = _pem(_RSA, [0, n, e, d, p, q, d % (p - 1), d % (q - 1), qinv])
    return 'ssh-rsa', pem, _fingerprint(_ssh_public(b'ssh-rsa', [e, n])), bits


def _dsa(p, q, g, x, y=None):
    """Check the numbers of a DSA key and return it as an item of private_keys().

    The relations are those of FIPS 186-4 4.1 and 4.2. PKCS#8 does not store `y`: it is None then.
    """
    bits = _checked_bits(p, MAX_DSA_BITS)
    fits = (p & 1 and _bits(q) in (160, 224, 256) and (p - 1) % q == 0
            and 1 < g < p and pow(g, q, p) == 1 and 0 < x < q)
    computed = fits and pow(g, x, p)
    if not fits or y not in (None, computed):
        raise UnusableKey(_BAD_FIT % 'DSA')
    public = _ssh_public(b'ssh-dss', [p, q, g, computed])
    return 'ssh-dss', _pem(_DSA, [0, p, q, g, computed, x]), _fingerprint(public), bits


def _checked_bits(modulus, most):
    bits = _bits(modulus)
    if not MIN_BITS <= bits <= most:
        raise UnusableKey('it has %d bits; make one of %d to %d bits' % (bits, MIN_BITS, most))
    return bits


def _pem(label, numbers):
    content = b''.join([_der(_INTEGER, _octets(number)) for number in numbers])
    base64 = _base64(_der(_SEQUENCE, content))
    lines = [base64[start:start + 64] for start in range(0, len(base64), 64)]
    return '-----BEGIN %s-----\n%s\n-----END %s-----\n' % (label, '\n'.join(lines), label)


def _fingerprint(public):
    return 'SHA256:' + _base64(hashlib.sha256(public).digest()).rstrip('=')


# Octets: numbers, DER (X.690), strings of the SSH protocol (RFC 4251 5)

def _bits(number):
    return len(bin(number)) - 2  # Python 2.6 lacks int.bit_length


def _octets(number):
    """Return the shortest two's complement of a number >= 0.

    This is the content of an INTEGER in DER and, for a number > 0, of an mpint in SSH.
    """
    return binascii.unhexlify(('%x' % number).rjust(_bits(number) // 8 * 2 + 2, '0'))


def _natural(octets):
    number = int(binascii.hexlify(octets) or b'0', 16)
    if _octets(number) != octets:
        raise UnusableKey(_BAD_NUMBER)
    return number


def _der(tag, content):
    size = len(content)
    if size < 0x80:
        head = struct.pack('>BB', tag, size)
    elif size < 0x100:
        head = struct.pack('>BBB', tag, 0x81, size)
    else:
        head = struct.pack('>BBH', tag, 0x82, size)
    return head + content


def _der_value(data):
    """Return (tag, content, remaining data) for the value at the start of `data`.

    MAX_TEXT is 64 KiB, so that no valid length takes more than two octets.
    """
    tag, size, high, low = bytearray(data[:4].ljust(4, b'\0'))
    start, size = {0x81: (3, high), 0x82: (4, high * 256 + low)}.get(size, (2, size))
    if _der(tag, data[start:start + size]) != data[:start + size]:
        raise UnusableKey(_BAD_LENGTH)
    return tag, data[start:start + size], data[start + size:]


def _der_items(content):
    items = []
    while content:
        tag, value, content = _der_value(content)
        items.append((tag, value))
    return items


def _naturals(items, count):
    """Return the numbers in a list of exactly `count` INTEGERs."""
    if [tag for tag, _ in items] != [_INTEGER] * count:
        raise UnusableKey(_BAD_NUMBER)
    return [_natural(value) for _, value in items]


def _ssh_strings(data, count):
    """Return a list of `count` strings, followed by the remaining data."""
    found = []
    for _ in range(count):
        size, = struct.unpack('>I', data[:4].rjust(4, b'\xff'))
        if len(data) < 4 + size:
            raise UnusableKey(_BAD_LENGTH)
        found.append(data[4:4 + size])
        data = data[4 + size:]
    return found + [data]


def _ssh_public(algorithm, numbers):
    strings = [algorithm] + [_octets(number) for number in numbers]
    return b''.join([struct.pack('>I', len(string)) + string for string in strings])


def _base64(data):
    base64 = binascii.b2a_base64(data)[:-1]
    return base64 if isinstance(base64, str) else base64.decode('ascii')
