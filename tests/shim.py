"""What Python 3 lacks of Python 2.6's library, under the names of 2.6, so that the shipped modules run unchanged.

install() does nothing on Python 2. Shipped code knows nothing of this file: it imports httplib, urllib2 and so on, and
asks for no version. Everything here is a thin layer over the same code of Python 3's own library.
"""
import sys
import types


def install():
    """Puts httplib, thread, urllib2 and xmlrpclib into sys.modules, and gives back what 3.12 dropped."""
    if sys.version_info[0] == 2:
        return
    _httplib()
    _urllib2()
    _xmlrpclib()
    _ssl()
    _thread()
    _dns()


def _module(name, source=None, **names):
    module = types.ModuleType(name)
    module.__dict__.update((key, value) for key, value in vars(source or types).items() if not key.startswith('__'))
    module.__dict__.update(names)
    sys.modules[name] = module


def _httplib():
    import http.client

    class HTTPConnection(http.client.HTTPConnection):
        def __init__(self, host, port=None, strict=None, **options):
            assert strict, 'Python 3 is always strict'
            http.client.HTTPConnection.__init__(self, host, port, **options)
    _module('httplib', http.client, HTTPConnection=HTTPConnection)


def _urllib2():
    import urllib.request
    _module('urllib2', urllib.request)


def _xmlrpclib():
    import xmlrpc.client

    def dumps(params, methodname=None, methodresponse=None, encoding=None):
        return xmlrpc.client.dumps(params, methodname, methodresponse, encoding).encode(encoding)
    _module('xmlrpclib', xmlrpc.client, dumps=dumps)


def _ssl():
    import ssl
    if hasattr(ssl, 'wrap_socket'):
        return

    def wrap_socket(sock, keyfile=None, certfile=None, server_side=False, cert_reqs=ssl.CERT_NONE,
                    ssl_version=ssl.PROTOCOL_TLS, ca_certs=None, do_handshake_on_connect=True):
        # As Python 3.11's own wrap_socket did it.
        context = ssl.SSLContext(ssl_version)
        context.verify_mode = cert_reqs
        if ca_certs:
            context.load_verify_locations(ca_certs)
        if certfile:
            context.load_cert_chain(certfile, keyfile)
        return context.wrap_socket(sock, server_side, do_handshake_on_connect)
    ssl.wrap_socket = wrap_socket


def _thread():
    import _thread
    _module('thread', _thread)


def _dns():
    import dns.resolver
    if not hasattr(dns.resolver.Resolver, 'query'):
        dns.resolver.Resolver.query = dns.resolver.Resolver.resolve
