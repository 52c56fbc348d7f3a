# -*- coding: utf-8 -*-
"""One hook call and all of its state: arguments, cookie, time, log, client, check-outs.

Python 2.6.5 code. The client and the modules of the wire are imported when they are first used. A
hook that sends nothing does not load them.
"""
import signal
import time

from tpamerrors import (Deadline, TpamError, TpamTimeout, basic, folded, is_number, is_text, native,
                        same_name, text)
from tpamlog import Log, write_piece

COOKIE_KEY = 'SPS_TPAM_XMLRPC'
COMMANDS = ('Cancel', 'ForceReset')  # the commands that check something in
CHECK_IN_SECONDS = 10  # reserved of the timeout (at most a quarter), to check in if a hook fails


# ---- the gateway user ----------------------------------------------------------------------------

class GatewayUser(object):
    """The user of the gateway, from the arguments of a get_* hook; other hooks do not get them.

    All are text, u'' if SPS names nobody. login: as SPS passes it. name: without a domain, as the
    credential server knows the user. domains: every distinct domain that SPS names, in the login
    (CORP\\jdoe, jdoe@corp) or as gateway_domain. identity: name and domains (jdoe@CORP), which
    identify one person; compare it with folded().
    """

    def __init__(self, arguments):
        self.login = text(arguments.get('gateway_username'))
        before, _, name = self.login.rpartition(u'\\')
        parts = name.split(u'@') + [before, text(arguments.get('gateway_domain'))]
        parts = [part.strip(u' \t\r\n') for part in parts]  # a no-break space makes another user
        self.name = parts.pop(0) if parts[0].strip() else u''
        self.domains = []
        for domain in parts:
            if domain and not any(same_name(domain, known) for known in self.domains):
                self.domains.append(domain)
        self.domains.sort(key=folded)  # whichever argument contains which
        self.identity = u'@'.join([self.name] + self.domains) if self.name else u''


# ---- the cookie ----------------------------------------------------------------------------------

# The plugin's part of the cookie. It is JSON, and nothing in it is secret. The names are those of
# release 1.0.0, so that a session survives an upgrade.
#   hooks     names of the hooks that were called
#   given     number of credentials
#   open      check-outs: command (one of COMMANDS), system, account, user, request (None if it is
#             unknown whether one was submitted), server (the one that was asked then), resubmitted
#             (true if another request was submitted instead), refused (true after a fault, when
#             there is most likely no request), pending (true until the request is known to be
#             active), tried (true if the outcome of its check-in is unknown)
#   returned  number of check-ins
#   unknown   number of things that may or may not be checked out
#   denied    {"user/system/account": reason}
#   names     {digest of a question: [name, ...]}, see tpamtarget.py
#   keyless   digest of the configuration with which the server gave out no private keys
#   server    the server that answered last
# and of the last credential: user, protocol, mode, system, account, request.
def _new_state():
    return {'hooks': [], 'given': 0, 'open': [], 'returned': 0, 'unknown': 0, 'denied': {},
            'names': {}, 'keyless': u'', 'server': u''}


def read_cookie(cookie):
    """Read the plugin's part of a cookie and return (state, unreadable).

    state: a copy that may be changed; its strings are text, whichever type SPS passes. unreadable:
    for each part that no hook of this plugin wrote, the fields that can still be read
    ({name: value}).
    """
    state = _new_state()
    if not cookie:
        return state, []
    if not isinstance(cookie, dict):
        return state, [{}]
    part = _with_text(cookie.get(COOKIE_KEY, {}))
    if part == {}:
        return state, []
    if not isinstance(part, dict) or not isinstance(part.get('open'), list):
        return state, [{}]
    unreadable = []
    for entry in part.pop('open'):
        if _is_checkout(entry):
            state['open'].append(entry)
        else:
            unreadable.append(about(entry) if isinstance(entry, dict) else {})
    for name, value in part.items():
        if _fits(name, value, state):
            state[name] = value
    return state, unreadable


def _fits(name, value, state):
    """Return whether a value has the type that this plugin writes under its name."""
    if name == 'hooks':
        return isinstance(value, list) and all(is_text(hook) for hook in value)
    if name == 'denied':
        return isinstance(value, dict) and all(is_text(why) for why in value.values())
    if name in state:
        return isinstance(value, type(state[name]))
    return value is None or is_text(value) or is_number(value)


def _with_text(value, levels=10):
    """Return a JSON value with strings as text and names as native str. Python 2 may pass either
    type for both. Values nested more than `levels` deep become None."""
    if levels == 0:
        return None
    if isinstance(value, dict):
        return dict((native(name), _with_text(member, levels - 1))
                    for name, member in value.items())
    if isinstance(value, list):
        return [_with_text(member, levels - 1) for member in value]
    return text(value) if is_text(value) else value


def _is_checkout(entry):
    if not isinstance(entry, dict) or entry.get('command') not in COMMANDS:
        return False
    if not is_text(entry.get('system')) or not is_text(entry.get('account')):
        return False
    for name in ('user', 'server'):
        if entry.get(name) is not None and not is_text(entry[name]):
            return False
    request = entry.get('request', False)
    return request is None or is_text(request) or is_number(request)


def about(part):
    """Return account, system and request of the cookie, or of one check-out in it, as fields of a
    log line. Fields that are not known are omitted."""
    return dict((name, part[name]) for name in ('account', 'system', 'request')
                if part.get(name) and (is_text(part[name]) or is_number(part[name])))


# ---- the alarm -----------------------------------------------------------------------------------

class Alarm(object):
    """SIGALRM, which interrupts calls that have no timeout.

    It repeats, because an exception raised in a destructor is lost. It raises only inside the
    functions that it is given, which are those that can hang: elsewhere it could lose the record of
    a check-out. Outside the main thread there is no alarm, but every wait checks the deadline.
    """

    def __init__(self):
        self._previous, self._interruptible, self._cause = {}, [], {}

    def start(self, deadline, functions):
        """Raise TpamTimeout inside these functions when the deadline has passed. Do the same at
        SIGTERM, so that the hook checks in before it ends."""
        self._interruptible = [function.__code__ for function in functions]
        try:
            self._handle(signal.SIGALRM, self._ring)
            self._handle(signal.SIGTERM, self._ring_now)
            signal.setitimer(signal.ITIMER_REAL, deadline.left() + 0.1, 0.5)
        except (ValueError, TpamTimeout):  # not the main thread, or too late
            pass

    def stop(self):
        """Stop the alarm and restore the previous handlers."""
        if not self._interruptible:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            if handler is not None:
                signal.signal(number, handler)

    def _handle(self, number, handler):
        previous = signal.signal(number, handler)
        self._previous.setdefault(number, previous)

    def _ring_now(self, signum, frame):
        self._cause = {'signal': u'SIGINT' if signum == signal.SIGINT else u'SIGTERM'}
        signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
        self._ring(signum, frame)

    def _ring(self, signum, frame):
        while frame is not None:
            if frame.f_code in self._interruptible:
                raise TpamTimeout(**self._cause)
            frame = frame.f_back


def pause(seconds):
    """Sleep. The alarm can interrupt it."""
    time.sleep(seconds)


# ---- one hook call -------------------------------------------------------------------------------

class Call(object):
    """One hook call. settings: as read_configuration() returns them, never written to.

    Attributes: arguments (dict), session_id and gateway_user (text, GatewayUser), cookie and
    session_cookie (dicts for SPS), state (the plugin's part of the cookie), unreadable (see
    read_cookie), deadline.
    """

    def __init__(self, settings, hook, arguments):
        self.settings, self.arguments = settings, arguments
        self.session_id = text(arguments.get('session_id'))
        self.gateway_user = GatewayUser(arguments)
        self.cookie = _dict_of(arguments.get('cookie'))
        self.session_cookie = _dict_of(arguments.get('session_cookie'))
        self.state, self.unreadable = read_cookie(arguments.get('cookie'))
        self.cookie[COOKIE_KEY] = self.state
        self._known = list(self.state['open'])
        self.state['hooks'].append(text(hook))
        self._log = Log(settings['logging']['log_level'], self.session_id)
        self._add_secrets()
        timeout = settings['tpam']['timeout']
        self._kept = 0
        if settings['tpam']['authorization'] == u'request':
            self._kept = min(CHECK_IN_SECONDS, timeout / 4.0)
        self.deadline = Deadline(timeout - self._kept)
        self._alarm = Alarm()
        self._client = None

    # -- log

    def log(self, level, message, **details):
        """Write one line of the log (level: one of tpamconfig.LOG_LEVELS)."""
        self._log.write(level, message, **details)

    def line(self, message, **details):
        """Return one line without secrets, for an exception or the cookie."""
        return self._log.line(message, **details)

    def add_secret(self, secret):
        """Mask a secret (text) in the log from now on."""
        self._log.add_secret(secret)

    def _add_secrets(self):
        tpam, proxy = self.settings['tpam'], self.settings['https-proxy']
        gateway_password = text(self.arguments.get('gateway_password'))
        for username, password in ((self.gateway_user.login, gateway_password),
                                   (tpam['username'], tpam['password']),
                                   (proxy['username'], proxy['password'])):
            if password:  # also as in the header, which a server may repeat without its padding
                credentials = text(basic(username, password).split()[1])
                for secret in (password, credentials, credentials.rstrip(u'=')):
                    self.add_secret(secret)

    # -- the server

    def client(self):
        """Return the client of the credential server; the first call creates it. Raises TpamError.
        """
        if self._client is None:
            from tpamclient import TpamClient
            self._start_alarm()
            self._client = TpamClient(self.connection(), self.deadline, self._log_next_server,
                                      self.state['server'])
        return self._client

    def look_up(self, name, kind):
        """Return the DNS records of a name, as tpamtransport.look_up() does, within
        connect_timeout."""
        from tpamtransport import look_up
        self._start_alarm()
        limit = Deadline(self.settings['tpam']['connect_timeout'], self.deadline)
        return look_up(name, kind, limit)

    def _start_alarm(self):
        from tpamclient import TpamClient
        from tpamtransport import look_up
        self._alarm.start(self.deadline, [TpamClient.call, look_up, pause, write_piece])

    def _log_next_server(self, error):
        self.log('warning', error.message, next=u'the next server', **error.fields())

    def connection(self):
        """Return the settings as TpamClient takes them."""
        tpam, tls, proxy = [self.settings[name] for name in ('tpam', 'tls', 'https-proxy')]
        port = 443 if tls['enabled'] else 80
        connection = dict(tpam, proxy=None, tls=None, credential=self._credential())
        connection['servers'] = [(host, given or port) for host, given in tpam['server']]
        if tls['enabled']:
            connection['tls'] = tls
        if proxy['enabled'] and proxy['server']:
            connection['proxy'] = dict(proxy, address=(native(proxy['server'][0]), proxy['port']))
        return connection

    def _credential(self):
        tpam = self.settings['tpam']
        if tpam['use_credential'] == u'explicit':
            return tpam['username'], tpam['password']
        login, password = self.gateway_user.login, text(self.arguments.get('gateway_password'))
        if not login or not password:
            raise TpamError(u'[tpam] use_credential=gateway, but SPS passed no gateway user name '
                            u'and password; have the gateway ask for a password, or use explicit')
        return login, password

    # -- check-outs

    def check_out(self, command, system, account, request=None):
        """Record that something is checked out, and return its entry.

        command: the one that checks it in (one of COMMANDS); request: its id, or None.
        """
        checkout = {'command': command, 'system': system, 'account': account, 'request': request,
                    'user': text(self.state.get('user'))}
        self.state['open'].append(checkout)
        return checkout

    def forget(self, checkout):
        """Remove an entry from the cookie."""
        self.state['open'] = [entry for entry in self.state['open'] if entry is not checkout]

    def is_checked_out(self, checkout):
        """Return whether this very entry is in the cookie."""
        return any(entry is checkout for entry in self.state['open'])

    def is_known(self, checkout):
        """Return whether an earlier hook of the session checked this out."""
        return any(entry is checkout for entry in self._known)

    def begin_check_in(self):
        """Add the time reserved for the check-in, and set the alarm to the new deadline."""
        self.deadline.extend(self._kept)
        self._kept = 0
        self._start_alarm()

    def close(self):
        """Close the connections, and record in the cookie which server answered."""
        if self._client is not None:
            self.state['server'] = self._client.server or self.state['server']
            self._client.close()
            self._client = None

    def end(self):
        """Stop the alarm. Call this after the last log line."""
        self._alarm.stop()


def _dict_of(value):
    return dict(value) if isinstance(value, dict) else {}
