"""Python 2.6's library for Python 3, under the names of 2.6, so that the shipped modules run unchanged.

install() does nothing on Python 2. Shipped code knows nothing of this file: it imports httplib,
urllib2 and so on, and asks for no version. Each module is a thin layer over the same code of Python
3's own library, made when it is first imported: a hook that asks nothing imports none of them.
"""
import os
import sys
import types


def install():
    """Make httplib, thread, urllib2 and xmlrpclib importable."""
    if sys.version_info[0] == 2:
        return
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
    if 'EVERY_LINE_RECORD' in os.environ:  # see every_line.py
        import line_record
        line_record.start(os.environ['EVERY_LINE_RECORD'])


class _Finder(object):
    """Finds the modules of 2.6 and makes them (PEP 451)."""

    def find_spec(self, name, path=None, target=None):
        from importlib.machinery import ModuleSpec
        if name in MODULES:
            return ModuleSpec(name, self)
        return None

    def create_module(self, spec):
        return MODULES[spec.name]()

    def exec_module(self, module):
        pass


def _module(name, source, **names):
    module = types.ModuleType(name)
    module.__dict__.update((key, value) for key, value in vars(source).items()
                           if not key.startswith('__'))
    module.__dict__.update(names)
    return module


def _httplib():
    import http.client

    class HTTPConnection(http.client.HTTPConnection):
        def __init__(self, host, port=None, strict=None, **options):
            assert strict, 'Python 3 is always strict'
            http.client.HTTPConnection.__init__(self, host, port, **options)
    return _module('httplib', http.client, HTTPConnection=HTTPConnection)


def _urllib2():
    import urllib.request
    _add_wrap_socket()  # the module that needs it imports urllib2, too
    return _module('urllib2', urllib.request)


def _xmlrpclib():
    import xmlrpc.client

    def dumps(params, methodname=None, methodresponse=None, encoding=None):
        body = xmlrpc.client.dumps(params, methodname, methodresponse, encoding)
        return body.encode(encoding)
    return _module('xmlrpclib', xmlrpc.client, dumps=dumps)


def _thread():
    import _thread
    return _module('thread', _thread)


def _add_wrap_socket():
    """Give back ssl.wrap_socket, which 3.12 dropped."""
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


MODULES = {'httplib': _httplib, 'thread': _thread, 'urllib2': _urllib2, 'xmlrpclib': _xmlrpclib}
