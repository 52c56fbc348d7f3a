"""Record which lines of the shipped modules run, in the tests and in the processes of the hooks, for every_line.py.

The record is a text file. All processes append `module:line` to it, and pytest the ids of the tests in between.
"""
import os
import re
import sys

PATH = 'EVERY_LINE_RECORD'  # environment variable: path of the record
SHIPPED = re.compile(r'(?:main|sshkey|tpam\w+)\.py\Z')


def start(path):
    """Append the shipped lines that run in this process from now on to the record, and return its descriptor.

    sys.monitoring (Python 3.12) reports each function once, and each line of the shipped ones, which costs little.
    """
    monitoring = sys.monitoring
    record = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def enter(code, _):
        if SHIPPED.match(os.path.basename(code.co_filename)):
            monitoring.set_local_events(monitoring.COVERAGE_ID, code, monitoring.events.LINE)
        return monitoring.DISABLE

    def append(code, line):
        name = os.path.basename(code.co_filename)
        os.write(record, ('%s:%d\n' % (name, line)).encode('ascii'))  # at once, because hooks are killed
        return monitoring.DISABLE
    if monitoring.get_tool(monitoring.COVERAGE_ID) is not None:
        return record
    monitoring.use_tool_id(monitoring.COVERAGE_ID, 'every_line')
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.PY_START, enter)
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, append)
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.PY_START)
    return record


def begin(record, test):
    """Write the id of a test, or of a file whose fixture serves several tests, and report all lines anew."""
    os.write(record, ('> %s\n' % test).encode('utf-8'))
    sys.monitoring.restart_events()


def read(path):
    """Return {(module, line): [id]} of a record."""
    found, test = {}, ''
    with open(path, 'rb') as record:
        for line in record.read().decode('utf-8').splitlines():
            if line.startswith('> '):
                test = line[2:]
                continue
            module, _, number = line.rpartition(':')
            tests = found.setdefault((module, int(number)), [])
            if test not in tests[-1:]:
                tests.append(test)
    return found
