"""Shared by the programs: where things are, and one line in place of a traceback. Python 2.6."""
import errno
import optparse
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TESTS = os.path.join(ROOT, 'tests')
sys.path.append(ROOT)  # for the constants of the plugin that a program shows

# Exit statuses. A program that ran and found something wrong exits with 1.
COULD_NOT_RUN = 2
INTERRUPTED = 130  # by Ctrl-C, as a shell reports it

# Imported name: name on PyPI.
PACKAGES = {'aiohttp': 'aiohttp', 'asyncssh': 'asyncssh', 'dns': 'dnspython', 'lxml': 'lxml', 'parso': 'parso',
            'ruamel': 'ruamel.yaml'}
MISSING = u'the package %s is missing: pip install -r tests/requirements.txt'


class Mistake(Exception):
    """The program cannot run; the message, one line, tells the user why and what to do."""


class Parser(optparse.OptionParser):
    """An option parser that keeps the line breaks of the description and of the epilog."""

    def format_description(self, formatter):
        return self.description or ''

    def format_epilog(self, formatter):
        return self.epilog or ''


def run(main, description=None):
    """Run main(), and exit with the status that it returns.

    description: the help text of a program that takes no arguments, printed by --help. None if
    main() reads the command line.
    """
    try:
        if description is not None:
            parser = Parser('%prog', description=description.lstrip())
            if parser.parse_args()[1]:
                parser.error('no arguments are expected')
        status = main()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception:
        line = mistake(sys.exc_info()[1])
        if line is None:
            raise
        say(u'%s: %s' % (os.path.basename(sys.argv[0]), line), sys.stderr)
        status = COULD_NOT_RUN
    sys.exit(status)


def mistake(error):
    """Return the line about an exception that the user can act on; None for any other."""
    if isinstance(error, Mistake):
        return error.args[0]
    if isinstance(error, ImportError):
        return missing_package(str(error))
    if not isinstance(error, EnvironmentError):
        return None
    if error.filename is not None:
        return u'%s: %s' % (text_of(error.filename), text_of(error.strerror))
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        return u'the port cannot be used (%s): choose another one' % text_of(error.strerror)
    return None


def missing_package(message):
    """Return the line about a failed import; None for a module that is in no known package."""
    name = re.search(r"[Nn]o module named '?(\w+)", message)
    package = name and PACKAGES.get(name.group(1))
    if not package:
        return None
    return MISSING % package


def say(line, out=sys.stdout):
    """Write one line at once, in the encoding of `out` as far as possible; a pipe gets UTF-8."""
    encoding = getattr(out, 'encoding', None) or 'utf-8'
    line = (line + u'\n').encode(encoding, 'backslashreplace')
    out.write(line if isinstance(line, str) else line.decode(encoding))
    out.flush()


def text_of(word):
    """Return a word of the command line, or of the system, as text."""
    return word if isinstance(word, type(u'')) else word.decode('utf-8', 'replace')
