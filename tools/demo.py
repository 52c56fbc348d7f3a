"""Play an SSH session and an RDP session as SPS would, against a fake TPAM.

The SSH session talks to a server that speaks the plugin's protocol; the RDP session goes through the
gateway, to the same TPAM's command line. The built zip runs. Each hook is shown with its call, its log
lines and its masked result, and at the end the audit trail of TPAM. The exit status is 1 if anything
went wrong. The plugin runs on a real Python 2.6 or 2.7 where there is one, otherwise on this python3
with the import shim. The gateway needs Python 3.9; on an older one both sessions talk to the server.
"""
from __future__ import print_function

import getpass
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import fake_sps
import package
import program
from program import TESTS
sys.path.insert(1, TESTS)
from fake_tpam import FakeTpam, FakeTpamServer  # noqa: E402

PASSWORD, API_PASSWORD = 'Winter;#is"coming', 'demo-api-password'


def path(*names):
    """Return the path of a file in tests/."""
    return os.path.join(TESTS, *names)


def read(*names):
    """Return a file in tests/ as text."""
    with io.open(path(*names), encoding='utf-8') as content:
        return content.read()


def plugin_python():
    """Return (path, versions) of the interpreter that is nearest to the appliance's."""
    try:
        return fake_sps.interpreter(['python2.6', 'python2.7'])
    except program.Mistake:
        pass
    tox = shutil.which('tox', path=os.path.dirname(sys.executable))
    if tox and shutil.which('python2.7'):
        subprocess.call([tox, '-qq', '-c', program.ROOT, '-e', 'py27', '--notest'])
    made = os.path.join(program.ROOT, '.tox', 'py27', 'bin', 'python')
    return fake_sps.interpreter([made, sys.executable])


def demo_tpam():
    """Return a FakeTpam with WEB01, whose requests are approved after two seconds, and WIN01."""
    tpam = FakeTpam()
    tpam.add_user('sps', API_PASSWORD)
    tpam.add_system('WEB01', '10.0.0.5')
    tpam.add_account('WEB01', 'root', PASSWORD, key=read('keys', 'rsa-3072.openssh'), min_approvers=1, approve_after=2)
    tpam.add_system('WIN01', '10.0.0.7', platform='Windows')
    tpam.add_account('WIN01', 'Administrator', PASSWORD)
    return tpam


def configuration(server, rest=''):
    """Return configuration text for this server."""
    return (u'[tpam]\nserver=localhost:%d\nusername=sps\npassword=%s\n%s\n[tls]\nca_cert=%s\n'
            % (server.port, API_PASSWORD, rest, read('certs', 'ca.pem').strip().replace('\n', '\n ')))


class Player(object):
    """Call hooks and show them. `good` is true while they do what they should."""

    def __init__(self):
        self.good = True

    def check(self, what, holds):
        """Check a condition that must hold."""
        if not holds:
            print('    WRONG: %s' % what)
            self.good = False

    def play(self, session, hook, expected=None):
        """Call one hook. A get_* hook must return credentials, namely `expected` if it is given."""
        result = session.call(hook)
        fake_sps.show(result, session.arguments if hook in fake_sps.GET_HOOKS else {})
        self.check('the hook failed', result.raised is None and not result.killed and not result.died)
        self.check('it is against the guide', not result.violations)
        if hook in fake_sps.GET_HOOKS:
            self.check('no credential came out', bool(result.credentials))
            self.check('another credential came out', expected in (None, (result.credentials or [None])[0]))
        return result


def log_in(private_key):
    """Log in to a real sshd on loopback with this key -> whether it worked, or None if no sshd is installed."""
    sshd = shutil.which('sshd', path='/usr/sbin:/usr/local/sbin:' + os.environ.get('PATH', ''))
    if not sshd or not shutil.which('ssh'):
        return None
    directory = tempfile.mkdtemp()
    try:
        return _log_in(sshd, private_key, lambda name: os.path.join(directory, name))
    finally:
        shutil.rmtree(directory)


def _log_in(sshd, private_key, place):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    if os.getuid() == 0 and not os.path.isdir('/run/sshd'):
        os.makedirs('/run/sshd', 0o755)  # Debian's sshd needs it; systemd usually creates it
    subprocess.check_call(['ssh-keygen', '-q', '-t', 'rsa', '-N', '', '-f', place('host')])
    for name, content in (('authorized', read('keys', 'rsa-3072.pub')), ('key', private_key), (
            'config', 'ListenAddress 127.0.0.1\nPort %d\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\n'
            'StrictModes no\nUsePAM no\nPasswordAuthentication no\n' % (port, place('host'), place('authorized')))):
        with os.fdopen(os.open(place(name), os.O_WRONLY | os.O_CREAT, 0o600), 'w') as out:
            out.write(content)
    ssh = ['ssh', '-F', 'none', '-i', place('key'), '-p', str(port)]
    for option in ('IdentitiesOnly=yes', 'IdentityAgent=none', 'StrictHostKeyChecking=no', 'BatchMode=yes',
                   'UserKnownHostsFile=/dev/null', 'LogLevel=ERROR'):
        ssh += ['-o', option]
    server = subprocess.Popen([sshd, '-D', '-f', place('config')])
    try:
        for _ in range(50):  # until it listens
            answer = subprocess.run(ssh + ['%s@127.0.0.1' % getpass.getuser(), 'echo logged in'],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if b'Connection refused' not in answer.stderr:
                break
            time.sleep(0.1)
        return answer.stdout == b'logged in\n'
    finally:
        server.terminate()
        server.wait()


def ssh_session(player, plugin, server, python):
    """Play authorization=request: the plugin submits a request, waits for its approval, and checks it in."""
    rest = u'authorization=request\n[request]\npoll_interval=1'
    policy = fake_sps.FakeSps(plugin, configuration(server, rest), python)
    session = policy.session(session_id='ssh-1', protocol='ssh', server_username='root', server_ip='10.0.0.5',
                             server_hostname='web01.example.test', gateway_username='jdoe')
    keys = player.play(session, 'get_private_key_list').credentials
    worked = log_in(keys[0][1]) if keys else False
    player.check('the key was not accepted by sshd', worked is not False)
    print({True: '    -> logged in to a real sshd with this key', False: '    -> no login',
           None: '    -> no sshd is installed here (Debian: openssh-server): the key was not tried'}[worked])
    player.play(session, 'get_password_list', PASSWORD)
    player.play(session, 'authentication_completed')
    player.play(session, 'session_ended')


def rdp_session(player, plugin, server, python):
    """Play authorization=gateway; the password is changed after the login."""
    rest = u'[check-in]\nforce_reset=yes\n[check-in-trigger]\nrdp=authentication-completed'
    policy = fake_sps.FakeSps(plugin, configuration(server, rest), python)
    session = policy.session(session_id='rdp-1', protocol='rdp', server_username='EXAMPLE\\Administrator',
                             server_ip='10.0.0.7', gateway_username='jdoe')
    player.play(session, 'get_password_list', PASSWORD)
    player.play(session, 'authentication_completed')
    player.play(session, 'session_ended')


def gateway_session(player, plugin, tpam, python, directory):
    """Play the RDP session through the gateway, and show what it sent to TPAM and logged."""
    import gateway_process
    with gateway_process.serve(tpam, API_PASSWORD, directory) as gateway:
        rdp_session(player, plugin, gateway, python)
        print('    -- what the gateway sent to TPAM')
        for line in gateway.cli.lines:
            print('    %s' % line)
        print('    -- the log of the gateway')
        for line in gateway.log()[1:]:
            print('    %s' % json.dumps(line))


def play(player, plugin, tpam, python, directory):
    """Play both sessions."""
    with FakeTpamServer(tpam, certfile=path('certs', 'good.pem')) as server:
        print('\n== SSH: %s' % ssh_session.__doc__)
        ssh_session(player, plugin, server, python)
        if sys.version_info < (3, 9):
            print('\n== RDP, without the gateway: %s' % rdp_session.__doc__)
            rdp_session(player, plugin, server, python)
            return
    print('\n== RDP, through the gateway: %s' % rdp_session.__doc__)
    gateway_session(player, plugin, tpam, python, directory)


def main():
    """Play both sessions -> exit status."""
    python, versions = plugin_python()
    print('The plugin runs on %s' % versions)
    player, tpam = Player(), demo_tpam()
    directory = tempfile.mkdtemp()
    try:
        plugin = os.path.join(directory, 'plugin.zip')
        package.build(plugin)
        play(player, plugin, tpam, python, directory)
        print('\n== Audit trail of TPAM')
        for entry in tpam.audit:
            options = ', '.join('%s=%s' % option for option in sorted(entry.options.items()))
            print('  %2d %s  %s(%s): %s' % (entry.number, entry.user, entry.command, options, entry.message))
        player.check('something is still checked out', tpam.active() == [])
    finally:
        shutil.rmtree(directory)
    print('\n%s' % ('All of it went as it should.' if player.good else 'SOMETHING WENT WRONG, see above.'))
    return 0 if player.good else 1


if __name__ == '__main__':
    program.run(main, __doc__)
