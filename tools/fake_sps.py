"""The side of SPS: unpack the built zip and run each hook in a new process, as the appliance does.

Keeps the cookies between the hooks, kills a hook at the plugin timeout, checks what it returns against the vendor's
guide and captures its log. Python 2.6 code, as try_plugin.py, which is the program around it.
"""
from __future__ import print_function

import atexit
import base64
from contextlib import closing
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

from program import TESTS, Mistake, say, text_of

HERE = os.path.dirname(os.path.abspath(__file__))
GET_HOOKS = {'get_password_list': 'passwords', 'get_private_key_list': 'private_keys',
             'get_remote_app_credentials': 'passwords'}
NOTIFICATIONS = ('authentication_completed', 'session_ended')
SHARED_ARGUMENTS = ('session_id', 'cookie', 'session_cookie')
GET_ARGUMENTS = SHARED_ARGUMENTS + (
    'protocol', 'client_hostname', 'client_ip', 'gateway_username', 'gateway_password', 'gateway_groups',
    'gateway_domain', 'target_username', 'target_host', 'target_port', 'target_domain', 'server_username', 'server_ip',
    'server_hostname', 'server_port', 'server_domain')
REMOTE_APP_ARGUMENTS = ('asset', 'connection_name')  # of get_remote_app_credentials alone
PLUGIN_TIMEOUT = 300  # s: half of the proxy's timeout, 600 s unless somebody changed it
PROBE = """
import sys, lxml.etree, dns.version, ssl
openssl = getattr(ssl, "OPENSSL_VERSION", "an OpenSSL that it does not name")
print("Python %s, %s, lxml %s, dnspython %s" % (
    sys.version.split()[0], openssl, lxml.etree.__version__, dns.version.version))
"""
NO_INTERPRETER = (u'no interpreter can run the plugin, which needs the packages lxml and dnspython (%s): '
                  u'pip install -r tests/requirements.txt, or run `make demo`, which sets up .venv')


def interpreter(candidates):
    """Return (path, versions as text) of the first of these interpreters that can run the plugin.

    Raises program.Mistake saying what each one lacks.
    """
    lacks = []
    for python in candidates:
        try:
            probe = subprocess.Popen([python, '-c', PROBE], stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE)
        except OSError:
            lacks.append(u'%s: %s' % (text_of(python), sys.exc_info()[1].strerror))
            continue
        versions, trouble = [output.decode('utf-8', 'replace').strip()
                             for output in probe.communicate()]
        if probe.returncode == 0:
            return python, versions
        lacks.append(u'%s: %s' % (text_of(python), cause_of(trouble)))
    raise Mistake(NO_INTERPRETER % u'; '.join(lacks))


def cause_of(trouble):
    """Return the line that says why an interpreter failed: that of the exception, or else the first. After that, pyenv
    explains itself at length."""
    lines = [line for line in trouble.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r'\w*Error: ', line)]
    return (errors + lines + [u'it failed without a message'])[0]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C was pressed during a call, which was told to end; `result` is its Result."""

    def __init__(self, result):
        KeyboardInterrupt.__init__(self)
        self.result = result


class Result(object):
    """One hook call: returned (what the hook returned), raised (None, or dict of type: names of the exception's
    classes, and message), log (text), seconds of the process, and inside it of the hook alone, killed (at the plugin
    timeout), died (without an answer), violations (of the vendor's guide), answer (all that the process answered)."""

    def __init__(self, hook, answer, log, seconds, killed):
        self.hook, self.answer, self.log, self.seconds, self.killed = hook, answer, log, seconds, killed
        self.returned, self.raised = answer.get('returned'), answer.get('raised')
        self.inside = answer.get('seconds')
        self.died = not answer and not killed
        self.violations = violations(hook, self.returned) if 'returned' in answer else []

    @property
    def credentials(self):
        """Return the passwords or private keys."""
        return (self.returned or {}).get(GET_HOOKS.get(self.hook))

    @property
    def lines(self):
        """Return the lines of the log."""
        return self.log.splitlines()


class FakeSps(object):
    """One policy of an appliance: a plugin and its configuration, run with this interpreter.

    zip_path: the plugin; configuration: text; python: path or name of an interpreter; timeout: the plugin timeout in
    seconds; text: 'str' or 'unicode', what strings are passed as on 2.x; nameserver: (address, port) that dnspython
    asks in place of the system's; watch: function that is given each line of the log as it comes.
    """

    def __init__(self, zip_path, configuration, python=sys.executable, timeout=PLUGIN_TIMEOUT, text='str',
                 nameserver=None, environment=None, watch=None):
        self.configuration, self.timeout, self.text = configuration, timeout, text
        self.python = python
        if os.path.dirname(python):  # a relative path means another file in a hook's folder
            self.python = os.path.abspath(python)
        self.nameserver, self.environment = nameserver, environment or {}
        self.watch = watch or (lambda line: None)
        self.directory = unpacked(zip_path, self.python)

    def session(self, **arguments):
        """Return a session with these arguments in each get_* hook."""
        return Session(self, arguments)

    def call(self, hook, arguments, script='sps_child.py'):
        """Run one hook in a new process -> Result. All arguments must be JSON. The first Ctrl-C ends the hook as its
        time limit would, and raises Interrupted. script: the file in this directory to run."""
        call = {'directory': self.directory, 'configuration': self.configuration, 'hook': hook, 'arguments': arguments,
                'text': self.text, 'shim': TESTS, 'nameserver': self.nameserver}
        environment = {'PATH': os.environ.get('PATH', ''), 'LC_ALL': 'C', 'TMPDIR': tempfile.gettempdir()}
        environment.update(self.environment)
        began = time.time()
        with _STARTING:
            child = subprocess.Popen(
                [self.python, os.path.join(HERE, script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=environment, cwd=self.directory)
        killed, log = [], []
        timer = threading.Timer(self.timeout, lambda: (killed.append(True), child.kill()))
        listener = threading.Thread(target=self._listen, args=(child.stderr, log))
        try:
            timer.start()
            listener.start()
            answer, interrupted = _ask(child, json.dumps(call).encode('ascii'))
        except BaseException:  # also a second Ctrl-C
            child.kill()
            raise
        finally:
            timer.cancel()
            child.wait()
            if listener.is_alive():  # Ctrl-C may have come before it began
                listener.join()
            child.stdout.close()
            child.stderr.close()
        result = Result(hook, json.loads(answer.decode('ascii') or '{}'), b''.join(log).decode('utf-8'),
                        time.time() - began, bool(killed))
        if interrupted:
            raise Interrupted(result)
        return result

    def _listen(self, stderr, log):
        for line in iter(stderr.readline, b''):
            log.append(line)
            self.watch(line.decode('utf-8', 'replace').rstrip(u'\n'))


# On Python 2, a child that starts meanwhile would inherit the pipes of another, which waits for their end.
_STARTING = threading.Lock()
_UNPACKED = {}  # (zip, its time, interpreter) -> folder


def unpacked(zip_path, python):
    """Return a folder with the content of a zip, until this process ends. It is unpacked once for
    each interpreter, which keeps its byte code there."""
    key = os.path.abspath(zip_path), os.path.getmtime(zip_path), python
    if key not in _UNPACKED:
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, True)
        try:
            with closing(zipfile.ZipFile(zip_path)) as plugin:
                plugin.extractall(folder)
        except zipfile.BadZipfile:
            raise Mistake(u'%s: not a zip file' % text_of(zip_path))
        _UNPACKED[key] = folder
    return _UNPACKED[key]


def _ask(child, question):
    """Send a question (bytes) -> (answer (bytes), whether Ctrl-C was pressed meanwhile)."""
    try:
        child.stdin.write(question)
        child.stdin.close()
    except EnvironmentError:  # it died, and its log says why
        pass
    blocks, interrupted = [], False
    while not blocks or blocks[-1]:
        try:
            blocks.append(os.read(child.stdout.fileno(), 65536))
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            child.send_signal(signal.SIGINT)
    return b''.join(blocks), interrupted


class Session(object):
    """One session of a user. Its cookies pass from hook to hook as JSON. `calls`: the Results so far."""

    def __init__(self, sps, arguments):
        self.sps, self.arguments = sps, dict({'session_id': 'session-1'}, **arguments)
        self.cookie, self.session_cookie, self.calls = {}, {}, []

    def call(self, hook, **arguments):
        """Call a hook with the arguments of the session and these -> Result. Keep the cookies that it returned."""
        passed = dict(self.arguments if hook in GET_HOOKS else {'session_id': self.arguments['session_id']})
        passed.update(cookie=self.cookie, session_cookie=self.session_cookie)
        passed.update(arguments)
        try:
            result = self.sps.call(hook, passed)
        except Interrupted as interruption:
            self._keep(interruption.result)
            raise
        return self._keep(result)

    def _keep(self, result):
        self.calls.append(result)
        if isinstance(result.returned, dict):
            self.cookie = result.returned.get('cookie', self.cookie)
            self.session_cookie = result.returned.get('session_cookie', self.session_cookie)
        return result

    @property
    def log(self):
        """Return the log of the whole session."""
        return u''.join(call.log for call in self.calls)


def violations(hook, returned):
    """Return a line for each violation of the vendor's guide in a returned value."""
    if returned is None:
        return []
    if not isinstance(returned, dict):
        return [u'%s returned neither None nor a dict' % hook]
    key = GET_HOOKS.get(hook)
    found = [u'unknown key %r' % name for name in returned if name not in (key, 'cookie', 'session_cookie')]
    found += [u'%s is no dict' % name for name in ('cookie', 'session_cookie')
              if not isinstance(returned.get(name, {}), dict)]
    credentials = returned.get(key, []) if key else []
    if not isinstance(credentials, list):
        return found + [u'%s is no list' % key]
    if key == 'passwords':
        found += [u'a password is no string' for value in credentials if not isinstance(value, type(u''))]
    if key == 'private_keys':
        for credential in credentials:
            found += _key_violations(credential)
    return found


def _key_violations(credential):
    """Check that a private key is (type, PEM by RFC 1421), PKCS#1 or PKCS#8 (guide: get_private_key_list)."""
    if len(credential) != 2 or credential[0] not in ('ssh-rsa', 'ssh-dss'):
        return [u'a private key is no (ssh-rsa or ssh-dss, PEM)']
    block = re.match(r'-----BEGIN ((?:RSA |DSA )?PRIVATE KEY)-----\n((?:[A-Za-z0-9+/=]{64}\n)*)'
                     r'([A-Za-z0-9+/=]{1,64}\n)?-----END \1-----\n?\Z', credential[1])
    if not block:
        return [u'a private key is no PEM of 64 characters a line']
    base64.b64decode(block.group(2) + (block.group(3) or ''))
    return []


# ---- what a person reads --------------------------------------------------------------------------------------------

def masked(returned):
    """Return the result of a hook with the credentials masked."""
    shown = dict(returned)
    for key in ('passwords', 'private_keys'):
        if key in shown:
            shown[key] = ['********' for _ in shown[key]]
    return shown


def shown(returned, credentials, cookies):
    """Return the result of a hook as code. credentials, cookies: whether to show them."""
    if returned and not credentials:
        returned = masked(returned)
    if returned and not cookies:
        returned = dict((name, value) for name, value in returned.items() if name not in ('cookie', 'session_cookie'))
    return json.dumps(returned, sort_keys=True)


def call_line(hook, arguments):
    """Return the call as code, without the gateway password."""
    return u'%s(%s)' % (hook, u', '.join(
        '%s=%s' % (name, json.dumps('********' if name == 'gateway_password' else value))
        for name, value in sorted(arguments.items())))


def outcome_lines(result, credentials=False, cookies=False):
    """Return the lines about the outcome of a call, which follow its log."""
    if result.killed:
        outcome = 'killed at the plugin timeout'
    elif result.died:
        outcome = 'ended without an answer'
    elif result.raised:
        outcome = 'raised %s' % result.raised['type'][0]
    else:
        outcome = 'returned ' + shown(result.returned, credentials, cookies)
    return [u'    %s   (%.2f s)' % (outcome, result.seconds)] + [
        u'    AGAINST THE GUIDE: %s' % violation for violation in result.violations]


def show(result, arguments, out=sys.stdout):
    """Print one call: arguments, log lines, result."""
    log = [u'    log  %s' % line for line in result.lines]
    for line in [call_line(result.hook, arguments)] + log + outcome_lines(result):
        say(line, out)
