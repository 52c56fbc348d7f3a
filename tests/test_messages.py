# -*- coding: utf-8 -*-
"""docs/messages.md has a row for each message that the plugin can write, and no other."""
from __future__ import print_function, unicode_literals

import ast
import io
import os
import re

import package

DOCUMENT = os.path.join('docs', 'messages.md')
# exception -> the level of the line that its text stands in
EXCEPTIONS = {'TpamError': 'ERROR', 'TpamUnavailable': 'ERROR', 'TpamOutcomeUnknown': 'ERROR', 'TpamRefused': 'WARNING',
              'BadAnswer': 'ERROR', 'error': 'ERROR'}  # the last is socket.error
SOURCES = {  # module -> what more makes a message there; the reasons of sshkey.py say themselves what to do
    'main.py': {'calls': (), 'functions': (), 'names': ()},
    'tpamconfig.py': {'calls': ('ValueError',), 'functions': ('_missing', '_misplaced'), 'names': ()},
    'tpamini.py': {'calls': ('ValueError',), 'functions': (), 'names': ()},
    'tpamauthorize.py': {'calls': (), 'functions': (), 'names': ()},
    'tpamtarget.py': {'calls': (), 'functions': (), 'names': ()},
    'tpamcheckout.py': {'calls': (), 'functions': (), 'names': ('reason',), 'refusals': ('_reason_against',)},
    'tpamrows.py': {'calls': (), 'functions': (), 'names': ()},
    'tpamcall.py': {'calls': (), 'functions': (), 'names': ()},
    'tpamclient.py': {'calls': (), 'functions': (), 'names': ('reason',)},
    'tpamxml.py': {'calls': (), 'functions': (), 'names': ('reason',)},
    'tpamtransport.py': {'calls': (), 'functions': ('_check_tls', '_why_unconnected'), 'names': ('reason',)},
    'tpamhttp.py': {'calls': (), 'functions': ('reason_of',), 'names': ('reason',)},
    'tpamerrors.py': {'calls': (), 'functions': (), 'names': ()},
}
UNKNOWN = ('…',)  # a person's or a server's words, a number, a name


class Collector(ast.NodeVisitor):
    """Collects (level, message) from a module; what is put into a message at run time is `…`.

    calls, functions, names: whose arguments, results and values are messages of level ERROR, besides those of log() and
    of the EXCEPTIONS; refusals: whose results are of level WARNING.
    """

    def __init__(self, tree, calls=(), functions=(), names=(), refusals=()):
        self.levels = dict(EXCEPTIONS, **dict.fromkeys(calls, 'ERROR'))
        self.functions = dict.fromkeys(functions, 'ERROR')
        self.functions.update(dict.fromkeys(refusals, 'WARNING'))
        self.names = names
        self.found, self.scopes = set(), [tree]
        self.visit(tree)

    def visit_FunctionDef(self, node):
        self.scopes.append(node)
        for child in ast.walk(node) if node.name in self.functions else ():
            if isinstance(child, (ast.Yield, ast.Return)):
                self.collect(self.functions[node.name], child.value)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node):
        target, value = node.targets[0], node.value
        together = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        for name, part in zip(target.elts, value.elts) if together else [(target, value)]:
            if getattr(name, 'id', None) in self.names:
                self.collect('ERROR', part)
        self.generic_visit(node)

    def visit_Call(self, node):
        called = [getattr(child, 'id', getattr(child, 'attr', None)) for child in ast.walk(node.func)]
        if 'log' in called and len(node.args) > 1:
            self.collect(ast.literal_eval(node.args[0]).upper(), node.args[1])
        elif called[:2] == ['append', 'problems']:
            self.collect('ERROR', node.args[0])
        else:
            message = node.args[1:] if '__init__' in called else node.args  # the first is self
            for name in set(called) & set(self.levels) if message else ():
                self.collect(self.levels[name], message[0])
        for keyword in node.keywords:
            if keyword.arg in self.names:
                self.collect('ERROR', keyword.value)
        self.generic_visit(node)

    def collect(self, level, node):
        self.found.update((level, message) for message in self.texts(node)
                          if re.search('[a-z]{2}', message))

    def texts(self, node, depth=0):
        """The texts that an expression can come to."""
        if depth > 8:
            return UNKNOWN
        try:
            value = ast.literal_eval(node)
        except ValueError:
            value = None
        if isinstance(value, bytes):
            value = value.decode('utf-8')
        if isinstance(value, type('')):
            return (re.sub('%[sd]', '…', value),)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return self.texts(node.left, depth + 1)
        if isinstance(node, ast.Tuple):  # a problem of the configuration, with its line, or its section and option
            parts = [self.texts(part, depth + 1)[0] for part in node.elts]
            return ('[%s] %s: %s' % tuple(parts) if len(parts) == 3 else parts[-1],)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return tuple(left + right for left in self.texts(node.left, depth + 1)
                         for right in self.texts(node.right, depth + 1))
        if isinstance(node, ast.IfExp):
            return self.texts(node.body, depth + 1) + self.texts(node.orelse, depth + 1)
        if isinstance(node, ast.BoolOp):
            return tuple(text for value in node.values for text in self.texts(value, depth + 1))
        if isinstance(node, ast.Call) and getattr(node.func, 'id', getattr(node.func, 'attr', '')) in (
                'describe', '_error'):
            return self.texts(node.args[0], depth + 1)
        if isinstance(node, ast.Name):
            return self.assigned(node.id, depth + 1)
        return UNKNOWN

    def assigned(self, name, depth):
        """What the innermost function or the module assigns to this name."""
        for scope in reversed(self.scopes):
            inside = ast.walk(scope) if isinstance(scope, ast.FunctionDef) else scope.body
            values = [assignment.value for assignment in inside if isinstance(assignment, ast.Assign)
                      for target in assignment.targets if name == getattr(target, 'id', None)]
            if values:
                return tuple(text for value in values for text in self.texts(value, depth))
        return UNKNOWN


def messages_of(name):
    """(level, message) of each message in a module of the plugin."""
    with io.open(os.path.join(package.ROOT, name), 'rb') as source:
        return Collector(ast.parse(source.read(), name), **SOURCES[name]).found


def rows():
    """(message, level, cause, remedy) of each row of the document's tables."""
    with io.open(os.path.join(package.ROOT, DOCUMENT), encoding='utf-8') as content:
        for line in content.read().splitlines():
            cells = re.match(r'\| `(.+?)` \| ([A-Z]+) \| (.*) \| (.*) \|\Z', line)
            if cells:
                yield cells.groups()


def test_each_message_of_the_plugin_is_in_the_document_and_no_other():
    written = set(pair for name in SOURCES for pair in messages_of(name))
    documented = set((level, message) for message, level, _, _ in rows())
    lacking = ['| `%s` | %s | cause | remedy |' % (message, level) for level, message in sorted(written - documented)]
    stale = ['| `%s` | %s |' % (message, level) for level, message in sorted(documented - written)]
    assert not lacking, DOCUMENT + ' lacks these rows:\n' + '\n'.join(lacking)
    assert not stale, DOCUMENT + ' has rows for what no code writes; take out:\n' + '\n'.join(stale)


def test_each_row_has_a_cause_and_a_remedy_and_none_comes_twice():
    found = list(rows())
    assert [row for row in found if not row[2].strip() or not row[3].strip()] == []
    assert len(found) == len(set(row[:2] for row in found))


def test_the_collector_finds_what_code_can_write():
    code = '''
def hook(self, call):
    call.log('info', 'one', account=1)
    reason = 'two %s' % name
    failure = self._error('three') if late else 'four'
    if late:
        raise (TpamError if late else TpamUnavailable)(failure + '; and five')
    raise TpamRefused(describe('six', address=1))
    self.log('error', 'seven: ' + problem)
    raise TpamRefused(reason)
    raise TpamError(words_of_the_server)
    about, late = 'eight', False
    problems.append((line, 'ten %d' % line))
    raise BadAnswer(about='nine')
def rule(settings):
    yield 'tls', option, 'eleven'
'''
    assert Collector(ast.parse(code), functions=('rule',), names=('about',)).found == set([
        ('INFO', 'one'), ('WARNING', 'two …'), ('ERROR', 'three; and five'), ('ERROR', 'four; and five'),
        ('WARNING', 'six'), ('ERROR', 'seven: …'), ('ERROR', 'eight'), ('ERROR', 'nine'),
        ('ERROR', 'ten …'), ('ERROR', '[tls] …: eleven')])
