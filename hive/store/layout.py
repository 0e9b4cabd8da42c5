"""Where things lie on the shared disk, which a worker writes and the HTTP process and other tools read.

    hub/models--org--name/refs/main                       the commit that a branch or tag stands for; a data set's
                                                          folder is datasets--org--name, a Space's spaces--org--name
    hub/models--org--name/snapshots/<commit>/<path>       a relative link to ../../blobs/<etag>
    hub/models--org--name/blobs/<etag>                    the content, named by its digest
    hub/models--org--name/trees/<commit>.json             the Hub's listing of that commit
    hive/trees/models--org--name/<commit>.json            the same, while only a part of the commit is on the disk
    hive/files/<16 hex of sha256(url)>/<name>             a file from a plain URL, and manifest.json beside it
    hive/partial/<digest or hash of the URL>.*            a file under way
    hive/downloads/<16 hex>/<download id>.json            a request that has not ended; see hive.downloads.intents
    hive/locks/*                                          who works on what; see hive.store.file_lock
    hive/given-up/<digest>                                see hive.store.given_up
    hive/restricted/models--org--name/<commit>/*          for whom the Hub is to be asked; see hive.store.restricted

`hub/` is huggingface_hub's own layout, so `trees/` follows its rule: with a listing there, it calls a snapshot
incomplete that lacks any file of it. A selection (one quantisation, no duplicates) is therefore recorded in
`hive/trees/` instead.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import msgspec

from hive.store.dirfd import read_file
from hive.wire.refs import MAX_SEGMENT_BYTES, REPO_KINDS, path_problem
from hive.wire.selection import RepoFile

REFS: Final = "refs"
SNAPSHOTS: Final = "snapshots"
BLOBS: Final = "blobs"
TREES: Final = "trees"
FILES: Final = "files"
PARTIAL: Final = "partial"
INTENTS: Final = "downloads"
LOCKS: Final = "locks"
RESTRICTED: Final = "restricted"
MANIFEST: Final = "manifest.json"
#: The name of a URL's file that has none.
FALLBACK_NAME: Final = "download"
#: The lock on a partial file; see hive.store.partial_lock.
LOCK_ENDING: Final = ".lock"
#: The endings of a partial file: what of it is real, the same while rewritten (of versions before 0.2), the bytes,
#: bytes of a wrong digest, the lock.
PARTIAL_ENDINGS: Final = (".journal", ".journal.new", ".part", ".bad", LOCK_ENDING)
#: What marks a folder as a cache for backup programs, and the first line that makes the file count.
CACHEDIR_TAG: Final = "CACHEDIR.TAG"
CACHEDIR_TAG_TEXT: Final = "Signature: 8a477f597d28d172789f06886806bc55\n# Model files that can be fetched again.\n"
#: Hex digits of the hash of a URL that name its folder: 64 bits, no collision among the files that a disk can hold.
URL_KEY_CHARS: Final = 16
#: Longest listing that is read, in bytes: some 250,000 files, more than the Hub allows.
MAX_TREE_BYTES: Final = 64 << 20
#: Longest manifest of a URL's file, and longest ref, in bytes.
MAX_MANIFEST_BYTES: Final = 64 << 10
MAX_REF_BYTES: Final = 256
#: The only version of the listing's format that huggingface_hub has.
TREE_FORMAT: Final = 1

#: The ending that huggingface_hub gives to what it is fetching.
INCOMPLETE: Final = ".incomplete"
#: The names that `hive.store.dirfd` gives to what it is writing.
TEMPORARY: Final = re.compile(r"\..{1,200}\.[0-9a-f]{16}\.tmp", re.DOTALL)

_FOLDER = re.compile(r"(models|datasets|spaces)--([A-Za-z0-9._-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_XET_HASH = re.compile(r"[0-9a-f]{64}")
#: Of ASCII, what has a meaning to some filesystem, shell or URL; of all else, see `_is_writable`.
_UNSAFE = re.compile(r"[^A-Za-z0-9._+ ()\[\]=@,-]")
#: Longest ending (".safetensors") that a name which is cut short keeps, in characters.
_MAX_ENDING_CHARS: Final = 32


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a URL's file. `url` is shown to people: no query. `verified`: its digest was given."""

    name: str
    url: str
    size: int
    sha256: str
    etag: str | None = None
    fetched_at: float = 0.0
    verified: bool = False


class _TreeEntry(msgspec.Struct, omit_defaults=True):
    size: int
    blob_id: str
    lfs_sha256: str | None = None
    lfs_size: int | None = None
    xet_hash: str | None = None


class _Tree(msgspec.Struct):
    format_version: int
    files: dict[str, _TreeEntry]


_tree_decoder = msgspec.json.Decoder(_Tree)
_manifest_decoder = msgspec.json.Decoder(Manifest)


def repo_folder(repo: str) -> str:
    """The folder of a repository below `hub/`: `models--org--name`, `datasets--org--name` for `datasets/org/name`."""
    kind = "" if repo.startswith(REPO_KINDS) else "models--"
    return f"{kind}{repo.replace('/', '--')}"


def repo_of(folder: str) -> str | None:
    """The repository of a folder below `hub/`, or None where it is another tool's."""
    match = _FOLDER.fullmatch(folder)
    kind, parts = (match[1], match[2].split("--")) if match else ("", [])
    repo = "/".join(parts) if kind == "models" else "/".join((kind, *parts))
    return repo if len(parts) in (1, 2) and all(parts) and repo_folder(repo) == folder else None


def is_commit(text: str) -> bool:
    """Whether this is a full commit hash."""
    return bool(_COMMIT.fullmatch(text))


def blob_link(path: str, etag: str) -> str:
    """What a snapshot's entry at this path points to: the blob, relative, so that a cache may be moved."""
    return "../" * (path.count("/") + 2) + f"{BLOBS}/{etag}"


def encode_tree(files: Iterable[RepoFile]) -> bytes:
    """A commit's listing as huggingface_hub writes it."""
    entries = {
        file.path: _TreeEntry(
            size=file.size,
            blob_id=file.blob_id,
            lfs_sha256=file.sha256,
            lfs_size=file.size if file.sha256 else None,
            xet_hash=file.xet_hash if file.xet_hash and _XET_HASH.fullmatch(file.xet_hash) else None,
        )
        for file in sorted(files, key=lambda file: file.path)
    }
    return msgspec.json.format(msgspec.json.encode(_Tree(TREE_FORMAT, entries)), indent=1)


def decode_tree(data: bytes) -> tuple[RepoFile, ...] | None:
    """The files of a listing, or None where it is not one that hive reads."""
    try:
        tree = _tree_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if tree.format_version != TREE_FORMAT or not all(_is_sound(entry) for entry in tree.files.values()):
        return None
    return tuple(RepoFile(path, e.size, e.blob_id, e.lfs_sha256, e.xet_hash) for path, e in tree.files.items())


def _is_sound(entry: _TreeEntry) -> bool:
    """Whether the digests are digests: they become the names of files."""
    sha256_ok = entry.lfs_sha256 is None or _SHA256.fullmatch(entry.lfs_sha256) is not None
    return entry.size >= 0 and sha256_ok and _COMMIT.fullmatch(entry.blob_id) is not None


def read_manifest(folder: int) -> Manifest | None:
    """The manifest in the folder of a URL's file; None where there is none, or its file name could lead elsewhere.

    Raises:
        OSError: where it cannot be read.
    """
    try:
        manifest = _manifest_decoder.decode(read_file(folder, MANIFEST, MAX_MANIFEST_BYTES) or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if path_problem(manifest.name) or "/" in manifest.name else manifest


def partial_key(algorithm: str, digest_hex: str) -> str:
    """The name of a partial file without its endings: the content's digest, git's sha1 marked as such."""
    return digest_hex if algorithm == "sha256" else f"git-{digest_hex}"


def own_partial_key(algorithm: str, digest_hex: str, permission: str) -> str:
    """The same where only those who have a permission may go on with it: what is half there must not be had by its
    digest either. `permission`: the restricted repository, or the URL with a query; and what a stranger's host is to
    bring, by its repository or URL.
    """
    return hashlib.sha256(f"hive own {algorithm} {digest_hex} {permission}".encode()).hexdigest()


def url_key(url: str) -> str:
    """The folder of a URL's file below `hive/files`."""
    return hashlib.sha256(url.encode()).hexdigest()[:URL_KEY_CHARS]


#: Names that Windows takes for devices, with any ending; superscripts are digits to it.
_DEVICES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789\xb9\xb2\xb3")}
)


def safe_name(name: str) -> str:
    """A stranger's file name made into one that every filesystem takes, of at most 255 bytes; `download` for none.

    Letters of every script stay. Control characters, separators, marks of direction and what only some filesystems
    take become `_`, several in a row one.
    """
    last = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition("/")[2]
    kept = "".join(char if _is_writable(char) else "\0" for char in last)
    cleaned = _cut(re.sub("\0+", "_", kept).strip(" ."))
    is_device = cleaned.split(".")[0].rstrip(" ").upper() in _DEVICES
    is_manifest = cleaned.casefold() == MANIFEST  # as filesystems fold names: a long s is an s to some
    return FALLBACK_NAME if is_device or path_problem(cleaned) or is_manifest else cleaned


def _is_writable(char: str) -> bool:
    """Whether a character may stand in a file's name everywhere, and looks like what it is."""
    if char.isascii():
        return not _UNSAFE.match(char)
    return unicodedata.category(char)[0] not in "CZ" and char != "\ufffd"


def _cut(name: str) -> str:
    """At most 255 bytes of a name, with its ending."""
    if len(name.encode()) <= MAX_SEGMENT_BYTES:
        return name
    stem, dot, ending = name.rpartition(".")
    ending = dot + ending if stem and len(ending) < _MAX_ENDING_CHARS else ""
    room = MAX_SEGMENT_BYTES - len(ending.encode())
    return name.removesuffix(ending).encode()[:room].decode(errors="ignore").rstrip(" .") + ending
