"""The limits of the code are kept, and each check can fail: it is fed what it must refuse.

It runs where its tools are, in tox's lint environment.
"""
from __future__ import unicode_literals

import os

import pytest

import lint
import package


# ---- Python 2.6

@pytest.mark.parametrize('code', [
    'x = {1, 2}\n', 'x = {a: a for a in b}\n', 'with a, b:\n    pass\n', 'def f(*, a):\n    pass\n',
    'raise a from b\n', 'def f(a: int):\n    pass\n', "x = f'{a}'\n", 'nonlocal x\n',
])
def test_syntax_that_is_newer_is_refused(code):
    assert lint.syntax_problems(code)


@pytest.mark.parametrize('code', [
    "x = '{}'.format(1)\n", 'from collections import OrderedDict\n', 'import argparse\n',
    'import subprocess\nsubprocess.check_output([])\n', 'import ssl\nssl.SSLContext(1)\n',
    'x = (5).bit_length()\n', "import hmac\nhmac.compare_digest('a', 'b')\n",
    "x = b''.decode(encoding='utf-8')\n",
])
def test_a_library_that_is_newer_is_refused(tmpdir, code):
    path = tmpdir.join('shipped.py')
    path.write(code)
    assert lint.library_problems(str(path))


def test_python_2_6_is_accepted(tmpdir):
    path = tmpdir.join('shipped.py')
    path.write("try:\n    with open('x') as f:\n        b'{0}'\n"
               "except IOError as e:\n    raise ValueError(u'x')\n")
    assert lint.problems(str(path)) == []


# ---- shape

def test_a_file_of_450_lines_is_accepted_and_a_longer_one_refused():
    assert lint.long_file('main', 450 * 'x\n') == []
    assert lint.long_file('main', 451 * 'x\n') == ['451 lines; at most 450']


def test_a_line_of_100_characters_is_accepted_and_a_longer_one_refused():
    assert lint.long_lines('main', 100 * '\xe9') == []
    assert lint.long_lines('main', 'x\n' + 101 * 'x') == ['line 2: 101 characters; at most 100']


def test_a_class_over_200_and_a_function_over_45_lines_are_refused_also_inside_others():
    method = 'class C(object):\n    @property\n    def f(self):\n'
    assert lint.long_definitions('main', 'class C(object):\n' + 199 * '    x = 1\n') == []
    assert lint.long_definitions('main', 'class C(object):\n' + 200 * '    x = 1\n') == [
        'line 1: C has 201 lines; at most 200']
    assert lint.long_definitions('main', method + 44 * '        x = 1\n') == []
    assert lint.long_definitions('main', method + 45 * '        x = 1\n') == [
        'line 3: f has 46 lines; at most 45']


@pytest.mark.parametrize('module, code', [
    ('main', 'import tpamcall, tpamerrors\n'), ('tpamxml', 'from tpamerrors import TpamError\n'),
    ('tpamclient', 'import tpamtransport\n'), ('main', 'def f():\n    import sshkey\n'),
    ('tpamcall', 'class C(object):\n    def f(self):\n        from tpamclient import TpamClient\n'),
    ('tpamerrors', 'import os, re\nfrom lxml import etree\n'),
])
def test_an_import_downward_is_accepted(module, code):
    assert lint.wrong_imports(module, code) == []


@pytest.mark.parametrize('module, code', [
    ('tpamcall', 'import main\n'), ('tpamcall', 'import os, tpamcheckout\n'),
    ('tpamerrors', 'from tpamcert import names\n'), ('tpamerrors', 'import tpamerrors\n'),
    ('tpamcert', 'def f():\n    import tpamtransport\n'),
    ('tpamcert', 'def f():\n    if x:\n        from tpamlog import y\n'),
    ('tpamcert', "f = lambda: __import__('main')\n"), ('sshkey', 'import tpamerrors.x\n'),
])
def test_an_import_upward_is_refused_also_inside_a_function(module, code):
    problem, = lint.wrong_imports(module, code)
    assert 'which is above it' in problem


@pytest.mark.parametrize('module, code', [
    ('main', 'import sshkey\n'), ('tpamcall', 'from tpamclient import TpamClient\n'),
    ('tpamxml', 'import tpamtransport\n'),
    ('tpamlog', 'class C(object):\n    import tpamclient\n'),
    ('main', 'try:\n    import tpamtransport\nexcept ImportError:\n    pass\n'),
])
def test_the_wire_and_the_key_formats_are_imported_inside_functions_only(module, code):
    problem, = lint.wrong_imports(module, code)
    assert 'outside of a function' in problem


def test_a_module_that_the_table_of_layers_lacks_is_refused():
    assert lint.wrong_imports('tpamnew', '') != []


@pytest.mark.parametrize('code', [
    "getattr(x, '_by_' + mode)", "getattr(x, '_by_%s' % mode)", 'getattr(x, name)', 'getattr(*x)',
    "getattr(x, mode, None)('a')", "getattr(x, 'a' if b else 'c')",
])
def test_a_computed_attribute_is_refused(code):
    assert lint.computed_names('main', code) == ['line 1: getattr with a computed name']


def test_an_attribute_by_its_name_is_accepted():
    assert lint.computed_names('main', "getattr(x, 'a', None)\ngetattr(x, u'b')\n") == []


@pytest.mark.parametrize('code', [
    'x = a and b or c', 'f(a and b or c)', 'f(x=a and b or c)', 'def f():\n    return a and b or c',
    "'%s' % (a and b or c)", '[a and b or c]', 'x = a == 1 and b or c', 'x = (a and b or c).d',
    'x = a or b and c', 'lambda: a and f(b) or None', 'x = [y for y in a and b or c]',
    'if f(a and b or c):\n    pass', 'x = (a and b or c) if d else e',
    'def f():\n    return isinstance(a, b) and c or d',
])
def test_and_inside_or_is_refused_as_a_value(code):
    problem, = lint.and_or_values('main', code)
    assert '`and` inside `or`' in problem


@pytest.mark.parametrize('code', [
    'if a and b or c:\n    pass', 'while a and (b or c and d):\n    pass', 'assert a and b or c',
    'x = d if a and b or c else e', '[x for x in y if a and x or b]', 'x = not (a and b or c)',
    'x = a == 1 and b != 2 or c is None', 'x = a or b', 'x = a and b', 'x = (a or b) and c',
    'def f():\n    return isinstance(a, b) and a.isdigit() or not c',
    'x = a < b and is_good(c) or False',
])
def test_and_inside_or_is_accepted_as_a_condition_and_between_truth_values(code):
    assert lint.and_or_values('main', code) == []


@pytest.mark.parametrize('code, count', [
    ('[x for x in y if a if b]', 1), ('set(x for x in y if a for z in x if b)', 1),
    ('[x for x in y if a]', 0), ('[x for x in [z for z in y if a] if b]', 0),
])
def test_a_comprehension_with_two_ifs_is_refused(code, count):
    assert len(lint.two_conditions('main', code)) == count


@pytest.mark.parametrize('code', [
    'import sys\nif sys.version_info[0] > 2:\n    pass', 'import sys\nx = sys.version',
    'from sys import version_info', 'PY2 = True', 'import six', 'from six import text_type',
    'compat.PY2', 'from sys import version as x', 'import platform\nplatform.python_version()',
])
def test_code_that_asks_for_the_version_of_python_is_refused(code):
    assert lint.version_checks('main', code) != []


def test_versions_of_other_things_are_accepted():
    assert lint.version_checks('main', "VERSION = '1.1.0'\nx = sock.version()\nsys.exit(1)\n") == []


# ---- what ships

def test_every_module_of_the_root_is_checked():
    in_root = [name for name in os.listdir(package.ROOT) if name.endswith('.py')]
    assert 'main.py' in in_root
    assert sorted(in_root) == sorted(os.path.basename(path) for path in lint.SHIPPED)
    assert set(lint.SHIPPED) < set(lint.CHECKED)


@pytest.mark.parametrize('path', lint.CHECKED, ids=os.path.basename)
def test_what_a_site_runs_is_python_2_6(path):
    assert lint.problems(path) == []


@pytest.mark.parametrize('check', lint.SHAPE, ids=[check.__name__ for check in lint.SHAPE])
@pytest.mark.parametrize('path', lint.SHIPPED, ids=os.path.basename)
def test_what_ships_keeps_the_limits(path, check):
    assert lint.shape_problems(path, [check]) == []
