# -*- coding: utf-8 -*-
"""The way to a server: DNS, TCP, the proxy, verified TLS, and what a failed call may have done.

Python 2.6.5 code. The ssl module of 2.6 checks no host names and has several bugs; each is named
where it is avoided. This module knows neither XML nor TPAM: Server.ask() is given the decoder.
"""
import hashlib  # noqa: F401 - registers SHA-256 with an old OpenSSL, before ssl needs it (bpo-8484)
import os
import select
import socket
import ssl
import struct
import tempfile
import urllib2

from tpamcert import (certificate, fingerprint, matches, names_of, packed_address, shown,
                      tls_remedy)
from tpamerrors import (Deadline, TpamConnectionEnded, TpamError, TpamOutcomeUnknown, TpamRefused,
                        TpamTimeout, TpamUnavailable, basic, in_thread, native, text)
from tpamhttp import (MAX_HEADERS, SEE_SERVER, WITHOUT_TLS, Wire, connect, hang_up, is_readable,
                      post, reason_of, status_remedy, status_text)

VERSION = '1.1.0'
USER_AGENT = 'SPS_TPAM_XMLRPC/' + VERSION
MIN_CIPHER_BITS = 112        # triple DES counts 168; export ciphers and single DES are below


# ---- DNS -----------------------------------------------------------------------------------------

def look_up(name, kind, deadline):
    """Return dnspython's records of an absolute name (RFC 1035), [] if it has none.

    kind: 'A', 'PTR', 'SRV', ... Raises TpamUnavailable, TpamTimeout. dnspython is imported here,
    because it takes as long to import as xmlrpclib.
    """
    import dns.exception
    import dns.resolver
    try:
        resolver = dns.resolver.get_default_resolver()
        resolver.lifetime = deadline.left()
        return list(resolver.query(native(name).rstrip('.') + '.', kind))
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return []
    except (dns.exception.DNSException, EnvironmentError, LookupError, ValueError,
            struct.error) as error:  # dnspython 1.7 raises the last three for a damaged answer
        raise TpamUnavailable(u'DNS does not answer', name=name, type=kind,
                              reason=type(error).__name__)


def addresses_of(host, port, deadline):
    """Return getaddrinfo() of a host within the deadline. Raises EnvironmentError, UnicodeError,
    TpamTimeout.

    getaddrinfo has no time limit.
    """
    if packed_address(host):
        return socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0,
                                  socket.AI_NUMERICHOST)
    return in_thread(lambda: socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM),
                     deadline)


# ---- one connection ------------------------------------------------------------------------------

def _why_unconnected(error):
    """Return the reason for a log line. A signal ends the hook instead."""
    if not isinstance(error, TpamTimeout):
        return reason_of(error)
    if 'signal' in error.details:
        raise error
    return u'timed out; see [tpam] connect_timeout'


class Connection(object):
    """The connection to one server: resolve, connect, tunnel, wrap, shake hands, verify.

    settings: see TpamClient; deadline: of the hook. Without `verify` the connection is only for
    reading the certificate. Attributes: name (host and port, text), sock (None while it is
    closed), peer (certificate() with its sha256), waiting_for (text, for the message of a timeout).
    """

    def __init__(self, host, port, settings, deadline, verify=True):
        self.name = (u'[%s]:%d' if u':' in host else u'%s:%d') % (host, port)
        self._host, self._port = host, port
        self._settings, self._deadline, self._verify = settings, deadline, verify
        self._tls, self._proxy = settings['tls'], settings['proxy']
        self.sock = self.peer = self.waiting_for = self._wire = None

    def open(self, limit):
        """Connect within a Deadline, and verify the peer. Only success leaves it open. Raises
        TpamUnavailable, TpamError, TpamTimeout."""
        self.close()
        is_open = False
        try:
            failure = self._connect(limit)
            is_open = failure is None
        finally:
            if not is_open:  # also after an exception from a signal handler
                self.close()
        if not is_open:
            self._deadline.left()
            raise failure

    def close(self):
        """Hang up, and close the socket unless an abandoned thread uses it."""
        sock, self.sock = self.sock, None  # first: an alarm in between would leave a closed one
        wire, self._wire = self._wire, None
        if sock is None:
            return
        hang_up(sock)
        if wire is None or not wire.abandon():
            sock.close()

    def wire(self, deadline):
        """Return a Wire over the socket, for one request."""
        self._wire = Wire(self.sock, deadline, MAX_HEADERS)
        return self._wire

    def _connect(self, limit):
        """Connect to the first address that accepts. Return None, or a TpamUnavailable."""
        host, port = native(self._host), self._port
        if self._proxy:
            host, port = self._proxy['address']
        self.waiting_for = u'the look-up of the name'
        addresses, reason = [], u'the name has no address'
        try:
            addresses = addresses_of(host, port, limit)
        except (EnvironmentError, UnicodeError, TpamTimeout) as error:  # Unicode: 3.x, from IDNA
            reason = _why_unconnected(error)
        for number, address in enumerate(addresses):
            self.close()
            try:  # create_connection() would give each address the full timeout
                share = limit.left() / (len(addresses) - number)
                self._connect_to(address, Deadline(share))
                return None
            except (EnvironmentError, TpamTimeout) as error:
                reason = _why_unconnected(error)
        details = {'address': u'%s, port %d' % (text(host), port), 'reason': reason}
        if u'timed out' in reason:
            details['waiting_for'] = self.waiting_for
        return TpamUnavailable(u'Cannot connect to the server', server=self.name, **details)

    def _connect_to(self, address, limit):
        """Connect to one address that getaddrinfo() gave."""
        family, kind, protocol, _, socket_address = address
        self.waiting_for = u'connecting'
        self.sock = socket.socket(family, kind, protocol)
        self.sock.settimeout(limit.left())
        self._connect_socket(socket_address, limit)
        if self._tls:
            self._shake_hands(limit)
        if self._tls and self._verify:
            self._verify_peer()

    def _connect_socket(self, address, limit):
        """Connect the socket to the server or its proxy, and wrap it in TLS.

        It is wrapped before it connects: a connected socket may lose its timeout (bpo-5103), and
        continues in plain text if the peer has closed it (bpo-13721). With a proxy it can only be
        wrapped after CONNECT; _check_tls() then refuses plain text.
        """
        pem_files = []  # open until connect(), in which 2.6 reads them
        try:
            if self._tls and not self._proxy:
                self.sock = self._wrap(pem_files)
            self.sock.connect(address)
            if self._proxy:
                self._tunnel(limit)
            if self._proxy and self._tls:
                self.sock = self._wrap(pem_files)
        except ssl.SSLError as error:  # before the handshake: the files are wrong
            raise self._unloadable(reason_of(error))
        finally:
            for pem_file in pem_files:
                pem_file.close()

    def _unloadable(self, reason):
        """Return the error for PEM that OpenSSL does not load."""
        ca_cert = self._tls['ca_cert']
        if ca_cert and not _is_loadable(ca_cert, self.sock):
            return TpamError(u'[tls] ca_cert cannot be loaded', reason=reason,
                             remedy=u'paste the CA certificates of the server again')
        return TpamError(u'[tls] client_cert cannot be loaded', reason=reason,
                         remedy=u'paste a certificate and the unencrypted key that belongs to it')

    def _tunnel(self, limit):
        """Ask the proxy to connect to the server."""
        self.waiting_for = u'the answer of the proxy'
        headers = {'Host': native(self.name), 'User-Agent': USER_AGENT}
        if self._proxy['username']:
            headers['Proxy-Authorization'] = basic(self._proxy['username'], self._proxy['password'])
        answer = connect(self.wire(limit), self.name, headers)
        if answer is not None:
            raise TpamUnavailable(u'The proxy does not connect to the server', server=self.name,
                                  answer=answer,
                                  remedy=u'see [https-proxy] and the log of the proxy')

    def _wrap(self, pem_files):
        """Return a TLS socket around the socket, before any handshake. The PEM files that it reads
        are added to the list, for the caller to close."""
        options = {'do_handshake_on_connect': False, 'ssl_version': ssl.PROTOCOL_TLSv1,
                   'cert_reqs': ssl.CERT_NONE}
        if self._tls['protocol'] == 'negotiate':
            options['ssl_version'] = ssl.PROTOCOL_SSLv23
        if hasattr(ssl, 'OP_NO_SSLv3'):
            # An ssl with protocol options (2.7.9) negotiates the newest, and rules SSLv3 out.
            options['ssl_version'] = ssl.PROTOCOL_SSLv23
        if self._verify and self._tls['ca_cert']:
            options['ca_certs'] = _pem_name(self._tls['ca_cert'], pem_files)
            options['cert_reqs'] = ssl.CERT_REQUIRED
        if self._verify and self._tls['client_cert']:
            options['certfile'] = _pem_name(self._tls['client_cert'], pem_files)
            options['keyfile'] = options['certfile']
        return ssl.wrap_socket(self.sock, **options)

    def _shake_hands(self, limit):
        """Shake hands, and read the certificate of the peer."""
        self.waiting_for = u'the TLS handshake'
        try:
            self.wire(limit).in_thread(_do_handshake, self.sock, limit)
            reason = self._check_tls()
        except EnvironmentError as error:
            reason = reason_of(error)
        except (ValueError, AttributeError):  # no certificate, or no TLS: see _connect_socket()
            reason = u'no certificate'
        if reason is not None:
            seen = None
            if self._verify:
                seen = self._look(limit)
            raise TpamUnavailable(u'TLS cannot be set up with the server', server=self.name,
                                  reason=reason, remedy=tls_remedy(seen, reason), **shown(seen))

    def _check_tls(self):
        """Read the certificate and check the cipher after the handshake. Return None, or why they
        are not acceptable. Raises ValueError or AttributeError without TLS or a certificate."""
        der = self.sock.getpeercert(True) or b''
        self.peer = dict(certificate(der), sha256=fingerprint(der))
        _, protocol, bits = self.sock.cipher() or (None, None, 0)
        if protocol == 'SSLv2' or bits < MIN_CIPHER_BITS:
            return u'the protocol or the cipher is too weak'
        return None

    def _look(self, limit):
        """Return the certificate of a server whose handshake failed, for the log, or None. It is
        read on a separate connection, over which nothing is sent."""
        other = Connection(self._host, self._port, self._settings, self._deadline, verify=False)
        try:
            other.open(limit)
            return other.peer
        except TpamError:
            return None
        finally:
            other.close()

    def _verify_peer(self):
        """Check the pin and the host name, which OpenSSL does not check."""
        pins = self._tls['server_fingerprint']
        if pins and self.peer['sha256'] not in pins:
            raise TpamError(
                u'The certificate of the server is not the pinned one', server=self.name,
                remedy=u'find out why it changed; if that was meant, put its SHA-256 into [tls] '
                       u'server_fingerprint', **shown(self.peer))
        if not self._tls['ca_cert']:  # the configuration then requires a pin
            return
        if not self._tls['check_host_name']:
            return
        if not matches(self.peer, self._host):
            raise TpamUnavailable(
                u'The certificate of the server is for another name', server=self.name,
                names=u', '.join(names_of(self.peer)),
                remedy=u'write the name in the certificate into [tpam] server',
                **shown(self.peer))


def _pem_name(pem, pem_files):
    """Write a PEM text to a new file, add the file to the list, and return its name.

    wrap_socket() takes file names only. Only the owner can read the file. If /proc gives names to
    open files, it has no directory entry, so that not even SIGKILL leaves it behind.
    """
    if os.path.isdir('/proc/self/fd'):
        pem_file = tempfile.TemporaryFile()
        name = '/proc/self/fd/%d' % pem_file.fileno()
    else:
        pem_file = tempfile.NamedTemporaryFile()
        name = pem_file.name
    pem_files.append(pem_file)
    pem_file.write(text(pem).encode('utf-8'))
    pem_file.flush()
    return name


def _is_loadable(ca_cert, sock):
    """Return whether OpenSSL loads this PEM. sock: a socket that is not used any more."""
    pem_files = []
    try:
        ssl.wrap_socket(sock, ca_certs=_pem_name(ca_cert, pem_files), cert_reqs=ssl.CERT_REQUIRED,
                        do_handshake_on_connect=False).close()
    except ssl.SSLError:
        return False
    finally:
        pem_files[0].close()
    return True


def _do_handshake(sock, limit):
    """Shake hands, and close the socket if that fails. OpenSSL 0.9.8 stays in one call for as long
    as the peer sends alerts (CVE-2016-8610), or computes with its numbers (CVE-2018-0732)."""
    try:
        _do_steps(sock, limit)
    except Exception:
        sock.close()
        raise


def _do_steps(sock, limit):
    """Shake hands step by step: the timeout of the socket would apply to each of many reads."""
    sock.setblocking(False)
    while True:
        try:
            return sock.do_handshake()
        except ssl.SSLError as error:
            wanted = error.args[0]
            if wanted not in (ssl.SSL_ERROR_WANT_READ, ssl.SSL_ERROR_WANT_WRITE):
                raise
        if wanted == ssl.SSL_ERROR_WANT_READ:
            select.select([sock], [], [], limit.left())
        else:
            select.select([], [sock], [], limit.left())


# ---- one server ----------------------------------------------------------------------------------

_UNKNOWN = u'; it is unknown whether the call was carried out'


class Server(object):
    """One server, and the connection that is kept to it. settings, deadline: see Connection."""

    def __init__(self, host, port, settings, deadline):
        self.connection = Connection(host, port, settings, deadline)
        self.name = self.connection.name
        self._settings, self._deadline = settings, deadline
        self._awaits_answer = False
        self.was_sent_twice = False  # whether the last call was

    def close(self):
        """Close the connection."""
        self.connection.close()

    def ask(self, command, body, decode, repeatable, resend, fresh):
        """Send a call, and return its decoded answer.

        command: name of the call, for messages. body: the call (bytes). decode: function of the
        answer (bytes), which raises TpamRefused or BadAnswer. repeatable: carrying the call out
        twice does no harm. resend: send the call once more if a kept connection ended before the
        answer began; most likely the server closed it while idle. fresh: use a new connection.

        Raises one of:
        TpamRefused: the server answered with a refusal.
        TpamUnavailable: it is safe to ask the next server.
        TpamConnectionEnded: a kept connection ended before the answer; only without `resend`.
        TpamOutcomeUnknown: the call may have been carried out; only if it is not `repeatable`.
        TpamTimeout: the time of the hook is over. TpamError: any other failure.
        """
        self.was_sent_twice = False
        is_kept = not fresh and self._is_idle()
        if not is_kept:
            self.connection.open(Deadline(self._settings['connect_timeout'], self._deadline))
        self.connection.waiting_for = u'the answer to ' + text(command)
        wire = self.connection.wire(self._deadline)
        try:
            return decode(self._post(wire, body))
        except TpamRefused:
            raise
        except Exception as error:  # httplib raises many kinds
            # It may quote the server, and Python 3 would chain it to an error raised here.
            failure = error
        self.close()
        if isinstance(failure, urllib2.HTTPError):
            raise self._failed_status(failure.code, repeatable)
        if isinstance(failure, TpamTimeout) or wire.received or not is_kept:
            raise self._failed(failure, wire, repeatable)
        self._deadline.left()
        if not resend:
            raise TpamConnectionEnded(u'The connection ended before the answer', server=self.name,
                                      command=command)
        try:
            return self.ask(command, body, decode, repeatable, resend, fresh=True)
        except TpamUnavailable as error:  # the first copy may have been carried out
            if repeatable:
                raise
            raise TpamOutcomeUnknown(u'No usable answer' + _UNKNOWN, **error.fields())
        finally:
            self.was_sent_twice = True

    def _is_idle(self):
        """Return whether there is a connection whose last answer was read completely, and on which
        nothing has arrived since."""
        if self.connection.sock is None or self._awaits_answer:
            return False
        return not is_readable(self.connection.sock)

    def _post(self, wire, body):
        """Send the body of a call, and return that of its answer (bytes)."""
        headers = {'Content-Type': 'text/xml; charset=utf-8', 'User-Agent': USER_AGENT,
                   'Host': native(self.name)}
        username, password = self._settings['credential']
        if username:
            headers['Authorization'] = basic(username, password)
        scheme = u'https' if self._settings['tls'] else u'http'
        path = text(self._settings['path'])
        self._awaits_answer = True  # the alarm may ring at any line
        url = u'%s://%s%s' % (scheme, self.name, path)
        content, is_reusable = post(wire, url, path, body, headers)
        if not is_reusable:
            self.close()
        self._awaits_answer = False
        return content

    def _failed_status(self, code, repeatable):
        """Return the error for an HTTP status."""
        details = {'server': self.name, 'status': status_text(code),
                   'remedy': status_remedy(code, self._settings['tls'] is not None)}
        message = u'The server answered with an error'
        if not repeatable and not 300 <= code < 500:
            return TpamOutcomeUnknown(message + _UNKNOWN, **details)
        if code in (502, 503, 504):
            return TpamUnavailable(message, **details)
        return TpamError(message, **details)

    def _failed(self, error, wire, repeatable):
        """Return the error for an exception that ended a call."""
        remedy = SEE_SERVER
        if not self._settings['tls']:
            remedy += WITHOUT_TLS
        elif not wire.received:
            remedy += u'; does it want another client_cert?'  # TLS 1.3 refuses one only now
        details = {'server': self.name, 'reason': reason_of(error), 'remedy': remedy}
        message = u'No usable answer'
        if wire.is_sent and not repeatable:
            return TpamOutcomeUnknown(message + _UNKNOWN, **details)
        if isinstance(error, TpamTimeout):
            return error
        self._deadline.left()
        if wire.is_sent:
            return TpamError(message, **details)
        return TpamUnavailable(message, **details)
