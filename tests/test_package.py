# -*- coding: utf-8 -*-
"""The zip keeps the vendor's rules ("Plugin packaging", "The MANIFEST file"), and the check refuses what does not."""
from __future__ import unicode_literals

import hashlib
import io
import os
import zipfile

import pytest

import package


def manifest(**changed):
    """The bytes of a good MANIFEST with some keys changed, or left out (None)."""
    keys = {'name': 'A_plugin', 'description': 'words', 'version': '1.0.0', 'type': 'credentialstore', 'api': '1.0'}
    keys.update(changed)
    return '\n'.join('%s: %s' % pair for pair in sorted(keys.items()) if pair[1] is not None).encode('utf-8')


def zipped(tmpdir, **contents):
    """Path of a zip of these files, on top of a good MANIFEST and main.py."""
    path = str(tmpdir.join('plugin.zip'))
    files = {'MANIFEST': manifest(), 'main.py': b''}
    files.update(contents)
    with zipfile.ZipFile(path, 'w') as plugin:
        for name, content in files.items():
            if content is not None:
                plugin.writestr(name, content)
    return path


def test_the_plugin_keeps_every_rule(plugin_zip):
    assert package.problems(plugin_zip) == []


def test_the_zip_holds_every_module_of_the_root_and_nothing_else(plugin_zip):
    in_root = [name for name in os.listdir(package.ROOT) if name.endswith('.py')]
    assert 'main.py' in in_root
    with zipfile.ZipFile(plugin_zip) as plugin:
        assert set(plugin.namelist()) == set(['LICENSE', 'MANIFEST', 'default.cfg'] + in_root)


def test_the_zip_has_the_same_bytes_on_every_run(tmpdir):
    digests = set()
    for name in ('a.zip', 'b.zip'):
        package.build(str(tmpdir.join(name)))
        os.utime(os.path.join(package.ROOT, 'main.py'), None)
        with io.open(str(tmpdir.join(name)), 'rb') as plugin:
            digests.add(hashlib.sha256(plugin.read()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize('changed, problem', [
    ({'name': None}, 'name is missing'), ({'description': None}, 'description is missing'),
    ({'version': None}, 'version is missing'), ({'type': None}, 'type is missing'), ({'api': None}, 'api is missing'),
    ({'name': '1st'}, 'name is not a letter'), ({'name': 'a-b'}, 'name is not a letter'),
    ({'version': 'v1'}, 'version does not begin with a digit'), ({'type': 'aa'}, 'type is not credentialstore'),
    ({'api': '1'}, 'api is not major.minor'), ({'api': '"1.0.0"'}, 'api is not major.minor'),
    ({'entry_point': 'main.py'}, 'entry_point selects the Python 3 environment'),
])
def test_a_manifest_against_the_rules_is_refused(changed, problem):
    assert package.manifest_problems(manifest()) == []
    found, = package.manifest_problems(manifest(**changed))
    assert problem in found


@pytest.mark.parametrize('content, problem', [(b'a: [', 'no YAML 1.2'), (b'words', 'no mapping')])
def test_a_manifest_that_is_no_mapping_in_yaml_is_refused(content, problem):
    found, = package.manifest_problems(content)
    assert problem in found


@pytest.mark.parametrize('contents, problem', [
    ({'main.py': None}, 'main.py is not in the root'),
    ({'tests/x.py': b''}, 'does not ship: tests/x.py'),
    ({'default.cfg': b'#' * 10241}, 'default.cfg is over 10 KiB'),
    ({'default.cfg': b'\xff'}, 'default.cfg is not UTF-8'),
    ({'LICENSE': b'.' * 20000000}, 'not under 20 MB'),
])
def test_a_zip_against_the_rules_is_refused(tmpdir, contents, problem):
    found, = package.problems(zipped(tmpdir, **contents))
    assert problem in found
