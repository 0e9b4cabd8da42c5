"""Content sniffing: whether what a server sent for a plain URL can be the file that was asked for.

Problem: a login page, an error in JSON, an object store's XML and a Git LFS pointer all come with status 200, and
without a digest nobody vouches for the bytes. The easy way, the media type, is wrong both ways: storage sends models as
text/plain, and pages as application/octet-stream. So the first bytes are looked at: a known format passes whatever its
type says; a page, a pointer, or another format than the name promises, ends the download before more of it comes. At
the end the formats that say how long they are are held to it, so that a body which was cut off in good order is found.

Nothing is unpickled here: a few bytes are compared, and of what is packed with gzip the first few are looked at.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hive.errors import NotAModel
from workers.transfer import Served

#: Bytes of a safetensors header; the format itself allows no more.
MAX_HEADER_BYTES = 100_000_000
#: Bytes of one that is parsed; of a longer one only the length is believed.
PARSED_HEADER_BYTES = 16 << 20
#: Bytes at the end of a zip archive in which its directory's end must stand: its record and the longest comment.
ZIP_TAIL_BYTES = 22 + 65_535
#: Bytes of the shortest GGUF file: magic, version and two counts.
GGUF_HEADER_BYTES = 24

#: Endings of files that are never text: a text in their place is an error message.
BINARY_ENDINGS = (
    *(".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".hdf5", ".keras", ".tflite", ".npz"),
    *(".npy", ".zip", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".7z", ".tar", ".msgpack", ".ot", ".pb", ".mlmodel"),
    *(".parquet", ".ggml", ".model", ".pkl", ".engine", ".nemo", ".mar"),
)
_TEXT_ENDINGS = (".txt", ".md", ".jinja", ".py", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".csv", ".tsv", ".template")
_JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".ipynb", ".geojson", ".webmanifest")

#: Bytes below which a text under a name without an ending is a message: "Access denied", "File not found".
MESSAGE_BYTES = 2048
#: Bytes of a packed file that are looked at, and zlib's number for gzip.
INSPECTED_PACKED_BYTES = 4096
_GZIP_WINDOW = 31
#: Names of texts that have no ending.
_TEXT_NAMES = re.compile(
    r"licen[cs]e|readme|notice|authors|copying|change|version|vocab|merges|tokens|labels|classes|dict|file$", re.I
)

_POINTER = re.compile(rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/")
#: What may stand before a page's first tag.
_COMMENTS = rb"(?:<!--.{0,8000}?-->\s*)*"
_DOCUMENT = re.compile(_COMMENTS + rb"<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_PAGE = re.compile(
    _COMMENTS
    + rb"<(?:!doctype\s+html|html|head|body|script|title|meta|link|style|noscript|center|h[1-6]|div|span|p|a|pre|img|br"
    + rb"|table|form|iframe)\b[^<>]{0,2000}>",
    re.I | re.S,
)
_XML = re.compile(rb"<\?xml\b|<(?:Error|ListBucketResult|soap:|svg\b|rss\b)")
_JSON = re.compile(rb"\{\s*(?:\"|\}|$)|\[\s*(?:[\[{\"\]\d-]|$)")
_NO_TENSORS_OF_ITS_OWN = re.compile(r"vocab|-00001-of-\d{5}", re.IGNORECASE)
#: Keys that an error in JSON consists of.
_ERROR_KEYS = frozenset(
    {
        *("error", "errors", "message", "detail", "details", "code", "status", "success", "title", "type", "path"),
        *("request_id", "requestId", "documentation_url", "statusCode", "timestamp", "error_description", "reason"),
    }
)


class Format(NamedTuple):
    """A file format that its first bytes tell."""

    words: str
    endings: tuple[str, ...]
    fits: Callable[[bytes], bool]


def _magic(*magics: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head[at:].startswith(magics)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


_GZIP = Format("a gzip archive", (".gz", ".tgz"), _magic(b"\x1f\x8b"))
_SAFETENSORS = Format("a safetensors file", (".safetensors",), _is_safetensors)
_GGUF = Format("a GGUF file", (".gguf",), _magic(b"GGUF"))
_ZIP = Format("a zip archive", (".zip", ".npz", ".keras", ".mar"), _magic(b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"))

#: What is told by its first bytes. An ending is only listed where every file of it begins so.
FORMATS = (
    _GGUF,
    _ZIP,
    Format("an HDF5 file", (".h5", ".hdf5"), lambda head: b"\x89HDF\r\n\x1a\n" in head[:2056]),
    Format("a NumPy array", (".npy",), _magic(b"\x93NUMPY")),
    _GZIP,
    Format("an xz archive", (".xz",), _magic(b"\xfd7zXZ\0")),
    Format("a bzip2 archive", (".bz2",), _magic(b"BZh")),
    Format("a zstd archive", (".zst",), _magic(b"\x28\xb5\x2f\xfd")),
    Format("a 7z archive", (".7z",), _magic(b"7z\xbc\xaf\x27\x1c")),
    Format("a Parquet file", (".parquet",), _magic(b"PAR1")),
    Format("a TFLite model", (".tflite",), _magic(b"TFL3", at=4)),
    Format("a tar archive", (), _magic(b"ustar", at=257)),
    Format("a PDF", (), _magic(b"%PDF-")),
    # Last: eight bytes of a length and a brace are the weakest sign.
    _SAFETENSORS,
)


def check_head(served: Served, head: bytes, names: Sequence[str]) -> None:
    """Look at the first bytes of a file that goes by any of these names.

    Raises NotAModel with what came, where that is not what the names promise.
    """
    try:
        _check_head(served, head, [name.lower() for name in names])
    except NotAModel as error:
        if not served.proxy:
            raise
        hint = f" It came through the proxy in {served.proxy}: such a page may be the proxy's."
        raise NotAModel(f"{error.message}{hint}", **error.details) from None


def _check_head(served: Served, head: bytes, names: Sequence[str]) -> None:
    if not head:
        raise _refusal("an empty file")
    found = next((form for form in FORMATS if form.fits(head)), None)
    wanted = next((form for form in FORMATS if _ends(names, form.endings)), None)
    if wanted is not None and not wanted.fits(head):
        raise _refusal(_disguise(served, head, names) or (found.words if found else "other bytes"), wanted)
    if found is None and (disguise := _disguise(served, head, names)):
        raise _refusal(disguise)
    if _GZIP.fits(head) and (packed := _packed_page(served, head, names)):
        raise _refusal(packed)


def check_whole(fd: int, names: Sequence[str]) -> None:
    """Hold a file that has come as a whole to what its own format says of its length.

    Raises NotAModel where it is cut short or holds nothing, OSError.
    """
    names = [name.lower() for name in names]
    size = os.fstat(fd).st_size
    head = os.pread(fd, GGUF_HEADER_BYTES, 0)
    if _is_safetensors(head) and _ends(names, _SAFETENSORS.endings):
        _check_safetensors(fd, size)
    elif _GGUF.fits(head):
        if size < GGUF_HEADER_BYTES:
            raise _cut_short("a GGUF file", GGUF_HEADER_BYTES, size)
        if not any(head[8:16]) and not any(_NO_TENSORS_OF_ITS_OWN.search(name) for name in names):
            raise _refusal("a GGUF file without tensors")
    elif _ZIP.fits(head) and b"PK\x05\x06" not in os.pread(fd, ZIP_TAIL_BYTES, max(0, size - ZIP_TAIL_BYTES)):
        raise _refusal("a zip archive that is cut short")


def _check_safetensors(fd: int, size: int) -> None:
    """The header's length, and the end of the last tensor, which is the file's."""
    header_bytes = int.from_bytes(os.pread(fd, 8, 0), "little")
    if 8 + header_bytes > size:
        raise _cut_short("a safetensors file", 8 + header_bytes, size)
    if header_bytes > PARSED_HEADER_BYTES:
        return
    try:
        header = json.loads(os.pread(fd, header_bytes, 8))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + header_bytes + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise _refusal("a safetensors file whose header cannot be read") from None
    if size != whole:
        raise _cut_short("a safetensors file", whole, size)


def _disguise(served: Served, head: bytes, names: Sequence[str]) -> str | None:
    """What it is that is no model, or None where nothing speaks against it."""
    head = _in_utf8(head)
    text = head.lstrip()
    if _POINTER.match(text):
        return "a Git LFS pointer"
    # A README may begin with a piece of HTML, but not as a document of it.
    page = _DOCUMENT if _ends(names, _TEXT_ENDINGS) else _PAGE
    if served.media_type in ("text/html", "application/xhtml+xml") or page.match(text):
        return "a web page"
    declared = served.media_type.partition("/")[2]
    is_xml = declared == "xml" or declared.endswith("+xml") or _XML.match(text)
    if is_xml and (b"<Error>" in head or not _ends(names, (".xml", ".svg"))):
        return "an XML document"
    is_json = declared == "json" or declared.endswith("+json")
    if _ends(names, _JSON_ENDINGS):
        return "an error in JSON" if _is_json_error(head) else None
    if is_json or (_JSON.match(text) and not _ends(names, _TEXT_ENDINGS) and _is_text(head)):
        return "a JSON document"
    if _ends(names, BINARY_ENDINGS) and _is_text(head):
        return "a text"
    is_message = len(head) < MESSAGE_BYTES and _is_text(head) and all(_promises_nothing(name) for name in names)
    return f"a message ({_shown(head)})" if is_message else None


def _packed_page(served: Served, head: bytes, names: Sequence[str]) -> str | None:
    """What lies in gzip that is no file: some servers pack their pages, and do not say so."""
    try:
        inner = zlib.decompressobj(_GZIP_WINDOW).decompress(head, INSPECTED_PACKED_BYTES)
    except zlib.error:
        return None
    inner_names = [name.removesuffix(".gz") for name in names]
    if not inner or any(form.fits(inner) for form in FORMATS) or _ends(inner_names, (".html", ".htm", ".xml", ".svg")):
        return None
    came = _disguise(Served(served.url), inner, inner_names)
    return f"{came}, packed with gzip" if came else None


def _promises_nothing(name: str) -> bool:
    """Whether a name has no ending, and is not that of a text which never has one."""
    return "." not in name.strip(".") and not _TEXT_NAMES.search(name)


def _shown(head: bytes) -> str:
    """The beginning of a message, without what may be a secret or an address."""
    text = re.sub(r"\S*(?://|[?&=%])\S*|\S{32,}", "", head.decode("utf-8", "replace"))
    return repr(" ".join(text.split())[:80])


def _in_utf8(head: bytes) -> bytes:
    """The bytes without a byte order mark; UTF-16, which some servers write their pages in, as UTF-8."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) & ~1].decode("utf-16", "replace").encode()
    return head.removeprefix(b"\xef\xbb\xbf")


def _is_text(head: bytes) -> bool:
    """Whether these bytes are printable UTF-8; the last character may be cut."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3 or len(head) < 16:
            return False
        text = head[: error.start].decode("utf-8")
    return all(char.isprintable() or char in "\r\n\t\f" for char in text)


def _is_json_error(head: bytes) -> bool:
    """Whether this is a short JSON object that says an error and nothing else."""
    try:
        value: Any = json.loads(head)
    except (ValueError, RecursionError):
        return False
    said = {"error", "errors", "detail", "message"}
    return isinstance(value, dict) and bool(value.keys() & said) and value.keys() <= _ERROR_KEYS


def _ends(names: Sequence[str], endings: tuple[str, ...]) -> bool:
    return bool(endings) and any(name.endswith(endings) for name in names)


#: What to do, by what came.
_WAYS_OUT = {
    "a Git LFS pointer": "Use the address of the file itself: the Hub's with /resolve/ in it, GitHub's on media.",
    "a web page": "Open the address in a browser: it may want a login, or lead to a page about the file.",
}
_WAY_OUT = "Look at what the address gives, with curl or a browser."


def _refusal(came: str, wanted: Format | None = None) -> NotAModel:
    instead = f", not {wanted.words}" if wanted else ", not a model"
    way_out = _WAYS_OUT.get(came.partition(",")[0], _WAY_OUT)
    return NotAModel(
        f"The server sent {came}{instead}. {way_out} With the file's sha256 hive takes whatever has that digest.",
        came=came,
    )


def _cut_short(what: str, expected_bytes: int, size: int) -> NotAModel:
    more = "less" if size < expected_bytes else "more"
    return NotAModel(
        f"The server sent {what} of {size} bytes, {more} than the {expected_bytes} that its header says. "
        "Start the download again, or look for another address.",
        came=what,
        bytes=size,
        expected_bytes=expected_bytes,
    )
