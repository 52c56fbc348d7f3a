"""SSH connections to TPAM: one for each CLI user and TPAM, kept, with several commands at a time.

asyncssh does the work. This module decides what a failure may have done: a command that was not
sent is tried on the next TPAM, and one that was sent is not sent again unless it may be.
"""
import asyncio
import contextlib
import time
from collections import deque

import asyncssh

from commands import REPLICA, Output, OutcomeUnknown, Refused

MAX_OUTPUT = 2 * 1024 * 1024  # bytes that one command may print
RETRY_AFTER = 5               # seconds in which a TPAM that cannot be reached is not tried again
KEEPALIVE = 15                # seconds; three without an answer end a connection
# Algorithms that TPAMs of 2010 need, behind the newer ones.
OLD_ALGORITHMS = {
    'kex_algs': '+diffie-hellman-group-exchange-sha1,diffie-hellman-group14-sha1,'
                'diffie-hellman-group1-sha1',
    'encryption_algs': '+aes256-cbc,aes192-cbc,aes128-cbc,3des-cbc',
    'mac_algs': '+hmac-sha1',
}


class NotSent(Exception):
    """The command was certainly not sent; the text says why."""


class TookTooLong(Exception):
    """The command was sent, and is not answered in time."""


class _Broken(Exception):
    """The connection ended, before or after the command was sent."""

    def __init__(self, text, is_sent):
        Exception.__init__(self, text)
        self.is_sent = is_sent


class Slots:
    """Let `count` tasks run at a time; the rest wait in order. asyncio.Semaphore is not fair before
    Python 3.11."""

    def __init__(self, count):
        self._free = count
        self._waiting = deque()

    async def __aenter__(self):
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    async def __aexit__(self, *_):
        self._pass_on()

    def _pass_on(self):
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class _Session(asyncssh.SSHClientSession):
    """The channel of one command. Attributes: is_sent, ended (future of None or an exception)."""

    def __init__(self):
        self.ended = asyncio.get_running_loop().create_future()
        self.is_sent, self.channel, self.status = False, None, None
        self._printed = {None: [], asyncssh.EXTENDED_DATA_STDERR: []}
        self._size = 0

    def connection_made(self, channel):
        self.channel, self.is_sent = channel, True  # asyncssh sends the command next

    def data_received(self, data, datatype):
        self._size += len(data)
        if self._size > MAX_OUTPUT:
            self.channel.abort()
            self._end(OutcomeUnknown('TPAM printed more than %d bytes' % MAX_OUTPUT))
        else:
            self._printed[datatype].append(data)

    def exit_status_received(self, status):
        self.status = status

    def exit_signal_received(self, signal, core_dumped, message, language):
        self._end(OutcomeUnknown('a signal ended the command'))

    def connection_lost(self, error):
        self._end(error)

    def _end(self, error):
        if not self.ended.done():
            self.ended.set_result(error)

    def output(self):
        """Return what the command printed."""
        return Output(*(b''.join(blocks) for blocks in self._printed.values()), self.status)


class Node:
    """One TPAM as one CLI user sees it, with the connection that is kept.

    settings: host, port, host_key (asyncssh key). user: name, key (asyncssh key). limits:
    connect_timeout, command_timeout (seconds), max_commands, old_algorithms.
    """

    def __init__(self, settings, user, limits):
        self._settings, self._user, self._limits = settings, user, limits
        self.name = '%s:%d' % (settings.host, settings.port)
        self._connection = self._opening = None
        self._failure, self._failed_at = None, 0

    async def connection(self):
        """Return the connection, opened if there is none. All who need it wait for the same
        attempt. Raises NotSent."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._opening is None:
            if self._failure and time.monotonic() < self._failed_at + RETRY_AFTER:
                raise NotSent(self._failure)
            self._opening = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self):
        algorithms = OLD_ALGORITHMS if self._limits.old_algorithms else {}
        self._failure = None
        try:
            self._connection = await asyncio.wait_for(asyncssh.connect(
                self._settings.host, self._settings.port, username=self._user.name,
                client_keys=[self._user.key], known_hosts=([self._settings.host_key], [], []),
                config=None, agent_path=None, preferred_auth='publickey',
                signature_algs='+ssh-dss', keepalive_interval=KEEPALIVE, **algorithms),
                self._limits.connect_timeout)
            return self._connection
        except (OSError, ValueError, asyncssh.Error, asyncio.TimeoutError) as error:
            self._failure, self._failed_at = self._reason(error), time.monotonic()
            raise NotSent(self._failure)
        finally:
            self._opening = None

    def _reason(self, error):
        """Return why a connection failed, with the remedy."""
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return ('%s has another host key than the pinned one; find out why before you change '
                    'host_key' % self.name)
        if isinstance(error, asyncssh.PermissionDenied):
            return ('%s refuses the key of the CLI user %s; check its name (case counts), its key '
                    'and its addresses' % (self.name, self._user.name))
        if isinstance(error, (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost)):
            return ('%s ended the connection: has it another kind of host key than the pinned one, '
                    'or does it need [ssh] old_algorithms?' % self.name)
        reason = str(error) or 'timed out after %g s' % self._limits.connect_timeout
        return '%s cannot be reached: %s' % (self.name, reason)

    async def run(self, line):
        """Run a command line and return its Output. Raises NotSent, _Broken, TookTooLong."""
        connection = await self.connection()
        session = _Session()
        command = self._run(connection, session, line)
        try:
            await asyncio.wait_for(command, self._limits.command_timeout)
        except asyncio.TimeoutError:
            self._retire(connection)
            if not session.is_sent:
                raise NotSent('%s opens no channel' % self.name)
            session.channel.abort()
            raise TookTooLong('%s did not answer in %g s'
                              % (self.name, self._limits.command_timeout))
        return session.output()

    async def _run(self, connection, session, line):
        try:
            await connection.create_session(lambda: session, line, encoding=None)
            error = await asyncio.shield(session.ended)
        except asyncssh.ChannelOpenError as failure:
            error = failure
            # A channel or a connection that has ended may have taken the command before.
            if not session.ended.done() and not connection.is_closed():
                raise NotSent('%s takes no command: %s' % (self.name, failure))
        except (OSError, asyncssh.Error) as failure:
            error = failure
        if isinstance(error, OutcomeUnknown):
            raise error
        if error is not None:
            raise _Broken('%s ended the connection' % self.name, session.is_sent)

    def _retire(self, connection):
        """Use this connection for no further command: it may be dead. Those on it may finish."""
        if self._connection is connection:
            self._connection = None
            loop = asyncio.get_running_loop()
            loop.call_later(self._limits.command_timeout, connection.abort)

    def close(self):
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


class CliUser:
    """One CLI user on all TPAMs, which are tried in order, beginning with the last that answered.

    servers: settings of each TPAM; user, limits: see Node.
    """

    def __init__(self, servers, user, limits):
        self.nodes = [Node(settings, user, limits) for settings in servers]
        self._limits = limits
        self._slots = Slots(limits.max_commands)
        self._calls, self._is_retired = 0, False

    async def is_up(self):
        """Return whether this user is, or can be, logged in at a TPAM."""
        with self._call():
            for node in list(self.nodes):
                try:
                    await node.connection()
                    return True
                except NotSent:
                    pass
            return False

    async def run(self, line, is_repeatable, is_wanted, read):
        """Run a command line on the first TPAM that takes it, and return its answer.

        is_repeatable: it may be carried out twice. is_wanted: function that tells whether somebody
        still waits for the answer; a command is not sent for nobody. read: function of the Output
        that returns the answer, or raises Refused. Raises NotSent if the command was certainly not
        carried out, OutcomeUnknown and TookTooLong if it may have been.
        """
        began, failures, refusal = time.monotonic(), [], None
        with self._call():
            for node in list(self.nodes):
                try:
                    await node.connection()  # before the turn: a TPAM that is down holds up nobody
                    async with self._slots:
                        is_late = time.monotonic() > began + self._limits.command_timeout
                        if is_late or not is_wanted():
                            raise NotSent('nobody waits for the answer any more')
                        output = await self._run_on(node, line, is_repeatable)
                    answer = await asyncio.to_thread(read, output)
                except NotSent as error:
                    failures.append(str(error))
                except Refused as error:
                    refusal = error
                    if REPLICA not in str(error).lower():
                        self._prefer(node)
                        break
                else:
                    self._prefer(node)
                    return answer
        raise refusal or NotSent('; '.join(failures))

    def _prefer(self, node):
        """Ask this TPAM first from now on."""
        self.nodes = [node] + [other for other in self.nodes if other is not node]

    async def _run_on(self, node, line, is_repeatable):
        """Run a command line, on a new connection if the kept one has ended."""
        try:
            return await node.run(line)
        except _Broken as error:
            if error.is_sent and not is_repeatable:
                raise OutcomeUnknown(str(error))
        try:
            return await node.run(line)
        except _Broken as error:
            if error.is_sent:
                raise OutcomeUnknown(str(error))
            raise NotSent(str(error))

    @contextlib.contextmanager
    def _call(self):
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._close_if_unused()

    def retire(self):
        """Close the connections after the last call that uses them."""
        self._is_retired = True
        self._close_if_unused()

    def _close_if_unused(self):
        if self._is_retired and not self._calls:
            for node in self.nodes:
                node.close()
