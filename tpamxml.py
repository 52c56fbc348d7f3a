# -*- coding: utf-8 -*-
"""XML-RPC: a call as bytes, and the bytes of an answer as Python values.

Python 2.6.5 code. xmlrpclib encodes. lxml decodes, because xmlrpclib.loads() takes far longer for
a list of thousands of rows, and lets the server decide which exception it raises.
"""
import base64
import re
import xmlrpclib

from lxml import etree

from tpamerrors import BadAnswer, TpamError, TpamRefused, is_text, native, text

MAX_DEPTH = 16  # levels of structs, and of arrays
MAX_STRUCTS = 10000  # each row of a list is one


# ---- a call --------------------------------------------------------------------------------------

def encode_call(method, options):
    """Return the body of a call (bytes). options: {name: text or int}; None and '' are left out.

    Raises TpamError for a character that XML cannot carry. xmlrpclib does not escape a
    carriage return, which a parser reads as a line feed.
    """
    present = {}
    for name, value in options.items():
        if isinstance(value, int) and -2 ** 31 <= value < 2 ** 31:  # a larger number is no <int>
            present[name] = value
        elif value:
            present[name] = text(value)
            if not _is_xml(present[name]):
                raise TpamError(u'XML cannot carry a character of this option; nothing was sent',
                                option=name, value=value)
    body = xmlrpclib.dumps((present,), native(method), encoding='utf-8')
    return body.replace(b'\r', b'&#13;')


def _is_xml(value):
    """Return whether XML 1.0 can carry a text."""
    if any(char < u' ' and char not in u'\t\n\r' for char in value):
        return False
    if any(char in u'\ufffe\uffff' for char in value):
        return False
    if not any(u'\ud7ff' < char < u'\ue000' for char in value):
        return True
    if len(u'\U00010000') == 1:  # a wide Python has no surrogates in its strings
        return False
    return re.search(_LONE_SURROGATE, value) is None


# A narrow Python has pairs of them. It is compiled only if needed, because 2.6 takes 7 ms for it.
_LONE_SURROGATE = u'[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]'


# ---- an answer, before it is parsed --------------------------------------------------------------

_BYTE_ORDER_MARK = b'\xef\xbb\xbf'
_PROLOG = re.compile(b'(?:\xef\xbb\xbf)?\\s*<'
                     b'(?:\\?xml[^>]*?encoding\\s*=\\s*["\']([^"\']*)["\'])?')
# libxml2 2.7 takes time proportional to the square of the number of attributes, in one call of C
# code that no signal ends. Their values may contain a `>`.
_MANY_ATTRIBUTES = re.compile(b'<[^\\s<>/!?]+\\s[^<]{1024}')
_ENCODINGS = (b'', b'utf-8', b'iso-8859-1', b'us-ascii', b'ascii')
_EXTENSIONS = b'http://ws.apache.org/xmlrpc/namespaces/extensions'


def decode_answer(body):
    """Return the one value of an answer (bytes): dict, list, text, int, float, bool or None.

    Raises TpamRefused for a fault, and BadAnswer for anything that is not an XML-RPC answer. Its
    reason quotes nothing of the answer.
    """
    _check_bytes(body)
    if b'<ex:' in body and b'xmlns:ex' not in body:  # some servers omit the declaration
        declared = b'<methodResponse xmlns:ex="' + _EXTENSIONS + b'"'
        body = body.replace(b'<methodResponse', declared, 1)
    return _Decoder().response(body)


def _check_bytes(body):
    """Refuse content that XML-RPC does not need and that could harm a parser."""
    if not body:
        raise BadAnswer('an empty body')
    prolog = _PROLOG.match(body)
    if prolog is None or b'\0' in body:
        raise BadAnswer('no XML')
    encoding = (prolog.group(1) or b'').lower()
    if encoding not in _ENCODINGS:
        raise BadAnswer('an encoding other than UTF-8, ISO-8859-1 and US-ASCII')
    if body.startswith(_BYTE_ORDER_MARK) and encoding not in (b'', b'utf-8'):
        raise BadAnswer('an encoding other than UTF-8, ISO-8859-1 and US-ASCII')
    if _MANY_ATTRIBUTES.search(body):
        raise BadAnswer('an element with attributes, which XML-RPC does not have')
    # iterparse of lxml 2.2 has no resolve_entities. The whole body is searched, because a comment
    # or CDATA could hide where the root begins.
    if b'<!DOCTYPE' in body or b'<!ENTITY' in body:
        raise BadAnswer('a document type declaration')
    # libxml2 keeps an error of 600 bytes for each, in one call of C code that no signal ends.
    if _has_hyphens_in_comment(body):
        raise BadAnswer('a comment that contains --')


def _has_hyphens_in_comment(body):
    start = body.find(b'<!--')
    while start >= 0:
        end = body.find(b'--', start + 4)
        if body[end:end + 3] != b'-->':
            return True
        start = body.find(b'<!--', end - 2)  # `<!-->` ends none where CDATA holds the first one
    return False


# ---- an answer -----------------------------------------------------------------------------------

class _Source(object):
    """A body to be parsed. Unlike BytesIO it is Python code, so that signals are handled between
    two blocks."""

    def __init__(self, body):
        self._body, self._at = body, 0

    def read(self, size):
        block = self._body[self._at:self._at + size]
        self._at += len(block)
        return block


class _Decoder(object):
    """Decodes one answer.

    A struct is decoded when its element ends, and its part of the tree is freed then, so that a
    list of 5,000 rows is never in memory as a tree. The rows share the names of their members.
    """

    def __init__(self):
        self._structs = {}  # struct element -> its dict
        self._count = 0
        self._names = {}

    def response(self, body):
        """Return the value of an answer (bytes)."""
        root = self._parse(body)
        if root.tag != 'methodResponse' or len(root) != 1:
            raise BadAnswer('no methodResponse')
        if root[0].tag == 'fault' and len(root[0]) == 1:
            self._raise_fault(root[0][0])
        if root[0].tag != 'params' or len(root[0]) != 1:
            raise BadAnswer('no params with one value')
        param = root[0][0]
        if param.tag != 'param' or len(param) != 1:
            raise BadAnswer('no params with one value')
        return self._value(param[0])

    def _raise_fault(self, value):
        fault = self._value(value)
        if not isinstance(fault, dict) or not is_text(fault.get('faultString')):
            raise BadAnswer('a fault without a faultString')
        raise TpamRefused(text(fault['faultString']), fault.get('faultCode'), is_fault=True)

    def _parse(self, body):
        """Parse an answer, decode its structs, and return the root of what is left of the tree."""
        events = etree.iterparse(_Source(body), ('start', 'end'), tag='struct',
                                 remove_comments=True, remove_pis=True)
        depth = 0
        try:
            for event, element in events:
                if event == 'start':
                    depth += 1
                    if depth > MAX_DEPTH:
                        raise BadAnswer('an element out of place or too deep')
                else:
                    depth -= 1
                    self._structs[element] = self._struct(element)
                    self._count += 1
                    if self._count > MAX_STRUCTS:
                        raise BadAnswer('more than %d structs' % MAX_STRUCTS)
                    if depth:  # freeing all that was in the outermost one takes lxml minutes
                        element.clear()
        except etree.XMLSyntaxError:  # the text of lxml can quote the answer
            raise BadAnswer('XML that is not well-formed')
        return events.root

    def _struct(self, element):
        members = {}
        for member in element:
            if member.tag != 'member' or len(member) != 2:
                raise BadAnswer('a struct with something other than members')
            name, value = member
            if name.tag != 'name' or len(name):
                raise BadAnswer('a member without a name')
            key = name.text or u''
            members[self._names.setdefault(key, key)] = self._value(value)
        if len(members) != len(element):
            raise BadAnswer('a struct with a member twice')
        return members

    def _value(self, value, depth=0):
        """Return the content of a <value>. depth: the arrays around it."""
        if value.tag != 'value' or len(value) > 1 or depth > MAX_DEPTH:
            raise BadAnswer('an element out of place or too deep')
        if not len(value):
            return value.text or u''
        typed = value[0]
        if _is_written(value.text) or _is_written(typed.tail):
            raise BadAnswer('a value of two types')
        if typed.tag == 'string' and not len(typed):  # nearly all values of a long list
            return typed.text or u''
        if typed.tag == 'struct':
            return self._structs.pop(typed)  # lxml is slow to free elements that are kept
        if typed.tag == 'array':
            return self._array(typed, depth + 1)
        return _scalar(typed)

    def _array(self, element, depth):
        if len(element) != 1 or element[0].tag != 'data':
            raise BadAnswer('an array without data')
        return [self._value(child, depth) for child in element[0]]


def _is_written(between):
    """Return whether the text between two elements is more than white space."""
    return between is not None and between.strip() != ''


# ---- scalars -------------------------------------------------------------------------------------

def _scalar(element):
    if len(element) or element.tag not in _SCALARS:
        raise BadAnswer('an unknown type')
    try:
        return _SCALARS[element.tag](element.text or u'')
    except (ValueError, TypeError):
        raise BadAnswer('a value that is not of its type')


def _integer(content):
    # int() accepts 16 MiB of digits, and takes minutes to convert them.
    if not re.match(r'\s*[+-]?[0-9]{1,19}\s*\Z', content):
        raise ValueError('no int')
    return int(content)


def _boolean(content):
    if content.strip() not in ('0', '1'):
        raise ValueError('no boolean')
    return content.strip() == '1'


def _base64(content):
    content = u''.join(text(content).split())
    # b64decode() skips characters that it does not know, which would damage the password.
    if len(content) % 4 or not re.match(u'[A-Za-z0-9+/]*={0,2}\\Z', content):
        raise ValueError('no base64')
    return base64.b64decode(content.encode('ascii')).decode('utf-8')


def _as_it_stands(content):
    return content


def _nil(content):
    return None


_SCALARS = {  # element -> function of its text; ValueError or TypeError if it is not of this type
    'string': _as_it_stands,
    'int': _integer,
    'i1': _integer,
    'i2': _integer,
    'i4': _integer,
    'i8': _integer,
    'boolean': _boolean,
    'double': float,
    'dateTime.iso8601': _as_it_stands,
    'base64': _base64,
    'nil': _nil,
}
for _name in ('nil', 'i1', 'i2', 'i8'):  # the Apache extensions of XML-RPC
    _SCALARS['{%s}%s' % (native(_EXTENSIONS), _name)] = _SCALARS[_name]
