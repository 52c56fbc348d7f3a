# -*- coding: utf-8 -*-
"""Check a configuration for try_plugin.py, with the modules of the plugin and in the interpreter that runs it.

Python 2.6 code. Started like sps_child.py, it answers {"findings": [{"about", "status", "text"}]}, where status is
set, default, ok, note or wrong; each is also logged as soon as it is known. It sends those List* commands that the
hooks send with this configuration.
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
from tpamerrors import Deadline, TpamError, TpamRefused, TpamTimeout, escaped, text  # noqa: E402
from tpamconfig import KNOWN, OPTIONS, PEM_BLOCK, known_section, read_configuration  # noqa: E402
from tpamini import read_lines  # noqa: E402

SOON = 30 * 24 * 3600  # s: a certificate that expires within this time gets a note
# SPS has neither ECDHE nor SNI. A newer OpenSSL has no TLS 1.0 above security level 0. The cipher shows whether the
# handshake was completed: s_client prints the protocol that it tried also after a refusal.
TRY_TLS_1_0 = (u"openssl s_client -connect %s%s -tls1 -noservername -cipher 'kRSA:kDHE:@SECLEVEL=0' </dev/null "
               u"| grep 'Cipher is'")
SECRET_OPTIONS, PEM_OPTIONS = ('password',), ('ca_cert', 'client_cert')


class Findings(list):
    """Collect the findings for the answer, and show each of them at once. call: a Call, whose secrets are masked."""

    def __init__(self, call):
        list.__init__(self)
        self._call = call
        self.about = u''  # the configuration or a server

    def begin(self, about):
        """Set the subject of the next findings."""
        self.about = about
        os.write(2, (about + u'\n').encode('utf-8', 'replace'))

    def add(self, status, finding):
        """Add a finding and write its line."""
        finding = self._call.line(finding)
        self.append({'about': self.about, 'status': status, 'text': finding})
        shown = status.upper() if status == 'wrong' else status
        os.write(2, (u'  %-8s %s\n' % (shown, finding)).encode('utf-8', 'replace'))

    def wrong(self):
        """Tell whether anything is wrong."""
        return bool([finding for finding in self if finding['status'] == 'wrong'])

    def line_of(self, error):
        """Return a TpamError as one line."""
        return self._call.line(error.message, **error.fields())

    def quoted(self, words):
        """Return the words of a server, which may repeat a secret, as a part of a line: masked, then escaped."""
        return escaped(self._call.line(text(words)))


def check(call):
    """Check the configuration and, if it is valid, each server -> the answer."""
    settings, problems = read_configuration(call['configuration'])
    hook = Call(settings, 'check', call['arguments'])
    findings = Findings(hook)
    findings.begin(u'Configuration')
    given = given_options(call['configuration'])
    show_authorization(settings['tpam'], problems, findings)
    check_configuration(hook, given, problems, findings)
    check_comments(call['configuration'], given, findings)
    if findings.wrong():
        findings.add('note', u'nothing was sent; mend this first, then the servers are asked')
    else:
        check_servers(hook, findings)
    hook.close()
    show_options(settings, given, problems, findings)
    return {'findings': findings}


# ---- configuration -------------------------------------------------------------------------------------------------

def given_options(configuration):
    """Return {(section, option): (line, value)} of the options that have a value."""
    try:
        _, options, _ = read_lines(configuration, KNOWN)
    except ValueError:  # not UTF-8, as read_configuration() says
        return {}
    return dict(((known_section(section), option), (line, value))
                for line, section, option, value in options if value)


# mode of authorization -> the condition that it adds to gateway authentication
CONDITIONS = {u'gateway': u'on no further condition',
              u'policy': u'if they effectively have required_policy',
              u'approval': u'if they have an active, approved request for the account',
              u'request': u'after somebody has approved the request that the plugin submits'}


def show_authorization(tpam, problems, findings):
    """Say who may get credentials, unless that is not known because one of the options is wrong."""
    if any(is_named('tpam', option, problems) for option in ('authorization', 'gateway_domains')):
        return
    users, mode = u'gateway users of any domain', tpam['authorization']
    if tpam['gateway_domains']:
        users = u'gateway users of ' + u', '.join(tpam['gateway_domains'])
    elif not tpam['require_gateway_user'] and mode in (u'gateway', u'request'):
        users += u', and sessions without a gateway user,'
    findings.add('note', u'[tpam] authorization is %s: %s get credentials %s' % (mode, users, CONDITIONS[mode]))


def check_comments(configuration, given, findings):
    """Add a note about each option that is still a comment, as in default.cfg, although its value was changed."""
    section = None
    for number, line in enumerate(re.split(u'\r\n?|\n', text(configuration)), 1):
        header = re.match(u'\\[([^\\]]+)\\]', line)
        if header is not None:
            section = known_section(header.group(1))
        comment = re.match(u'[;#][ \\t]*([A-Za-z_-]+)[ \\t]*=[ \\t]*(.+)', line)
        if comment is None or section is None:
            continue
        option, value = comment.group(1).lower(), comment.group(2).rstrip()
        if (section, option) not in given and is_changed(section, option, value):
            findings.add('note', u'[%s] %s (line %d): is a comment and has no effect; to set it, remove the ; or # in '
                                 u'front of it' % (section, option, number))


def is_changed(section, option, value):
    """Tell whether a value of an option that is a comment differs from that in default.cfg."""
    if option not in OPTIONS[section] or re.search(u'<.+>|-----BEGIN ', value):
        return False
    parse, default = OPTIONS[section][option]
    try:
        return parse(value) != default
    except ValueError:
        return True


def check_configuration(hook, given, problems, findings):
    """Add all mistakes in the configuration to the findings, and what follows from it."""
    for problem in problems:
        findings.add('wrong', problem)
    if findings.wrong():
        return
    findings.add('ok', u'no mistakes')
    for option in PEM_OPTIONS:
        for peer in certificates(hook.settings['tls'][option] or u''):
            check_dates(u'[tls] %s: %s' % (option, peer['subject']), peer, findings)
    check_connect_timeout(hook.settings['tpam'], given, findings)
    if hook.settings['tpam']['authorization'] == u'request':
        check_approval_time(hook, findings)
    hook.log = lambda level, message, **details: findings.add('note', message)
    plugin.warn_insecure(hook)


def is_named(section, option, problems):
    """Tell whether one of the problems is about this option."""
    place = u'[%s] %s' % (section, option)
    return place in [re.sub(u' \\(line [0-9]+\\)\\Z', u'', problem.partition(u':')[0]) for problem in problems]


def check_connect_timeout(tpam, given, findings):
    """Add a note about a connect_timeout that cannot be reached."""
    if ('tpam', 'connect_timeout') in given and tpam['connect_timeout'] > tpam['timeout']:
        findings.add('note', u'[tpam] connect_timeout is %d s, but the whole hook ends after timeout, %d s'
                     % (tpam['connect_timeout'], tpam['timeout']))


def check_approval_time(hook, findings):
    """Say how long a hook waits for an approval, by the deadlines that the plugin itself uses."""
    timeout, wanted = hook.settings['tpam']['timeout'], hook.settings['request']['approval_timeout']
    try:
        seconds = int(round(Deadline(wanted, hook.deadline).left()))
    except TpamTimeout:
        seconds = 0
    why = u'[request] approval_timeout'
    if seconds < wanted:
        why = (u'[tpam] timeout is %d s, part of which is kept for the check-in; [request] approval_timeout is %d s'
               % (timeout, wanted))
    findings.add('note' if seconds < wanted else 'ok', u'an approver has %d s: %s' % (seconds, why))


def show_options(settings, given, problems, findings):
    """Add the value of each option that is right."""
    findings.begin(u'Options')
    for section in sorted(settings):
        for option in sorted(settings[section]):
            if not is_named(section, option, problems):
                status = 'set' if (section, option) in given else 'default'
                findings.add(status, u'[%s] %s = %s' % (section, option, shown(option, settings[section][option])))


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

def check_servers(hook, findings):
    """Check each server."""
    try:
        connection = hook.connection()
    except TpamError as error:
        findings.add('wrong', u'%s; to try it, add gateway_username=NAME gateway_password=- here' % text(error))
        return
    asked = questions(hook.settings, hook.gateway_user)
    for host, port in servers(connection, hook.settings, findings):
        check_server(host, port, connection, hook.settings, asked, findings)


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
            findings.add('wrong', u'DNS: ' + findings.line_of(error))
            continue
        findings.add('ok', u'DNS: %s' % u', '.join(u'%s:%d' % server for server in found))
        for server in found:
            yield server


def check_server(host, port, connection, settings, asked, findings):
    """Check the name, the connection, the certificate, and the commands that change nothing."""
    deadline = Deadline(settings['tpam']['timeout'])
    server = tpamtransport.Server(host, port, connection, deadline)
    findings.begin(u'Server %s' % server.name)
    proxy = connection['proxy']
    try:
        name, its_port = proxy['address'] if proxy else (host, port)
        check_name(name, its_port, deadline, findings)
        began = time.time()
        server.connection.open(Deadline(settings['tpam']['connect_timeout'], deadline))
        seconds = time.time() - began
        if connection['tls']:
            describe_tls(server, seconds, proxy, findings)
        else:
            findings.add('ok', u'connected, without TLS (%.2f s)' % seconds)
    except TpamError as error:
        remedy = u''
        if error.remedy is None:
            remedy = u'; check %s, and what stands between' % (u'[https-proxy]' if proxy else u'[tpam] server')
        findings.add('wrong', findings.line_of(error) + remedy)
        return
    finally:
        server.close()
    if not asked:
        findings.add('note', u'the log-in is not tried: with this configuration, the hooks send no command that only '
                             u'lists; a session tries it')
    client = tpamclient.TpamClient(dict(connection, servers=[(host, port)]), deadline, None)
    try:
        for question in asked:
            if not ask(client, question, settings, findings):
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


def describe_tls(server, seconds, proxy, findings):
    """Add the protocol, the cipher and the certificate, which the plugin has verified already."""
    sock = server.connection.sock
    cipher, version = sock.cipher(), getattr(sock, 'version', lambda: None)()
    findings.add('ok', u'connected and verified by %s with %s (%.2f s)' % (version or cipher[1], cipher[0], seconds))
    peer = server.connection.peer
    subject, issuer, names = [findings.quoted(value) for value in (
        peer['subject'], peer['issuer'], u', '.join(tpamcert.names_of(peer)))]
    findings.add('ok', u'certificate: %s; issued by %s; for %s; valid from %s to %s; sha256:%s' % (
        subject or u'no subject', issuer, names or u'no name', peer['not_before'], peer['not_after'], peer['sha256']))
    check_dates(u'the certificate', peer, findings)
    if version not in (None, u'TLSv1'):
        through = u' -proxy %s:%d' % (text(proxy['address'][0]), proxy['address'][1]) if proxy else u''
        findings.add('note', u'the OpenSSL 0.9.8 of SPS knows nothing newer than TLS 1.0, and this is %s. If the '
                             u'server takes TLS 1.0, too, this prints the name of a cipher; it prints (NONE) or '
                             u'nothing if not: %s' % (version, TRY_TLS_1_0 % (server.name, through)))


# ---- commands ------------------------------------------------------------------------------------------------------

def questions(settings, gateway_user):
    """Return those commands of the hooks that only list: [(name, method of the client, the option of [tpam] that makes
    the hooks send it, its options)]."""
    tpam, client, found = settings['tpam'], tpamclient.TpamClient, []
    resolvers = tpam['system_name_resolver']
    if u'tpam' in resolvers or len(resolvers) > 1:
        found.append((u'ListSystems', client.list_systems, u'system_name_resolver',
                      {'SystemName': u'*', 'MaxRows': 1}))
    if tpam['system_maptoreal']:
        found.append((u'ListAccounts', client.list_accounts, u'system_maptoreal', {'SystemName': u'*', 'MaxRows': 1}))
    if tpam['authorization'] in (u'approval', u'request'):
        user = gateway_user.name if tpam['authorization'] == u'approval' else u''
        found.append((u'ListRequestDetails', client.list_request_details, u'authorization',
                      {'RequestorName': user or tpam['username'], 'Status': u'ACTIVE', 'MaxRows': 1}))
    if tpam['authorization'] == u'policy':
        found.append((u'ListAssignedPolicies', client.list_assigned_policies, u'authorization',
                      {'UserName': gateway_user.name or tpam['username'], 'AllOrEffectiveFlag': u'E',
                       'PermissionType': u'Pwd'}))
    return found


def ask(client, question, settings, findings):
    """Send a command -> whether to send another."""
    command, method, needed, options = question
    began = time.time()
    try:
        rows = method(client, **options)
    except TpamRefused as refusal:
        unknown = plugin.is_unknown_command(refusal)
        remedy = u'check [tpam] method_prefix and path' if unknown else u'check the API user and its permissions'
        findings.add('wrong', u"%s: the server says: '%s'; the hooks need it for [tpam] %s: %s"
                     % (command, findings.quoted(refusal.message), needed, remedy))
        return not unknown
    except TpamError as error:
        findings.add('wrong', u'%s: %s' % (command, findings.line_of(error)))
        return False
    seconds = u'(%.2f s)' % (time.time() - began)
    if command == u'ListSystems' and not rows:
        # The last resolver of a list is believed, unless it is tpam, which has to find the system on the server.
        fails = settings['tpam']['system_name_resolver'][-1] == u'tpam'
        findings.add('wrong' if fails else 'note', u'ListSystems: answered, 0 systems visible: permit the API user to '
                                                   u'list the systems ' + seconds)
    else:
        findings.add('ok', u'%s: answered %s' % (command, seconds))
    return True


if __name__ == '__main__':
    sps_child.end(RESULT, check(CALL))
