"""The world of the gateway's tests: a TPAM, its command line, and the gateway in front of it."""
import asyncio

import asyncssh

from fake_tpam import FakeTpam

PASSWORD = 'Tr0ub4dor-&]]>%(x)s\'é密'       # one word, as TPAM's own passwords are


def public(key):
    """Return a public key in OpenSSH's format."""
    return key.export_public_key('openssh').decode('ascii').strip()


def new_tpam():
    """Return a FakeTpam with WEB01 (10.0.0.5), its account root, and the users sps and jdoe."""
    tpam = FakeTpam(request_ids='tpam')
    tpam.add_system('WEB01', '10.0.0.5')
    tpam.add_account('WEB01', 'root', PASSWORD)
    tpam.add_user('sps')
    tpam.add_user('jdoe', isa=False, admin=False)
    return tpam


def ssh(cli, *lines, **options):
    """Send command lines over one connection -> [(stdout, stderr, exit status)]. None logs in without a command."""
    async def send():
        known = ([asyncssh.import_public_key(cli.known_host)], [], [])
        async with asyncssh.connect(cli.host, cli.port, known_hosts=known, config=None, agent_path=None,
                                    preferred_auth='publickey', signature_algs='+ssh-dss', **options) as connection:
            found = []
            for line in lines:
                result = await connection.run(line, encoding='utf-8')
                found.append((result.stdout, result.stderr, result.exit_status))
            return found
    return asyncio.run(send())
