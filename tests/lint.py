"""Refuses what Python 2.6.5 has not: syntax by parso's grammar of 2.6, library by vermin.

For what ships, and for the tool with which a site tries it. flake8, for all files, runs beside it.
"""
from __future__ import print_function

import os
import subprocess
import sys

import parso

import package

TOOL = ('tools/try_plugin.py', 'tools/fake_sps.py', 'tools/sps_child.py', 'tools/check_child.py',
        'tools/package.py', 'tools/program.py')
CHECKED = [os.path.join(package.ROOT, name) for name in package.MODULES + TOOL]


def syntax_problems(code):
    """What the grammar of 2.6 does not know in this code (text) -> list of text."""
    grammar = parso.load_grammar(version='2.6')
    return ['line %d: %s' % (issue.start_pos[0], issue.message)
            for issue in grammar.iter_errors(grammar.parse(code))]


def library_problems(path):
    """What vermin finds in the file at this path that 2.6 has not -> list of text."""
    vermin = os.path.join(os.path.dirname(sys.executable), 'vermin')
    checker = subprocess.Popen([vermin, '--target=2.6-', '--violations', '--no-tips', path],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = checker.communicate()[0].decode('utf-8')
    return [] if checker.returncode == 0 else output.strip().splitlines()


def problems(path):
    """Both, for the file at this path."""
    with open(path, 'rb') as source:
        return syntax_problems(source.read().decode('utf-8')) + library_problems(path)


def main():
    """Exit status 1 and a line for each finding if anything was found."""
    found = [(os.path.relpath(path, package.ROOT), problem) for path in CHECKED for problem in problems(path)]
    for path, problem in found:
        print('%s: %s' % (path, problem), file=sys.stderr)
    print('%d files are %s' % (len(CHECKED), 'not Python 2.6' if found else 'Python 2.6'))
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
