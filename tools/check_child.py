# -*- coding: utf-8 -*-
"""Check a configuration for try_plugin.py, with the modules of the plugin and in the interpreter that runs it.

Python 2.6 code. Started like sps_child.py, it answers {"findings": [{"about", "status", "text"}]}, where status is
set, default, ok, note or wrong; each is also logged as soon as it is known. Only List* commands are sent.
"""
import base64
import os
import re
import time

import sps_child
CALL, RESULT = sps_child.begin()

import main as plugin  # noqa: E402 - there is no plugin before begin()
import tpamcert  # noqa: E402
import tpamclient  # noqa: E402
import tpamtransport  # noqa: E402
from tpamcall import Call  # noqa: E402
from tpamcert import certificate  # noqa: E402
from tpamerrors import Deadline, TpamError, TpamRefused, describe, escaped, text  # noqa: E402
from tpamconfig import KNOWN, PEM_BLOCK, known_section, read_configuration  # noqa: E402
from tpamini import read_lines  # noqa: E402

SOON = 30 * 24 * 3600  # s: a certificate that expires within this time gets a note
SECRET_OPTIONS, PEM_OPTIONS = ('password',), ('ca_cert', 'client_cert')


class Findings(list):
    """Collect the findings for the answer, and show each of them at once."""

    def __init__(self):
        list.__init__(self)
        self.about = u''  # the configuration or a server

    def begin(self, about):
        """Set the subject of the next findings."""
        self.about = about
        os.write(2, (about + u'\n').encode('utf-8', 'replace'))

    def add(self, status, finding):
        """Add a finding and write its line."""
        self.append({'about': self.about, 'status': status, 'text': finding})
        shown = status.upper() if status == 'wrong' else status
        os.write(2, (u'  %-8s %s\n' % (shown, finding)).encode('utf-8', 'replace'))

    def wrong(self):
        """Tell whether anything is wrong."""
        return bool([finding for finding in self if finding['status'] == 'wrong'])


def line_of(error):
    """Return a TpamError as one line."""
    return describe(error.message, **error.fields())


def check(call):
    """Check the configuration and, if it is valid, each server -> the answer."""
    findings = Findings()
    findings.begin(u'Configuration')
    settings = check_configuration(call['configuration'], findings)
    if findings.wrong():
        findings.add('note', u'nothing was sent; mend this first, then the servers are asked')
        return {'findings': findings}
    hook = Call(settings, 'check', call['arguments'])
    hook.log = lambda level, message, **details: findings.add('note', message)
    try:
        plugin.warn_insecure(hook)
        connection = hook.connection()
    except TpamError as error:
        findings.add('wrong', u'%s; to try it, add gateway_username=NAME gateway_password=- here' % text(error))
        return {'findings': findings}
    finally:
        hook.close()
    asked = questions(settings, hook.gateway_user)
    for host, port in servers(connection, settings, findings):
        check_server(host, port, connection, settings, asked, findings)
    return {'findings': findings}


# ---- configuration -------------------------------------------------------------------------------------------------

def check_configuration(configuration, findings):
    """Add all settings and all mistakes of the configuration to the findings -> the settings."""
    settings, problems = read_configuration(configuration)
    try:
        _, options, _ = read_lines(configuration, KNOWN)
    except ValueError:  # not UTF-8, as `problems` says: nothing was read
        settings, options = {}, []
    given = set((known_section(section), option) for _, section, option, value in options if value)
    wrong = [re.sub(u' \\(line [0-9]+\\)\\Z', u'', problem.partition(u':')[0]) for problem in problems]
    for section in sorted(settings):
        for option in sorted(settings[section]):
            if u'[%s] %s' % (section, option) in wrong:
                continue
            status = 'set' if (section, option) in given else 'default'
            findings.add(status, u'[%s] %s = %s' % (section, option, shown(option, settings[section][option])))
    for problem in problems:
        findings.add('wrong', problem)
    for option in PEM_OPTIONS:
        for peer in certificates(settings.get('tls', {}).get(option) or u''):
            check_dates(u'[tls] %s: %s' % (option, peer['subject']), peer, findings)
    return settings


def shown(option, value):
    """Return the value of an option for display, without secrets."""
    if option in SECRET_OPTIONS and value:
        return u'********'
    if isinstance(value, bool):
        return u'yes' if value else u'no'
    if isinstance(value, tuple):
        host, port = value
        return host if port is None else u'%s, port %d' % (host, port)
    if isinstance(value, list):
        return u'; '.join(shown(option, item) for item in value) or u'(none)'
    if option in PEM_OPTIONS and value:
        return u'; '.join([u'%s, until %s' % (peer['subject'], peer['not_after']) for peer in certificates(value)]
                          + [u'a private key'] * (u'PRIVATE KEY' in value))
    return text(value) or u'(none)'


def certificates(pem):
    """Return the certificates in a PEM text, as certificate() reads them."""
    return [certificate(base64.b64decode(content.encode('ascii')))
            for label, content in PEM_BLOCK.findall(pem) if label == u'CERTIFICATE']


def check_dates(name, peer, findings):
    """Add a note about a certificate that is not valid, or not for long. If it matters, the handshake has failed."""
    now, soon = [text(time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(time.time() + ahead))) for ahead in (0, SOON)]
    if now < peer['not_before'] or peer['not_after'] < soon:
        findings.add('note', u'%s is valid from %s to %s, and now it is %s'
                     % (name, peer['not_before'], peer['not_after'], now))


# ---- servers -------------------------------------------------------------------------------------------------------

def servers(connection, settings, findings):
    """Generate each (host, port) in [tpam] server, with SRV names looked up."""
    for host, port in connection['servers']:
        if not host.startswith(u'srv:'):
            yield host, port
            continue
        findings.begin(host)
        try:
            found, _ = tpamclient.service_addresses(
                host[4:], bool(settings['tls']['server_fingerprint']), Deadline(settings['tpam']['timeout']))
        except TpamError as error:
            findings.add('wrong', u'DNS: ' + line_of(error))
            continue
        findings.add('ok', u'DNS: %s' % u', '.join(u'%s:%d' % server for server in found))
        for server in found:
            yield server


def check_server(host, port, connection, settings, asked, findings):
    """Check the name, the connection, the certificate, and the commands that change nothing."""
    deadline = Deadline(settings['tpam']['timeout'])
    server = tpamtransport.Server(host, port, connection, deadline)
    findings.begin(u'Server %s' % server.name)
    try:
        proxy = connection['proxy']
        name, its_port = proxy['address'] if proxy else (host, port)
        check_name(name, its_port, deadline, findings)
        began = time.time()
        server.connection.open(Deadline(settings['tpam']['connect_timeout'], deadline))
        seconds = time.time() - began
        if connection['tls']:
            describe_tls(server, seconds, findings)
        else:
            findings.add('ok', u'connected, without TLS (%.2f s)' % seconds)
    except TpamError as error:
        remedy = u'; check [tpam] server, and what stands between' if error.remedy is None else u''
        findings.add('wrong', line_of(error) + remedy)
        return
    finally:
        server.close()
    client = tpamclient.TpamClient(dict(connection, servers=[(host, port)]), deadline, None)
    try:
        for question in asked:
            if not ask(client, question, findings):
                break
    finally:
        client.close()


def check_name(host, port, deadline, findings):
    """Look up the server or its proxy. A name without an address fails only when the plugin connects to it."""
    host, began = text(host), time.time()
    if tpamcert.packed_address(host):
        return
    try:
        found = tpamtransport.addresses_of(host, port, deadline)
    except (EnvironmentError, UnicodeError) as error:
        findings.add('note', u'DNS: %s has no address here (%s): is it right in the configuration? SPS may ask another '
                     u'name server' % (host, text(error.args[-1])))
        return
    addresses = sorted(set(text(entry[4][0]) for entry in found))
    findings.add('ok', u'DNS: %s is %s (%.2f s)' % (host, u', '.join(addresses), time.time() - began))


def describe_tls(server, seconds, findings):
    """Add the protocol, the cipher and the certificate, which the plugin has verified already."""
    sock = server.connection.sock
    cipher, version = sock.cipher(), getattr(sock, 'version', lambda: None)()
    findings.add('ok', u'connected and verified by %s with %s (%.2f s)' % (version or cipher[1], cipher[0], seconds))
    peer = server.connection.peer
    subject, issuer, names = [escaped(value) for value in (
        peer['subject'], peer['issuer'], u', '.join(tpamcert.names_of(peer)))]
    findings.add('ok', u'certificate: %s; issued by %s; for %s; valid from %s to %s; sha256:%s' % (
        subject or u'no subject', issuer, names or u'no name', peer['not_before'], peer['not_after'], peer['sha256']))
    check_dates(u'the certificate', peer, findings)
    if version not in (None, u'TLSv1'):
        findings.add('note', u'the OpenSSL 0.9.8 of SPS knows nothing newer than TLS 1.0, and this is %s: does the '
                     u'server take TLS 1.0, too?' % version)


# ---- commands ------------------------------------------------------------------------------------------------------

def questions(settings, gateway_user):
    """Return the harmless commands that the hooks send: [(name, method, the option that makes the hooks send it or u'',
    its options)]. The first one is always sent, to test the log-in."""
    tpam, client = settings['tpam'], tpamclient.TpamClient
    user, resolvers = gateway_user or tpam['username'], tpam['system_name_resolver']
    by_list = u'system_name_resolver' if u'tpam' in resolvers or len(resolvers) > 1 else u''
    found = [(u'ListSystems', client.list_systems, by_list, {'SystemName': u'*', 'MaxRows': 1})]
    if tpam['system_maptoreal']:
        found.append((u'ListAccounts', client.list_accounts, u'system_maptoreal', {'SystemName': u'*', 'MaxRows': 1}))
    if tpam['authorization'] in (u'approval', u'request'):
        found.append((u'ListRequestDetails', client.list_request_details, u'authorization',
                      {'RequestorName': user, 'Status': u'ACTIVE', 'MaxRows': 1}))
    if tpam['authorization'] == u'policy':
        found.append((u'ListAssignedPolicies', client.list_assigned_policies, u'authorization',
                      {'UserName': user, 'AllOrEffectiveFlag': u'E', 'PermissionType': u'Pwd'}))
    return found


def ask(client, question, findings):
    """Send a command -> whether to send another."""
    command, method, needed, options = question
    began = time.time()
    try:
        rows = method(client, **options)
    except TpamRefused as refusal:
        about = u'%s: the server says: %s' % (command, escaped(refusal.message))
        unknown = plugin.is_unknown_command(refusal)
        if unknown:
            findings.add('wrong', about + u'; check [tpam] method_prefix and path')
        elif needed:
            findings.add('wrong', about + u'; a hook needs it for [tpam] %s: give the API user permission' % needed)
        else:
            findings.add('ok', about + u'; the log-in works, and no hook needs this command as it is configured')
        return not unknown
    except TpamError as error:
        findings.add('wrong', u'%s: %s' % (command, line_of(error)))
        return False
    findings.add('ok', u'%s: answered, rows: %d (%.2f s)' % (command, len(rows), time.time() - began))
    return True


if __name__ == '__main__':
    sps_child.end(RESULT, check(CALL))
