"""Measure hooks beside bare scripts, and write docs/benchmarks.md and docs/benchmarks.svg.

Whole processes are measured, and medians of many runs that take turns are compared. The figures are
ratios, because the seconds of one machine say little about another's.

Environment variables: PLUGIN_PYTHONS names interpreters beside those of the environments that tox
made; BENCH_RUNS is the number of runs.
"""
from __future__ import print_function

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent import futures

import fake_sps
import package
import program
from bench_child import COLUMN_COUNT, ROW_COUNT, SESSION
sys.path.insert(1, program.TESTS)
import bad_server  # noqa: E402
from certs import make as certs  # noqa: E402
from fake_tpam import FakeTpam, FakeTpamServer, Writer  # noqa: E402

RUNS = int(os.environ.get('BENCH_RUNS', '41'))
CROWD = 50  # processes at once
SLOW_COMMAND = 0.2   # s
GATEWAY_TARGET = 10  # ms that a call through the gateway may take beside the command itself
CHILD = os.path.join(program.ROOT, 'tools', 'bench_child.py')
DOCS = os.path.join(program.ROOT, 'docs')
CA = certs.path('ca')
TOX = ('py27', 'py36', 'py37', 'py38', 'py39', 'py310', 'py311', 'py312', 'py313')

# Figure: (what it is, the most that it should be, the interpreters that this is meant for)
FIGURES = {
    'hook': ('one hook / floor', 1.15, ('2.6', '2.7')),
    'session': ('four hooks / four floors', 0.80, ('2.6', '2.7')),
    'ended': ('session_ended / floor', 0.45, ('2.7',)),
    'hook_memory': ('memory: one hook / floor', None, ()),
    'ended_memory': ('memory: session_ended / floor', None, ()),
}
TIMES = ('hook', 'session', 'ended')

MODES = (
    ('gateway, hostname', {'system_name_resolver': 'hostname'}),
    ('gateway, tpam', {}),
    ('gateway, mapped', {'system_maptoreal': 'yes'}),
    ('policy', {'authorization': 'policy', 'required_policy': 'Root'}),
    ('approval', {'authorization': 'approval'}),
    ('request', {'authorization': 'request'}),
)


def interpreters():
    """Return [(version, path)] of those that can run the plugin; this one if there is no other."""
    candidates = os.environ.get('PLUGIN_PYTHONS', '').split()
    candidates += [os.path.join(program.ROOT, '.tox', name, 'bin', 'python') for name in TOX]
    found = []
    for path in candidates:
        try:
            _, versions = fake_sps.interpreter([path])
        except program.Mistake:
            continue
        found.append((versions.split()[1].rstrip(','), path))
    if not found:
        path, versions = fake_sps.interpreter([sys.executable])
        found.append((versions.split()[1].rstrip(','), path))
    return found


# ---- the server

def tpam():
    """Return a FakeTpam with WEB01 and its account root, which has a password and a key."""
    made = FakeTpam()
    made.add_system('WEB01', '10.0.0.5')
    with open(os.path.join(program.TESTS, 'keys', 'rsa-3072.openssh')) as key:
        made.add_account('WEB01', 'root', 'kT5-vw-Zr8', key.read(), custom1='root', custom2='WEB01')
    made.add_user('sps', 'api-password')
    made.add_user('jdoe')
    made.add_policy('jdoe', 'WEB01', 'root', 'Root')
    return made


def list_server():
    """Return a server that answers every request with ROW_COUNT rows, over TLS."""
    rows = []
    for row in range(ROW_COUNT):
        rows.append(dict(('Column%02d' % column, 'value %d of %d' % (column, row))
                         for column in range(COLUMN_COUNT)))
    answer = {'returnCode': 0, 'message': '', 'count': ROW_COUNT, 'rows': rows}
    body = Writer('plain').response(answer)
    head = b'HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n' % len(body)

    def behave(connection):
        bad_server.read_request(connection)
        connection.sendall(head + body)
    return bad_server.Server(behave, certs.path('good'))


# ---- measuring

class Bench(object):
    """Start processes of bench_child.py against the server on a port.

    directory: where the plugin's modules are.
    """

    def __init__(self, directory, port):
        self.port = port
        self.environment = {'PATH': os.environ['PATH'], 'LC_ALL': 'C.UTF-8', 'PLUGIN': directory,
                            'SHIM': program.TESTS}

    def run(self, python, mode, cookies=None):
        """Run one process -> (seconds, memory in KiB, the cookies that it leaves)."""
        command = [python, CHILD, mode, str(self.port), CA, json.dumps(cookies or {})]
        began = time.perf_counter()
        child = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL,
                               capture_output=True,
                               start_new_session=True)  # Ctrl-C is for this program alone
        seconds = time.perf_counter() - began
        if child.returncode:
            raise program.Mistake('%s failed on %s: %s' % (
                mode, python, fake_sps.cause_of(child.stderr.decode('utf-8', 'replace'))))
        answer = json.loads(child.stdout.decode('ascii'))
        return seconds, answer['memory'], answer['cookies']

    def session(self, python, modes):
        """Run these hooks, or scripts, one after the other -> whether all of them succeeded."""
        cookies = {}
        try:
            for mode in modes:
                cookies = self.run(python, mode, cookies)[2]
        except program.Mistake:
            return False
        return True

    def crowd(self, python, modes):
        """Run CROWD sessions at once -> (seconds, how many of them failed)."""
        began = time.perf_counter()
        with futures.ThreadPoolExecutor(CROWD) as pool:
            succeeded = list(pool.map(lambda _: self.session(python, modes), range(CROWD)))
        return time.perf_counter() - began, succeeded.count(False)


def session_figures(bench, python, runs):
    """Run whole sessions, with a floor script before each hook.

    -> ({name in FIGURES: ratio}, seconds of one hook)
    """
    hooks, floors = [], []
    for _ in range(runs + 1):
        cookies, taken, beside = {}, [], []
        for hook in SESSION:
            beside.append(bench.run(python, 'floor'))
            taken.append(bench.run(python, hook, cookies))
            cookies = taken[-1][2]
        hooks.append(taken)
        floors.append(beside)
    del hooks[0], floors[0]  # the first run compiles the modules and fills caches

    def median(rounds, position, figure):
        return statistics.median(cost[position][figure] for cost in rounds)

    password, ended = SESSION.index('get_password_list'), SESSION.index('session_ended')
    floor = statistics.median(cost[0] for beside in floors for cost in beside)
    memory = median(floors, 0, 1)
    whole = [sum(cost[0] for cost in taken) for taken in hooks]
    beside = [sum(cost[0] for cost in taken) for taken in floors]
    seconds = median(hooks, password, 0)
    return {
        'hook': seconds / floor,
        'session': statistics.median(whole) / statistics.median(beside),
        'ended': median(hooks, ended, 0) / floor,
        'hook_memory': median(hooks, password, 1) / memory,
        'ended_memory': median(hooks, ended, 1) / memory,
    }, seconds


def list_figures(bench, python, runs):
    """Fetch the long list in turn -> (wall time, memory), each as a ratio to the stock client."""
    plain, plugin = [], []
    for _ in range(runs + 1):
        plain.append(bench.run(python, 'list_plain'))
        plugin.append(bench.run(python, 'list_plugin'))
    return [statistics.median(cost[figure] for cost in plugin[1:])
            / statistics.median(cost[figure] for cost in plain[1:]) for figure in (0, 1)]


def wire_rows(python, zip_path):
    """Play a session in each mode -> rows: mode, calls, connections, handshakes, commands."""
    rows = []
    for name, options in MODES:
        made = tpam()
        if name == 'approval':
            made.add_request('jdoe', 'WEB01', 'root')
        before = len(made.audit)
        with FakeTpamServer(made, certfile=certs.path('good')) as server:
            sps = fake_sps.FakeSps(zip_path, configuration(server.port, options), python)
            session = sps.session(protocol='ssh', server_username='root', server_ip='10.0.0.5',
                                  server_hostname='WEB01', gateway_username='jdoe')
            for hook in SESSION:
                session.call(hook)
            if not session.calls[1].credentials:
                raise program.Mistake('no credential in the mode %s:\n%s' % (name, session.log))
            rows.append([name, server.requests, server.connections, server.handshakes,
                         ', '.join(made.commands()[before:])])
    return rows


def gateway_text(python, directory):
    """Measure what the gateway adds to a command, and a crowd through it -> text.

    directory: where the plugin's modules are. The command line takes SLOW_COMMAND seconds for the crowd.
    """
    if sys.version_info < (3, 9):
        return 'Not measured: the gateway needs Python 3.9.'
    import gateway_process
    files = tempfile.mkdtemp()
    try:
        with gateway_process.serve(tpam(), 'api-password', files) as gateway:
            direct, through = gateway_process.times_of_calls(gateway, 'api-password', 5 * RUNS)
            gateway.cli.delay = SLOW_COMMAND
            seconds, failed = Bench(directory, gateway.port).crowd(python, SESSION[1:])  # TPAM gives out no keys
    finally:
        shutil.rmtree(files)
    return GATEWAY.format(
        added=1000 * (through - direct), direct=1000 * direct, target=GATEWAY_TARGET, crowd=CROWD,
        mark='' if 1000 * (through - direct) <= GATEWAY_TARGET else ' ✗', delay=SLOW_COMMAND,
        seconds=seconds, failed=failed, at_once=gateway.cli.most_at_once)


def configuration(port, options):
    """Return configuration text for a server on this port, with these options of [tpam]."""
    options = dict({'server': 'localhost:%d' % port, 'username': 'sps', 'password': 'api-password'},
                   **options)
    lines = ['[tpam]'] + ['%s=%s' % option for option in sorted(options.items())]
    with open(CA) as ca:
        lines += ['[tls]', 'ca_cert=' + ca.read().strip().replace('\n', '\n ')]
    return '\n'.join(lines) + '\n'


# ---- the page

def table(heads, rows):
    """Return a table in Markdown."""
    lines = ['| %s |' % ' | '.join(str(cell) for cell in row) for row in [heads] + rows]
    return '\n'.join(lines[:1] + ['|' + '---|' * len(heads)] + lines[1:])


def cell(name, version, ratio):
    """Return a figure as a cell; it is marked where it has a target and misses it."""
    _, target, versions = FIGURES[name]
    if version.startswith(versions) and round(ratio, 2) > target:
        return '%.2f ✗' % ratio
    return '%.2f' % ratio


def hook_rows(measured):
    """Return the rows of the table for [(version, figures, seconds)]: one for all of Python 3."""
    rows, newer = [], []
    for version, figures, seconds in measured:
        if ships(version):
            rows.append([version, '%.0f ms' % (1000 * seconds)]
                        + [cell(name, version, figures[name]) for name in FIGURES])
        else:
            newer.append((version, figures, seconds))
    if newer:
        row = ['%s to %s' % (newer[0][0], newer[-1][0]) if len(newer) > 1 else newer[0][0]]
        row.append(span([1000 * seconds for _, _, seconds in newer], '%.0f') + ' ms')
        for name in FIGURES:
            row.append(span([figures[name] for _, figures, _ in newer], '%.2f'))
        rows.append(row)
    return rows


def span(values, form):
    """Return the least and the greatest of these numbers as a cell."""
    least, greatest = form % min(values), form % max(values)
    return least if least == greatest else '%s to %s' % (least, greatest)


def ships(version):
    """Tell whether the appliances have this version of Python, or the one that stands in for it."""
    return version.startswith('2.')


def picture(measured):
    """Return an SVG with a bar for each figure of these interpreters and a line for each target."""
    left, unit, thick = 230, 260, 18  # pixels; a unit is the floor
    parts, top = [], 40
    parts.append('<text x="10" y="24">Wall time of whole processes; 1.0 is the bare script</text>')
    for name in TIMES:
        label, target, versions = FIGURES[name]
        parts.append('<text x="10" y="%d" font-weight="bold">%s</text>' % (top + 14, label))
        top += 22
        for version, figures, _ in measured:
            width, middle = unit * figures[name], top + thick - 5
            parts.append('<text x="30" y="%d">Python %s</text>' % (middle, version))
            parts.append('<rect x="%d" y="%d" width="%.0f" height="%d" fill="#7799bb"/>'
                         % (left, top, width, thick))
            if version.startswith(versions):
                x = left + unit * target
                parts.append('<path d="M%.0f %dv%d" stroke="#bb2222" stroke-width="2"/>'
                             % (x, top - 2, thick + 4))
                label_at = max(x, left + width) + 6
                parts.append('<text x="%.0f" y="%d">%.2f, target %.2f</text>'
                             % (label_at, middle, figures[name], target))
            else:
                parts.append('<text x="%.0f" y="%d">%.2f</text>'
                             % (left + width + 6, middle, figures[name]))
            top += thick + 6
        top += 10
    parts.append('<path d="M%d 34V%d" stroke="#888888" stroke-dasharray="4 3"/>'
                 % (left + unit, top))
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 %d" font-family="sans-serif" '
            'font-size="13">\n<rect width="860" height="%d" fill="white"/>\n%s\n</svg>\n'
            % (top, top, '\n'.join(parts)))


PAGE = """# What it costs

Made by `make bench` on {machine}. Whole processes; medians of {runs} runs that took
turns, of fewer on Python 3. Figures are ratios, because the seconds of one machine say little about
another's. On another day they differ by a tenth or so. A figure that misses its target has a ✗.

- **floor**: a bare script that imports lxml.etree, urllib2 and ConfigParser, and makes the call of
  a hook with the stock `xmlrpclib` over TLS. On 2.6 it cannot verify the certificate.
- **one hook**: `get_password_list` with one call to the server. Modules were compiled before.
- **four hooks**: an SSH session: `get_private_key_list`, `get_password_list`,
  `authentication_completed`, `session_ended`, with nothing to check in. The two that fetch make one
  call each.

## Hooks

{hooks}

![Wall time of hooks beside the bare script](benchmarks.svg)

Targets: at most 1.15 for one hook and 0.80 for a session on 2.6 and 2.7; 0.45 for `session_ended`
with nothing to check in on 2.7. On Python 3 the time of the import shim is included.

## Calls and handshakes of a session

Counted at the server in the four hooks, on Python {first}.

{wire}

## {crowd} sessions at once

{crowd} sessions of four hooks beside {crowd} times four floor scripts, on the server's machine.

{crowds}

## The gateway

{gateway}

## A list of {rows} rows and {columns} columns

Beside the stock `xmlrpclib`: {lists}.
"""


GATEWAY = """
A call through the gateway takes {added:.1f} ms{mark} more than the command over SSH itself ({direct:.1f} ms), on
kept connections; target: at most {target} ms. {crowd} sessions of three hooks at once through one
gateway, in front of a command line that takes {delay} s and gets at most {at_once} commands at a time:
{seconds:.1f} s, sessions failed: {failed}.
"""


def main():
    """Measure, and write the page and the picture -> exit status."""
    pythons = interpreters()
    directory = tempfile.mkdtemp()  # the modules, and where each interpreter keeps them compiled
    try:
        for name in package.MODULES:
            shutil.copy(os.path.join(program.ROOT, name), directory)
        page, image = measure(pythons, directory)
    finally:
        shutil.rmtree(directory)
    for name, content in (('benchmarks.md', page), ('benchmarks.svg', image)):
        with open(os.path.join(DOCS, name), 'w', encoding='utf-8') as out:
            out.write(content)
    print(page)
    return 0


def measure(pythons, directory):
    """Measure on these interpreters -> (the page, the picture)."""
    fewer = max(1, RUNS // 4)
    shown = [python for python in pythons if ships(python[0])] or pythons[:1]
    measured, crowds, lists = [], [], []
    with FakeTpamServer(tpam(), certfile=certs.path('good')) as server:
        bench = Bench(directory, server.port)
        for version, python in pythons:
            runs = RUNS if (version, python) in shown else fewer
            measured.append((version,) + session_figures(bench, python, runs))
        for version, python in shown:
            floor, floor_failed = bench.crowd(python, ['floor'] * len(SESSION))
            hook, hook_failed = bench.crowd(python, SESSION)
            crowds.append([version, '%.2f s' % hook, '%.2f' % (hook / floor), hook_failed,
                           floor_failed])
    with list_server() as server:
        bench = Bench(directory, server.port)
        for version, python in shown:
            wall, memory = list_figures(bench, python, fewer)
            lists.append('%.2f of its wall time and %.2f of its memory on %s'
                         % (wall, memory, version))
    zip_path = os.path.join(directory, 'plugin.zip')
    package.build(zip_path)
    machine = '%s with %d processors, %s' % (platform.machine(), os.cpu_count(), platform.system())
    page = PAGE.format(
        machine=machine, runs=RUNS, crowd=CROWD, first=shown[0][0], rows=ROW_COUNT,
        columns=COLUMN_COUNT,
        hooks=table(['Python', 'one hook'] + [label for label, _, _ in FIGURES.values()],
                    hook_rows(measured)),
        wire=table(['mode', 'calls', 'TCP', 'TLS', 'commands'], wire_rows(shown[0][1], zip_path)),
        crowds=table(['Python', 'sessions', 'sessions / scripts', 'sessions failed',
                      'scripts failed'], crowds),
        gateway=gateway_text(shown[0][1], directory).strip(), lists='; '.join(lists))
    versions = [version for version, _ in shown]
    return page, picture([row for row in measured if row[0] in versions])


if __name__ == '__main__':
    program.run(main, __doc__)
