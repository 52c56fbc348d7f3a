"""Hold the limits of the code: Python 2.6.5 for what a site runs, and the shape of what ships.

Syntax is checked by parso's grammar of 2.6, the library by vermin. The shape is that of the tables
and limits below. flake8, for all files, runs beside it.
"""
from __future__ import print_function

import ast
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(1, os.path.join(HERE, '..', 'tools'))

import package  # noqa: E402
import program  # noqa: E402

MAX_FILE, MAX_CLASS, MAX_FUNCTION = 450, 200, 45  # lines
MAX_LINE = 100  # characters

# A module may import only modules further down.
LAYERS = (
    'main',           # policy
    'tpamauthorize',  # who may have a credential
    'tpamtarget',     # the account that a hook is about
    'tpamcheckout',   # requests and check-in
    'tpamrows',       # the rows of requests that the server lists
    'tpamcall',       # one hook call and all of its state
    'tpamlog',        # log lines, masked
    'tpamconfig',     # configuration text -> settings
    'tpamini',        # lines of the configuration -> options
    'tpamclient',     # one method per command
    'tpamxml',        # XML-RPC
    'tpamtransport',  # connections
    'tpamhttp',       # one HTTP request and its answer
    'tpamcert',       # certificates
    'tpamerrors',     # leaf
    'sshkey',         # key formats
)
# Modules that a hook may do without: the others import them inside functions.
LAZY = ('tpamclient', 'tpamtransport', 'sshkey')

SHIPPED = tuple(os.path.join(program.ROOT, name) for name in package.modules())
TOOL = tuple(os.path.join(program.ROOT, 'tools', name) for name in (
    'try_plugin.py', 'fake_sps.py', 'sps_child.py', 'check_child.py', 'check_server.py', 'server_answers.py',
    'package.py', 'program.py'))
CHECKED = SHIPPED + TOOL

FUNCTIONS = (ast.FunctionDef, ast.Lambda)
# Calls of these give True or False.
BOOLEAN_CALL = re.compile(r'(?:all|any|bool|callable|hasattr|isinstance|issubclass|startswith'
                          r'|endswith|is[a-z]+|_?(?:is|has)_\w+)\Z')


def source_of(path):
    """Return the text of the file at this path."""
    with open(path, 'rb') as source:
        return source.read().decode('utf-8')


# ---- Python 2.6

def syntax_problems(code):
    """Return a line for each piece of this code (text) that the grammar of 2.6 does not know."""
    import parso
    grammar = parso.load_grammar(version='2.6')
    return ['line %d: %s' % (issue.start_pos[0], issue.message)
            for issue in grammar.iter_errors(grammar.parse(code))]


def library_problems(path):
    """Return vermin's lines about the file at this path if it needs more than 2.6."""
    vermin = os.path.join(os.path.dirname(sys.executable), 'vermin')
    if not os.path.exists(vermin):
        raise program.Mistake(program.MISSING % 'vermin')
    checker = subprocess.Popen([vermin, '--target=2.6-', '--violations', '--no-tips', '--processes=1', path],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = checker.communicate()[0].decode('utf-8')
    if checker.returncode == 0:
        return []
    return output.strip().splitlines() or ['vermin failed']


def problems(path):
    """Return the lines of both checks for the file at this path."""
    return syntax_problems(source_of(path)) + library_problems(path)


# ---- shape: each check takes a module's name and code (text), and returns a line for each problem

def long_file(name, code):
    """Refuse a module of more than MAX_FILE lines."""
    count = len(code.splitlines())
    if count > MAX_FILE:
        return ['%d lines; at most %d' % (count, MAX_FILE)]
    return []


def long_lines(name, code):
    """Refuse lines of more than MAX_LINE characters, which are not bytes."""
    return ['line %d: %d characters; at most %d' % (number, len(line), MAX_LINE)
            for number, line in enumerate(code.splitlines(), 1) if len(line) > MAX_LINE]


def long_definitions(name, code):
    """Refuse classes of more than MAX_CLASS lines and functions of more than MAX_FUNCTION."""
    found = []
    for kind, limit in ((ast.ClassDef, MAX_CLASS), (ast.FunctionDef, MAX_FUNCTION)):
        for node in nodes(code, kind):
            count = node.end_lineno - node.lineno + 1
            if count > limit:
                found.append(at(node, '%s has %d lines; at most %d' % (node.name, count, limit)))
    return found


def wrong_imports(name, code):
    """Refuse imports that LAYERS and LAZY do not allow, also those inside functions."""
    if name not in LAYERS:
        return ['%s has no place in LAYERS, the table of tests/lint.py' % name]
    found, tree = [], ast.parse(code)
    in_functions = set(id(node) for function in ast.walk(tree) if isinstance(function, FUNCTIONS)
                       for node in ast.walk(function))
    for node in ast.walk(tree):
        for imported in imported_by(node):
            if imported not in LAYERS:
                continue
            if LAYERS.index(imported) <= LAYERS.index(name):
                found.append(at(node, '%s imports %s, which is above it' % (name, imported)))
            elif imported in LAZY and name not in LAZY and id(node) not in in_functions:
                found.append(at(node, 'imports %s outside of a function' % imported))
    return found


def imported_by(node):
    """Return the names of the modules that this node imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition('.')[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or '').partition('.')[0]]
    if isinstance(node, ast.Call) and called(node) in ('__import__', 'import_module') and node.args:
        return [constant(node.args[0])]
    return []


def computed_names(name, code):
    """Refuse getattr() with a name that is computed, which grep does not find."""
    return [at(node, 'getattr with a computed name') for node in nodes(code, ast.Call)
            if called(node) == 'getattr' and (len(node.args) < 2 or constant(node.args[1]) is None)]


def and_or_values(name, code):
    """Refuse `a and b or c` as a value, except where all operands are truth values."""
    tree = ast.parse(code)
    conditions = set()
    for node in ast.walk(tree):
        for condition in conditions_of(node):
            conditions.update(id(operand) for operand in operands(condition))
    return [at(node, '`and` inside `or` as a value: write if/else') for node in ast.walk(tree)
            if is_and_or(node) and id(node) not in conditions
            and not all(is_boolean(operand) for operand in operands(node))]


def conditions_of(node):
    """Return the expressions in this node that only their truth matters of."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
        return [node.test]
    if isinstance(node, ast.comprehension):
        return node.ifs
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return [node.operand]
    return []


def operands(node):
    """Return this node and, if it is `and` or `or`, all that they combine, at any depth."""
    found = [node]
    if isinstance(node, ast.BoolOp):
        for value in node.values:
            found += operands(value)
    return found


def is_and_or(node):
    """Tell whether this node is an `or` that has an `and` among its operands."""
    return (isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or)
            and any(isinstance(value, ast.BoolOp) for value in node.values))


def is_boolean(node):
    """Tell whether this node can only be True or False."""
    if isinstance(node, ast.Call):
        return BOOLEAN_CALL.match(called(node)) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool)
    return isinstance(node, (ast.Compare, ast.BoolOp))  # operands() has those of a BoolOp, too


def two_conditions(name, code):
    """Refuse a comprehension with more than one `if`."""
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    return [at(node, 'a comprehension with more than one `if`') for node in nodes(code, kinds)
            if sum(len(generator.ifs) for generator in node.generators) > 1]


def version_checks(name, code):
    """Refuse code that asks for the version of Python: the shim is the only place that knows it."""
    found = []
    for node in ast.walk(ast.parse(code)):
        names = list(imported_by(node))
        if isinstance(node, ast.ImportFrom):
            names += ['%s.%s' % (node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names += [node.attr, '%s.%s' % (getattr(node.value, 'id', ''), node.attr)]
        elif isinstance(node, ast.Name):
            names.append(node.id)
        known = ('six', 'PY2', 'PY3', 'version_info', 'hexversion', 'python_version', 'sys.version',
                 'sys.version_info', 'sys.hexversion', 'platform.python_version')
        found += [at(node, 'asks for the version of Python (%s)' % asked) for asked in names
                  if asked in known]
    return found


SHAPE = (long_file, long_lines, long_definitions, wrong_imports, computed_names, and_or_values,
         two_conditions, version_checks)


def nodes(code, kinds):
    """Return the nodes of these kinds in this code (text)."""
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]


def at(node, problem):
    """Return the line about a problem at this node."""
    return 'line %d: %s' % (node.lineno, problem)


def called(call):
    """Return the name of what is called, without what is in front of its last dot."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return getattr(function, 'id', '')


def constant(node):
    """Return the text that this node is, or None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return None


def shape_problems(path, checks=SHAPE):
    """Return the lines of these checks for the module at this path."""
    name = os.path.splitext(os.path.basename(path))[0]
    found = []
    for check in checks:
        found += check(name, source_of(path))
    return found


def main():
    """Print a line for each problem -> exit status, 1 if there is any."""
    count = 0
    for path in CHECKED:
        found = problems(path)
        if path in SHIPPED:
            found += shape_problems(path)
        for problem in found:
            print('%s: %s' % (os.path.relpath(path, program.ROOT), problem), file=sys.stderr)
        count += len(found)
    print('%d files, %d problems' % (len(CHECKED), count))
    return 1 if count else 0


if __name__ == '__main__':
    program.run(main, __doc__)
