"""Make the certificates in this folder, each named for what is wrong with it: ``python3 make.py``.

Needs Python 3 and the command ``openssl`` of OpenSSL 3. A run replaces every ``.pem`` file here: the keys of the
authorities are thrown away at its end, so a single certificate cannot be added later.

Each server and client certificate is one file: the certificate, its chain if it has one, and its key. All servers share
one key, all clients another. ``CERTIFICATES`` says for each file what is wrong with it, ``SERVERS`` names those that a
server presents; importing this module runs nothing, and Python 2.7 can. What is not wrong with a certificate is right:
issued by ``ca.pem``, RSA 2048, SHA-256, valid until the end of 2049 (the last year that X.509 writes as UTCTime, RFC
5280 4.1.2.5). Its common name is the file's name, a name of no host, where the CN is not the point.
"""

import base64
import collections
import glob
import os
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LOCALHOST = 'DNS:localhost, IP:127.0.0.1, IP:::1'
ALWAYS = ('20000101000000Z', '20491231235959Z')
NUL_NAME = 'localhost\0.evil.example'

Recipe = collections.namedtuple('Recipe', 'wrong cn san san_first signer dates')


def recipe(wrong, cn=None, san=LOCALHOST, san_first=False, signer='ca', dates=ALWAYS):
    """What a certificate shall be.

    :param wrong: what is wrong with it, or that it is accepted, for the reader and for test reports.
    :param cn: the common name; None for the certificate's own name.
    :param san: the subjectAltName as OpenSSL's configuration writes it (x509v3_config(5)); None for none.
    :param san_first: whether subjectAltName is the first extension.
    :param signer: a name in ``AUTHORITIES``; None for self-signed.
    :param dates: notBefore and notAfter, ``YYYYMMDDHHMMSSZ``.
    """
    return Recipe(wrong, cn, san, san_first, signer, dates)


def ia5_san(name):
    """The subjectAltName of one DNS name as raw DER, which may hold what OpenSSL's configuration cannot: a NUL."""
    dns_name = b'\x82' + struct.pack('B', len(name)) + name.encode('ascii')
    return 'DER:30%02x%s' % (len(dns_name), base64.b16encode(dns_name).decode('ascii'))


# Name -> (common name, signer). Two share their common name, and nothing else.
AUTHORITIES = {
    'ca': ('TPAM test CA', None),
    'same-name-ca': ('TPAM test CA', None),
    'other-ca': ('Other test CA', None),
    'client-ca': ('Client test CA', None),
    'intermediate': ('TPAM test intermediate CA', 'ca'),
}

SERVER_RECIPES = {
    'good': recipe('accepted'),
    'chain': recipe('accepted: issued by an intermediate CA, which is in the file', signer='intermediate'),
    'san-first': recipe('accepted: subjectAltName is the first extension', san_first=True),
    'ip-san': recipe('accepted for addresses; names no host', san='IP:127.0.0.1, IP:::1'),
    'upper-case': recipe('accepted: its DNS name is LOCALHOST', san='DNS:LOCALHOST'),
    'trailing-dot': recipe('accepted: its DNS name is "localhost."', san='DNS:localhost.'),
    'punycode': recipe('accepted for xn--mnchen-3ya.example.test', san='DNS:xn--mnchen-3ya.example.test'),
    'wildcard': recipe('accepted for hosts under example.test', san='DNS:*.example.test'),
    'cn-only': recipe('no subjectAltName; the CN is localhost', cn='localhost', san=None),

    'chain-missing': recipe('issued by an intermediate CA, which is not in the file', signer='intermediate'),
    'other-ca': recipe('issued by another CA', signer='other-ca'),
    'same-name-ca': recipe('issued by another CA that has the name of the trusted one', signer='same-name-ca'),
    'self-signed': recipe('signed by itself', signer=None),
    'expired': recipe('expired in 2001', dates=('20000101000000Z', '20011231235959Z')),
    'not-yet-valid': recipe('not valid before 2049', dates=('20490101000000Z', '20491231235959Z')),

    'wrong-host': recipe('names another host only', cn='other.example.test', san='DNS:other.example.test'),
    'cn-right-san-wrong': recipe('the CN is localhost, but the SAN names another host', cn='localhost',
                                 san='DNS:other.example.test'),
    'san-without-dns': recipe('the CN is localhost, but there is a SAN, with an email address and a URI only',
                              cn='localhost', san='email:tpam@example.test, URI:https://localhost/'),
    'empty-san': recipe('the CN is localhost, but there is a SAN, with nothing in it', cn='localhost', san='DER:3000'),
    'ip-san-wrong': recipe('names other addresses', san='IP:192.0.2.1, IP:2001:db8::1'),
    'ip-as-dns': recipe('names the address 127.0.0.1 as a DNS name only', san='DNS:127.0.0.1'),
    'nul-in-san': recipe('its DNS name is localhost, NUL, .evil.example', san=ia5_san(NUL_NAME)),
    'nul-in-cn': recipe('no subjectAltName; the CN is localhost, NUL, .evil.example', cn=NUL_NAME, san=None),
    'wildcard-two-labels': recipe('the wildcard *.*.example.test', san='DNS:*.*.example.test'),
    'wildcard-partial': recipe('wildcards within a label: l*.example.test and loc*host',
                               san='DNS:l*.example.test, DNS:loc*host'),
    'wildcard-sole': recipe('the wildcard * alone', san='DNS:*'),
    'wildcard-for-ip': recipe('the wildcard *.0.0.1', san='DNS:*.0.0.1'),
}

CLIENT_RECIPES = {
    'client': recipe('accepted: the client sps, issued by client-ca.pem', cn='sps', san=None, signer='client-ca'),
    'client-of-other-ca': recipe('the client sps, issued by another CA', cn='sps', san=None, signer='other-ca'),
}

# File -> (authority, what it is for): certificates without a key.
ROOTS = {
    'ca': ('ca', 'nothing: the trusted CA'),
    'client-ca': ('client-ca', 'nothing: the CA of client.pem'),
    'other-ca-root': ('other-ca', 'a CA that is not trusted: it issued other-ca.pem and client-of-other-ca.pem'),
}

SERVERS = sorted(SERVER_RECIPES)
CERTIFICATES = dict((name, wrong) for name, (_, wrong) in ROOTS.items())
CERTIFICATES.update((name, made.wrong) for name, made in SERVER_RECIPES.items())
CERTIFICATES.update((name, made.wrong) for name, made in CLIENT_RECIPES.items())

CONFIGURATION = """
[ca]
default_ca = signer
[signer]
database = index.txt
new_certs_dir = .
rand_serial = yes
unique_subject = no
default_md = sha256
policy = names
[req]
distinguished_name = names
[names]
organizationName = supplied
commonName = supplied
[extensions]
{extensions}
"""


def path(name):
    """The file of a certificate in ``CERTIFICATES``."""
    return os.path.join(HERE, name + '.pem')


def openssl(*arguments, **options):
    """Runs the command, returns what it prints; ``input`` is what it reads. Both are bytes."""
    done = subprocess.run(('openssl',) + arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode:
        raise RuntimeError('openssl %s: %s' % (' '.join(arguments), done.stderr.decode('utf-8', 'replace')))
    return done.stdout


def read(name):
    with open(name) as stream:
        return stream.read()


def write(name, text):
    with open(name, 'w') as stream:
        stream.write(text)


def issue(name, key, cn, signer, extensions, dates=ALWAYS):
    """Makes ``<name>.crt`` for a key, signed by an authority (None: by that key)."""
    write('index.txt', '')
    write('openssl.cnf', CONFIGURATION.format(extensions='\n'.join(extensions)))
    # No command line can carry a NUL: a name of the same length is signed, and corrected afterwards.
    subject = '/O=TPAM test/CN=' + cn.replace('\0', '#')
    openssl('req', '-new', '-config', 'openssl.cnf', '-key', key + '.key', '-subj', subject, '-out', 'request')
    signing = ('-cert', signer + '.crt', '-keyfile', signer + '.key') if signer else (
        '-selfsign', '-keyfile', key + '.key')
    openssl('ca', '-batch', '-notext', '-config', 'openssl.cnf', '-extensions', 'extensions',
            '-startdate', dates[0], '-enddate', dates[1], '-in', 'request', '-out', name + '.crt', *signing)
    if '\0' in cn:
        replace(name, cn.replace('\0', '#'), cn, signer)


def replace(name, old, new, signer):
    """Replaces text in a certificate by one of the same length, and signs it again."""
    der = openssl('x509', '-in', name + '.crt', '-outform', 'DER')
    # Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, ..., signature BIT STRING }; here each length takes two bytes.
    signed = der[4:8 + struct.unpack('>H', der[6:8])[0]]
    corrected = signed.replace(old.encode('ascii'), new.encode('ascii'))
    signature = openssl('dgst', '-sha256', '-sign', signer + '.key', input=corrected)
    der = der.replace(signed, corrected)[:-len(signature)] + signature
    write(name + '.crt', openssl('x509', '-inform', 'DER', input=der).decode('ascii'))


def authority_extensions(signer):
    return ['basicConstraints = critical, CA:TRUE' + (', pathlen:0' if signer else ''),
            'keyUsage = critical, keyCertSign, cRLSign',
            'subjectKeyIdentifier = hash',
            'authorityKeyIdentifier = keyid']


def leaf_extensions(made, purpose):
    # With a key identifier OpenSSL would not take the trusted CA for the issuer, and not get as far as the signature.
    identifier = 'none' if made.signer == 'same-name-ca' else 'keyid'
    names = ['subjectAltName = ' + made.san] if made.san else []
    others = ['basicConstraints = critical, CA:FALSE',
              'keyUsage = critical, digitalSignature, keyEncipherment',
              'extendedKeyUsage = ' + purpose,
              'subjectKeyIdentifier = hash',
              'authorityKeyIdentifier = ' + identifier]
    return names + others if made.san_first else others + names


def make_all():
    """Makes everything in the current folder; yields names and texts of the files to keep."""
    for key in sorted(AUTHORITIES) + ['server', 'client']:
        openssl('genrsa', '-out', key + '.key', '2048')
    for name in sorted(AUTHORITIES):    # 'ca' comes before 'intermediate', which it signs
        cn, signer = AUTHORITIES[name]
        issue(name, name, cn, signer, authority_extensions(signer))
    for recipes, key, purpose in ((SERVER_RECIPES, 'server', 'serverAuth'), (CLIENT_RECIPES, 'client', 'clientAuth')):
        for name, made in sorted(recipes.items()):
            issue('leaf', key, made.cn or name, made.signer, leaf_extensions(made, purpose), made.dates)
            chain = read('intermediate.crt') if name == 'chain' else ''
            yield name, read('leaf.crt') + chain + read(key + '.key')
    for name, (authority, _) in sorted(ROOTS.items()):
        yield name, read(authority + '.crt')


def main():
    """Replace every ``.pem`` file here."""
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    try:
        files = dict(make_all())
    finally:
        shutil.rmtree(folder)
    for old in glob.glob(os.path.join(HERE, '*.pem')):
        os.remove(old)
    for name, text in files.items():
        write(path(name), text)


if __name__ == '__main__':
    sys.path.insert(1, os.path.join(HERE, '..', '..', 'tools'))
    import program
    program.run(main, __doc__)
