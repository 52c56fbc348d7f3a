"""The check for Python 2.6 can fail: it is fed what 2.6 has not.

It runs where its tools are, in tox's lint environment.
"""
from __future__ import unicode_literals

import pytest

import lint


@pytest.mark.parametrize('code', [
    'x = {1, 2}\n', 'x = {a: a for a in b}\n', 'with a, b:\n    pass\n', 'def f(*, a):\n    pass\n',
    'raise a from b\n', 'def f(a: int):\n    pass\n', "x = f'{a}'\n", 'nonlocal x\n',
])
def test_syntax_that_is_newer_is_refused(code):
    assert lint.syntax_problems(code)


@pytest.mark.parametrize('code', [
    "x = '{}'.format(1)\n", 'from collections import OrderedDict\n', 'import argparse\n',
    'import subprocess\nsubprocess.check_output([])\n', 'import ssl\nssl.SSLContext(1)\n', 'x = (5).bit_length()\n',
    "import hmac\nhmac.compare_digest('a', 'b')\n", "x = b''.decode(encoding='utf-8')\n",
])
def test_a_library_that_is_newer_is_refused(tmpdir, code):
    path = tmpdir.join('shipped.py')
    path.write(code)
    assert lint.library_problems(str(path))


def test_python_2_6_is_taken(tmpdir):
    path = tmpdir.join('shipped.py')
    path.write("try:\n    with open('x') as f:\n        b'{0}'\nexcept IOError as e:\n    raise ValueError(u'x')\n")
    assert lint.problems(str(path)) == []


@pytest.mark.parametrize('path', lint.CHECKED)
def test_what_ships_is_python_2_6(path):
    assert lint.problems(path) == []
