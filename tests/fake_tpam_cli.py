"""TPAM's command line over SSH, in front of a FakeTpam. Python 3.9 and later, with asyncssh.

`FakeTpamCli` serves one FakeTpam inside a `with` block. It takes one command for each channel and many channels for
each connection, logs in public keys only, and compares user names with their case. The program
``python tests/fake_tpam_cli.py --directory DIR`` serves demo data; see --help for its switches.

Filters that FakeTpam does not know, such as Platform, are accepted and ignored.
"""
import argparse
import asyncio
import os
import shlex
import sys
import threading
import time
from xmlrpc.client import Fault

import asyncssh

from fake_tpam import COMMANDS as FAKE_COMMANDS, demo_tpam

# Command -> the options that are known of the real command line; REMOVED and RENAMED adapt them to FakeTpam.
OPTIONS = {
    'Retrieve': 'RequestID SystemName AccountName ReasonText ReasonCode TimeRequired TicketSystemName TicketNumber',
    'AddPwdRequest': 'SystemName AccountName RequestNotes ForUserName ReleaseDuration ReasonCode TicketSystemName '
                     'TicketNumber RequestImmediateFlag RequestedReleaseDate AccessPolicyName',
    'GetPwdRequest': 'RequestID',
    'Approve': 'RequestID Comment',
    'Cancel': 'RequestID Comment',
    'ListRequestDetails': 'Status RequestorName AccountName SystemName StartDate EndDate MaxRows',
    'ListAssignedPolicies': 'UserName SystemName AccountName CollectionName FileName AccessPolicyName PermissionType '
                            'PermissionName AllOrEffectiveFlag ExpandPolicyFlag ExpandGroupFlag ExpandCollectionFlag '
                            'MaxRows',
    'ListAccounts': 'SystemName AccountName NetworkAddress CollectionName Platform MaxRows',
    'ListSystems': 'SystemName NetworkAddress CollectionName Platform AutoFlag SortOrder MaxRows',
    'ForceReset': 'SystemName AccountName',
    'CheckPassword': 'SystemName AccountName',
    'TestSystem': 'SystemName',
    'UserSSHKey': 'UserName KeyType Regenerate Passphrase',
}
LEGACY = {      # command -> the options whose values its old form lists, separated by commas
    'ForceReset': ('SystemName', 'AccountName'),
    'CheckPassword': ('SystemName', 'AccountName'),
    'TestSystem': ('SystemName',),
    'ListSystems': ('SystemName', '', 'NetworkAddress'),
}
REQUEST_COLUMNS = (
    'RequestID UserName UserFullName Phone EmailID SystemName AccountName MinApprovers SubmittedDt ReqReleaseDt '
    'ReleaseDuration RequestNotes ExpiresDt CloseDt ApprovedDt CanceledDt TSName TicketNbr Status ReasonCodeText '
    'AccessPolicyName').split()
COLUMNS = {     # the header of ListSystems ends in a tab: its last name is empty
    'ListRequestDetails': REQUEST_COLUMNS,
    'GetPwdRequest': [{'UserName': 'RequestorName', 'Status': 'RequestStatus'}.get(name, name)
                      for name in REQUEST_COLUMNS if name != 'UserFullName'],
    'ListAssignedPolicies':
        'UserName FullName ExtAuthReqd LastAccessDt GroupName SystemName AccountName FileName CollectionName '
        'AccessPolicyName PolicySource PermissionType PermissionName CmdName EffectiveFl'.split(),
    'ListAccounts':
        'SystemName AccountName Password ChangeFrequency ReleaseDuration AcctAutoFl ChangeTime NextChangeDt '
        'PasswordRule SvcChangeFl UseSelfFl MinApprovers DomainAcctName RelNotifyEmail CheckFl ResetFl ReleaseChgFl '
        'MaxReleaseDuration Description TicketSystemName AcctLockFl AccountCustom1 AccountCustom2 AccountCustom3 '
        'AccountCustom4 AccountCustom5 AccountCustom6 AllowISADurationFl'.split(),
    'ListSystems':
        'SystemName NetworkAddress PrimaryEmail PlatformName ChangeFrequency ReleaseDuration SystemAutoFl '
        'FunctionalAccount FunctionalAcctCredentials UseSpecificKey ChangeTime PasswordRule PortNumber EnablePassword '
        'AlternateIP Description'.split() + ['Collection Name', 'PSM DPA Affinity', ''],
}
PADDED = ('ReleaseDuration', 'MinApprovers', 'ChangeFrequency')     # numbers, with spaces on the left
NO_LIMIT = '1000000'
REPLIES = {     # command -> its several lines
    'ForceReset': 'Connecting to %(SystemName)s\nTPAM has processed the password change for %(AccountName)s on '
                  '%(SystemName)s\nThe password was successfully changed',
    'CheckPassword': 'Connecting to %(SystemName)s\nTPAM has processed the password check for %(AccountName)s on '
                     '%(SystemName)s\nThe password matches the managed system',
    'TestSystem': 'Connecting to %(SystemName)s\nThe test of %(SystemName)s was successful',
}
# When a connection breaks. The last three come after half of the answer: the network fails, TPAM ends the connection by
# SSH's own message, and TPAM closes the channel without an exit status.
BREAKS = ('before', 'after', 'half', 'goodbye', 'closed')
USER_KEYS = {'ecdsa': 'ecdsa-sha2-nistp256', 'ed25519': 'ssh-ed25519', 'rsa': 'ssh-rsa', 'dsa': 'ssh-dss'}


class Refused(Exception):
    """The command is refused; the text is what TPAM prints."""


# ---- a command line ------------------------------------------------------------------------------------------------

def split(line):
    """Return the words of a command line as [(text, whether a part of it was quoted)]. No character has another
    meaning than the double quote, and there is no escape for it."""
    words, word, quoted, inside = [], '', False, False
    for char in line + ' ':
        if char == '"':
            inside, quoted = not inside, True
        elif char.isspace() and not inside:
            if word or quoted:
                words.append((word, quoted))
            word, quoted = '', False
        else:
            word += char
    if inside:
        raise Refused('Usage: a quotation mark is missing')
    return words


def parse(line):
    """Return (command, {option: value}) of a command line, with the names in full. Raises Refused."""
    words = split(line)
    names = dict((name.lower(), name) for name in OPTIONS)
    command = names.get(words[0][0].lower()) if words else None
    if command is None:
        raise Refused('Valid commands are: ' + ', '.join(sorted(OPTIONS)))
    return command, parse_options(command, words[1:])


def parse_options(command, words):
    """Return {option: value} of the words after a command."""
    if words and not words[0][0].startswith('-'):
        legacy = LEGACY.get(command)
        if legacy is None:
            raise Refused(usage(command))
        options = dict(zip(legacy, words[0][0].split(',')))
        return dict((name, value) for name, value in options.items() if name and value)
    options = {}
    position = 0
    while position < len(words):
        name = words[position][0]
        position += 1
        if not name.startswith('-'):
            continue    # further words of a value without quotes are ignored
        option = full_name(command, name.lstrip('-'))
        if option == 'Help':
            raise Refused(usage(command))
        if position == len(words) or is_option(words[position]):
            raise Refused(usage(command))
        options[option] = words[position][0]
        position += 1
    return options


def is_option(word):
    """Tell whether a word is the name of an option. Nobody knows what TPAM makes of a quoted one: here it is one."""
    return len(word[0]) > 1 and word[0].startswith('-')


def full_name(command, name):
    """Return the option that a name means; it may be cut short as far as only one begins so."""
    known = OPTIONS[command].split() + ['Help']
    found = [option for option in known if option.lower().startswith(name.lower())]
    exact = [option for option in found if option.lower() == name.lower()]
    if not name or len(exact or found) != 1:
        raise Refused(usage(command))
    return (exact or found)[0]


def usage(command):
    lines = ['Usage: %s %s' % (command, ' '.join('[--%s <value>]' % name for name in OPTIONS[command].split()))]
    return '\n'.join(lines + ['Option\tRequired'] + ['--%s\tN' % name for name in OPTIONS[command].split()])


# ---- a command -----------------------------------------------------------------------------------------------------

class FakeTpamCli:
    """Serve the command line of `tpam` (a FakeTpam, which may be replaced) from a thread, inside a `with` block.

    keys: {user name: public key in OpenSSH's format, or a list of them}. host_key: an asyncssh private key, or the
    name of a kind of key in USER_KEYS. old: offer only the algorithms of 2010.

    Switches, which may be set at any time: line_end; refusals ('stdout' or 'stderr'); exit_status (of every command);
    columns ('plain', 'added', 'reordered', 'short': without the empty last cells of a row); blank_line (before each
    header); delay (seconds for each command); refuses_keys; breaks (None, or (one of BREAKS, command): the connection
    of the next such command breaks); prints (None, or what every command prints).
    Counters: logins, connections (open now), lines (the command lines received), most_at_once.
    """

    def __init__(self, tpam, keys, host='127.0.0.1', port=0, host_key='ecdsa', old=False):
        self.tpam, self.keys, self.host, self.port = tpam, keys, host, port
        if isinstance(host_key, str):
            host_key = asyncssh.generate_private_key(USER_KEYS[host_key])
        self.host_key, self.old = host_key, old
        self.connections = set()
        self.private_keys = {}      # user name -> what UserSSHKey prints
        self.reset()

    def reset(self):
        """Set all switches and counters back."""
        self.line_end, self.refusals, self.exit_status = '\r\n', 'stdout', 0
        self.columns, self.blank_line, self.delay = 'plain', False, 0
        self.refuses_keys, self.breaks, self.prints = False, None, None
        self.logins, self.lines, self.running, self.most_at_once = 0, [], 0, 0

    @property
    def known_host(self):
        """The host key in OpenSSH's format: its kind and base64."""
        return ' '.join(self.host_key.export_public_key().decode('ascii').split()[:2])

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_):
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    async def _start(self):
        algorithms = {'signature_algs': '+ssh-dss'}
        if self.old:
            algorithms = {'kex_algs': ['diffie-hellman-group14-sha1'], 'encryption_algs': ['aes128-cbc'],
                          'mac_algs': ['hmac-sha1'], 'signature_algs': ['ssh-dss', 'ssh-rsa']}
        self.server = await asyncssh.create_server(
            lambda: Login(self), self.host, self.port, server_host_keys=[self.host_key], process_factory=self._serve,
            encoding=None, allow_pty=False, **algorithms)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _stop(self):
        self.server.close()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0.05)   # until their tasks have ended

    def hang_up(self):
        """Break every connection, as a restart of TPAM does."""
        async def abort():
            for connection in list(self.connections):
                connection.abort()
        self.run(abort())

    async def _serve(self, process):
        user, tpam = process.get_extra_info('username'), self.tpam  # which a test may replace meanwhile
        line = process.command or ''
        self.lines.append(line)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            if self._is_broken('before', line):
                return process.channel.get_connection().abort()
            if self.delay:
                await asyncio.sleep(self.delay)
            output, is_refusal = await self.loop.run_in_executor(None, self.answer, tpam, user, line)
            output = (output + '\n').replace('\n', self.line_end).encode('utf-8', 'surrogateescape')
            if self._is_broken('after', line):
                return process.channel.get_connection().abort()
            for moment in BREAKS[2:]:
                if self._is_broken(moment, line):
                    process.stdout.write(output[:len(output) // 2])
                    await asyncio.sleep(0.1)
                    return self._break(moment, process.channel)
            stream = process.stderr if is_refusal and self.refusals == 'stderr' else process.stdout
            stream.write(output)
            process.exit(self.exit_status)
        finally:
            self.running -= 1

    def _is_broken(self, moment, line):
        if self.breaks is None or self.breaks[0] != moment or not line.lower().startswith(self.breaks[1].lower()):
            return False
        self.breaks = None
        return True

    def _break(self, moment, channel):
        if moment == 'half':
            channel.get_connection().abort()
        elif moment == 'goodbye':
            channel.get_connection().disconnect(asyncssh.DISC_BY_APPLICATION, 'shutting down')
        else:
            channel.close()

    def answer(self, tpam, user, line):
        """Return (what a command line prints, whether it is a refusal)."""
        if self.prints is not None:
            return self.prints, False
        try:
            command, options = parse(line)
            return self._carry_out(tpam, user, command, options), False
        except Refused as refusal:
            return refusal.args[0], True

    def _carry_out(self, tpam, user, command, options):
        if command == 'UserSSHKey':
            return self._user_key(user, options)
        if command == 'Approve':
            return self._approve(tpam, options)
        try:
            answer = tpam.call(user, command, adapted(user, command, options))
        except Fault:
            raise Refused(usage(command))
        if answer['returnCode']:
            raise Refused(answer['message'])
        if 'rows' in answer:
            return self._table(command, answer['rows'])
        if command in REPLIES:
            return REPLIES[command] % dict({'AccountName': ''}, **options)
        return answer['message']

    def _user_key(self, user, options):
        if options.get('UserName', user) != user or user not in self.private_keys:
            raise Refused('You may only retrieve your own keys')
        return self.private_keys[user].rstrip('\n')

    def _approve(self, tpam, options):
        try:
            number = options['RequestID']
            tpam.approve(int(number.partition('-')[0]))
        except (KeyError, ValueError):
            raise Refused('You are not authorized to perform this operation')
        return 'The response for Password RequestID: %s was submitted successfully' % number

    def _table(self, command, rows):
        if not rows:
            return 'No %s to list' % command[4:]
        names = list(COLUMNS[command])
        if self.columns == 'added':
            names[2:2] = ['Profile', 'Profile DN']
        if self.columns == 'reordered':
            names.reverse()
        lines = [''] * self.blank_line + ['\t'.join(names)]
        for row in rows:
            line = '\t'.join(cell(name, row.get(name, '')) for name in names)
            lines.append(line.rstrip('\t') if self.columns == 'short' else line)
        return '\n'.join(lines)


def adapted(user, command, options):
    """Return the options as FakeTpam takes them."""
    found = {}
    for name, value in options.items():
        name = {'RequestImmediateFlag': 'RequestImmediate'}.get(name, name)
        if name == 'Status':
            value = value.upper()
        if name == 'MaxRows' and value == '0':
            value = NO_LIMIT
        if name == 'RequestorName' and value == 'User=Myself':
            value = user
        is_filter = command.startswith('List') and value == '*'
        if value and not is_filter and name in ' '.join(FAKE_COMMANDS[command]).replace('[', '').replace(
                ']', '').split():
            found[name] = value
    return found


def cell(name, value):
    """Return a value as a cell of a table."""
    if name in PADDED and value:
        return '%10s' % value
    if name.endswith('Dt') and value:
        return value + '.000'
    return value


class Login(asyncssh.SSHServer):
    """One connection: log in a user by a public key."""

    def __init__(self, cli):
        self.cli, self.user = cli, None

    def connection_made(self, connection):
        self.connection = connection
        self.cli.connections.add(connection)

    def connection_lost(self, error):
        self.cli.connections.discard(self.connection)

    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return False

    def public_key_auth_supported(self):
        return True

    def validate_public_key(self, username, key):
        known = self.cli.keys.get(username, ())
        known = [known] if isinstance(known, str) else known
        return not self.cli.refuses_keys and any(asyncssh.import_public_key(line) == key for line in known)

    def auth_completed(self):
        self.cli.logins += 1


# ---- the program ---------------------------------------------------------------------------------------------------

HOW_TO_REACH = """\
TPAM's command line is served at %(host)s, port %(port)d, to this machine only. Ctrl-C ends it.
Host key: %(known_host)s
Users:    sps, jdoe; the key of both is in %(key)s
Try:      ssh -p %(port)d -i %(key)s -o UserKnownHostsFile=%(known_hosts)s sps@%(host)s ListSystems
"""


def write_files(cli, key, directory):
    """Write the user key and the line of known_hosts into a directory -> (path of the key, path of known_hosts)."""
    paths = [os.path.join(directory, name) for name in ('id_tpam', 'known_hosts')]
    host = '%s' % cli.host if cli.port == 22 else '[%s]:%d' % (cli.host, cli.port)
    for path, content in zip(paths, (key.export_private_key('pkcs1-pem').decode('ascii'),
                                     '%s %s\n' % (host, cli.known_host))):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'w') as out:
            out.write(content)
    return paths


def main():
    """Serve demo data until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve TPAM's command line over SSH with demo data on loopback.")
    parser.add_argument('--directory', default='.', help='where to write id_tpam and known_hosts (default: here)')
    parser.add_argument('--host', default='127.0.0.1', help='an address of loopback (default: %(default)s)')
    parser.add_argument('--port', type=int, default=2222, help='0 takes a free one (default: %(default)s)')
    parser.add_argument('--user-key', choices=sorted(set(USER_KEYS) - {'ed25519'}), default='rsa')
    parser.add_argument('--host-key', choices=('ecdsa', 'rsa'), default='ecdsa')
    parser.add_argument('--line-end', choices=('crlf', 'lf'), default='crlf')
    parser.add_argument('--ids', choices=('tpam', 'plain'), default='tpam', help='1001-1 or 1001')
    parser.add_argument('--refusals', choices=('stdout', 'stderr'), default='stdout')
    parser.add_argument('--exit-status', type=int, default=0)
    parser.add_argument('--columns', choices=('plain', 'added', 'reordered', 'short'), default='plain')
    parser.add_argument('--blank-line', action='store_true', help='print an empty line before each header')
    parser.add_argument('--delay', type=float, default=0, metavar='SECONDS', help='for each command')
    parser.add_argument('--refuses-keys', action='store_true', help='refuse every log-in')
    parser.add_argument('--old', action='store_true', help='offer only the algorithms of 2010')
    options = parser.parse_args()
    key = asyncssh.generate_private_key(USER_KEYS[options.user_key])
    public = key.export_public_key().decode('ascii')
    tpam = demo_tpam()
    tpam.request_ids = options.ids
    cli = FakeTpamCli(tpam, {'sps': public, 'jdoe': public}, options.host, options.port, options.host_key, options.old)
    cli.private_keys = dict.fromkeys(cli.keys, key.export_private_key('pkcs1-pem').decode('ascii'))
    cli.line_end = {'crlf': '\r\n', 'lf': '\n'}[options.line_end]
    for name in ('refusals', 'exit_status', 'columns', 'blank_line', 'delay', 'refuses_keys'):
        setattr(cli, name, getattr(options, name))
    with cli:
        paths = write_files(cli, key, options.directory)
        print(HOW_TO_REACH % {'host': cli.host, 'port': cli.port, 'known_host': cli.known_host,
                              'key': shlex.quote(paths[0]), 'known_hosts': shlex.quote(paths[1])}, flush=True)
        shown = 0
        while True:
            time.sleep(0.2)
            for line in cli.lines[shown:]:
                shown += 1
                print(line, flush=True)


if __name__ == '__main__':
    sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tools'))
    import program
    program.run(main)
