"""What tools/bench.py measures, one process each: bench_child.py MODE PORT CA_FILE. Python 2.6 code.

Prints the peak of its memory in KiB at the end (getrusage's would be that of the process that started it). The plugin
is read from the folder PLUGIN.
"""
import os
import sys

ROW_COUNT, COLUMN_COUNT = 5000, 20
OPTIONS = {'SystemName': 'WEB01', 'AccountName': 'root', 'ReasonText': 'bench'}


def proxy(port, ca_file):
    """xmlrpclib as a script would use it; verified where the interpreter can, which 2.6 cannot."""
    try:
        import xmlrpclib
    except ImportError:
        import xmlrpc.client as xmlrpclib
    import ssl
    url = 'https://sps:api-password@localhost:%s/RPC2' % port
    if hasattr(ssl, 'create_default_context'):
        return xmlrpclib.ServerProxy(url, context=ssl.create_default_context(cafile=ca_file))
    return xmlrpclib.ServerProxy(url)


def plain(port, ca_file):
    """The call alone."""
    proxy(port, ca_file).Retrieve(OPTIONS)


def floor(port, ca_file):
    """The call, and the imports that the plugin is made of."""
    import lxml.etree  # noqa: F401
    try:
        import ConfigParser  # noqa: F401
        import urllib2  # noqa: F401
    except ImportError:
        import configparser  # noqa: F401
        import urllib.request  # noqa: F401
    plain(port, ca_file)


def plugin():
    """The plugin's modules, with the shim where they need it."""
    sys.path.insert(0, os.environ['PLUGIN'])
    if sys.version_info[0] > 2:
        sys.path.append(os.environ['SHIM'])
        import shim
        shim.install()


def hook(port, ca_file):
    """get_password_list, one call on the wire."""
    plugin()
    import main
    configuration = ('[tpam]\nserver=localhost:%s\nusername=sps\npassword=api-password\nsystem_name_resolver=hostname\n'
                     '[tls]\nca_cert=%s\n[logging]\nlog_level=error\n'
                     % (port, open(ca_file).read().strip().replace('\n', '\n ')))
    answer = main.Plugin(configuration).get_password_list(server_username='root', server_hostname='web01',
                                                          session_id='bench', gateway_username='jdoe', cookie={})
    assert len(answer['passwords']) == 1


def list_plain(port, ca_file):
    """A long list by xmlrpclib."""
    assert len(proxy(port, ca_file).ListAccounts({'MaxRows': ROW_COUNT})['rows']) == ROW_COUNT


def list_plugin(port, ca_file):
    """The same list by the plugin's client."""
    plugin()
    import tpamclient
    settings = {'servers': [(u'localhost', int(port))], 'path': u'/RPC2', 'method_prefix': u'', 'connect_timeout': 10,
                'credential': (u'sps', u'api-password'), 'proxy': None,
                'tls': {'ca_cert': open(ca_file).read(), 'client_cert': None, 'server_fingerprint': [],
                        'check_host_name': True, 'protocol': 'tlsv1'}}
    client = tpamclient.TpamClient(settings, tpamclient.Deadline(60), None)
    assert len(client.list_accounts(MaxRows=ROW_COUNT)) == ROW_COUNT


def decode():
    """Reads an answer from stdin; prints the seconds that xmlrpclib and the plugin take to decode it (best of 5)."""
    import time
    plugin()
    import tpamclient
    import xmlrpclib
    body = getattr(sys.stdin, 'buffer', sys.stdin).read()
    for decoded in (xmlrpclib.loads, tpamclient.decode_answer):
        best = None
        for _ in range(5):
            began = time.time()
            decoded(body)
            taken = time.time() - began
            best = taken if best is None else min(best, taken)
        print('%.6f' % best)


if __name__ == '__main__':
    globals()[sys.argv[1]](*sys.argv[2:])
    print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])
