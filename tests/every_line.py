"""Every line of what ships runs in a test, or stands in UNTESTED with the reason.

`python -m pytest -p tests.every_line` (Python 3.12 or newer) prints those lines, and fails for a line that no test runs
and for a reason that nobody needs.
"""
import ast
import atexit
import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(1, os.path.dirname(os.path.abspath(__file__)))
import line_record  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# (module, first line of the statement) -> why no test on Python 3 runs it
UNTESTED = {
    ('tpamxml.py', 'return re.search(_LONE_SURROGATE, value) is None'): 'only a narrow Python 2 comes here',
}


# ---- statements -----------------------------------------------------------------------------------------------------

def statements(path):
    """Return {line: first line of the innermost statement that contains it} for the lines of a module that run.

    A statement counts as run if any of its lines is. `try`, `else` and so on are no statements here.
    """
    with open(path, 'rb') as source:
        tree = ast.parse(source.read())
    first = {}
    for node in ast.walk(tree):  # an outer node comes before those inside it
        if not isinstance(node, ast.stmt) or isinstance(node, (ast.Try, ast.Global)) or _is_docstring(node):
            continue
        body = getattr(node, 'body', None)
        last = body[0].lineno - 1 if body else node.end_lineno
        for line in range(node.lineno, max(last, node.lineno) + 1):
            first[line] = node.lineno
    return first


def _is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def untested(record):
    """Return [(module, line, first line of the statement)] of the statements that a record lacks."""
    ran, found = line_record.read(record), []
    for module in sorted(filter(line_record.SHIPPED.match, os.listdir(ROOT))):
        path = os.path.join(ROOT, module)
        first = statements(path)
        done = set(first.get(line) for name, line in ran if name == module)
        with open(path, 'rb') as source:
            lines = source.read().decode('utf-8').splitlines()
        found += [(module, line, lines[line - 1].strip()) for line in sorted(set(first.values()) - done)]
    return found


def problems(record, explained):
    """Return a line for each statement that no test ran without a reason, and each reason without such a statement."""
    missing = untested(record)
    found = ['%s:%d: no test runs `%s`' % each for each in missing if (each[0], each[2]) not in explained]
    unused = set(explained) - set((module, statement) for module, _, statement in missing)
    return found + ['%s: a test runs `%s`: take it out of UNTESTED' % each for each in sorted(unused)]


# ---- the plugin of pytest -------------------------------------------------------------------------------------------

class Recorder(object):
    """Records a run of the tests, and fails it at the end for lines that none of them runs."""

    def __init__(self, path):
        self._path, self._record = path, line_record.start(path)
        self._problems = []

    def pytest_sessionfinish(self, session):
        self._problems = problems(self._path, UNTESTED)
        if self._problems and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section('lines that no test runs')
        for problem in self._problems:
            terminalreporter.write_line(problem)
        for (module, statement), reason in sorted(UNTESTED.items()):
            terminalreporter.write_line('%s: `%s`, because %s' % (module, statement, reason))


class TestRecorder(object):
    """Records which test runs which line."""

    def __init__(self, path):
        self._record, self._test = line_record.start(path), ''

    def pytest_runtest_logstart(self, nodeid):
        self._test = nodeid
        line_record.begin(self._record, nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == 'function':
            yield
            return
        line_record.begin(self._record, request.node.nodeid)
        yield
        line_record.begin(self._record, self._test)


def pytest_configure(config):
    if line_record.PATH in os.environ:  # for mutate.py
        config.pluginmanager.register(TestRecorder(os.environ[line_record.PATH]))
    else:
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, True)
        os.environ[line_record.PATH] = os.path.join(folder, 'record')
    config.pluginmanager.register(Recorder(os.environ[line_record.PATH]))
