"""The name of a plain URL's file, from what its server says: RFC 6266, then the last address, then the one asked for.

Problem: `https://host/get.php?id=7` names nothing, and what does (Content-Disposition, the address behind redirects) is
a stranger's word: absolute, with `..`, control characters, or 3,000 bytes long. The easy way, `email.message`, folds,
guesses and follows RFC 2231's continuations. So the header is read here by its grammar, `filename*` before `filename`,
and whatever is found goes through `safe_name`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

from hive.store.layout import FALLBACK_NAME, safe_name
from workers.sources.sniff import BINARY_ENDINGS
from workers.transfer import Served

#: Characters of a Content-Disposition that are read; names have at most 255 bytes.
MAX_DISPOSITION_CHARS = 4096

#: Fields of a query that are looked at.
MAX_QUERY_FIELDS = 100
#: How programs behind a URL call the file, and what stores are asked to answer with.
_NAMES_IN_QUERY = frozenset({"filename", "file_name", "file", "fname", "name"})
_DISPOSITIONS_IN_QUERY = frozenset({"response-content-disposition", "rscd"})

#: One parameter: a name, and a quoted string or a token. Unquoted values with blanks are what servers send too.
#: A quote that nobody closed ends with the parameter.
_PARAMETER = re.compile(
    r""";\s*([\w!#$&+.^`|~-]+(?:\*\d{1,3})?\*?)\s*=\s*("(?:[^"\\]|\\.)*"|"[^;"]*|[^;"]*)""", re.ASCII | re.DOTALL
)
#: RFC 2047, which is for mail and not for this header, and is sent all the same.
_ENCODED_WORD = re.compile(r"=\?[\w-]{1,40}\?[BbQq]\?[^?\s]*\?=", re.ASCII)
#: Pieces of one value (RFC 2231).
MAX_PIECES = 100
_ESCAPED = re.compile(r"\\([\"\\])")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_CHARSETS = frozenset(
    {
        *("utf-8", "utf8", "iso-8859-1", "latin-1", "latin1", "us-ascii", "ascii", "windows-1252", "cp1252"),
        *("windows-1251", "koi8-r", "gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr"),
    }
)


def name_of_url(url: str) -> str:
    """What a URL says of its file, made safe; `download` where it says nothing.

    That is the last segment of its path; where that is no model's, `?filename=` or the like, or the segment above.
    """
    parts = urlsplit(url)
    above, _, last = parts.path.rpartition("/")
    named = safe_name(unquote(last))
    if _is_models(named):
        return named
    said = [*_in_query(parts.query), *([unquote(above.rpartition("/")[2])] if named == FALLBACK_NAME else [])]
    return next((name for name in map(safe_name, said) if _is_models(name)), named)


def _in_query(query: str) -> list[str]:
    """The file names in a query, which are not safe."""
    try:
        pairs = parse_qsl(query, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return []
    found = [value for name, value in pairs if name.lower() in _NAMES_IN_QUERY]
    return found + [disposition_name(value) for name, value in pairs if name.lower() in _DISPOSITIONS_IN_QUERY]


def _is_models(name: str) -> bool:
    return name.lower().endswith(BINARY_ENDINGS)


def name_of(served: Served | None, asked: str) -> str:
    """The name under which a file is kept that was asked for as `asked`. Safe for any filesystem."""
    if served is None:
        return asked
    if (said := safe_name(disposition_name(served.disposition))) != FALLBACK_NAME:
        return said
    last = name_of_url(served.url)
    if last == FALLBACK_NAME or ("." not in last and asked.lower().endswith(BINARY_ENDINGS)):
        # A store names its objects by digests; then what was asked for says more.
        return asked
    return last


def disposition_name(header: str) -> str:
    """The file name in a Content-Disposition as the server means it, which is not safe; "" without one."""
    values: dict[str, str] = {}
    for name, value in _PARAMETER.findall(";" + header[:MAX_DISPOSITION_CHARS].partition(";")[2]):
        values.setdefault(name.lower(), value.strip())
    extended = values.get("filename*", "")
    return (
        _extended(extended)
        or _plain(values.get("filename", ""))
        or _in_pieces(values)
        or ("" if "'" in extended else _plain(extended))
    )


def _in_pieces(values: Mapping[str, str]) -> str:
    """A name that was cut into `filename*0`, `filename*1*` and so on; "" without one."""
    pieces, encoded = [], False
    for number in range(MAX_PIECES):
        piece, coded = values.get(f"filename*{number}"), values.get(f"filename*{number}*")
        if piece is None and coded is None:
            break
        encoded = encoded or (number == 0 and coded is not None)
        pieces.append(coded if coded is not None else quote(_plain(piece or "")) if encoded else _plain(piece or ""))
    joined = "".join(pieces)
    return _extended(joined) if encoded else joined


def _extended(value: str) -> str:
    """RFC 8187: charset'language'percent-encoded. "" where it is not that."""
    charset, _, rest = value.strip('"').partition("'")
    _, mark, encoded = rest.partition("'")
    if not mark or charset.lower() not in _CHARSETS:
        return ""
    try:
        return unquote_to_bytes(encoded).decode(charset)
    except UnicodeDecodeError:
        return ""


def _plain(value: str) -> str:
    """A quoted string or a token. Servers write UTF-8 into it, or percent-encoding, though they should not."""
    if value.startswith('"'):
        value = _ESCAPED.sub(r"\1", value[1:].removesuffix('"')).strip()
    if _ENCODED_WORD.search(value):
        return _decoded_words(value)
    try:
        # Header values come as Latin-1.
        value = value.encode("latin-1").decode("utf-8")
        return unquote(value, errors="strict") if _PERCENT.search(value) else value
    except UnicodeError:
        return value


def _decoded_words(value: str) -> str:
    """A value with encoded words in it; as it is where they cannot be read."""
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value
