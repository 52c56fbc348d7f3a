"""Measures what a hook costs, side by side with bare scripts, and writes docs/benchmarks.md and docs/benchmarks.svg.

Whole processes, median of many runs taken in turn, as ratios: seconds of one machine say little about another's.
"""
from __future__ import print_function

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import fake_sps
import package
from bench_child import COLUMN_COUNT, ROW_COUNT
from program import TESTS
sys.path.insert(1, TESTS)
import bad_server  # noqa: E402
from certs import make as certs  # noqa: E402
from fake_tpam import FakeTpam, FakeTpamServer, Writer  # noqa: E402

RUNS = int(os.environ.get('BENCH_RUNS', '41'))
CHILD = os.path.join(package.ROOT, 'tools', 'bench_child.py')
CA = certs.path('ca')
PLUGIN = tempfile.mkdtemp()  # the modules, and where each interpreter keeps them compiled
ENVIRONMENT = {'PATH': os.environ['PATH'], 'PLUGIN': PLUGIN, 'SHIM': TESTS, 'LC_ALL': 'C.UTF-8'}


def interpreters():
    """[(name, path)] of those that have lxml and dnspython: PLUGIN_PYTHONS, and the environments that tox made."""
    found = []
    candidates = os.environ.get('PLUGIN_PYTHONS', '').split()
    for name in ('py27', 'py36', 'py37', 'py38', 'py39', 'py310', 'py311', 'py312', 'py313'):
        candidates.append(os.path.join(package.ROOT, '.tox', name, 'bin', 'python'))
    for path in candidates:
        try:
            version = subprocess.check_output(
                [path, '-c', 'import sys, lxml.etree, dns.resolver; print(sys.version.split()[0])'],
                stderr=subprocess.DEVNULL)
            found.append((version.decode('ascii').strip(), path))
        except (OSError, subprocess.CalledProcessError):
            pass
    return found


class Cost(object):
    """wall and cpu in seconds, and the output, of one process."""

    def __init__(self, command):
        began = time.perf_counter()
        child = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        self.wall = time.perf_counter() - began
        child.returncode = status
        if status:
            raise SystemExit('%s failed' % ' '.join(command))
        self.cpu = usage.ru_utime + usage.ru_stime


def medians(python, modes, port, runs):
    """Runs the modes of bench_child in turn -> {mode: (wall, cpu, memory in KiB)}, medians."""
    costs = dict((mode, []) for mode in modes)
    for run in range(runs + 1):
        for mode in modes:
            cost = Cost([python, CHILD, mode, str(port), CA])
            cost.memory = int(cost.output)
            if run:  # the first compiles the modules and fills caches
                costs[mode].append(cost)
    return dict((mode, tuple(statistics.median(getattr(cost, figure) for cost in taken)
                             for figure in ('wall', 'cpu', 'memory'))) for mode, taken in costs.items())


def tpam():
    """WEB01 and its root."""
    made = FakeTpam()
    made.add_system('WEB01', '10.0.0.5')
    made.add_account('WEB01', 'root', 'password', custom1='root', custom2='WEB01')
    made.add_user('sps', 'api-password')
    made.add_user('jdoe')
    made.add_policy('jdoe', 'WEB01', 'root', 'Root')
    return made


def long_answer():
    """The body of a list answer of ROW_COUNT x COLUMN_COUNT."""
    rows = [dict(('Column%02d' % column, 'value %d of %d' % (column, row)) for column in range(COLUMN_COUNT))
            for row in range(ROW_COUNT)]
    return Writer('plain').response({'returnCode': 0, 'message': '', 'count': ROW_COUNT, 'rows': rows})


def long_server(body):
    """A server that answers every request with this body, over TLS."""
    answer = (b'HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n' % len(body)) + body

    def behave(connection):
        bad_server.read_request(connection)
        connection.sendall(answer)
    return bad_server.Server(behave, certs.path('good'))


def against(figure, target, reached, form='%.2f'):
    """A figure as a cell of a table; marked where it has a target and does not reach it."""
    return form % figure + ('' if target is None or reached else ' ✗')


def table(heads, rows):
    """A table in Markdown."""
    lines = ['| %s |' % ' | '.join(str(cell) for cell in row) for row in [heads] + rows]
    return '\n'.join(lines[:1] + ['|' + '---|' * len(heads)] + lines[1:])


# ---- the tables

def one_hook(pythons):
    """A hook process against the bare scripts, per interpreter."""
    rows, shown = [], []
    with FakeTpamServer(tpam(), certfile=certs.path('good')) as server:
        for version, python in pythons:
            cost = medians(python, ('plain', 'floor', 'hook'), server.port, RUNS)
            plain, floor, hook = [cost[mode] for mode in ('plain', 'floor', 'hook')]
            ratios = [hook[figure] / base[figure] for figure in (0, 1, 2) for base in (plain, floor)]
            cells = ['%.2f' % ratio for ratio in ratios]
            cells[1] = against(ratios[1], 1.15 if version < '3' else None, ratios[1] <= 1.15)
            rows.append([version, '%.0f ms' % (1000 * hook[0])] + cells)
            shown.append((version, [1.0, floor[0] / plain[0], hook[0] / plain[0]]))
    return table(['Python', 'hook', 'wall / plain', 'wall / floor', 'CPU / plain', 'CPU / floor', 'memory / plain',
                  'memory / floor'], rows), shown


def first_run(pythons):
    """What compiling the modules costs, where the appliance cannot keep the compiled ones."""
    compiling = ("import sys, time\nsources = [open(path).read() for path in sys.argv[1:]]\nbegan = time.time()\n"
                 "for source in sources: compile(source, 'module', 'exec')\nprint('%.6f' % (time.time() - began))")
    modules = [os.path.join(PLUGIN, name) for name in package.MODULES]
    rows = []
    for version, python in pythons:
        taken = [float(Cost([python, '-c', compiling] + modules).output) for _ in range(7)]
        rows.append([version, '%.0f ms' % (1000 * statistics.median(taken))])
    return table(['Python', 'compiling takes'], rows)


def vendor_sdk(pythons):
    """A hook process against importing what the vendor's own TPAM plugin imports on Python 3."""
    sdk = os.path.join(package.ROOT, '.venv', 'sdk', 'bin', 'python')  # made by make bench
    imported = 'import safeguard.sessions.plugin, requests, paramiko'
    if not os.path.exists(sdk):
        return None
    rows = []
    with FakeTpamServer(tpam(), certfile=certs.path('good')) as server:
        for version, python in pythons:
            ours, theirs = [], []
            for run in range(RUNS + 1):
                ours.append(Cost([python, CHILD, 'hook', str(server.port), CA]).wall)
                theirs.append(Cost([sdk, '-c', imported]).wall)
            ratio = statistics.median(ours[1:]) / statistics.median(theirs[1:])
            rows.append([version, against(ratio, 0.25, ratio <= 0.25)])
    version = subprocess.check_output([sdk, '-c', 'import sys; print(sys.version.split()[0])']).decode('ascii').strip()
    return table(['Python', 'hook / import of the SDK, requests and paramiko on Python ' + version], rows)


def long_list(pythons):
    """A list of ROW_COUNT x COLUMN_COUNT: whole process, and decoding alone."""
    rows, body = [], long_answer()
    with long_server(body) as server:
        for version, python in pythons:
            cost = medians(python, ('list_plain', 'list_plugin'), server.port, max(5, RUNS // 4))
            plain, plugin = cost['list_plain'], cost['list_plugin']
            child = subprocess.Popen([python, CHILD, 'decode'], env=ENVIRONMENT, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE)
            loads, decode, _ = [float(line) for line in child.communicate(body)[0].split()]
            of_27 = version.startswith('2.7') or None
            faster = 2 if version > '3' else 3.5
            rows.append([version, against(plugin[0] / plain[0], of_27, plugin[0] / plain[0] <= 0.5),
                         against(plugin[2] / plain[2], of_27, plugin[2] / plain[2] <= 1.3),
                         against(loads / decode, faster, loads / decode >= faster, '%.1f')])
    return table(['Python', 'wall / plain', 'memory / plain', 'decoding: times as fast as xmlrpclib.loads'], rows)


MODES = (
    ('gateway, hostname', {'system_name_resolver': 'hostname'}),
    ('gateway, tpam', {}),
    ('gateway, mapped', {'system_maptoreal': 'yes'}),
    ('policy', {'authorization': 'policy', 'required_policy': 'Root'}),
    ('approval', {'authorization': 'approval'}),
    ('request', {'authorization': 'request'}),
)


def configuration(port, options):
    """Configuration text for a server on this port."""
    options = dict({'server': 'localhost:%d' % port, 'username': 'sps', 'password': 'api-password'}, **options)
    return '[tpam]\n%s\n[tls]\nca_cert=%s\n' % (
        '\n'.join('%s=%s' % option for option in sorted(options.items())),
        open(CA).read().strip().replace('\n', '\n '))


def round_trips(python, plugin):
    """Calls and handshakes of get_password_list in each mode, counted at the server, and its time over slow links."""
    rows = []
    for name, options in MODES:
        made, cells = tpam(), []
        if name == 'approval':
            made.add_request('jdoe', 'WEB01', 'root')
        with FakeTpamServer(made, certfile=certs.path('good')) as server:
            for delay in (0, 0.01, 0.05):  # each way
                with bad_server.link(server.port, delay) as line:
                    before = server.requests, server.connections, server.handshakes
                    session = fake_sps.FakeSps(plugin, configuration(line.port, options), python).session(
                        protocol='ssh', server_username='root', server_ip='10.0.0.5', server_hostname='WEB01',
                        gateway_username='jdoe')
                    result = session.call('get_password_list')
                    assert result.credentials, result.log
                    counted = [now - then for now, then in
                               zip((server.requests, server.connections, server.handshakes), before)]
                    cells.append(result.seconds)
                    session.call('session_ended')
        rows.append([name] + counted + ['%.2f s' % seconds for seconds in cells]
                    + ['%.1f' % ((cells[2] - cells[0]) / 0.1)])
    return table(['mode', 'calls', 'TCP', 'TLS', 'no delay', '20 ms', '100 ms', 'round trips of 100 ms'], rows)


def many_at_once(pythons):
    """Many hook processes against one server at once, beside as many bare scripts."""
    rows = []
    with FakeTpamServer(tpam(), certfile=certs.path('good')) as server:
        for version, python in pythons:
            for count in (1, 10, 50, 200):
                taken = []
                for mode in ('floor', 'hook'):
                    began = time.perf_counter()
                    crowd = [subprocess.Popen([python, CHILD, mode, str(server.port), CA], env=ENVIRONMENT,
                                              stdout=subprocess.DEVNULL) for _ in range(count)]
                    failed = sum(child.wait() != 0 for child in crowd)
                    taken.append(((time.perf_counter() - began) / count, failed))
                (floor, floor_failed), (hook, hook_failed) = taken
                rows.append([version, count, hook_failed, floor_failed, '%.0f ms' % (1000 * hook),
                             '%.2f' % (hook / floor)])
    return table(['Python', 'at once', 'hooks failed', 'scripts failed', 'time per hook', 'hook / floor'], rows)


def picture(shown):
    """Wall time of a hook beside the bare scripts, as an SVG."""
    import matplotlib
    matplotlib.use('svg')
    matplotlib.rcParams['svg.hashsalt'] = 'benchmarks'
    import matplotlib.pyplot
    figure, axes = matplotlib.pyplot.subplots(figsize=(8, 1.2 + 0.55 * len(shown)))
    colours = ('#bbbbbb', '#7799bb', '#224466')
    for index, label in enumerate(('plain script', 'floor: with the imports', 'hook')):
        axes.barh([row + 0.27 * index for row in range(len(shown))], [ratios[index] for _, ratios in shown], 0.25,
                  label=label, color=colours[index])
    axes.set_yticks([row + 0.27 for row in range(len(shown))])
    axes.set_yticklabels(['Python ' + version for version, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel('wall time of the whole process, as a multiple of the plain script')
    axes.legend(loc='upper right')
    figure.tight_layout()
    figure.savefig(os.path.join(package.ROOT, 'docs', 'benchmarks.svg'), metadata={'Date': None})


PAGE = """# What it costs

Made by `make bench` on {machine}.
Whole processes; medians of {runs} runs that took turns; ratios, for seconds of one machine say little about another's.
A figure of another day differs by a tenth or so.

✗ marks what does not reach its target.

- **plain**: a bare script that makes the same call with stock `xmlrpclib` over TLS.
- **floor**: the same, which also imports what the plugin is made of (lxml.etree, urllib2, ConfigParser), unused.
- **hook**: `get_password_list`, one call on the wire, modules compiled before.

## One hook

{one_hook}

![Wall time of a hook beside the bare scripts](benchmarks.svg)

To reach: at most 1.15 of the floor in wall time on 2.6 and 2.7. On 2.6 the scripts do not verify the certificate, since
`xmlrpclib` cannot there; the hook does. On Python 3 the import shim is part of the hook's time. What is left above the
floor: importing the plugin's own modules (a tenth of the floor on 2.7), the configuration, a temporary file for the CA,
and the names in the certificate. On 2.6 the stock scripts lose time of their own to Nagle's algorithm.

Where an appliance cannot keep compiled modules, each hook compiles them:

{first_run}

## Beside the vendor's SDK

{vendor_sdk}

To reach: at most 0.25, for which Python 3 with the shim is too slow to start with; the appliance runs 2.6.

## A list of {rows} rows and {columns} columns

{long_list}

To reach: at most 0.5 of the plain script's wall time and 1.3 of its memory on 2.7; decoding 3.5 times as fast as
`xmlrpclib.loads` on 2.7, twice on 3.x. Rows are freed as they are read, which keeps memory down and costs time: what
Python is handed of each row while lxml parses the next is what decoding takes beyond parsing (a third of it). Checking
the shape of every member, which `xmlrpclib` does not, takes the rest. The body is held whole, to be searched for
what must not reach the parser; that is the memory above the plain script's.

## Calls, handshakes and slow links

Counted at the server, on Python {first}; times are those of one hook over a link with this round trip time.

{round_trips}

The last column counts round trips: one for the TLS handshake (two below TLS 1.3), one for each call. That of TCP is not
delayed here.

## Many at once

Processes against one server on one machine, so that the machine is what is measured; the server runs on it, too.

{many_at_once}
"""


def main():
    """Writes docs/benchmarks.md and docs/benchmarks.svg."""
    pythons = interpreters()
    if not pythons:
        raise SystemExit('no interpreter with lxml and dnspython: run make test first, or set PLUGIN_PYTHONS')
    for name in package.MODULES:
        shutil.copy(os.path.join(package.ROOT, name), PLUGIN)
    plugin = os.path.join(PLUGIN, 'plugin.zip')
    package.build(plugin)
    hooks, shown = one_hook(pythons)
    few = [pythons[0], pythons[-1]] if len(pythons) > 1 else pythons
    page = PAGE.format(
        machine='%s with %d processors, %s' % (platform.machine(), os.cpu_count(), platform.system()), runs=RUNS,
        one_hook=hooks, first_run=first_run(pythons), rows=ROW_COUNT, columns=COLUMN_COUNT, first=pythons[0][0],
        vendor_sdk=vendor_sdk(pythons) or 'Not measured: the SDK could not be installed.', long_list=long_list(pythons),
        round_trips=round_trips(pythons[0][1], plugin), many_at_once=many_at_once(few))
    shutil.rmtree(PLUGIN)
    with open(os.path.join(package.ROOT, 'docs', 'benchmarks.md'), 'w', encoding='utf-8') as out:
        out.write(page)
    picture(shown)
    print(page)


if __name__ == '__main__':
    sys.exit(main())
