"""Build the plugin's zip in dist/ and check it against the vendor's guide.

The rules are those of "Plugin packaging" and "The MANIFEST file". The zip has the same bytes on
every run and machine: fixed order, dates and modes, and no compression, because the output of zlib
depends on its version.
"""
from __future__ import print_function

from contextlib import closing
import glob
import io
import os
import re
import sys
import zipfile

import program
from program import ROOT

PATTERNS = ('main.py', 'sshkey.py', 'tpam*.py')


def modules():
    """Return the file names of the modules that ship, sorted. A new tpam*.py needs no entry."""
    paths = []
    for pattern in PATTERNS:
        paths += glob.glob(os.path.join(ROOT, pattern))
    return tuple(sorted(os.path.basename(path) for path in paths))


MODULES = modules()
CONTENTS = ('MANIFEST',) + MODULES + ('default.cfg', 'LICENSE')
MAX_ZIP = 20 * 1000 * 1000
MAX_DEFAULT_CFG = 10 * 1024


def build(target):
    """Write the zip to this path."""
    with closing(zipfile.ZipFile(target, 'w', zipfile.ZIP_STORED)) as plugin:
        for name in CONTENTS:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, also where it is built on another system
            entry.external_attr = 0o644 << 16
            with open(os.path.join(ROOT, name), 'rb') as content:
                plugin.writestr(entry, content.read())


def problems(path):
    """Return a line for each rule that the zip at this path breaks."""
    found = []
    if os.path.getsize(path) >= MAX_ZIP:
        found.append('the zip is not under 20 MB')
    with closing(zipfile.ZipFile(path)) as plugin:
        contents = dict((name, plugin.read(name)) for name in plugin.namelist())
    for name in ('MANIFEST', 'main.py'):
        if name not in contents:
            found.append('%s is not in the root of the zip' % name)
    if set(contents) - set(CONTENTS):
        found.append('does not ship: %s' % ', '.join(sorted(set(contents) - set(CONTENTS))))
    if len(contents.get('default.cfg', b'')) > MAX_DEFAULT_CFG:
        found.append('default.cfg is over 10 KiB')
    for name, content in sorted(contents.items()):
        try:
            content.decode('utf-8')
        except UnicodeDecodeError:
            found.append('%s is not UTF-8' % name)
    return found + manifest_problems(contents.get('MANIFEST', b''))


def manifest_problems(content):
    """Return a line for each rule that these bytes of a MANIFEST break."""
    import ruamel.yaml.error  # here, because try_plugin.py builds the zip without it
    try:
        manifest = _yaml(content)
    except ruamel.yaml.error.YAMLError:
        return ['MANIFEST is no YAML 1.2']
    if not isinstance(manifest, dict):
        return ['MANIFEST is no mapping']
    keys = ('name', 'description', 'version', 'type', 'api')
    found = ['MANIFEST: %s is missing' % key for key in keys if key not in manifest]
    if not re.match(r'[A-Za-z][A-Za-z0-9_]*\Z', str(manifest.get('name', 'n'))):
        found.append('MANIFEST: name is not a letter followed by letters, digits or _')
    if not re.match(r'[0-9]', str(manifest.get('version', '0'))):
        found.append('MANIFEST: version does not begin with a digit')
    if manifest.get('type', 'credentialstore') != 'credentialstore':
        found.append('MANIFEST: type is not credentialstore')
    if not re.match(r'[0-9]+\.[0-9]+\Z', str(manifest.get('api', '1.0'))):
        found.append('MANIFEST: api is not major.minor')
    if 'entry_point' in manifest:
        found.append('MANIFEST: entry_point selects the Python 3 environment')
    return found


def _yaml(content):
    import ruamel.yaml
    return ruamel.yaml.YAML(typ='safe', pure=True).load(io.BytesIO(content))


def main():
    """Build dist/<name>-<version>.zip -> exit status, 1 if it breaks a rule, which is printed."""
    with open(os.path.join(ROOT, 'MANIFEST'), 'rb') as source:
        content = source.read()
    found = manifest_problems(content)
    if found:
        raise program.Mistake('; '.join(found))
    manifest = _yaml(content)
    target = os.path.join(ROOT, 'dist', '%s-%s.zip' % (manifest['name'], manifest['version']))
    if not os.path.isdir(os.path.dirname(target)):
        os.mkdir(os.path.dirname(target))
    build(target)
    found = problems(target)
    for problem in found:
        sys.stderr.write(problem + '\n')
    print('%s, %d bytes, %s' % (os.path.relpath(target, ROOT), os.path.getsize(target),
                                'not good' if found else 'keeps every rule of the guide'))
    return 1 if found else 0


if __name__ == '__main__':
    program.run(main, __doc__)
