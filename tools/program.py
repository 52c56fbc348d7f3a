"""What the programs share: where things are, and one line in place of a traceback. Python 2.6 code."""
import errno
import optparse
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TESTS = os.path.join(ROOT, 'tests')

COULD_NOT_RUN = 2  # exit status: nothing was tried; 1 means that it was tried and something is wrong
INTERRUPTED = 130  # exit status after Ctrl-C, as a shell reports it
PACKAGES = {'dns': 'dnspython', 'lxml': 'lxml', 'paramiko': 'paramiko', 'parso': 'parso', 'ruamel': 'ruamel.yaml',
            'vermin': 'vermin'}  # what is imported: its name on PyPI


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

    description: the help text of a program that takes no arguments; --help prints it, and any argument is a mistake.
    None if main() reads the command line.
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
        sys.stderr.write('%s: %s\n' % (os.path.basename(sys.argv[0]), line))
        status = COULD_NOT_RUN
    sys.exit(status)


def mistake(error):
    """Return the line about an exception that the user can do something about; None for any other."""
    if isinstance(error, Mistake):
        return str(error)
    if isinstance(error, ImportError):
        return missing_package(str(error))
    if not isinstance(error, EnvironmentError):
        return None
    if error.errno in (errno.EADDRINUSE, errno.EACCES) and error.filename is None:
        return 'the port cannot be used (%s): choose another one' % error.strerror
    if error.filename is None:
        return None
    return '%s: %s' % (error.filename, error.strerror)


def missing_package(message):
    """Return the line about a failed import; None for a module that no package brings."""
    name = re.search(r"[Nn]o module named '?(\w+)", message)
    package = name and PACKAGES.get(name.group(1))
    if not package:
        return None
    return 'the package %s is missing: pip install -r tests/requirements.txt' % package
