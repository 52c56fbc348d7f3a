"""Try the configuration of a site before anything is uploaded; see --help. Runs on Python 2.6, 2.7 and 3.

The plugin of this checkout runs in new processes, as under SPS (fake_sps.py).
"""
from __future__ import print_function

import difflib
import getpass
import io
import json
import os
import re
import sys
import tempfile
import textwrap
import time

import fake_sps
import package
import program
from fake_sps import GET_HOOKS, NOTIFICATIONS
from program import INTERRUPTED, Mistake, say, text_of as text
from tpamcall import COOKIE_KEY

COMMANDS = ('check', 'server', 'run', 'session')
HOOKS = tuple(sorted(GET_HOOKS)) + NOTIFICATIONS
ARGUMENTS = fake_sps.GET_ARGUMENTS + fake_sps.REMOTE_APP_ARGUMENTS
OF_JSON = ('cookie', 'session_cookie', 'gateway_groups', 'server_port', 'target_port')
CHECK_TIMEOUT = 3600  # s: each server of the configuration has its own time
VENV_PYTHON = os.path.join(program.ROOT, '.venv', 'bin', 'python')

USAGE = """%prog check --config FILE [--all]
       %prog server --config FILE --system SYSTEM --account ACCOUNT
       %prog run HOOK --config FILE NAME=VALUE ...
       %prog session --config FILE NAME=VALUE ..."""

DESCRIPTION = """Try a configuration of the plugin against the real server before you upload anything.
"""

MORE = """
check    Reads the configuration as the plugin does, and names all mistakes. Then contacts
         each server: DNS, TLS, certificate, and the log-in by those List* commands that the
         hooks send with this configuration. Changes nothing there.
server   Checks whether the first server of the configuration keeps to docs/protocol.md. It
         sends every command about a test account, says before it starts which ones, and
         prints a table, and below it what was not proved. The verdict "as above" is the fault
         of an earlier row. It submits a request, cancels it, and changes the password only
         with --changes.
run      Runs one hook. What it checks out stays checked out; the command that checks it in
         is printed.
%(hooks)s
session  Runs the hooks of a whole session, which checks in at its end.

NAME=VALUE are the arguments that SPS passes:
%(arguments)s
         Cookies, gateway_groups and ports are JSON; - asks for a value unseen, say for
         gateway_password=-.

run and session fetch real credentials from the server, as a session would. They are shown
as ********, and log lines as they come. Ctrl-C checks in what was checked out.
Exit status: 0 if it works, 1 if not, 2 for a mistake on the command line or a server that
could not be checked, 130 for Ctrl-C.

Examples:
  python3 tools/try_plugin.py check --config my.cfg
  python3 tools/try_plugin.py session --config my.cfg server_username=root \\
      server_ip=10.0.0.5 server_hostname=web01.example.com gateway_username=jdoe
  python3 tools/try_plugin.py run get_private_key_list --config my.cfg --json \\
      protocol=ssh server_username=root server_ip=10.0.0.5 gateway_username=jdoe
  python3 tools/try_plugin.py check --config my.cfg --python python2.6
"""


# ---- command line --------------------------------------------------------------------------------------------------

def parser():
    """Return the parser of the command line; argparse is younger than Python 2.6."""
    indent = ' ' * 9
    hooks, arguments = [textwrap.fill(', '.join(names), 90, initial_indent=indent, subsequent_indent=indent)
                        for names in (HOOKS, ARGUMENTS)]
    found = program.Parser(USAGE, description=DESCRIPTION, epilog=MORE % {'hooks': hooks, 'arguments': arguments})
    found.add_option('--config', metavar='FILE', help='the configuration, as it is pasted into SPS')
    found.add_option('--python', help="interpreter for the plugin (default: this one, or that of `make`, .venv)")
    found.add_option('--zip', metavar='FILE', help='the plugin (default: built from this checkout)')
    found.add_option('--json', action='store_true', help='print one JSON object, for scripts')
    found.add_option('--all', action='store_true', help='check: show the options that are at their default, too')
    found.add_option('--show-cookies', action='store_true', help='print the cookies that the hooks return')
    found.add_option('--show-credentials', action='store_true', help='print the credentials that the hooks return')
    found.add_option('--system', help='server: the system of the test account')
    found.add_option('--account', help='server: the test account; its password is retrieved, and not shown')
    found.add_option('--gateway-user', metavar='NAME', help='server: whose requests and policies are listed')
    found.add_option('--changes', action='store_true', default=False,
                     help='server: also send AddPwdRequest, Cancel and ForceReset')
    return found


def unknown(kind, word, known):
    """Return the message about an unknown word."""
    near = difflib.get_close_matches(word.lower(), known, 2)
    return u'unknown %s %s; %s %s' % (kind, word, u'did you mean' if near else u'known:', u', '.join(near or known))


def hook_argument(word):
    """Return 'name=value' as (name, value as SPS passes it). Raises ValueError saying what is wrong."""
    name, equals, value = word.partition('=')
    if not equals:
        raise ValueError(u'%s is no NAME=VALUE' % word)
    if name not in ARGUMENTS:
        raise ValueError(unknown(u'argument', name, ARGUMENTS))
    if value == u'-':
        value = text(getpass.getpass('%s: ' % name, sys.stderr))
    if name in OF_JSON:
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(u'%s must be JSON, not %s' % (name, value))
    return str(name), value


def parsed(argv):
    """Return (options, command, hook or None, arguments). Exit with status 2 on a mistake."""
    options, words = parser().parse_args(argv)
    words = [text(word) for word in words]
    try:
        if not words:
            raise ValueError(u'say what to do: check, server, run or session')
        command, hook = words.pop(0), None
        if command not in COMMANDS:
            raise ValueError(unknown(u'command', command, COMMANDS)
                             + (u'; a hook comes after run' if command in HOOKS else u''))
        if command == 'run':
            hook = words.pop(0) if words else u''
            if hook not in HOOKS:
                raise ValueError(unknown(u'hook', hook, HOOKS))
        if not options.config:
            raise ValueError(u'--config FILE is missing')
        if command == 'server' and not (options.system and options.account):
            raise ValueError(u'server needs a test account: --system SYSTEM --account ACCOUNT')
        return options, command, hook, dict(hook_argument(word) for word in words)
    except ValueError as mistake:
        say(u'%s\nSee --help.' % mistake, sys.stderr)
        sys.exit(program.COULD_NOT_RUN)


# ---- what is tried -------------------------------------------------------------------------------------------------

def make_sps(options, **more):
    """Return a FakeSps with the configuration of the command line."""
    try:
        with io.open(options.config, encoding='utf-8') as content:
            configuration = content.read()
    except UnicodeDecodeError as error:
        raise Mistake(u'%s is not UTF-8 text (byte %d); save it as UTF-8' % (text(options.config), error.start))
    candidates = [sys.executable, VENV_PYTHON]
    if options.python:
        candidates = [options.python]
    python, versions = fake_sps.interpreter(candidates)
    if not options.json:
        say(u'The plugin runs on %s (%s)' % (versions, text(python)))
        more.setdefault('watch', lambda line: say(u'    log  ' + line))
    with tempfile.NamedTemporaryFile(suffix='.zip') as built:
        if not options.zip:
            package.build(built.name)
        return fake_sps.FakeSps(options.zip or built.name, configuration, python, **more)


def check(options, arguments):
    """Check the configuration and its servers. Return the exit status."""
    def show(line):
        if options.all or not line.startswith(u'  default '):
            say(line)
    sps = make_sps(options, timeout=CHECK_TIMEOUT, watch=None if options.json else show)
    result = sps.call('check', arguments, 'check_child.py')
    findings = result.answer.get('findings')
    if findings and not options.all:
        findings = [finding for finding in findings if finding['status'] != 'default']
    wrong = findings is None or [finding for finding in findings if finding['status'] == 'wrong']
    if options.json:
        answer = {'works': not wrong, 'findings': findings, 'log': result.lines if findings is None else []}
        print(json.dumps(answer, indent=1, sort_keys=True))
    elif findings is None:
        say(u'The check itself failed; please report the lines above')
    elif wrong:
        say(u'NOT READY: %d %s to mend' % (len(wrong), u'thing' if len(wrong) == 1 else u'things'))
    else:
        say(u'READY as far as a check can see. Next: try a whole session (see --help), then upload the zip.')
    return 1 if wrong else 0


def check_server(options, arguments):
    """Check a server against docs/protocol.md. Return the exit status."""
    arguments.update(system=text(options.system), account=text(options.account), changes=options.changes)
    if options.gateway_user:
        arguments['gateway_username'] = text(options.gateway_user)
    sps = make_sps(options, timeout=CHECK_TIMEOUT, watch=None if options.json else say)
    answer = sps.call('server', arguments, 'check_server.py').answer
    rows, notes = answer.get('rows', []), answer.get('notes', [])
    problems = answer.get('problems', [u'the check itself failed; please report it'])
    wrong = [row for row in rows if row['verdict'] == 'WRONG']
    left = [u'a request may still be open, cancel it by hand: ' + answer['left']] if answer.get('left') else []
    status = 0
    if wrong or left:
        status = 1
    elif problems:
        status = program.COULD_NOT_RUN
    if options.json:
        print(json.dumps({'keeps': status == 0, 'rows': rows, 'notes': notes, 'problems': left + problems}, indent=1,
                         sort_keys=True))
        return status
    lines = [u'Not proved: ' + note for note in notes] + [u'PROBLEM: ' + problem for problem in left]
    lines += [u'COULD NOT CHECK: ' + problem for problem in problems]
    if wrong:
        lines.append(u'The server does not keep to the protocol: %d wrong. See docs/protocol.md.' % len(wrong))
    elif status == 0:
        lines.append(u'The server keeps to the protocol, as far as these commands show.')
    for line in lines:
        say(line)
    return status


class Trial(object):
    """Hooks that are run for a person or, with --json, for a script."""

    def __init__(self, options, arguments):
        self.options = options
        arguments = dict({'session_id': u'try-%d' % time.time(), 'protocol': u'ssh'}, **arguments)
        cookies = [arguments.pop(name, {}) for name in ('cookie', 'session_cookie')]
        self.session = make_sps(options).session(**arguments)
        self.session.cookie, self.session.session_cookie = cookies

    def run(self, hooks):
        """Run these hooks. Return the exit status."""
        interrupted = False
        try:
            for hook in hooks:
                if len(hooks) == 1 or self.is_next(hook):
                    self.call(hook)
        except KeyboardInterrupt:
            interrupted = True
            if self.checked_out():
                self.say(u'Interrupted; checking in what is checked out (Ctrl-C again leaves it)')
                self.call('session_ended')
        failed = [result for result in self.session.calls if failure(result)]
        works = not failed and not interrupted and (bool(self.credentials()) or not set(hooks) & set(GET_HOOKS))
        if self.options.json:
            print(json.dumps({'works': works, 'interrupted': interrupted,
                              'calls': [self.as_json(result) for result in self.session.calls]},
                             indent=1, sort_keys=True))
        self.sum_up(works, interrupted)
        if interrupted:
            return INTERRUPTED
        return 0 if works else 1

    def is_next(self, hook):
        """Tell whether SPS would call this hook: not after an exception, and no login without a credential."""
        if [result for result in self.session.calls if result.returned is None]:
            return hook == 'session_ended'
        return hook != 'authentication_completed' or bool(self.credentials())

    def call(self, hook):
        """Call one hook and show it, even if Ctrl-C ended it."""
        before = len(self.session.calls)
        self.say(fake_sps.call_line(hook, self.session.arguments if hook in GET_HOOKS else {}))
        try:
            self.session.call(hook)
        finally:
            for result in self.session.calls[before:]:
                for line in fake_sps.outcome_lines(result, self.options.show_credentials,
                                                   self.options.show_cookies):
                    self.say(line)

    def say(self, line):
        """Print a line, unless --json is given."""
        if not self.options.json:
            say(line)

    def credentials(self):
        """Return all credentials that the hooks have returned."""
        return [credential for result in self.session.calls for credential in result.credentials or ()]

    def checked_out(self):
        """Return the check-outs in the last cookie. session_ended returns no cookie."""
        last = self.session.calls[-1] if self.session.calls else None
        if last and last.hook == 'session_ended' and not failure(last):
            return []
        return (self.session.cookie.get(COOKIE_KEY) or {}).get('open', [])

    def sum_up(self, works, interrupted):
        """Print the outcome, and what to do about it."""
        if interrupted:
            self.say(u'INTERRUPTED')
        elif works:
            self.say(u'WORKS: %d credential(s)' % len(self.credentials()))
        else:
            self.say(u'DOES NOT WORK: see WARNING and ERROR above, and docs/messages.md for what to do')
        if self.checked_out():
            words = [u'--config', text(self.options.config), u'session_id=' + self.session.arguments['session_id'],
                     u'cookie=' + json.dumps(self.session.cookie, separators=(',', ':'))]
            self.say(u'Still checked out. To check it in:\n  python3 tools/try_plugin.py run session_ended '
                     + u' '.join(quoted(word) for word in words))

    def as_json(self, result):
        """Return one call for a script."""
        returned = result.returned
        if returned and not self.options.show_credentials:
            returned = fake_sps.masked(returned)
        return {'hook': result.hook, 'returned': returned, 'raised': result.raised, 'log': result.lines,
                'seconds': round(result.seconds, 3), 'killed': result.killed, 'violations': result.violations}


def failure(result):
    """Tell whether this call failed. It did not if it only found no credential."""
    errors = [line for line in result.lines if line.startswith((u'ERROR ', u'CRITICAL '))]
    return bool(result.raised or result.killed or result.died or result.violations or errors)


def quoted(word):
    """Return a word quoted for a shell."""
    return word if re.match(r'[\w./=-]+\Z', word) else u"'%s'" % word.replace(u"'", u"'\\''")


def session_hooks(arguments):
    """Return the hooks that SPS calls in a session with these arguments."""
    keys = ['get_private_key_list'] if arguments.get('protocol', 'ssh') == 'ssh' else []
    application = ['get_remote_app_credentials'] if arguments.get('asset') else []
    return keys + ['get_password_list'] + application + ['authentication_completed', 'session_ended']


def main(argv=None):
    """Run the command of the command line. Return the exit status."""
    options, command, hook, arguments = parsed(argv)
    if command == 'check':
        return check(options, arguments)
    if command == 'server':
        return check_server(options, arguments)
    return Trial(options, arguments).run([hook] if command == 'run' else session_hooks(arguments))


if __name__ == '__main__':
    program.run(main)
