# -*- coding: utf-8 -*-
"""The names of servers: IP addresses, host names, and the names and dates in a certificate.

Python 2.6.5 code. 2.6.5's getpeercert() misses a subjectAltName that comes first (bpo-13034) and
cuts names at a NUL (CVE-2013-4238). Names are therefore read from the DER, which is
complete. On Python 2, `socket` loads all of OpenSSL. This module imports it, and hashlib, only
where it uses them, so that a hook that asks no server does not load them.
"""
import binascii
import re
import time

from tpamerrors import native, text


# ---- IP addresses --------------------------------------------------------------------------------

def packed_address(host):
    """Return the 4 or 16 bytes of an IP address ('10.0.0.1', 'fd00::1'), or None for any other
    text."""
    import socket
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, native(host))
        except (socket.error, ValueError, TypeError):  # TypeError: Python 2, for a NUL
            pass
    return None


def canonical_address(host):
    """Return an IP address in its canonical spelling, or None for any other text.

    Brackets and the zone of an IPv6 address are dropped; an IPv4-mapped address becomes IPv4.
    """
    packed = packed_address(text(host).strip(u'[]').partition(u'%')[0])
    if packed is None:
        return None
    if packed.startswith(b'\0' * 10 + b'\xff\xff'):
        packed = packed[12:]
    return shown_address(packed)


def shown_address(packed):
    """Return the text of a packed address, u'?' if it has neither 4 nor 16 bytes."""
    import socket
    if len(packed) == 4:
        return text(socket.inet_ntop(socket.AF_INET, packed))
    if len(packed) == 16:
        return text(socket.inet_ntop(socket.AF_INET6, packed))
    return u'?'


# ---- host names ----------------------------------------------------------------------------------

def service_domain(name):
    """Return the domain of an SRV name: _tpam._tcp.example.com -> example.com (RFC 2782)."""
    labels = name.split(u'.')
    while labels and labels[0].startswith(u'_'):
        del labels[0]
    return u'.'.join(labels)


def is_in_domain(host, domain):
    """Return whether a host name is the domain or lies inside it.

    A name with characters that host names do not have is refused: dnspython writes a dot inside a
    label as `\\.`.
    """
    if not re.match(u'[A-Za-z0-9_.-]+\\Z', host):
        return False
    return (u'.' + host.lower()).endswith(u'.' + domain.rstrip(u'.').lower())


# ---- DER -----------------------------------------------------------------------------------------

_UTC_TIME, _BMP_STRING = 0x17, 0x1e
_VERSION, _EXTENSIONS = 0xa0, 0xa3    # optional parts of a certificate: context tags
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87   # kinds of alternative names
_SUBJECT_ALT_NAME = b'\x55\x1d\x11'   # 2.5.29.17
_ATTRIBUTES = {b'\x55\x04\x03': u'CN', b'\x55\x04\x06': u'C', b'\x55\x04\x07': u'L',
               b'\x55\x04\x08': u'ST', b'\x55\x04\x0a': u'O', b'\x55\x04\x0b': u'OU'}


def _elements(der):
    """Return [(tag, contents)] of the elements that follow one another in DER (X.690). Raises
    ValueError."""
    der, at, found = bytearray(der), 0, []
    while at < len(der):
        tag, length, at = _header(der, at)
        if at + length > len(der):
            raise ValueError('cut short')
        found.append((tag, bytes(der[at:at + length])))
        at += length
    return found


def _header(der, at):
    """Return (tag, length of the contents, offset of the contents) of the element at an offset."""
    if at + 2 > len(der):
        raise ValueError('cut short')
    tag, length, at = der[at], der[at + 1], at + 2
    if tag & 31 == 31:
        raise ValueError('a tag of several bytes')
    if length < 128:
        return tag, length, at
    if length == 128:
        raise ValueError('an indefinite length, which is not DER')
    octets = bytes(der[at:at + length - 128])
    if len(octets) < length - 128:
        raise ValueError('cut short')
    return tag, int(binascii.hexlify(octets), 16), at + len(octets)


# ---- certificates --------------------------------------------------------------------------------

def certificate(der):
    """Read a certificate (DER, bytes; RFC 5280). Raises ValueError if it is not one.

    Returns a dict: subject, issuer (text), common_names (list of text), not_before, not_after
    (text in UTC, which sorts as time does), alternative_names (list of (tag, bytes), or None
    without that extension).
    """
    try:
        return _certificate(der)
    except IndexError:
        raise ValueError('no certificate')


def fingerprint(der):
    """Return the SHA-256 of a certificate (DER) as hexadecimal text."""
    import hashlib
    return text(hashlib.sha256(der).hexdigest())


def _certificate(der):
    (_, signed), = _elements(der)
    fields = _elements(_elements(signed)[0][1])
    if fields[0][0] == _VERSION:  # absent in version 1
        del fields[0]
    # serial number, signature, issuer, validity, subject, public key, optional parts
    issuer = _distinguished_name(fields[2][1])
    subject = _distinguished_name(fields[4][1])
    not_before, not_after = [_moment(*element) for element in _elements(fields[3][1])]
    return {'subject': u', '.join(u'%s=%s' % pair for pair in subject),
            'issuer': u', '.join(u'%s=%s' % pair for pair in issuer),
            'common_names': [value for attribute, value in subject if attribute == u'CN'],
            'not_before': not_before, 'not_after': not_after,
            'alternative_names': _alternative_names(fields[6:])}


def _distinguished_name(der):
    """Return [(attribute, value)] of a Name, without the attributes that people do not read."""
    pairs = []
    for _, relative in _elements(der):
        for _, attribute in _elements(relative):
            (_, oid), (tag, value) = _elements(attribute)
            if oid in _ATTRIBUTES:
                encoding = 'utf-16-be' if tag == _BMP_STRING else 'utf-8'
                pairs.append((_ATTRIBUTES[oid], value.decode(encoding, 'replace')))
    return pairs


def _moment(tag, value):
    """Return UTCTime or GeneralizedTime (RFC 5280, 4.1.2.5) as u'2026-11-23 15:33:47'."""
    digits = value.decode('ascii').rstrip(u'Z')
    if tag == _UTC_TIME:
        century = u'19' if digits[:2] >= u'50' else u'20'
        digits = century + digits
    parts = [digits[:4]] + [digits[at:at + 2] for at in range(4, 14, 2)]
    return u'%s-%s-%s %s:%s:%s' % tuple(parts)


def _alternative_names(optional):
    """Return [(tag, bytes)] of the subjectAltName among the optional parts of a certificate, or
    None without that extension."""
    found = None
    for tag, extensions in optional:
        if tag != _EXTENSIONS:
            continue
        for _, extension in _elements(_elements(extensions)[0][1]):
            parts = _elements(extension)
            if parts[0][1] != _SUBJECT_ALT_NAME:
                continue
            if found is not None:  # another reader may use the other one
                raise ValueError('an extension twice')
            found = _elements(_elements(parts[-1][1])[0][1])
    return found


# ---- words for the log ---------------------------------------------------------------------------

def shown(peer):
    """Return the fields of a log line about a certificate, {} for None."""
    if peer is None:
        return {}
    names = ('subject', 'issuer', 'not_before', 'not_after', 'sha256')
    return dict((name, peer[name]) for name in names)


_NOT_TLS = re.compile(u'wrong.version.number|unknown.protocol', re.I)
_OTHER_TLS = re.compile(u'alert.protocol.version|unsupported.protocol', re.I)


def tls_remedy(peer, reason):
    """Return the remedy for a failed handshake. peer: certificate of the server, or None; reason:
    text of the error."""
    now = text(time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime()))
    if peer is None and _NOT_TLS.search(reason):
        # OpenSSL 0.9.8 reports newer TLS in the same way, if the server alerts in its own version.
        return u'this port does not speak TLS, or only a version that this OpenSSL does not know'
    if peer is None and _OTHER_TLS.search(reason):
        return (u'the server does not accept this version of TLS: try [tls] protocol=negotiate; if '
                u'that is not enough, allow TLS 1.0 there for the appliances alone, or put the '
                u'gateway of this project in between')
    if peer is None:
        return u'is this a TLS port, and does the server want another client_cert or protocol?'
    if now > peer['not_after']:
        return u'the certificate has expired: renew it on the server'
    if now < peer['not_before']:
        return u'the certificate is not yet valid: check the clocks'
    return (u'if the certificate is right, add the CA that issued it to [tls] ca_cert; if the CA '
            u'is there, check client_cert')


# ---- whom a certificate is for -------------------------------------------------------------------

def names_of(peer):
    """Return the names (text) that a certificate() is for, by the rules of matches()."""
    if peer['alternative_names'] is None:
        return peer['common_names']
    names = []
    for tag, value in peer['alternative_names']:
        if tag == _DNS_NAME:
            names.append(value.decode('latin-1'))
        elif tag == _IP_ADDRESS:
            names.append(shown_address(value))
    return names


def matches(peer, host):
    """Return whether a certificate() is for a host name or address (RFC 6125, RFC 2818).

    If it has alternative names, only they count; otherwise the common names do. An address
    matches only in packed form, and never a wildcard. `*` must be the whole left-most label, and
    stands for one label.
    """
    address = packed_address(host)
    if address is not None:
        return _has_address(peer, address)
    return any(_is_same_name(name, text(host)) for name in _host_names(peer))


def _has_address(peer, address):
    if peer['alternative_names'] is not None:
        return (_IP_ADDRESS, address) in peer['alternative_names']
    return any(packed_address(name) == address for name in peer['common_names'])


# Without NUL, and without letters that lower() would turn into ASCII letters
_HOST_NAME = re.compile(r'[A-Za-z0-9*._-]+\Z')


def _host_names(peer):
    names = peer['common_names']
    if peer['alternative_names'] is not None:
        names = [value.decode('latin-1') for tag, value in peer['alternative_names']
                 if tag == _DNS_NAME]
    return [name for name in names if _HOST_NAME.match(name)]


def _is_same_name(pattern, host):
    pattern, host = _comparable(pattern), _comparable(host)
    if u'*' not in pattern:
        return pattern == host
    wildcard, _, domain = pattern.partition(u'.')
    if wildcard != u'*' or not domain or u'*' in domain:
        return False
    label, _, rest = host.partition(u'.')
    return label != u'' and rest == domain


def _comparable(name):
    """Return a host name in lower case, without the dot that ends an absolute name."""
    if name.endswith(u'.'):
        name = name[:-1]
    return name.lower()
