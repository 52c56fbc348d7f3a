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

Made by `tests/test_key_table.py`: what `sshkey.py` makes of each form in which people store keys. The last column says
on which interpreters this was seen; *all* means Python 2.6, 2.7, and 3.6 to 3.13. A refusal is one log line with that
reason, and no key is returned. What comes out is always PKCS#1 or traditional DSA, and `openssl`, `ssh-keygen` and
paramiko read the same public key from it.

"""
ALL = 'all'
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
    """{form: the interpreters on which it came out as it should} of the document."""
    if not os.path.exists(PAGE):
        return {}
    with io.open(PAGE, encoding='utf-8') as page:
        rows = [cells(line) for line in page if line.startswith('| ')]
    return dict((row[0], VERSIONS if row[2] == ALL else row[2].split(', ')) for row in rows[1:])


def written(good):
    """The document for these interpreters of each form."""
    lines = ['| form | comes out as | on |', '|---|---|---|']
    for name, _, expected in FORMATS:
        versions = [version for version in VERSIONS if version in good.get(name, ())]
        lines.append('| %s | %s | %s |' % (name, expected, ALL if versions == VERSIONS else ', '.join(versions)))
    return INTRODUCTION + '\n'.join(lines) + '\n'


@pytest.mark.parametrize('python', PYTHONS)
def test_the_table_says_what_was_found(python):
    child = subprocess.Popen([python, '-c', CHILD, package.ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    texts = json.dumps([stored_text(command) for _, command, _ in FORMATS])
    version, found = child.communicate(texts.encode('ascii'))[0].decode('ascii').splitlines()
    good = documented()
    for (name, _, expected), outcome in zip(FORMATS, json.loads(found)):
        reason = expected.partition('refused: ')[2]
        others = [known for known in good.get(name, ()) if known != version]
        is_as_expected = outcome == expected or reason and outcome.startswith('refused: ') and reason in outcome
        assert is_as_expected, '%s: %s' % (name, outcome)
        good[name] = others + [version]
    if os.environ.get('UPDATE_DOCS'):
        with io.open(PAGE, 'w', encoding='utf-8') as page:
            page.write(written(good))
    with io.open(PAGE, encoding='utf-8') as page:
        assert page.read() == written(good)
