"""Run a script or hook that bench.py measures: bench_child.py MODE PORT CA_FILE COOKIES.

Python 2.6 code. Prints one JSON object: "memory", the peak of the process in KiB (getrusage() would
give that of the process that started it), and "cookies", for the next hook of the session.
The plugin is read from the folder PLUGIN, the shim from the folder SHIM.
"""
import json
import os
import sys

ROW_COUNT, COLUMN_COUNT = 5000, 20
OPTIONS = {'SystemName': 'WEB01', 'AccountName': 'root', 'ReasonText': 'bench'}
ARGUMENTS = {'protocol': 'ssh', 'server_username': 'root', 'server_hostname': 'web01',
             'gateway_username': 'jdoe'}
SESSION = ('get_private_key_list', 'get_password_list', 'authentication_completed', 'session_ended')
CONFIGURATION = """[tpam]
server=localhost:%s
username=sps
password=api-password
system_name_resolver=hostname
[tls]
ca_cert=%s
[logging]
log_level=error
"""


def proxy(port):
    """Return the stock XML-RPC client, which verifies the server except on 2.6."""
    try:
        import xmlrpclib
    except ImportError:
        import xmlrpc.client as xmlrpclib
    import ssl
    url = 'https://sps:api-password@localhost:%s/RPC2' % port
    if hasattr(ssl, 'create_default_context'):
        return xmlrpclib.ServerProxy(url, context=ssl.create_default_context(cafile=sys.argv[3]))
    return xmlrpclib.ServerProxy(url)


def floor(port, ca_file):
    """Make the call of a hook with the stock client, and import the libraries of the plugin, unused."""
    import lxml.etree  # noqa: F401
    try:
        import ConfigParser  # noqa: F401
        import urllib2  # noqa: F401
    except ImportError:
        import configparser  # noqa: F401
        import urllib.request  # noqa: F401
    proxy(port).Retrieve(OPTIONS)


def find_plugin():
    """Make the plugin's modules importable, with the shim where they need it."""
    sys.path.insert(0, os.environ['PLUGIN'])
    if sys.version_info[0] > 2:
        sys.path.append(os.environ['SHIM'])
        import shim
        shim.install()


def hook(name, port, ca_file, cookies):
    """Run a hook of the session -> the cookies that it leaves. A hook that fetches makes one call."""
    find_plugin()
    import main
    configuration = CONFIGURATION % (port, open(ca_file).read().strip().replace('\n', '\n '))
    arguments = dict(json.loads(cookies), session_id='bench')
    key = {'get_private_key_list': 'private_keys', 'get_password_list': 'passwords'}.get(name)
    if key:
        arguments.update(ARGUMENTS)
    returned = getattr(main.Plugin(configuration), name)(**dict(
        (str(argument), value) for argument, value in arguments.items()))
    if key:
        assert len(returned[key]) == 1
    returned = returned or {}
    return dict((cookie, returned.get(cookie, {})) for cookie in ('cookie', 'session_cookie'))


def list_plain(port, ca_file):
    """Fetch a long list with the stock client."""
    assert len(proxy(port).ListAccounts({'MaxRows': ROW_COUNT})['rows']) == ROW_COUNT


def list_plugin(port, ca_file):
    """Fetch the same list with the plugin's client."""
    find_plugin()
    import tpamclient
    import tpamerrors
    tls = {'ca_cert': open(ca_file).read(), 'client_cert': None, 'server_fingerprint': [],
           'check_host_name': True, 'protocol': 'tlsv1'}
    settings = {'servers': [(u'localhost', int(port))], 'path': u'/RPC2', 'method_prefix': u'',
                'connect_timeout': 10, 'credential': (u'sps', u'api-password'), 'proxy': None,
                'tls': tls}
    client = tpamclient.TpamClient(settings, tpamerrors.Deadline(60), None)
    assert len(client.list_accounts(MaxRows=ROW_COUNT)) == ROW_COUNT


SCRIPTS = {'floor': floor, 'list_plain': list_plain, 'list_plugin': list_plugin}


def peak():
    """Return the peak of this process's memory in KiB."""
    for line in open('/proc/self/status'):
        if line.startswith('VmHWM'):
            return int(line.split()[1])


def run(mode, port, ca_file, cookies):
    """Run a script or a hook -> the answer."""
    left = {}
    if mode in SESSION:
        left = hook(mode, port, ca_file, cookies)
    else:
        SCRIPTS[mode](port, ca_file)
    return {'memory': peak(), 'cookies': left}


if __name__ == '__main__':
    print(json.dumps(run(*sys.argv[1:])))
