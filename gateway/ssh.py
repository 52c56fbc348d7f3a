"""SSH connections to TPAM: one for each CLI user and TPAM, kept, with several commands at a time.

asyncssh does the work. This module decides what a failure may have done: a command that was not
sent is tried on the next TPAM, and one that was sent is not sent again unless it may be.
"""
import asyncio
import time
from collections import Counter

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


class TookTooLong(OutcomeUnknown):
    """The command was sent, and is not answered in time."""


class _Broken(Exception):
    """The command ended without an answer. Arguments: why; whether it was sent."""


class Slots:
    """Let `count` tasks run at a time; the rest wait in order."""

    def __init__(self, count):
        self._next, self._free = asyncio.Lock(), asyncio.Semaphore(count)

    async def __aenter__(self):
        async with self._next:  # asyncio.Semaphore alone is not fair before Python 3.11
            await self._free.acquire()

    async def __aexit__(self, *_):
        self._free.release()


class _Session(asyncssh.SSHClientSession):
    """The channel of one command, which is None until asyncssh sends the command. Attributes:
    ended, a future of None or an exception; status, the exit status or None; size, in bytes."""

    def __init__(self):
        self.ended = asyncio.get_running_loop().create_future()
        self.channel, self.status, self.size = None, None, 0
        self._printed = {None: [], asyncssh.EXTENDED_DATA_STDERR: []}

    def connection_made(self, channel):
        self.channel = channel

    def data_received(self, data, datatype):
        self.size += len(data)
        if self.size > MAX_OUTPUT:
            self.channel.abort()
        else:
            self._printed[datatype].append(data)

    def exit_status_received(self, status):
        self.status = status

    def connection_lost(self, error):
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
        self._running = Counter()  # connection: number of its commands
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
        self._running[connection] += 1
        try:
            await asyncio.wait_for(command, self._limits.command_timeout)
        except _Broken:
            self._give_up(connection)
            raise
        except asyncio.TimeoutError:
            self._give_up(connection)
            if session.channel is None:
                raise NotSent('%s opens no channel' % self.name)
            session.channel.abort()
            raise TookTooLong('%s did not answer in %g s'
                              % (self.name, self._limits.command_timeout))
        finally:
            self._running -= Counter([connection])
            if connection is not self._connection and connection not in self._running:
                connection.abort()
        return session.output()

    def _give_up(self, connection):
        """Run no other command on a connection, which may be dead. Those on it may finish."""
        if self._connection is connection:
            self._connection = None

    async def _run(self, connection, session, line):
        try:
            await connection.create_session(lambda: session, line, encoding=None)
            error = await asyncio.shield(session.ended)
        except asyncssh.ChannelOpenError as failure:
            error = failure
            # A channel or a connection that has ended may have taken the command before.
            if not session.ended.done() and not connection.is_closed():
                raise NotSent('%s takes no command: %s' % (self.name, failure))
        except (OSError, asyncssh.Error, AttributeError) as failure:
            error = failure  # asyncssh raises AttributeError if the channel ends with the reply
        if session.size > MAX_OUTPUT:
            raise OutcomeUnknown('TPAM printed more than %d bytes' % MAX_OUTPUT)
        # Nobody has seen a TPAM that sends no exit status: without one, the answer is not complete.
        if error is not None or session.status is None:
            raise _Broken('%s ended the command' % self.name, session.channel is not None)

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

    async def is_up(self):
        """Return whether this user is, or can be, logged in at a TPAM."""
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
        failures, refusal = [], None
        for node in list(self.nodes):
            try:
                await node.connection()  # before the turn: a TPAM that is down holds up nobody
                began = time.monotonic()
                async with self._slots:
                    if not is_wanted():
                        raise NotSent('nobody waits for the answer any more')
                    if time.monotonic() > began + self._limits.command_timeout:
                        raise NotSent('waited too long for its turn; see max_commands')
                    output = await self._run_on(node, line, is_repeatable)
                answer = await asyncio.to_thread(read, output)
            except NotSent as error:
                failures.append(str(error))
                continue
            except Refused as error:
                answer, refusal = None, error
                if REPLICA in str(error).lower():
                    continue
            self.nodes.sort(key=lambda other: other is not node)  # this one comes first from now on
            if answer is None:
                break
            return answer
        raise refusal or NotSent('; '.join(failures))

    async def _run_on(self, node, line, is_repeatable):
        """Run a command line, on a new connection if the kept one has ended."""
        for is_last in (False, True):
            try:
                return await node.run(line)
            except _Broken as error:
                why, is_sent = error.args
                if is_sent and (is_last or not is_repeatable):
                    raise OutcomeUnknown(why)
                if is_last:
                    raise NotSent(why)
