"""Change the shipped code in random places, one at a time, and see whether a test notices.

cosmic-ray makes the changes (mutants), in a copy of the project. Each mutant runs the tests that run
its line, the closest first, until one fails. The results go into docs/mutants.md.
"""
from __future__ import print_function

import ast
import collections
import difflib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

from cosmic_ray.commands.init import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db

import package
import program
from program import ROOT, TESTS

sys.path.insert(1, TESTS)
import every_line  # noqa: E402
import line_record  # noqa: E402

DOCUMENT = os.path.join(ROOT, 'docs', 'mutants.md')
MOST_TESTS = 50  # functions that a mutant runs first: those that run the fewest lines besides it
SECONDS = 300  # for the tests of one mutant, and of CPU for each of their processes: a mutant may keep one busy
SECONDS_OF_ALL = 3600  # for all tests without a mutant
LEFT_OUT = ('.git', '.tox', '.venv', '.hypothesis', 'dist', '__pycache__')
# Most changes of a % or + are to text, and raise TypeError at once: one replacement of each will do.
TRIVIAL = re.compile(r'core/ReplaceBinaryOperator_(?!Add_Sub|Sub_Add|Mul_Add|Div_Mul|FloorDiv_Mul'
                     r'|Pow_Mul|BitAnd_BitOr|Mod_Mul)')
NO_TESTS = 5  # exit status of pytest
# It needs another parso than cosmic-ray.
NEEDS_PARSO = 'tests/test_tools.py::test_ctrl_c_ends_a_program_without_a_traceback'
NOT_RUN = ['--ignore', 'tests/test_lint.py', '--deselect', NEEDS_PARSO]

# (module, the line of the mutant) -> why no test can notice the change
EQUIVALENT = {
    ('main.py', 'if hook == session_ended:'): 'functions are equal only to themselves',
    ('main.py', 'return [password if not isinstance(password, str) else native(password)]'):
        'Python 3 has one type of text; on 2.7 a test of the gateway password notices',
    ('tpamrows.py', "return mark > u'' and not _may_be_cut_from(session, ours)"):
        'every other text is greater than the empty one',
}
# (module, the line of the mutant) -> why no test notices it all the same
SURVIVES = {
}

Mutant = collections.namedtuple('Mutant', 'module line code was is_now')


# ---- the mutants ---------------------------------------------------------------------------------

def sample(count, seed, scratch):
    """Return `count` mutants, taken from all modules in turn, at most one from each place."""
    with use_db(os.path.join(scratch, 'mutants'), WorkDB.Mode.create) as database:
        init([pathlib.Path(ROOT, module) for module in package.MODULES], database, {})
        specs = [item.mutations[0] for item in database.work_items]
    order = sorted((spec for spec in specs if not TRIVIAL.match(spec.operator_name)),
                   key=lambda spec: (spec.module_path, spec.operator_name, spec.occurrence))
    random.Random(seed).shuffle(order)
    waiting = collections.OrderedDict((module, []) for module in package.MODULES)
    for spec in order:
        waiting[os.path.basename(str(spec.module_path))].append(spec)
    chosen, places = [], set()
    while len(chosen) < count:
        for specs in waiting.values():
            mutant = None
            while specs and mutant is None:
                spec = specs.pop()
                place = spec.module_path, spec.start_pos
                if place not in places:
                    places.add(place)
                    mutant = mutated(spec)
            if mutant is not None:
                chosen.append(mutant)
    return chosen[:count]


def mutated(spec):
    """Return the Mutant of a MutationSpec, None if it changes nothing."""
    code = source_of(spec.module_path)
    try:
        changed = mutate_code(code, get_operator(spec.operator_name)(), spec.occurrence)
    except AttributeError:  # cosmic-ray 8.7 cannot replace an exception with a dot in its name
        return None
    was, is_now = code.splitlines(), (changed or code).splitlines()
    for opcode, start, end, new_start, new_end in difflib.SequenceMatcher(
            None, was, is_now, False).get_opcodes():
        if opcode != 'equal':
            return Mutant(os.path.basename(str(spec.module_path)), start + 1, changed,
                          ' '.join(line.strip() for line in was[start:end]),
                          ' '.join(line.strip() for line in is_now[new_start:new_end]))
    return None


def source_of(path):
    """Return the text of the file at this path."""
    with open(str(path), 'rb') as source:
        return source.read().decode('utf-8')


# ---- their tests ---------------------------------------------------------------------------------

def tests_of(mutant, ran):
    """Return (closest, others) of the tests of a mutant: files, and functions of other files.

    ran: as line_record.read() returns it. Tests that run few lines come first: they are quick, and
    closest to the line. Those that depend on what the mutant decides come before those that only run it.
    """
    size = collections.Counter(function_of(test) for tests in ran.values() for test in tests)

    def by_distance(lines):
        found = set(function_of(test) for line in lines for test in ran.get(line, ()) if test)
        files = set(name for name in found if '::' not in name)
        found = [name for name in found if name.partition('::')[0] not in files or name in files]
        return sorted(found, key=lambda name: (size[name], name))
    closest, others = [], []
    for tests in [by_distance(lines) for lines in lines_of(mutant)[::-1]]:
        for number, test in enumerate(tests):
            if test not in closest and test.partition('::')[0] not in closest:
                (closest if number < MOST_TESTS else others).append(test)
    return closest, [test for test in others if test not in closest]


def lines_of(mutant):
    """Return the (module, line) of the statement of a mutant, and of what depends on it: the body of an `if`, a loop
    or a function, and the uses of a name of the module."""
    path = os.path.join(ROOT, mutant.module)
    first = every_line.statements(path)
    its = [(mutant.module, line) for line in first if first[line] == first.get(mutant.line)]
    tree, dependent = ast.parse(source_of(path)), []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno == first.get(mutant.line) and getattr(node, 'body', None):
            dependent = [(mutant.module, line) for line in range(node.body[0].lineno, node.body[-1].end_lineno + 1)]
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.lineno <= mutant.line <= node.end_lineno:
            names = [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            dependent = uses_of(names)
    return its or [(mutant.module, mutant.line)], [line for line in dependent if line not in its]


def uses_of(names):
    """Return the (module, line) of all lines that mention one of these names."""
    found = []
    for module in package.MODULES:
        for number, line in enumerate(source_of(os.path.join(ROOT, module)).splitlines(), 1):
            if set(names) & set(re.findall('\\w+', line)):
                found.append((module, number))
    return found


def function_of(test):
    """Return the id of a test without its parameters."""
    return test.partition('[')[0]


def run_tests(folder, words, seconds=SECONDS, **environment):
    """Run pytest with these words in a copy of the project -> (whether all passed, output)."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'pytest', '--tb=line'] + words, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=dict(os.environ, **environment),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)))
    try:
        output = process.communicate(timeout=seconds)[0].decode('utf-8', 'replace')
    except subprocess.TimeoutExpired:
        output = 'is not finished in %d s' % seconds
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:  # it has ended
            pass
        process.wait()
    return process.returncode in (0, NO_TESTS), output


def first_failure(folder, tests, seconds):
    """Return pytest's line about the first test that fails, None if all pass.

    A test that passes when it is run again does not count: it was the machine that was slow.
    """
    unsteady = []
    while True:
        words = ['-x', '--deselect', NEEDS_PARSO] + [word for name in unsteady for word in ('--deselect', name)]
        passed, output = run_tests(folder, words + tests, seconds)
        if passed:
            return None
        failed = re.search('(?m)^(?:FAILED|ERROR) (\\S+?)(?:\\[.*| - .*)?$', output)
        if failed is None:  # it does not even start, or it does not end
            return output.strip().splitlines()[-1:] or ['?']
        if not run_tests(folder, [failed.group(1)])[0]:
            return failed.group()
        unsteady.append(failed.group(1))


def try_mutant(folder, mutant, closest, others):
    """Return 'killed', 'equivalent' or 'survivor', and the line of pytest about the first failure.
    """
    path = os.path.join(folder, mutant.module)
    original = source_of(path)
    write(path, mutant.code)
    try:
        failure = first_failure(folder, closest or NOT_RUN, SECONDS)
        if failure is None and others:
            failure = first_failure(folder, others, SECONDS_OF_ALL)
    finally:
        write(path, original)
    if failure is not None:
        return 'killed', failure
    if (mutant.module, mutant.is_now) in EQUIVALENT:
        return 'equivalent', ''
    return 'survivor', ''


def write(path, code):
    """Write a text to the file at this path."""
    with open(path, 'wb') as out:
        out.write(code.encode('utf-8'))


# ---- the document --------------------------------------------------------------------------------

HEAD = u"""# Mutants

Made by `make mutate` (see tools/mutate.py). %(count)d random changes (seed %(seed)d) were made to the
code that ships, one at a time, and the tests that run the changed line were run on Python %(python)s.
A mutant is killed if one of them fails. **%(killed)d of the %(counted)d that can be noticed were killed
(%(share).0f %%).**

| module | mutants | killed | equivalent | survivors |
|---|---|---|---|---|
"""
SECTIONS = (
    ('equivalent', u'Equivalent', EQUIVALENT, u'No test can notice these changes.'),
    ('survivor', u'Survivors', SURVIVES, u'No test notices these changes.'),
)


def document(results, seed):
    """Return the text of docs/mutants.md. results: [(Mutant, outcome)]."""
    count = collections.Counter(outcome for _, outcome in results)
    counted = len(results) - count['equivalent']
    text = HEAD % {'count': len(results), 'seed': seed, 'python': '%d.%d' % sys.version_info[:2],
                   'killed': count['killed'], 'counted': counted,
                   'share': 100.0 * count['killed'] / max(counted, 1)}
    for module in package.MODULES:
        outcomes = [outcome for mutant, outcome in results if mutant.module == module]
        text += u'| %s | %d | %d | %d | %d |\n' % ((module, len(outcomes)) + tuple(
            outcomes.count(outcome) for outcome in ('killed', 'equivalent', 'survivor')))
    for outcome, title, reasons, sentence in SECTIONS:
        found = [mutant for mutant, its in results if its == outcome]
        if found:
            text += u'\n## %s\n\n%s\n' % (title, sentence)
        for mutant in found:
            text += u'\n- %s, line %d: %s\n\n      %s\n      %s\n' % (
                mutant.module, mutant.line,
                reasons.get((mutant.module, mutant.is_now), u'not explained'),
                mutant.was, mutant.is_now)
    return text


def main():
    """Run the mutants of the command line, and write the document if it is all of them."""
    parser = program.Parser('%prog [options]', description=__doc__)
    parser.add_option('--count', type='int', default=100, help='mutants (default: %default)')
    parser.add_option('--seed', type='int', default=1, help='another one takes other mutants')
    parser.add_option('--number', type='int', action='append', help='only the mutant of this number')
    parser.add_option('--record', help='a file to keep which test runs which line, or to take it from')
    options, words = parser.parse_args()
    if words:
        parser.error('no arguments are expected')
    scratch = tempfile.mkdtemp()
    try:
        mutants = sample(options.count, options.seed, scratch)
        results = try_all(mutants, options, os.path.join(scratch, 'copy'))
    finally:
        shutil.rmtree(scratch, True)
    if options.number is None:
        write(DOCUMENT, document(results, options.seed))


def try_all(mutants, options, folder):
    """Try the mutants in this folder, print each, and return [(Mutant, outcome)]."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    record = os.path.abspath(options.record or os.path.join(folder, 'record'))
    if not os.path.exists(record):
        words = NOT_RUN + ['-p', 'tests.every_line']
        passed, output = run_tests(folder, words, SECONDS_OF_ALL, **{line_record.PATH: record})
        if not passed:
            raise program.Mistake('the tests fail without any change: %s' % output[-1000:])
    ran, results = line_record.read(record), []
    for number, mutant in enumerate(mutants, 1):
        if options.number is not None and number not in options.number:
            continue
        closest, others = tests_of(mutant, ran)
        outcome, failure = try_mutant(folder, mutant, closest, others)
        results.append((mutant, outcome))
        program.say(u'%d. %s:%d %s (%d tests)\n    - %s\n    + %s\n    %s' % (
            number, mutant.module, mutant.line, outcome, len(closest) + len(others),
            mutant.was, mutant.is_now, failure))
    return results


if __name__ == '__main__':
    program.run(main)
