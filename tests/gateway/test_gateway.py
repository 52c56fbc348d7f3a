"""The gateway as a process between an HTTPS client and TPAM's command line."""
import asyncio
import base64
import concurrent.futures
import contextlib
import datetime
import hashlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
import xmlrpc.client

import asyncssh
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import package
import tpam_gateway
from certs import make as certs
from fake_tpam_cli import BREAKS, FakeTpamCli, USER_KEYS
from gateway_world import API_PASSWORD, CHEAP_HASH, PASSWORD, PROGRAM, cheap_hash, new_tpam, public, read
from log import Log
from settings import COMMAND_TIMEOUT, CONNECT_TIMEOUT, Mistake, hash_password, read_settings
from ssh import Slots
from tpam_gateway import listen, network_of

BY_NAMES = {'SystemName': 'WEB01', 'AccountName': 'root', 'ReasonText': 'jdoe,SPS,gateway,s-1'}
ADD = {'SystemName': 'WEB01', 'AccountName': 'root', 'RequestNotes': 'jdoe,SPS,request,s-1', 'RequestImmediate': 'Y'}
MIB = 1024 * 1024


def until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def at_once(count, function):
    """Call function() in so many threads -> what each of them returned."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(function) for _ in range(count)]]


# ---- commands

def test_each_command_of_the_protocol_is_carried_out(gateway, cli, tpam):
    tpam.add_policy('jdoe', 'WEB01', 'root', 'Root')
    added = gateway.call('AddPwdRequest', dict(ADD, ReleaseDuration=60))
    assert added.code == 0 and added.id == '1001-1' and added.message.endswith('Active/Approved')
    assert gateway.call('Retrieve', {'RequestID': '1001-1'}).message == PASSWORD
    row, = gateway.call('GetPwdRequest', {'RequestID': '1001-1'}).rows
    assert (row['RequestStatus'], row['ReleaseDuration']) == ('Active/Approved', '60')
    row, = gateway.call('ListRequestDetails', {'RequestorName': 'sps', 'Status': 'OPEN', 'MaxRows': 1000}).rows
    assert (row['RequestID'], row['RequestNotes']) == ('1001-1', ADD['RequestNotes'])
    assert gateway.call('Cancel', {'RequestID': '1001-1', 'Comment': "it's done"}).code == 0
    assert gateway.call('Retrieve', BY_NAMES).message == PASSWORD
    row, = gateway.call('ListAssignedPolicies', {'UserName': 'jdoe', 'AllOrEffectiveFlag': 'E'}).rows
    assert row['AccessPolicyName'] == 'Root'
    assert gateway.call('ListAccounts', {'SystemName': 'WEB01', 'AccountName': 'root'}).count == 1
    assert gateway.call('ListSystems', {'NetworkAddress': '10.0.0.5'}).rows[0]['SystemName'] == 'WEB01'
    assert gateway.call('ListSystems', {'NetworkAddress': '10.0.0.9'}).rows == []
    assert 'processed the password change' in gateway.call(
        'ForceReset', {'SystemName': 'WEB01', 'AccountName': 'root'}).message
    assert tpam.account('WEB01', 'root').password != PASSWORD
    assert cli.logins == 1


def test_a_refusal_has_tpams_words_and_a_wrong_call_is_a_fault(gateway, cli):
    refused = gateway.call('Retrieve', dict(BY_NAMES, SystemName='NONE'))
    assert (refused.code, refused.message) == (1, 'You are not authorized to perform this operation')
    assert gateway.call('RetrieveKey', BY_NAMES).value.faultCode == -32601
    fault = gateway.call('Retrieve', dict(BY_NAMES, ReasonText='x" --SystemName "y')).value
    assert fault.faultCode == -32602 and 'option ReasonText' in fault.faultString
    assert len(cli.lines) == 1


@pytest.mark.parametrize('switches', [
    {'line_end': '\n'}, {'columns': 'added'}, {'columns': 'reordered', 'blank_line': True}, {'columns': 'short'},
    {'refusals': 'stderr'}])
def test_the_differences_between_command_lines_do_not_show(gateway, cli, switches):
    vars(cli).update(switches)
    gateway.call('AddPwdRequest', ADD)
    assert gateway.call('Retrieve', {'RequestID': '1001-1'}).message == PASSWORD
    row, = gateway.call('GetPwdRequest', {'RequestID': '1001-1'}).rows
    assert (row['RequestID'], row['RequestStatus'], row['MinApprovers']) == ('1001-1', 'Active/Approved', '0')
    assert gateway.call('ListSystems', {'SystemName': 'WEB01'}).rows[0]['NetworkAddress'] == '10.0.0.5'
    assert gateway.call('Retrieve', {'RequestID': '2-2'}).message == 'You are not authorized for request 2-2'


def test_ids_without_a_suffix_and_as_a_number_are_taken(gateway, tpam):
    tpam.request_ids = 'plain'
    assert gateway.call('AddPwdRequest', ADD).id == '1001'
    assert gateway.call('Cancel', {'RequestID': 1001}).code == 0


@pytest.mark.parametrize('password', ['"`\\-;$(id)\'', '-', '--x', '[é', '<&]]>密'])
def test_every_password_of_one_word_arrives_as_it_is(gateway, tpam, password):
    tpam.account('WEB01', 'root').password = password
    message = gateway.call('Retrieve', BY_NAMES).message
    assert (message.data.decode('utf-8') if isinstance(message, xmlrpc.client.Binary) else message) == password


# ---- who may call

def test_without_the_right_password_nobody_gets_through(gateway, cli):
    for answer in (gateway.call('Retrieve', BY_NAMES, name=None), gateway.call('Retrieve', BY_NAMES, password='x'),
                   gateway.call('Retrieve', BY_NAMES, name='nobody'), gateway.call('Retrieve', BY_NAMES, name='SPS'),
                   gateway.post(b'', name=None, Authorization='Basic \xff'),
                   gateway.post(b'', name=None, Authorization='Bearer x')):
        assert answer.status == 401 and 'Basic' in answer.headers['WWW-Authenticate']
    assert cli.lines == []
    gateway.wait_for(6, outcome='log-in failed')
    assert gateway.log(user='nobody') == []


def test_wrong_passwords_are_slow_and_hold_up_nobody_who_is_known(make):
    gateway = make(users=[{}, {'name': 'other'}]).start()
    gateway.call('ListSystems', name='other')
    began = time.monotonic()
    wrong = threading.Thread(target=at_once, args=(3, lambda: gateway.call('ListSystems', password='wrong')))
    wrong.start()
    until(lambda: gateway.log(outcome='log-in failed'))
    assert gateway.call('ListSystems', name='other').status == 200
    assert wrong.is_alive()
    wrong.join()
    assert time.monotonic() - began >= 3    # one second for each


def test_the_hash_that_the_program_makes_is_taken(make):
    gateway = make()
    status, made = gateway.run('hash', input=API_PASSWORD + '\n')
    assert status == 0 and re.fullmatch(r'scrypt\$16384\$8\$1\$\S+\n', made)
    gateway.configure([{'password': made.strip()}])
    gateway.start()
    answers = at_once(10, lambda: gateway.call('ListSystems'))      # one of them verifies, the others wait for it
    assert [answer.status for answer in answers] == [200] * 10
    assert gateway.call('ListSystems', password=API_PASSWORD + ' ').status == 401


def with_client_certificate(gateway, name):
    context = gateway.context()
    context.load_cert_chain(certs.path(name))
    return gateway.connection(context)


def fingerprint(name):
    pem, end, _ = read('certs/%s.pem' % name).partition('-----END CERTIFICATE-----')
    return 'sha256:' + hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem + end)).hexdigest()


def ca_of_clients():
    return {'client_ca': certs.path('client-ca')}


@pytest.mark.parametrize('certificate', ['fingerprint', 'subject'])
def test_a_client_certificate_is_enough_where_no_password_is_set(make, certificate):
    names = {'fingerprint': fingerprint('client'), 'subject': 'subject:CN=sps,O=TPAM test'}
    gateway = make(users=[{'password': None, 'certificates': [names[certificate]]}], server=ca_of_clients()).start()
    assert gateway.call('ListSystems', name=None, connection=with_client_certificate(gateway, 'client')).status == 200
    assert gateway.call('ListSystems', name=None).status == 401
    assert gateway.call('ListSystems').status == 401
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
        gateway.call('ListSystems', name=None, connection=with_client_certificate(gateway, 'client-of-other-ca'))


def test_a_certificate_that_fits_two_users_is_nobodys_and_is_logged(make):
    users = [{'password': None, 'certificates': ['subject:CN=sps,O=TPAM test']},
             {'name': 'other', 'password': None, 'certificates': [fingerprint('client')]}]
    gateway = make(users=users, server=ca_of_clients()).start()
    assert gateway.call('ListSystems', name=None, connection=with_client_certificate(gateway, 'client')).status == 401
    outcome = gateway.wait_for(client='127.0.0.1')['outcome']
    assert outcome == 'log-in failed (certificate %s...)' % fingerprint('client')[:23]


def test_after_a_reload_a_certificate_of_the_old_ca_logs_in_for_the_first_call_of_a_connection_alone(make):
    users = [{'password': None, 'certificates': ['subject:CN=sps,O=TPAM test']}]
    gateway = make(users=users, server=ca_of_clients()).start()
    used, new = [with_client_certificate(gateway, 'client') for _ in range(2)]
    assert gateway.call('ListSystems', name=None, connection=used).status == 200
    new.connect()
    until(lambda: connections_of(gateway) == 2)
    gateway.configure(users, server={'client_ca': certs.path('ca')})
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event='reloaded')
    with pytest.raises((ConnectionError, http.client.BadStatusLine, ssl.SSLError)):
        gateway.call('ListSystems', name=None, connection=used)
    answer = gateway.call('ListSystems', name=None, connection=new)     # as if it had come before the reload
    assert (answer.status, answer.headers['Connection']) == (200, 'close')
    with pytest.raises((ConnectionError, http.client.BadStatusLine, ssl.SSLError)):
        gateway.call('ListSystems', name=None, connection=with_client_certificate(gateway, 'client'))


def test_a_connection_whose_answer_was_being_sent_ends_with_it_after_a_reload(make, cli):
    """A client that does not read could otherwise ask once more as a user who has been removed."""
    columns = ['SystemName', 'AccountName'] + ['Custom%d' % number for number in range(100)]
    cli.prints = '\n'.join(['\t'.join(columns)] + ['WEB01\tr' + '\t' * 100] * 1000)
    gateway = make(users=[{'name': 'other'}, {}]).start()
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    wire.connect(('127.0.0.1', gateway.port))
    client = gateway.context().wrap_socket(wire, server_hostname='localhost')
    body = xmlrpc.client.dumps(({},), 'ListAccounts')
    pair = base64.b64encode(('sps:%s' % API_PASSWORD).encode('utf-8')).decode('ascii')
    call = 'POST /RPC2 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic %s\r\nContent-Length: %d\r\n\r\n%s' % (
        pair, len(body), body)
    # asyncio of 3.9 waits with the first answer; a newer one has it in a buffer, and waits with the second.
    for count in (1, 2):
        client.sendall(call.encode('ascii'))
        limit = time.monotonic() + 3
        while len(gateway.log(command='ListAccounts')) < count and time.monotonic() < limit:
            time.sleep(0.02)
    gateway.configure([{'name': 'other'}])
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event='reloaded')
    answers, block = b'', b'unread'
    while block and answers.count(b'</methodResponse>') < 2:
        block = client.recv(MIB)
        answers += block
    with contextlib.suppress(ConnectionError, ssl.SSLError):    # it may have ended before
        client.sendall(call.encode('ascii'))
        assert client.recv(MIB) == b''


def connections_of(gateway):
    """Return how many connections the process has accepted."""
    with open('/proc/net/tcp') as table:
        ports = [line.split()[1:4] for line in table]
    return sum(local.endswith(':%04X' % gateway.port) and state == '01' for local, _, state in ports[1:])


def test_certificate_and_password_can_both_be_required(make):
    users = [{'certificates': [fingerprint('client')]}, {'name': 'other', 'certificates': ['subject:CN=x']}]
    gateway = make(users=users, server=ca_of_clients()).start()
    assert gateway.call('ListSystems', connection=with_client_certificate(gateway, 'client')).status == 200
    missing = gateway.call('ListSystems')
    assert (missing.status, missing.body) == (401, b'log-in failed\n')     # does not tell that the password is right
    gateway.wait_for(outcome='client certificate missing or wrong')
    assert gateway.call('ListSystems', name=None, connection=with_client_certificate(gateway, 'client')).status == 401
    assert gateway.call('ListSystems', name='other',
                        connection=with_client_certificate(gateway, 'client')).status == 401


def test_each_user_has_addresses_commands_and_a_cli_user(make, cli, keys):
    gateway = make()
    gateway.write('id_dsa', keys['dsa'].export_private_key('pkcs1-pem').decode('ascii'))
    gateway.configure([{}, {'name': 'jdoe', 'cli_user': 'jdoe', 'key': 'id_dsa', 'commands': ['AddPwdRequest']},
                       {'name': 'far', 'clients': ['192.0.2.0/24']}])
    gateway.start()
    assert gateway.call('AddPwdRequest', ADD, name='jdoe').code == 0
    assert cli.tpam.audit[-1].user == 'jdoe'
    refused = gateway.call('ListSystems', name='jdoe')
    assert refused.code == 1 and 'not authorized to use ListSystems' in refused.message
    assert gateway.call('ListSystems', name='far').status == 401    # does not tell that the password is right
    gateway.wait_for(outcome='address not allowed')
    assert len(cli.lines) == 1


def test_an_address_of_no_user_gets_no_answer(make):
    gateway = make(users=[{'clients': ['192.0.2.1']}]).start()
    with pytest.raises((ssl.SSLError, OSError)):
        gateway.call('ListSystems')
    assert gateway.wait_for(client='127.0.0.1')['outcome'] == 'address not allowed'


def test_a_connection_without_a_user_is_closed_after_its_answer(gateway):
    connection = gateway.connection()
    assert gateway.call('ListSystems', name=None, connection=connection).headers['Connection'] == 'close'
    assert gateway.post(b'', path='/x', connection=gateway.connection()).headers['Connection'] == 'close'


def test_no_address_can_take_all_connections(make):
    gateway = make(users=[{'clients': ['127.0.0.0/8']}]).start()
    held = [socket.create_connection(('127.0.0.1', gateway.port)) for _ in range(110)]
    assert gateway.wait_for(outcome='too many connections')['connections'] == 10
    assert gateway.call('ListSystems', connection=gateway.connection(source='127.0.0.2')).status == 200
    for connection in held:
        connection.close()
    until(lambda: not is_refused(gateway))


def test_strangers_hold_nobody_up_and_are_a_line_a_second(make):
    gateway = make(users=[{'clients': ['192.0.2.1']}])
    closed = set()      # how many connections others saw closed when it was their turn

    async def run():
        log = Log(gateway.path('log'))
        listener = listen(('127.0.0.1', 0))
        knocking = [socket.create_connection(listener.getsockname()) for _ in range(100)]
        accepting = asyncio.ensure_future(
            tpam_gateway.Gateway(gateway.config, read_settings(gateway.config), log)._accept(listener))
        while sum(line['connections'] for line in gateway.log()) < 100:
            await asyncio.sleep(0)
            closed.add(sum(is_closed(connection) for connection in knocking))
        accepting.cancel()
        log.close()
        for connection in knocking + [listener]:
            connection.close()
    asyncio.run(run())
    assert len(closed) > 50
    assert gateway.log()[0]['outcome'] == 'address not allowed' and len(gateway.log()) < 50


def is_closed(connection):
    try:
        return connection.recv(1, socket.MSG_DONTWAIT) == b''
    except BlockingIOError:
        return False


@pytest.mark.parametrize('one, other, are_one', [
    ('192.0.2.1', '192.0.2.2', False), ('2001:db8::1', '2001:db8::ffff:0:0:2', True),
    ('2001:db8::1', '2001:db8:0:1::1', False), ('fe80::1%eth0', 'fe80::2%eth0', True),
    ('::ffff:192.0.2.1', '::ffff:192.0.2.2', False)])
def test_the_addresses_of_one_ipv6_network_are_one_client(one, other, are_one):
    assert (network_of(one) == network_of(other)) is are_one


def is_refused(gateway):
    try:
        return gateway.call('ListSystems').status != 200
    except OSError:
        return True


# ---- SSH

def test_one_connection_serves_many_commands_and_is_reopened(gateway, cli):
    assert {answer.status for answer in at_once(20, lambda: gateway.call('ListSystems'))} == {200}
    assert cli.logins == 1 and len(cli.lines) == 20
    cli.hang_up()
    assert gateway.call('ListSystems').count == 1
    assert cli.logins == 2


def test_commands_above_the_limit_wait(make, cli):
    gateway = make(ssh={'max_commands': 2}).start()
    cli.delay = 0.2
    assert {answer.status for answer in at_once(8, lambda: gateway.call('ListSystems'))} == {200}
    assert cli.most_at_once == 2


def test_those_who_wait_have_their_turn_in_order_and_one_who_gives_up_takes_none():
    order = []

    async def take(slots, name, seconds):
        async with slots:
            order.append(name)
            await asyncio.sleep(seconds)

    async def run():
        slots = Slots(2)
        tasks = [asyncio.ensure_future(take(slots, name, 0.02)) for name in range(8)]
        await asyncio.sleep(0.01)
        tasks[3].cancel()
        latecomer = asyncio.ensure_future(take(slots, 'late', 0))
        await asyncio.wait(tasks + [latecomer])
        await asyncio.gather(take(slots, 'a', 0), take(slots, 'b', 0), take(slots, 'c', 0))
    asyncio.run(run())
    assert order == [0, 1, 2, 4, 5, 6, 7, 'late', 'a', 'b', 'c']


def test_a_command_that_waits_is_not_sent_when_its_client_has_gone(make, cli, tpam):
    gateway = make(ssh={'max_commands': 1}).start()
    cli.delay = 1
    slow = threading.Thread(target=gateway.call, args=('ListSystems',))
    slow.start()
    until(lambda: cli.lines)
    connection = gateway.connection(timeout=0.3)
    with pytest.raises(socket.timeout):
        gateway.call('AddPwdRequest', ADD, connection=connection)
    connection.close()
    slow.join()
    line = gateway.wait_for(command='AddPwdRequest')
    assert 'nobody waits' in line['outcome'] and tpam.requests == {}


def test_a_command_that_waited_too_long_for_its_turn_is_not_sent(make, cli):
    gateway = make(ssh={'max_commands': 1, 'command_timeout': 2.0}).start()
    assert gateway.call('ListSystems').status == 200
    cli.delay = 1.5
    assert sorted(answer.status for answer in at_once(4, lambda: gateway.call('ListSystems'))) == [200, 200, 503, 503]
    gateway.wait_for(5, command='ListSystems')
    assert sum('waited too long for its turn' in line['outcome'] for line in gateway.log(event=None)) == 2
    assert len(cli.lines) == 3


@pytest.mark.parametrize('kind, text', [('ecdsa', 'has another host key than the pinned one'),
                                        ('rsa', 'another kind of host key than the pinned one')])
def test_another_host_key_than_the_pinned_one_is_never_used(make, cli, kind, text):
    gateway = make(tpam={'host_key': public(asyncssh.generate_private_key(USER_KEYS[kind]))}).start()
    assert gateway.call('Retrieve', BY_NAMES).status == 503
    assert text in gateway.wait_for(client='127.0.0.1')['outcome']
    assert cli.logins == 0


def test_a_revoked_key_is_told_as_such_and_works_again_when_it_is_given_back(gateway, cli):
    cli.refuses_keys = True
    cli.hang_up()
    assert gateway.call('ListSystems').status == 503
    assert 'refuses the key of the CLI user sps' in gateway.wait_for(client='127.0.0.1')['outcome']
    cli.refuses_keys = False
    until(lambda: gateway.call('ListSystems').status == 200)


def test_an_old_tpam_is_reached_with_its_old_algorithms(make, tpam, keys):
    with FakeTpamCli(tpam, {'sps': public(keys['ed25519'])}, host_key=keys['rsa'], old=True) as cli:
        strict, lax = make([cli]).start(), make([cli], ssh={'old_algorithms': True}).start()
        assert strict.call('ListSystems').status == 503
        assert 'old_algorithms' in strict.wait_for(client='127.0.0.1')['outcome']
        assert lax.call('ListSystems').status == 200


@pytest.mark.parametrize('command, options', [
    ('AddPwdRequest', ADD), ('Retrieve', {'RequestID': '1001-1'}), ('Cancel', {'RequestID': '1001-1'}),
    ('ForceReset', {'SystemName': 'WEB01', 'AccountName': 'root'})])
@pytest.mark.parametrize('moment', BREAKS)
def test_a_command_that_changes_something_is_never_run_twice(gateway, cli, tpam, moment, command, options):
    if command != 'AddPwdRequest':
        tpam.add_request('sps', 'WEB01', 'root')
    cli.breaks = (moment, command)
    answer = gateway.call(command, options)
    assert answer.status == 500 and b'outcome unknown' in answer.body
    assert len(cli.lines) == 1
    assert gateway.call('ListSystems').status == 200


@pytest.mark.parametrize('moment', BREAKS)
def test_a_command_that_changes_nothing_is_run_again(gateway, cli, moment):
    cli.breaks = (moment, 'Retrieve')
    assert gateway.call('Retrieve', BY_NAMES).message == PASSWORD
    assert len(cli.lines) == 2


@pytest.fixture
def odd_tpam(cli):
    """A function that starts a TPAM whose channels are what another function returns -> the TPAM for make()."""
    servers = []

    def start(new_channel):
        class Server(asyncssh.SSHServer):
            def begin_auth(self, _):
                return True

            def validate_public_key(self, *_):
                return True

            def public_key_auth_supported(self):
                return True

            def session_requested(self):
                return new_channel()

        async def listen():
            return await asyncssh.create_server(Server, '127.0.0.1', 0, server_host_keys=[cli.host_key], encoding=None)
        servers.append(cli.run(listen()))

        class Tpam:
            host, port, known_host = '127.0.0.1', servers[-1].sockets[0].getsockname()[1], cli.known_host
        return Tpam
    yield start
    for server in servers:
        cli.loop.call_soon_threadsafe(server.close)


class ClosesChannels(asyncssh.SSHServerSession):
    """Close the channel of each command: 'instead' of its reply to the command, or 'before' or 'after' it."""

    def __init__(self, moment, taken):
        self.moment, self.taken = moment, taken

    def connection_made(self, channel):
        self.channel = channel

    def exec_requested(self, command):
        self.taken.append(command)
        if self.moment == 'instead':
            self.channel.close()
        if self.moment == 'before':
            self.channel.send_packet(97)    # SSH_MSG_CHANNEL_CLOSE
        return True

    def session_started(self):
        if self.moment == 'after':
            self.channel.close()


@pytest.mark.parametrize('moment', ['instead', 'before', 'after'])
def test_a_command_that_is_taken_and_not_answered_is_not_sent_to_the_next_tpam(make, cli, odd_tpam, moment):
    taken = []
    gateway = make([odd_tpam(lambda: ClosesChannels(moment, taken)), cli]).start()
    answer = gateway.call('AddPwdRequest', ADD)
    assert answer.status == 500 and b'outcome unknown' in answer.body
    assert len(taken) == 1 and cli.lines == []
    assert gateway.call('Retrieve', BY_NAMES).status == 500
    assert len(taken) == 3 and cli.lines == []      # what changes nothing was repeated
    assert gateway.log(event='error') == []


def test_the_next_tpam_is_asked_where_the_first_opens_no_channel(make, cli, odd_tpam):
    gateway = make([odd_tpam(lambda: asyncio.get_running_loop().create_future()), cli],
                   ssh={'command_timeout': 2.0}).start()
    added = gateway.call('AddPwdRequest', ADD)
    assert added.code == 0, added.message
    assert gateway.call('Retrieve', BY_NAMES).message == PASSWORD


def test_the_next_tpam_is_asked_where_the_kept_connection_to_the_first_is_dead(make, cli, odd_tpam):
    channels = iter([ClosesChannels('after', [])])
    first = odd_tpam(lambda: next(channels, None) or asyncio.get_running_loop().create_future())
    gateway = make([first, cli], ssh={'command_timeout': 2.0}).start()
    assert gateway.health() == 200
    assert gateway.call('AddPwdRequest', ADD).status == 500
    assert gateway.call('AddPwdRequest', ADD).code == 0


def test_a_connection_on_which_commands_ended_without_an_exit_status_is_closed(gateway, cli):
    for _ in range(5):
        cli.breaks = ('closed', 'Retrieve')
        assert gateway.call('Retrieve', BY_NAMES).message == PASSWORD
    until(lambda: len(cli.connections) == 1)


def test_a_command_has_a_time_limit_which_says_whether_the_outcome_is_known(make, cli):
    gateway = make(ssh={'command_timeout': 1.0}).start()
    cli.delay = 3
    assert gateway.call('ListSystems').status == 504
    assert gateway.call('AddPwdRequest', ADD).status == 500
    cli.delay = 0
    assert gateway.call('ListSystems').status == 200


def test_a_command_that_was_certainly_not_sent_is_refused_in_words_that_lead_to_the_next_server(gateway, cli, tpam):
    cli.refuses_keys = True
    cli.hang_up()
    for command, options in (('AddPwdRequest', ADD), ('Cancel', {'RequestID': '1001-1'})):
        refused = gateway.call(command, options)
        assert refused.code == 1 and 'not available on a failed over replica' in refused.message
    assert gateway.call('ListSystems').status == 503
    assert tpam.audit == []


@pytest.fixture
def pair(make, cli, keys):
    """A gateway in front of two TPAMs, and these two."""
    with FakeTpamCli(new_tpam(), {'sps': public(keys['ed25519'])}, host_key=keys['rsa']) as second:
        yield make([cli, second]).start(), cli, second


def test_the_next_tpam_is_asked_where_the_first_is_down_or_a_replica(pair):
    gateway, first, second = pair
    added = gateway.call('AddPwdRequest', ADD)
    assert added.code == 0, added.message
    assert len(first.tpam.requests) == 1
    first.tpam.replica = True
    added = gateway.call('AddPwdRequest', ADD)
    assert added.code == 0, added.message
    assert len(second.tpam.requests) == 1
    assert gateway.call('Cancel', {'RequestID': '1001-1'}).code == 0
    assert [line.split()[0] for line in first.lines] == ['AddPwdRequest'] * 2   # the last that answered comes first
    second.refuses_keys = True
    second.hang_up()
    until(lambda: gateway.call('ListSystems').status == 200)
    assert first.lines[-1] == 'ListSystems'


def test_a_tpam_of_which_nothing_is_heard_holds_up_calls_only_once(make, cli, keys):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        class Silent:
            host, port, known_host = '127.0.0.1', silent.getsockname()[1], cli.known_host
        gateway = make([Silent, cli], ssh={'connect_timeout': 1.0}).start()
        began = time.monotonic()
        assert {answer.status for answer in at_once(20, lambda: gateway.call('ListSystems'))} == {200}
        assert time.monotonic() - began < 10


# ---- TLS

def test_tls_1_0_is_refused_unless_it_is_allowed_for_an_address(make):
    old = {'server': {'minimum_tls': '1.0', 'old_clients': ['127.0.0.1']}}
    new, both, elsewhere = make(), make(**old), make(server=dict(old['server'], old_clients=['192.0.2.1']))
    for gateway in (new, both, elsewhere):
        gateway.start()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)
            context = gateway.context(maximum_version=ssl.TLSVersion.TLSv1)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.set_ciphers('AES128-SHA:@SECLEVEL=0')
        if gateway is both:
            assert gateway.call('ListSystems', connection=gateway.connection(context)).status == 200
            assert gateway.call('ListSystems').status == 200
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                gateway.call('ListSystems', connection=gateway.connection(context))
            assert gateway.wait_for(client='127.0.0.1')['outcome'].startswith('no TLS: ')
    assert 'TLS 1.0' in both.stop()[1] and 'TLS 1.0' in both.log(event='started')[0]['warnings'][0]


def test_a_reload_changes_users_certificate_and_keys_and_drops_no_call(make, cli):
    gateway = make().start()
    cli.delay = 1.5
    answers = []
    under_way = threading.Thread(target=lambda: answers.append(gateway.call('Retrieve', BY_NAMES)))
    under_way.start()
    until(lambda: cli.lines)
    gateway.write('tls.pem', read('certs/san-first.pem'))
    text = open(gateway.config).read().replace(CHEAP_HASH, cheap_hash('new password'))
    gateway.write('gateway.toml', re.sub('listen = .*', 'listen = "127.0.0.1:0"', text))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event='reloaded')
    cli.delay = 0
    connection = gateway.connection()
    assert gateway.call('ListSystems', password='new password', connection=connection).status == 200
    assert 'san-first' in str(connection.sock.getpeercert()['subject'])
    assert gateway.call('ListSystems').status == 401
    under_way.join()
    assert answers[0].message == PASSWORD


def test_a_reload_drops_no_call_that_waits_for_a_connection(make, cli):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        class Silent:
            host, port, known_host = '127.0.0.1', silent.getsockname()[1], cli.known_host
        gateway = make([Silent, cli], ssh={'connect_timeout': 2.0})
        gateway.start()
        answers = []
        under_way = threading.Thread(target=lambda: answers.append(gateway.call('Retrieve', BY_NAMES)))
        under_way.start()
        silent.accept()
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for(event='reloaded')
        under_way.join()
        assert answers[0].message == PASSWORD
        until(lambda: not cli.connections)


def test_a_reload_that_removes_a_cli_user_lets_its_calls_finish(make, cli, keys):
    gateway = make().start()
    body = xmlrpc.client.dumps(({},), 'ListSystems').encode('ascii')
    connection = gateway.connection()
    connection.putrequest('POST', '/RPC2')
    connection.putheader('Authorization', 'Basic ' + basic().decode('ascii'))
    connection.putheader('Content-Length', str(len(body)))
    connection.endheaders(body[:10])
    assert gateway.call('ListSystems').status == 200    # after the other has authenticated
    gateway.configure([{'cli_user': 'jdoe'}])
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event='reloaded')
    connection.send(body[10:])
    assert connection.getresponse().status == 200


def test_a_reload_with_many_users_holds_up_no_call(make):
    gateway = make().start()
    assert gateway.call('ListSystems').status == 200
    slow = hash_password(API_PASSWORD)
    gateway.configure([{}] + [{'name': 'user%d' % number, 'password': slow} for number in range(60)])
    gateway.process.send_signal(signal.SIGHUP)
    time.sleep(0.1)     # until the signal is there
    assert gateway.call('ListSystems').status == 200
    assert gateway.log(event='reloaded') == []
    gateway.wait_for(event='reloaded')


def test_a_wrong_configuration_is_not_loaded(make):
    gateway = make().start()
    gateway.write('gateway.toml', 'x = 1\n')
    gateway.process.send_signal(signal.SIGHUP)
    assert 'missing' in gateway.wait_for(event='not reloaded')['reason']
    assert gateway.call('ListSystems').status == 200


def test_the_end_waits_for_the_calls_under_way(make, cli, tpam):
    gateway = make().start()
    cli.delay = 1
    answers = []
    under_way = threading.Thread(target=lambda: answers.append(gateway.call('AddPwdRequest', ADD)))
    idle = gateway.connection()
    gateway.call('RetrieveKey', connection=idle)
    under_way.start()
    until(lambda: cli.lines)
    assert gateway.stop() == (0, '')
    under_way.join()
    assert answers[0].id == '1001-1'
    assert gateway.log(event='stopped') and gateway.log(event='error') == []


def test_the_end_does_not_wait_for_wrong_log_ins(make):
    gateway = make().start()
    wrong = threading.Thread(target=at_once, args=(20, lambda: gateway.call('ListSystems', password='wrong').status))
    wrong.start()
    until(lambda: gateway.log(outcome='log-in failed'))
    began = time.monotonic()
    assert gateway.stop() == (0, '')
    assert time.monotonic() - began < 10    # each of them takes a second
    wrong.join()
    assert len(gateway.log(outcome='log-in failed')) == 20


# ---- what is hostile, slow or broken

@pytest.mark.parametrize('body', [
    b'', b'not XML', b'<methodCall><methodName>ListSystems</methodName>', b'<methodCall/>', b'\xff\xfe<', b'<a/>' * 9,
    b'<!DOCTYPE x [<!ENTITY e "x">]><methodCall><methodName>&e;</methodName></methodCall>',
    b'<methodCall><methodName>ListSystems</methodName><params><param><value><int>1e9</int></value></param></params>'
    b'</methodCall>'] + [
    b'<methodCall><methodName>ListSystems</methodName><params><param>' + b'<value><array><data>' * 3000],
    ids=range(9))
def test_malformed_xml_is_a_fault(gateway, cli, body):
    fault = gateway.post(body).value
    assert fault.faultCode in (-32700, -32600)
    assert cli.lines == []


def test_a_call_with_two_parameters_is_a_fault(gateway):
    body = xmlrpc.client.dumps(({}, {}), 'ListSystems').encode('ascii')
    assert gateway.post(body).value.faultCode == -32602


def test_a_head_has_16_kib_at_most(gateway):
    assert gateway.call('ListSystems', **{'X': 'x' * 15000}).status == 200
    assert gateway.call('ListSystems', **{'X%d' % number: 'x' * 1000 for number in range(17)}).status == 431
    assert len(answers_to(gateway, b'POST /RPC2 HTTP/1.1\r\n', *[b'X: %s\r\n' % (b'x' * 8000)] * 30, b'\r\n')) == 0


def answers_to(gateway, *pieces):
    """Send these pieces of bytes -> the statuses of what comes until the connection ends."""
    sock = gateway.context().wrap_socket(socket.create_connection(('127.0.0.1', gateway.port)),
                                         server_hostname='localhost')
    sock.settimeout(30)
    found = b''
    try:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.01)
        block = sock.recv(65536)
        while block:
            found += block
            block = sock.recv(65536)
    except OSError:
        pass
    sock.close()
    return re.findall(rb'HTTP/1.1 (\d+)', found)


def test_a_client_that_does_not_wait_for_its_answers_is_dropped(gateway, cli):
    body = xmlrpc.client.dumps(({},), 'ListSystems').encode('ascii')
    call = b'POST /RPC2 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: %d\r\n%s\r\n%s'
    once = call % (basic(), len(body), b'Connection: close\r\n', body)
    many = call % (basic(), len(body), b'', body)
    assert answers_to(gateway, once) == [b'200']
    assert answers_to(gateway, many * 50) == []
    assert answers_to(gateway, b'GET /x HTTP/1.1\r\nHost: x\r\n\r\n' * 50) == []
    cli.delay = 1
    assert answers_to(gateway, *[many] * 5) == []
    until(lambda: not cli.running)


def test_another_path_or_method_is_not_served(gateway):
    assert gateway.post(b'', path='/').status == 404
    connection = gateway.connection()
    connection.request('GET', '/RPC2')
    assert connection.getresponse().status == 405


def test_a_body_of_20_mib_is_refused_early(gateway):
    try:
        assert gateway.post(b'x' * 20 * MIB).status == 413
    except OSError:     # it was refused while it was being sent
        assert gateway.wait_for(outcome='body too long')
    assert gateway.call('ListSystems').status == 200


def test_a_body_without_a_length_is_refused_before_the_log_in(gateway):
    for password in (API_PASSWORD, 'wrong'):
        answer = gateway.post(iter([b'x']), password=password, **{'Transfer-Encoding': 'chunked'})
        assert (answer.status, answer.headers['Connection']) == (411, 'close')
    connection = gateway.connection()
    connection.request('GET', '/healthz', iter([b'x']), {'Transfer-Encoding': 'chunked'}, encode_chunked=True)
    assert connection.getresponse().status == 404


@pytest.mark.parametrize('line, rest', [
    (b'Transfer-Encoding: chunked', b'1\r\na\r\n' * 170000), (b'Content-Length: 65536', b'x' * MIB)],
    ids=['chunks', 'length'])
def test_what_strangers_send_takes_little_memory(make, line, rest):
    gateway = make(users=[{'clients': ['127.0.0.0/8']}]).start()
    assert gateway.call('ListSystems').status == 200
    before = peak_memory(gateway)
    head = b'POST /RPC2 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic c3BzOng=\r\n%s\r\n\r\n' % line
    strangers = []
    for _ in range(90):
        sock = socket.create_connection(('127.0.0.1', gateway.port), source_address=('127.0.0.2', 0))
        strangers.append(gateway.context().wrap_socket(sock, server_hostname='localhost'))
        strangers[-1].settimeout(1)
        try:
            strangers[-1].sendall(head + rest)
        except OSError:     # it was closed meanwhile, or is no longer read
            pass
    assert gateway.call('ListSystems').status == 200
    assert peak_memory(gateway) - before < 70 * MIB
    for sock in strangers:
        sock.close()


def peak_memory(gateway):
    """Return the most memory that the process had until now, in bytes."""
    with open('/proc/%d/status' % gateway.process.pid) as status:
        return int(re.search(r'VmHWM:\s+(\d+) kB', status.read()).group(1)) * 1024


def test_silent_and_dripping_clients_are_given_up_and_delay_nobody(gateway):
    address = ('127.0.0.1', gateway.port)
    plain = [socket.create_connection(address) for _ in range(20)]
    context = gateway.context()
    silent, head, body = [context.wrap_socket(socket.create_connection(address), server_hostname='localhost')
                          for _ in range(3)]
    head.sendall(b'POST /RPC2 HTTP/1.1\r\nHost: x\r\nX-Part')
    body.sendall(b'POST /RPC2 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic ' + basic() +
                 b'\r\nContent-Length: 1000\r\n\r\n<methodCall>')
    assert gateway.call('Retrieve', BY_NAMES).message == PASSWORD
    gateway.wait_for(outcome='body too slow')
    for connection in [silent, head, body] + plain:
        connection.settimeout(20)
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
        connection.close()


def basic():
    return base64.b64encode(('sps:' + API_PASSWORD).encode('utf-8'))


@pytest.mark.parametrize('word', ['Password!', 'Login!', 'Forbidden!', 'failure'])
def test_a_password_that_could_be_a_refusal_is_neither_logged_nor_answered(gateway, cli, tpam, word):
    tpam.account('WEB01', 'root').password = word
    answer = gateway.call('Retrieve', BY_NAMES)
    assert answer.code == 1 and word not in answer.message
    assert word not in gateway.wait_for(command='Retrieve')['outcome']


def test_a_passphrase_is_neither_logged_nor_answered(gateway, tpam):
    tpam.add_account('WEB01', 'svc', 'correct horse battery staple')
    answer = gateway.call('Retrieve', {'SystemName': 'WEB01', 'AccountName': 'svc'})
    assert answer.code == 1 and 'horse' not in answer.message
    assert 'horse' not in gateway.wait_for(command='Retrieve')['outcome']


def test_characters_that_xml_cannot_carry_are_replaced(gateway, cli):
    cli.prints = 'SystemName\tA\x00\r\nWEB01\t\x1b[0m'
    assert gateway.call('ListSystems').rows == [{'SystemName': 'WEB01', 'A\ufffd': '\ufffd[0m'}]


@pytest.mark.parametrize('text, status, outcome', [
    ('\t'.join(['SystemName'] + ['C%d' % number for number in range(60)]) + ('\nWEB01' + '\tx' * 60) * 5000, 200,
     'refused: the list is too long'),
    ('x' * 9 * MIB, 500, 'outcome unknown: TPAM printed more than'),
    ('SystemName\tA\n' * 3, 200, 'done'),
], ids=['rows', 'bytes', 'headers'])
def test_a_tpam_that_prints_without_end_delays_nobody(gateway, cli, text, status, outcome):
    cli.prints = text
    assert gateway.call('ListSystems').status == status
    assert gateway.wait_for(command='ListSystems')['outcome'].startswith(outcome)
    cli.prints = None
    assert gateway.call('Retrieve', BY_NAMES).message == PASSWORD


def test_a_client_that_goes_away_in_its_body_is_one_line(gateway):
    connection = gateway.connection()
    connection.putrequest('POST', '/RPC2')
    connection.putheader('Authorization', 'Basic ' + basic().decode('ascii'))
    connection.putheader('Content-Length', '1000')
    connection.endheaders(b'<methodCall>')
    connection.close()
    assert gateway.wait_for(event=None)['outcome'] == 'body incomplete'


def test_200_clients_at_once_are_served(make, cli):
    gateway = make(users=[{'clients': ['127.0.0.0/8']}]).start()
    sources = iter(['127.0.0.%d' % (2 + number % 4) for number in range(200)])

    def client():
        connection = gateway.connection(source=next(sources))
        return [gateway.call('Retrieve', BY_NAMES, connection=connection).message for _ in range(2)]
    assert at_once(200, client) == [[PASSWORD] * 2] * 200
    assert cli.logins == 1 and cli.most_at_once <= 4


def test_a_port_that_is_taken_is_a_mistake(make):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        gateway = make(server={'listen': '127.0.0.1:%d' % taken.getsockname()[1]})
        status, printed = gateway.run('serve', '--config', gateway.config)
    assert status == 2 and '[server] listen: ' in printed and 'Traceback' not in printed


def test_a_full_disk_under_the_log_stops_no_call(make):
    gateway = make()
    os.symlink('/dev/full', gateway.path('log'))
    gateway.configure(server={'listen': '127.0.0.1:%d' % free_port()})
    gateway.port = int(re.search(r'listen = "127.0.0.1:(\d+)"', open(gateway.config).read()).group(1))
    gateway.wait_for = lambda **_: {'listen': 'x:%d' % gateway.port}
    gateway.start()
    until(lambda: socket.socket().connect_ex(('127.0.0.1', gateway.port)) == 0)
    assert gateway.call('AddPwdRequest', ADD).code == 0
    assert gateway.call('Cancel', {'RequestID': '1001-1'}).code == 0
    assert gateway.stop()[0] == 0


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as found:
        return found.getsockname()[1]


# ---- the log

def test_a_call_is_one_line_without_secrets(gateway):
    gateway.call('AddPwdRequest', dict(ADD, RequestNotes='notes-secret', TicketSystemName='T', TicketNumber='n-secret'))
    gateway.call('AddPwdRequest', ADD)
    gateway.call('Retrieve', dict(BY_NAMES, ReasonText='reason-secret'))
    gateway.call('ListSystems', password='wrong-secret')
    gateway.wait_for(4, event=None)
    first, second, third, fourth = gateway.log(event=None)
    assert {name: value for name, value in second.items() if name not in ('time', 'ms')} == {
        'user': 'sps', 'client': '127.0.0.1', 'command': 'AddPwdRequest', 'system': 'WEB01', 'account': 'root',
        'request': '1001-1', 'outcome': 'done'}
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', second['time']) and second['ms'] >= 0
    assert first['outcome'].startswith('refused: Ticket System T failed')
    assert (third['outcome'], fourth['outcome']) == ('done', 'log-in failed')
    text = open(gateway.path('log')).read()
    for secret in ('secret', 'écret', API_PASSWORD, PASSWORD, 'Authorization', 'scrypt'):
        assert secret not in text


def test_a_text_of_the_caller_is_not_logged_where_tpams_answer_is_cut_inside_it(gateway, cli):
    notes = 'jdoe,secret-' + 'x' * 400
    for before in (700, 988):
        cli.prints = 'E' * before + notes + ' refused'
        answer = gateway.call('AddPwdRequest', dict(ADD, RequestNotes=notes))
        assert answer.message == cli.prints[:1000]
    gateway.wait_for(2, event=None)
    assert [re.sub('E+', 'E', line['outcome']) for line in gateway.log()] == ['refused: E... refused'] * 2


def test_a_text_of_the_caller_is_not_logged_where_another_is_part_of_it_or_tpam_drops_its_last_blank(gateway, cli):
    texts = {'RequestNotes': 'jdoe,SPS', 'TicketSystemName': 'Jira', 'TicketNumber': 'jdoe,SPS,secret '}
    cli.prints = 'no such ticket jdoe,SPS,secret '
    assert gateway.call('AddPwdRequest', dict(ADD, **texts)).code == 1
    assert gateway.wait_for(command='AddPwdRequest')['outcome'] == 'refused: no such ticket ...'


def test_a_log_that_was_moved_is_begun_again(make):
    gateway = make().start()
    os.rename(gateway.path('log'), gateway.path('log.1'))
    gateway.call('ListSystems')
    gateway.wait_for(command='ListSystems')


def test_a_log_says_how_many_lines_it_lost(tmp_path):
    folder = tmp_path / 'logs'
    folder.mkdir()
    log = Log(str(folder / 'log'))
    log.write(line=1)
    until(lambda: 'line' in (folder / 'log').read_text())
    folder.rename(tmp_path / 'away')
    log.write(line=2)
    log.write(line=3)
    until(log._lines.empty)
    time.sleep(0.1)     # until the last of them has failed
    (tmp_path / 'away').rename(folder)
    log.write(line=4)
    log.close()
    lines = [json.loads(line) for line in (folder / 'log').read_text().splitlines()]
    assert [(line['line'], line.get('lost')) for line in lines] == [(1, None), (4, 2)]


def test_health_is_whether_tpam_answers(gateway, cli):
    assert gateway.health() == 200
    cli.refuses_keys = True
    cli.hang_up()
    assert gateway.health() == 503
    cli.refuses_keys = False
    until(lambda: gateway.health() == 200)
    assert gateway.log(event=None) == []


# ---- the configuration

def test_check_tries_everything_and_changes_nothing(make, cli, tpam):
    gateway = make()
    status, output = gateway.run('check', '--config', gateway.config)
    assert status == 0, output
    assert 'ListSystems answered with 1 rows' in output and 'CN=good' in output
    assert cli.lines == ['ListSystems --MaxRows "1"']


@pytest.mark.parametrize('change, status, text', [
    (lambda cli, tpam: setattr(cli, 'refuses_keys', True), 1, 'refuses the key of the CLI user sps'),
    (lambda cli, tpam: tpam.add_user('sps', admin=False), 0, 'ListSystems is refused: sps is not authorized'),
])
def test_check_says_what_is_wrong_with_tpam(make, cli, tpam, change, status, text):
    gateway = make()
    change(cli, tpam)
    found, output = gateway.run('check', '--config', gateway.config)
    assert found == status and text in output


def test_check_prints_the_beginning_of_a_long_refusal_alone(make, cli):
    gateway = make()
    cli.prints = 'E' * 5000
    status, output = gateway.run('check', '--config', gateway.config)
    assert status == 0 and 'ListSystems is refused: ' + 'E' * 1000 + '\n' in output


def of_an_elliptic_curve(days=2):
    """Return the certificate of a CA, which ends in so many days, and its key. OpenSSL 0.9.8 does not know the kind."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'new')])
    now = datetime.datetime.now()
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - datetime.timedelta(2),
                                   now + datetime.timedelta(days))
    made = made.add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                            serialization.NoEncryption())
    return (made.public_bytes(serialization.Encoding.PEM) + pem).decode('ascii')


@pytest.mark.parametrize('options, pem, word, text', [
    ({'log': '/nonexistent/log'}, None, 'WRONG', r'\[server\] log: .*No such file'),
    ({}, 'certs/expired.pem', 'WRONG', 'certificate .*: valid from '),
    ({'minimum_tls': '1.0', 'old_clients': ['127.0.0.1']}, None, 'WRONG', '.*for old_clients its key must be RSA'),
    ({'listen': '192.0.2.1:4430'}, 'certs/good.pem', 'WRONG', r'\[server\] listen: 192.0.2.1:4430: Cannot assign'),
    ({'listen': '127.0.0.1:%d'}, 'certs/good.pem', 'NOTE', r'\[server\] listen: .* in use'),
])
def test_check_says_what_is_wrong_on_this_machine(make, options, pem, word, text):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        if options.get('listen', '').endswith('%d'):
            options = {'listen': options['listen'] % taken.getsockname()[1]}
        gateway = make(server=options)
        gateway.write('tls.pem', read(pem) if pem else of_an_elliptic_curve())
        status, output = gateway.run('check', '--config', gateway.config)
    assert status == (word == 'WRONG') and re.search('(?m)^%-6s %s' % (word, text), output), output
    assert 'ListSystems answered' in output and not os.path.exists(gateway.path('log'))


@pytest.mark.parametrize('chain, cas, word', [
    ('expired', 'client-ca', 'WRONG'), ('', 'expired', 'WRONG'), ('', 'client-ca expired', 'NOTE')])
def test_check_finds_an_expired_certificate_behind_a_good_one_and_among_those_of_the_clients_cas(
        make, chain, cas, word):
    """An expired CA beside a good one does no harm: clients are moving to that one."""
    expired, end, _ = of_an_elliptic_curve(days=-1).partition('-----END CERTIFICATE-----\n')
    pem = {'expired': expired + end, 'client-ca': read('certs/client-ca.pem')}
    gateway = make(server={'client_ca': 'clients.pem'})
    gateway.write('tls.pem', read('certs/good.pem') + ''.join(pem[name] for name in chain.split()))
    gateway.write('clients.pem', ''.join(pem[name] for name in cas.split()))
    status, output = gateway.run('check', '--config', gateway.config)
    assert re.search('(?m)^%-6s certificate CN=new: valid from ' % word, output), output
    assert (status, output.count('WRONG')) == ((1, 1) if word == 'WRONG' else (0, 0)), output


def test_check_notes_that_every_address_is_allowed(make):
    gateway = make(users=[{'clients': ['0.0.0.0/0']}])
    status, output = gateway.run('check', '--config', gateway.config)
    assert status == 0 and 'NOTE   clients of sps: every address is allowed' in output


# ---- the service

def unit():
    with open(os.path.join(package.ROOT, 'gateway', 'tpam-gateway.service'), encoding='ascii') as lines:
        return dict(line.rstrip('\n').split('=', 1) for line in lines if '=' in line)


def test_a_reload_before_the_start_is_over_does_not_end_the_service(make):
    gateway = make()
    words = [word.replace('/opt/tpam-gateway/venv/bin/python', sys.executable)
             .replace('/opt/tpam-gateway/tpam_gateway.py', PROGRAM)
             .replace('/etc/tpam-gateway/gateway.toml', gateway.config) for word in shlex.split(unit()['ExecStart'])]
    gateway.process = subprocess.Popen(words, stderr=subprocess.PIPE, encoding='utf-8')
    until(lambda: b'python' in open('/proc/%d/cmdline' % gateway.process.pid, 'rb').read().split(b'\0')[0])
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event='started')
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event='reloaded')
    assert gateway.stop() == (0, '')


def test_the_service_has_time_to_finish_its_calls():
    # A call waits for its turn as long as for its answer.
    assert int(unit()['TimeoutStopSec']) > 2 * COMMAND_TIMEOUT + CONNECT_TIMEOUT


# ---- mistakes

@pytest.mark.parametrize('options, text', [
    ({'server': {'nonsense': 1}}, r'\[server\] nonsense is unknown'),
    ({'server': {'certificate': None}}, r'\[server\] certificate is missing'),
    ({'server': {'certificate': 'none.pem'}}, 'none.pem: No such file'),
    ({'server': {'certificate': 'id_tpam'}}, 'contains no certificate'),
    ({'server': {'minimum_tls': '1.0'}}, r'\[server\] old_clients must name the addresses'),
    ({'server': {'minimum_tls': 'SSLv3'}}, r'\[server\] minimum_tls must be one of'),
    ({'server': {'minimum_tls': '1.1', 'old_clients': ['127.0.0.1']}}, 'minimum_tls must be one of'),
    ({'server': {'listen': 'a:b:c'}}, r'\[server\] listen must be'),
    ({'server': {'listen': '127.0.0.1:65536'}}, r'\[server\] listen must be'),
    ({'server': {'path': 'RPC2'}}, r'\[server\] path must begin with /'),
    ({'tpam': {'address': '127.0.0.1:70000'}}, r'\[tpam\] address must be'),
    ({'ssh': {'max_commands': 0}}, 'must be positive'),
    ({'ssh': {'max_commands': '4'}}, r'\[ssh\] max_commands must be a int'),
    ({'tpam': {'host_key': 'x'}}, r'\[tpam\] host_key must be'),
    ({'tpam': {'host_key': None}}, r'\[tpam\] host_key is missing'),
    ({'users': [{'password': 'Tr0ub4dor'}]}, r'\[user\] \[name sps\] password must be a hash'),
    ({'users': [{'password': 'scrypt$3$8$1$AAAA$AAAA'}]}, 'password must be a hash'),
    ({'users': [{'password': 'scrypt$524288$8$1$AAAA$' + 'A' * 43 + '='}]}, 'password must be a hash'),
    ({'users': [{'password': 'scrypt$8192$8$1$AAAA$' + 'A' * 43 + '='}]}, 'password must be a hash'),
    ({'users': [{'password': 'scrypt$16384$8$1$AAAA$AAAA'}]}, 'password must be a hash'),
    ({'users': [{'name': ''}]}, 'name must not be empty'),
    ({'users': [{'name': 'a:b'}]}, 'name must not be empty, and must not contain a colon'),
    ({'users': [{'cli_user': ''}]}, 'cli_user is empty'),
    ({'users': [{'commands': []}]}, 'commands must be a list of texts, and not empty'),
    ({'users': [{'clients': []}]}, 'clients must be a list of texts, and not empty'),
    ({'users': [{'name': name, 'password': None, 'certificates': ['subject:CN=x']} for name in 'ab'],
      'server': {'client_ca': certs.path('client-ca')}}, 'one that is enough without a password is there twice'),
    ({'users': [{'password': None}]}, 'password or certificates must be there'),
    ({'users': [{'certificates': ['abc']}]}, 'certificates must be sha256'),
    ({'users': [{'certificates': ['subject:CN=x']}]}, 'client_ca is missing'),
    ({'users': [{'commands': ['RetrieveKey']}]}, 'unknown command: RetrieveKey'),
    ({'users': [{'clients': None}]}, 'clients is missing'),
    ({'users': [{'clients': ['10.0.0.1/8']}]}, 'clients has a wrong address'),
    ({'users': [{'clients': ['::ffff:192.0.2.1']}]}, 'clients has a wrong address'),
    ({'users': [{}, {}]}, 'name sps is there twice'),
    ({'users': []}, r'user is missing|at least one'),
])
def test_a_mistake_in_the_configuration_is_named(make, options, text):
    gateway = make(**options)
    with pytest.raises(Mistake, match=text) as caught:
        read_settings(gateway.config)
    assert 'Tr0ub4dor' not in str(caught.value)


@pytest.mark.parametrize('action', ['serve', 'check'])
def test_the_program_does_not_start_with_a_mistake(make, action):
    gateway = make(server={'nonsense': 1})
    assert gateway.run(action, '--config', gateway.config) == (
        2, 'tpam_gateway.py: [server] nonsense is unknown\n')


@pytest.mark.parametrize('name', ['gateway.toml', 'id_tpam', 'tls.pem'])
def test_a_file_that_others_can_read_is_refused_at_start(make, name):
    gateway = make()
    os.chmod(gateway.path(name), 0o644)
    with pytest.raises(Mistake, match=name + ': others can read it'):
        read_settings(gateway.config)


def test_a_key_with_a_passphrase_is_refused_at_start(make, keys):
    gateway = make()
    gateway.write('id_tpam', keys['ecdsa'].export_private_key('pkcs8-pem', 'phrase').decode('ascii'))
    with pytest.raises(Mistake, match='not a private key without a passphrase'):
        read_settings(gateway.config)
