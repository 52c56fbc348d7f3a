# -*- coding: utf-8 -*-
"""Configuration text -> sections and options, each with the number of its line.

Python 2.6.5 code. ConfigParser in 2.6 would need a page of workarounds to leave passwords alone,
has no line numbers, and keeps the last of two equal options.
"""
import re

from tpamerrors import folded, text

_WHITE = u' \t'  # other white space may be part of a password
_IGNORED = re.compile(u'[ \\t]*\\Z|[;#]|[Rr][Ee][Mm]([ \\t]|\\Z)')  # rem: a comment in 2.6
_SECTION = re.compile(u'\\[([^\\]]+)\\][ \\t]*(?:[;#].*)?\\Z')
_OPENSSL = re.compile(u'[A-Z][a-z]+ *:')
_OPTION = re.compile(u'([^ \\t:=][^:=]*)[:=](.*)', re.S)
# From the line of BEGIN to END, with neither a section nor another BEGIN in between
_PASTED_PEM = re.compile(u'^(?![;#]).*-----BEGIN [^-\n]*-----[ \\t]*\n'
                         u'(?:(?!\\[|.*-----BEGIN ).*\n)*?[ \\t]*-----END ', re.M)
# A PEM whose option is still a comment, as in default.cfg, and whose base64 is not
_COMMENTED_PEM = re.compile(u'^[;#][ \\t]*([^ \\t\\n:=][^\\n:=]*)[:=]'
                            u'([ \\t]*\\n?[ \\t]*-----BEGIN [^-\\n]*-----[ \\t]*\\n'
                            u'(?=[ \\t\\n]*[A-Za-z0-9+/]{16}))', re.M)


def read_lines(configuration, known):
    """Read INI text (unicode, bytes in UTF-8, or None) as far as it can be read.

    Return (sections [(line, name)], options [(line, section, name, value)], problems [(line,
    text)]), with lines from 1. The lines of a value are joined by a newline. known: the names of
    all options, which do not occur in a PEM. Raises ValueError if the text is not UTF-8.

    The format is that of ConfigParser in Python 2.6, with three differences. A value is taken as
    written: ConfigParser cuts it at ` ;`, and empties `""`. The lines of a PEM may stand as they
    were pasted, without indentation. Text after a [section] is an error unless it is a comment.
    """
    sections, options, outside, unreadable = _sorted_lines(_lines(configuration, known))
    problems = []
    if len(outside) > 0:
        problems.append((outside[0], u'Text before the first [section]: line %s; write each option '
                                     u'below its section' % _listed(outside)))
    if len(unreadable) > 0:
        problems.append((unreadable[0], u'Neither [section] nor option=value: line %s; only the '
                                        u'continuation lines of a value are indented'
                                        % _listed(unreadable)))
    return sections, [(line, section, name, u'\n'.join(value))
                      for line, section, name, value in options], problems


def _listed(numbers):
    return u', '.join([u'%d' % number for number in numbers])


def _lines(configuration, known):
    """Return the lines of a configuration ([unicode]), those of a PEM indented."""
    written = text(configuration)
    if isinstance(configuration, bytes):
        try:
            written = configuration.decode('utf-8')
        except UnicodeDecodeError:
            raise ValueError(u'The configuration is not UTF-8 text')
    written = re.sub(u'\r\n?', u'\n', written.lstrip(u'\ufeff'))
    written = _COMMENTED_PEM.sub(lambda found: _uncommented(found, known), written)
    return _PASTED_PEM.sub(lambda pem: _indented(pem.group(), known), written).split(u'\n')


def _uncommented(found, known):
    """Give an option that is a comment, and whose PEM is not, the value `;`, which no PEM begins
    with: the option is wrong, and the lines of the PEM belong to it."""
    name, pem = found.groups()
    if folded(name.rstrip(_WHITE)) not in known:
        return found.group()
    return u'%s=;%s' % (name, pem)


def _indented(pem, known):
    """Indent the lines of a PEM, so that they belong to the option above."""
    first, _, others = pem.partition(u'\n')
    if any(is_option(line, known) for line in others.split(u'\n')):
        return pem  # its END is missing, and this END belongs to another PEM
    if first.startswith(u'-----BEGIN '):
        first = u' ' + first
    return first + u'\n' + re.sub(u'(?m)^(?![;#])', u' ', others)


def is_option(line, known):
    """Return whether a line without white space in front is a known option, and not a column of
    openssl's output, such as `Protocol  : TLSv1`."""
    option = _OPTION.match(line)
    if option is None or _OPENSSL.match(line):
        return False
    return _name(option) in known


def _name(option):
    return folded(option.group(1).rstrip(_WHITE))


def _sorted_lines(lines):
    """Return (sections, options, lines before the first section, lines that are none of these)."""
    sections, options, outside, unreadable = [], [], [], []
    section, value = None, None  # value: the list to which indented lines are added
    for number, line in enumerate(lines, 1):
        if _IGNORED.match(line):
            continue
        header, option = _SECTION.match(line), _OPTION.match(line)
        if line[0] in _WHITE and value is not None:
            value.append(line.strip(_WHITE))
        elif header is not None:
            section, value = header.group(1), None
            sections.append((number, section))
        elif section is None:
            outside.append(number)
        elif option is not None and line[0] != u'[':
            value = [option.group(2).strip(_WHITE)]
            options.append((number, section, _name(option), value))
        else:
            unreadable.append(number)
            if line[0] not in _WHITE:
                value = []  # the indented lines below it belong to no option
            if line[0] == u'[':
                section = line  # no option below a damaged header belongs to the section above
    return sections, options, outside, unreadable


# ---- what to write instead of an unknown name ----------------------------------------------------

# Options of the vendor's TPAM plugin that this one does not have
_OF_VENDOR = {
    u'server_port': u'write host:port into [tpam] server',
    u'server_user': u'the API user is [tpam] username',
    u'server_user_key': u'log in with [tpam] password, or with [tls] client_cert',
    u'server_public_key': u'the server is verified with [tls] ca_cert or server_fingerprint',
}


def instead_of_section(name, options):
    """Return the end of a problem about an unknown section. options: {section: names of options}.
    """
    if name == u'credential_store':
        return u'; local Credential Stores are not available: write the values into this text'
    return _resembling(name, options)


def instead_of_option(section, name, options):
    """Return the end of a problem about an option that the section does not have."""
    if name in _OF_VENDOR:
        return u'; ' + _OF_VENDOR[name]
    places = [u'[%s]' % other for other in sorted(options) if name in options[other]]
    if places:
        return u' here; it belongs in ' + u' or '.join(places)
    return _resembling(name, options[section])


def _resembling(word, known):
    import difflib
    for near in difflib.get_close_matches(word.lower(), sorted(known), 1):
        return u'; did you mean %s?' % near
    return u'; known: %s' % u', '.join(sorted(known))
