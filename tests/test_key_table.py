# -*- coding: utf-8 -*-
"""docs/private-keys.md: every form of a key, on every interpreter, as these tests found it.

Run with UPDATE_DOCS=1 to write what was found on this run's interpreters; otherwise the document must say it already.
"""
from __future__ import unicode_literals

import io
import json
import os
import subprocess

import pytest

import package
from conftest import PYTHONS
from test_sshkey import FORMATS, stored_text

PAGE = os.path.join(package.ROOT, 'docs', 'private-keys.md')
VERSIONS = ['2.6', '2.7'] + ['3.%d' % minor for minor in range(6, 14)]
INTRODUCTION = """# Private keys, form by form

Made by the tests: what `sshkey.py` makes of each form in which people store keys, on each interpreter. ✓ means that
it came out as the second column says; a refusal is one log line with that reason, and no key is returned. What comes
out is always PKCS#1 or traditional DSA, and `openssl`, `ssh-keygen` and paramiko read the same public key from it.

"""
CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
import sshkey
found = []
for text in json.loads(getattr(sys.stdin, 'buffer', sys.stdin).read().decode('ascii')):
    try:
        found.append(' '.join('%s %d' % (kind, bits) for kind, _, _, bits in sshkey.private_keys(text)))
    except sshkey.UnusableKey:
        found.append('refused: %s' % sys.exc_info()[1])
print('%d.%d' % sys.version_info[:2])
print(json.dumps(found))
"""


def cells(line):
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


def documented():
    """{form: {version: mark}} of the document."""
    if not os.path.exists(PAGE):
        return {}
    with io.open(PAGE, encoding='utf-8') as page:
        rows = [cells(line) for line in page if line.startswith('| ')]
    return dict((row[0], dict(zip(rows[0][2:], row[2:]))) for row in rows[1:])


def written(marks):
    """The document for these marks."""
    lines = ['| %s |' % ' | '.join(['form', 'comes out as'] + VERSIONS), '|' + '---|' * (2 + len(VERSIONS))]
    for name, _, expected in FORMATS:
        lines.append('| %s |' % ' | '.join([name, expected] + [marks.get(name, {}).get(version, '') or ' '
                                                               for version in VERSIONS]))
    return INTRODUCTION + '\n'.join(lines) + '\n'


@pytest.mark.parametrize('python', PYTHONS)
def test_the_table_says_what_was_found(python):
    child = subprocess.Popen([python, '-c', CHILD, package.ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    texts = json.dumps([stored_text(command) for _, command, _ in FORMATS])
    version, found = child.communicate(texts.encode('ascii'))[0].decode('ascii').splitlines()
    marks = documented()
    for (name, _, expected), outcome in zip(FORMATS, json.loads(found)):
        reason = expected.partition('refused: ')[2]
        if outcome == expected or reason and outcome.startswith('refused: ') and reason in outcome:
            marks.setdefault(name, {})[version] = '✓'
        else:
            marks.setdefault(name, {})[version] = outcome
    if os.environ.get('UPDATE_DOCS'):
        with io.open(PAGE, 'w', encoding='utf-8') as page:
            page.write(written(marks))
    with io.open(PAGE, encoding='utf-8') as page:
        assert page.read() == written(marks)
    assert set(row[version] for row in marks.values()) == set('✓')
