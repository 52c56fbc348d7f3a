# -*- coding: utf-8 -*-
"""The world of the tests: a faked TPAM behind a real TLS server, and SPS in front of the built zip.

Every hook that a test runs through `world` is a fresh process. What it logs, raises and puts into cookies is searched
for every secret of that world.
"""
from __future__ import unicode_literals

import contextlib
import io
import json
import os
import re
import sys

import hypothesis
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TOOLS = os.path.join(ROOT, 'tools')
sys.path[:0] = [ROOT, HERE, TOOLS]
sys.dont_write_bytecode = True

import shim  # noqa: E402
shim.install()

import fake_sps  # noqa: E402
import package  # noqa: E402
from certs import make as certs  # noqa: E402
from fake_tpam import FakeTpam, FakeTpamServer  # noqa: E402

# End-to-end tests run on the interpreter of the tests, and on each one named here, say a real python2.6.
PYTHONS = [sys.executable] + os.environ.get('PLUGIN_PYTHONS', '').split()

PASSWORD = ' <&]]>%(x)s"\'é密\\ \r\n\t '
API_PASSWORD = 'sécret; "x" %(y)s #1=2'
GATEWAY_PASSWORD = "gàteway'pass"
PROXY_PASSWORD = 'próxy:word'

# s: no test may fail because the machine does a dozen other things meanwhile. A bound on time is this much longer than
# it takes, and what has to fit into a limit takes a small part of it.
SLACK = 30

hypothesis.settings.register_profile('steady', deadline=None, database=None,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('steady')


def read(name):
    """A file of tests/ as text."""
    with io.open(os.path.join(HERE, name), encoding='utf-8') as content:
        return content.read()


def certificate(name):
    """PEM of one of tests/certs/."""
    return read(os.path.join('certs', name + '.pem'))


@contextlib.contextmanager
def at_most(seconds):
    """The block takes no more CPU time than that, of this process and of the hooks that ended in it."""
    began = sum(os.times()[:4])
    yield
    assert sum(os.times()[:4]) - began < seconds


def configuration(**sections):
    """{section: {option: value}} with _ for - in the names of sections -> configuration text, as SPS passes it."""
    lines = []
    for section, options in sorted(sections.items()):
        lines.append('[%s]' % {'https_proxy': 'https-proxy', 'check_in': 'check-in',
                               'check_in_trigger': 'check-in-trigger'}.get(section, section))
        for option, value in sorted(options.items()):
            if value is not None:
                lines.append('%s=%s' % (option, '%s' % value))
    return '\n'.join('\n '.join(line.strip('\n').split('\n')) for line in lines) + '\n'


class WatchedSps(fake_sps.FakeSps):
    """FakeSps that lets no secret of its world out, and no hook break the vendor's guide."""

    def __init__(self, world, *arguments, **options):
        fake_sps.FakeSps.__init__(self, *arguments, **options)
        self.world = world
        if 'EVERY_LINE_RECORD' in os.environ:  # see every_line.py
            self.environment['EVERY_LINE_RECORD'] = os.environ['EVERY_LINE_RECORD']

    def call(self, hook, arguments):
        result = fake_sps.FakeSps.call(self, hook, arguments)
        returned = result.returned or {}
        seen = [result.log, json.dumps(result.raised, ensure_ascii=False),
                json.dumps([returned.get('cookie'), returned.get('session_cookie')], ensure_ascii=False)]
        for secret in self.world.secrets():
            for text in seen:
                assert secret not in text, 'a secret got out of %s' % hook
                assert json.dumps(secret)[1:-1] not in text, 'a secret got out of %s' % hook
        assert not result.died, result.log
        assert result.violations == []
        return result


class World(object):
    """A TPAM with system WEB01 (10.0.0.5), account root and API user sps, its server, and SPS.

    tpam: FakeTpam; server: FakeTpamServer; everything else is made anew for each call of sps().
    """

    def __init__(self, python, plugin_zip):
        self.python, self.plugin_zip = python, plugin_zip
        self.tpam = FakeTpam()
        self.tpam.add_system('WEB01', '10.0.0.5')
        self.tpam.add_account('WEB01', 'root', PASSWORD)
        self.tpam.add_user('sps', API_PASSWORD)
        self.server = None
        self._servers = []

    def serve(self, **options):
        """Starts a server in front of the TPAM (options of FakeTpamServer); it ends with the test."""
        options.setdefault('certfile', certs.path('good'))
        self.server = FakeTpamServer(self.tpam, **options)
        self.server.__enter__()
        self._servers.append(self.server)
        return self.server

    def sections(self, **sections):
        """The sections of a configuration that works, changed by these; None takes an option out."""
        if self.server is None:
            self.serve()
        working = {
            'tpam': {'server': 'localhost:%d' % self.server.port, 'username': 'sps', 'password': API_PASSWORD},
            'tls': {'ca_cert': certificate('ca')},
        }
        for section, options in sections.items():
            working[section] = dict(working.get(section, {}), **options)
        return working

    def sps(self, text=None, timeout=60, passed_as='str', nameserver=None, environment=None, **sections):
        """SPS with this configuration text, or with sections()."""
        if text is None:
            text = configuration(**self.sections(**sections))
        return WatchedSps(self, self.plugin_zip, text, self.python, timeout, passed_as, nameserver, environment)

    def session(self, arguments=None, **options):
        """A session of jdoe, as root on WEB01 by SSH."""
        given = {'protocol': 'ssh', 'server_username': 'root', 'server_ip': '10.0.0.5', 'server_hostname': 'web01.test',
                 'gateway_username': 'jdoe', 'gateway_password': GATEWAY_PASSWORD}
        given.update(arguments or {})
        return self.sps(**options).session(**given)

    def secrets(self):
        """All that must never be seen."""
        found = [API_PASSWORD, GATEWAY_PASSWORD, PROXY_PASSWORD]
        for account in self.tpam.accounts.values():
            found += [account.password] + [line for line in (account.key or '').splitlines() if len(line) > 40]
        return [secret for secret in found if len(secret) > 3]

    def close(self):
        """Stops the servers."""
        for server in self._servers:
            server.__exit__(None, None, None)


@pytest.fixture(scope='session')
def plugin_zip(tmpdir_factory):
    """Path of the plugin, built for this run."""
    path = str(tmpdir_factory.mktemp('plugin').join('plugin.zip'))
    package.build(path)
    return path


@pytest.fixture(params=PYTHONS)
def world(request, plugin_zip):
    """A World for each interpreter that the plugin is to run on."""
    world = World(request.param, plugin_zip)
    yield world
    world.close()


def without_ids(line):
    """A log line without the port numbers and session ids that change."""
    return re.sub(r":\d+'", ":PORT'", line)
