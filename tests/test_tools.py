# -*- coding: utf-8 -*-
"""The programs: `--help` does nothing else, one line answers a mistake; and one version number."""
from __future__ import unicode_literals

import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest

import package
import program
from bad_server import Server, read_request
from conftest import configuration

ALL = ('tools/try_plugin.py', 'tools/package.py', 'tools/demo.py', 'tools/bench.py',
       'tests/fake_tpam.py', 'tests/lint.py', 'tests/certs/make.py')
WITHOUT_ARGUMENTS = ('tools/package.py', 'tools/demo.py', 'tools/bench.py', 'tests/lint.py',
                     'tests/certs/make.py')
ANY_PYTHON = ('tools/try_plugin.py', 'tools/package.py', 'tests/fake_tpam.py')


def runs_here(path):
    """Tell whether the program is for the interpreter of the tests; some need Python 3."""
    return sys.version_info[0] > 2 or path in ANY_PYTHON


def programs(*paths):
    """Return a parametrization by these programs, as far as they run on this interpreter."""
    return pytest.mark.parametrize('path', [path for path in paths if runs_here(path)])


def copied(directory):
    """Return the path of a copy of the project, which a program may damage."""
    root = os.path.join(str(directory), 'copy')
    ignored = shutil.ignore_patterns('.git', '.tox', '.venv', 'dist', '__pycache__', '*.pyc',
                                     '.hypothesis')
    shutil.copytree(program.ROOT, root, ignore=ignored)
    return root


def run(path, *words, **options):
    """Run a program -> (exit status, stdout, stderr)."""
    python = options.pop('python', [sys.executable])
    root = options.pop('root', program.ROOT)
    options.setdefault('env', dict(os.environ, PYTHONDONTWRITEBYTECODE='1'))
    command = python + [os.path.join(root, path)] + list(words)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, **options)
    out, err = [output.decode('utf-8') for output in process.communicate()]
    return process.returncode, out, err


def bare_python(directory):
    """Return the command of an interpreter that has no packages, nor do those that it starts."""
    bare = os.path.join(str(directory), 'bare')
    subprocess.check_call([sys.executable, '-m', 'venv', '--without-pip', bare])
    return [os.path.join(bare, 'bin', 'python')]


def files(root):
    """Return {path: (size, time of the last change)} of every file under this folder."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            found[path] = (os.path.getsize(path), os.stat(path).st_mtime)
    return found


# Says when main() begins: before that, Python itself is starting, and prints a traceback.
SIGNAL_READY = """
really_run = run


def run(main, *rest):
    def begun():
        open(%r, 'w').close()
        return main()
    really_run(begun, *rest)
"""


# ---- help

@programs(*ALL)
def test_help_prints_the_help_and_changes_no_file(tmpdir, path):
    root = copied(tmpdir)
    before = files(root)
    status, out, err = run(path, '--help', root=root)
    assert (status, err) == (0, '')
    assert re.match('usage: ', out, re.I) and '--help' in out
    assert files(root) == before


@programs(*WITHOUT_ARGUMENTS)
def test_a_program_without_arguments_refuses_any_and_does_nothing(tmpdir, path):
    root = copied(tmpdir)
    before = files(root)
    status, out, err = run(path, 'words', root=root)
    assert (status, out) == (2, '')
    assert 'no arguments are expected' in err
    assert files(root) == before


# ---- one line in place of a traceback

@pytest.mark.skipif(sys.version_info[0] == 2, reason='needs the module venv')
@programs('tools/package.py', 'tools/demo.py', 'tests/lint.py', 'tools/bench.py')
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmpdir, path):
    environment = {'PATH': str(tmpdir), 'PYTHONDONTWRITEBYTECODE': '1'}
    status, out, err = run(path, python=bare_python(tmpdir), root=copied(tmpdir), env=environment)
    assert (status, out) == (2, '')
    assert re.search('lxml|ruamel.yaml|parso', err)
    assert 'pip install -r tests/requirements.txt' in err
    assert err.count('\n') == 1


@pytest.mark.parametrize('path, missing', [
    ('tools/package.py', 'MANIFEST'), ('tools/package.py', 'default.cfg'),
    ('tools/demo.py', 'tests/keys/rsa-3072.openssh'), ('tools/demo.py', 'tests/certs/ca.pem'),
])
def test_a_missing_file_of_the_checkout_is_named(tmpdir, path, missing):
    if not runs_here(path):
        pytest.skip('needs Python 3')
    root = copied(tmpdir)
    os.remove(os.path.join(root, missing))
    status, _, err = run(path, root=root)
    assert status == 2
    assert err.endswith('%s: No such file or directory\n' % missing)
    assert err.count('\n') == 1


@pytest.mark.parametrize('path, words', [
    ('tools/try_plugin.py', ['check', '--config', 'missing.file']),
    ('tools/try_plugin.py', ['check', '--config', 'default.cfg', '--zip', 'missing.file']),
    ('tests/fake_tpam.py', ['--port', '0', '--cert', 'missing.file']),
    ('tests/fake_tpam.py', ['--port', '0', '--cert', 'tests/certs/good.pem',
                            '--client-ca', 'missing.file']),
])
def test_a_missing_file_of_the_command_line_is_named(path, words):
    status, _, err = run(path, *words, cwd=program.ROOT)
    assert status == 2
    assert err == '%s: missing.file: No such file or directory\n' % os.path.basename(path)


def test_a_zip_that_is_none_is_named():
    words = ['check', '--config', 'default.cfg', '--zip', 'README.md']
    status, _, err = run('tools/try_plugin.py', *words, cwd=program.ROOT)
    assert (status, err) == (2, 'try_plugin.py: README.md: not a zip file\n')


def test_a_port_in_use_is_answered_with_one_line():
    with Server(lambda connection: None) as server:
        status, out, err = run('tests/fake_tpam.py', '--port', '%d' % server.port)
    assert (status, out) == (2, '')
    assert err == ('fake_tpam.py: the port cannot be used (Address already in use): '
                   'choose another one\n')


def test_a_port_that_does_not_exist_is_a_mistake():
    status, _, err = run('tests/fake_tpam.py', '--port', '65536')
    assert status == 2
    assert err.endswith('65536 is no port: 0 to 65535\n')


def test_a_relative_path_of_an_interpreter_is_taken(world, tmpdir):
    tmpdir.join('python').write('#!/bin/sh\nexec "%s" "$@"\n' % world.python)
    tmpdir.join('python').chmod(0o755)
    config = tmpdir.join('my.cfg')
    with io.open(str(config), 'w', encoding='utf-8') as out:
        out.write(configuration(**world.sections()))
    words = ['check', '--config', 'my.cfg', '--python', './python']
    status, out, err = run('tools/try_plugin.py', *words, cwd=str(tmpdir))
    assert (status, err) == (0, '')
    assert 'READY as far as a check can see' in out


def test_a_relative_path_that_leads_nowhere_is_named():
    words = ['check', '--config', 'default.cfg', '--python', 'no/python']
    status, _, err = run('tools/try_plugin.py', *words, cwd=program.ROOT)
    assert status == 2
    assert 'no/python: No such file or directory' in err
    assert err.count('\n') == 1


@programs('tools/demo.py', 'tools/bench.py', 'tests/lint.py', 'tests/certs/make.py',
          'tests/fake_tpam.py')
def test_ctrl_c_ends_a_program_without_a_traceback(tmpdir, path):
    words = {'tests/fake_tpam.py': ['--port', '0']}.get(path, [])
    if path == 'tests/lint.py':
        pytest.importorskip('parso')
    root = copied(tmpdir)
    ready = tmpdir.join('ready')
    with io.open(os.path.join(root, 'tools', 'program.py'), 'a') as out:
        out.write(SIGNAL_READY % str(ready))
    process = subprocess.Popen([sys.executable, os.path.join(root, path)] + words,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=default_interrupt)
    deadline = time.time() + 60
    while not ready.check() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    err = process.communicate()[1].decode('utf-8')
    assert process.returncode == 130, err
    assert 'Traceback' not in err


def default_interrupt():
    """Undo that a child in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_what_is_a_fault_of_the_program_keeps_its_traceback():
    for error in (ValueError('x'), OSError(5, 'x'), ImportError('No module named conftest')):
        assert program.mistake(error) is None


# ---- one version number

def version():
    """Return the version in the MANIFEST."""
    return re.search('^version: (.*)$', text_of('MANIFEST'), re.M).group(1)


def text_of(name):
    """Return a document of the project as text."""
    with io.open(os.path.join(program.ROOT, name), encoding='utf-8') as content:
        return content.read()


def test_the_code_has_the_version_of_the_manifest():
    found = []
    for name in package.modules():
        for key, value in sorted(vars(importlib.import_module(name[:-3])).items()):
            if key == 'VERSION':
                found.append(value)
            elif key == 'USER_AGENT':
                found.append(value.partition('SPS_TPAM_XMLRPC/')[2])
    assert set(found) == set([version()])


def test_the_server_is_told_the_version_of_the_manifest(world):
    seen = []

    def behave(connection):
        seen.append(read_request(connection).headers['user-agent'])
    with Server(behave) as server:
        sections = world.sections(tpam={'server': 'localhost:%d' % server.port},
                                  tls={'enabled': 'no', 'ca_cert': None})
        world.session(text=configuration(**sections)).call('get_password_list')
    assert set(seen) == set(['SPS_TPAM_XMLRPC/' + version()])


def test_the_readme_names_the_zip_by_the_version_of_the_manifest():
    found = re.findall(r'SPS_TPAM_XMLRPC-([\d.]+)\.zip', text_of('README.md'))
    assert set(found) == set([version()])


def test_the_changelog_begins_with_the_version_of_the_manifest():
    assert re.search('^## (.*)$', text_of('CHANGELOG.md'), re.M).group(1) == version()


def test_the_package_is_named_by_the_version_of_the_manifest(tmpdir):
    root = copied(tmpdir)
    status, out, _ = run('tools/package.py', root=root)
    name, = os.listdir(os.path.join(root, 'dist'))
    assert status == 0
    assert name == 'SPS_TPAM_XMLRPC-%s.zip' % version()
    with zipfile.ZipFile(os.path.join(root, 'dist', name)) as plugin:
        assert 'version: %s\n' % version() in plugin.read('MANIFEST').decode('utf-8')
