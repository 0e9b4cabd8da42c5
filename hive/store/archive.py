"""Archives of models: a POSIX tar (pax) that begins with a manifest, for machines without a network.

    manifest.json              what follows: where it is from, and each file with its size and digests
    files/<path>               the files, in the manifest's order
    two blocks of zeros

Problem: a tar may say anything: names that lead elsewhere, links, devices, members twice, headers of gigabytes, holes.
The easy way, `tarfile` with a filter, reads what a header announces before anybody has looked at it, and has to be told
everything that is not wanted. So a reader here knows what comes: the manifest first, which is checked as a whole, and
then exactly its files, by name and size. Of tarfile it takes the header of 512 bytes; nothing else is understood, so
nothing else has to be refused by name.

The same model makes the same bytes: an archive has no times and no owners.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Literal

import msgspec

from hive.errors import BadRequest, InvalidModelRef
from hive.store.inventory import digest_of
from hive.store.layout import MANIFEST, decode_tree, encode_tree, is_commit, repo_folder, repo_of, safe_name
from hive.store.restricted import ProbeFile
from hive.wire.refs import ModelRef, RefError, is_revision, parse_ref, path_problem
from hive.wire.selection import RepoFile
from hive.wire.words import counted

#: The version that is written, and the only one that is read.
FORMAT: Final = 1
#: The folder of the files in an archive.
FILES: Final = "files/"
BLOCK_BYTES: Final = tarfile.BLOCKSIZE
#: Longest manifest, and longest extended header (it holds a path and a size), in bytes.
MAX_MANIFEST_BYTES: Final = 64 << 20
MAX_PAX_BYTES: Final = 16 << 10
#: Bytes read or written at a time.
COPY_BYTES: Final = 4 << 20

#: How files of gzip, zstd, xz and bzip2 begin.
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")
_REGULAR: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)


class ArchivedFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file. `etag` names its blob in the Hub's cache: its SHA-256, or git's SHA-1 of a small file."""

    path: str
    size: int
    sha256: str
    etag: str


class ArchiveManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an archive holds. `ref` is for people; a model of the Hub has `repo` and `commit`, a URL's file `url`.

    `tree` is the Hub's listing of the commit where the store had one; `restricted` by which files the Hub is to be
    asked whether somebody may have it (hive.store.restricted); `primary` the path that a program opens, "" the folder.
    """

    hive_archive: Literal[1] = msgspec.field(default=1)
    ref: str
    repo: str = ""
    revision: str = ""
    commit: str = ""
    variant: str = ""
    license: str = ""
    primary: str = ""
    url: str = ""
    #: Whether somebody had named the digest of a URL's file.
    verified: bool = False
    files: tuple[ArchivedFile, ...]
    tree: tuple[RepoFile, ...] = ()
    restricted: tuple[ProbeFile, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def model_ref(self) -> ModelRef:
        """What is meant, pinned to the commit. Raises BadRequest where it is no reference."""
        try:
            ref = parse_ref(self.url or f"hf:{self.repo}@{self.commit}")
        except RefError as error:
            raise InvalidModelRef(str(error)) from None
        if ref.kind != ("url" if self.url else "hf") or ref.is_local_file or ref.repo != self.repo:
            raise InvalidModelRef("The archive's manifest names no model.")
        return ref


class _Version(msgspec.Struct):
    hive_archive: int = 0


def _refused(problem: str) -> BadRequest:
    """Why an archive is none of hive, or damaged, or holds what it must not."""
    return BadRequest(f"The archive cannot be imported: {problem}.")


def encode_manifest(manifest: ArchiveManifest) -> bytes:
    """The manifest as it stands in the archive."""
    # The version is always written; the other defaults are not.
    fields = {"hive_archive": FORMAT, **msgspec.to_builtins(manifest)}
    return msgspec.json.format(msgspec.json.encode(fields), indent=1)


def decode_manifest(data: bytes) -> ArchiveManifest:
    """A manifest of which every field may be used. Raises BadRequest."""
    try:
        version = msgspec.json.decode(data, type=_Version).hive_archive
        if version > FORMAT:
            raise _refused(f"its format is {version}, and this hive reads {FORMAT}; a newer hive made it")
        if version != FORMAT:
            raise _refused("its manifest names no version of the format")
        manifest = msgspec.json.decode(data, type=ArchiveManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _refused("its manifest cannot be read") from None
    if (problem := _problem(manifest)) is not None:
        raise _refused(problem)
    manifest.model_ref()
    return manifest


def _problem(manifest: ArchiveManifest) -> str | None:
    """What of a manifest must not be used, or None."""
    if not manifest.files:
        return "it has no files"
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths):
        return "its manifest names a file twice"
    for file in manifest.files:
        if problem := path_problem(file.path):
            return f"the path {file.path[:80]!a} is not allowed: {problem}"
        digest, sha256 = digest_of(file.etag), digest_of(file.sha256)
        if file.size < 0 or sha256 is None or sha256.algorithm != "sha256" or digest is None:
            return f"its manifest has no digest of {file.path[:80]!a}"
        if digest.algorithm == "sha256" and file.etag != file.sha256:
            return f"its manifest has two digests of {file.path[:80]!a}"
    if manifest.primary and manifest.primary not in paths:
        return "its manifest names a primary file that it does not have"
    if manifest.url:
        is_one = len(paths) == 1 and safe_name(paths[0]) == paths[0] and not manifest.repo
        return None if is_one else "its manifest is not that of a URL's file"
    return _problem_of_repository(manifest)


def _problem_of_repository(manifest: ArchiveManifest) -> str | None:
    if not is_commit(manifest.commit) or repo_of(repo_folder(manifest.repo)) != manifest.repo:
        return "its manifest names no commit of a repository"
    if manifest.revision and not is_revision(manifest.revision):
        return "its manifest names a revision that is none"
    if manifest.tree:
        if decode_tree(encode_tree(manifest.tree)) is None:
            return "its listing of the commit cannot be read"
        listed = {file.path: (file.size, file.etag) for file in manifest.tree}
        if any(listed.get(file.path) != (file.size, file.etag) for file in manifest.files):
            return "its files are not those of its listing"
    return None


class ArchiveWriter:
    """Writes an archive to a stream that cannot be sought. Methods raise OSError."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def manifest(self, manifest: ArchiveManifest) -> None:
        """The first member."""
        data = encode_manifest(manifest)
        self.begin(MANIFEST, len(data))
        self.write(memoryview(data))
        self.end(len(data))

    def begin(self, name: str, size: int) -> None:
        """The header of a member."""
        info = tarfile.TarInfo(name)
        info.size = size
        self.write(memoryview(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")))

    def write(self, data: memoryview) -> None:
        """Bytes of a member, all of them."""
        while data:
            data = data[self._stream.write(data) :]

    def end(self, size: int) -> None:
        """The end of a member of this size."""
        self.write(memoryview(bytes(-size % BLOCK_BYTES)))

    def close(self) -> None:
        """The end of the archive."""
        self.write(memoryview(bytes(2 * BLOCK_BYTES)))


class ArchiveReader:
    """Reads an archive from a stream that cannot be sought: the manifest, each of its files, the end.

    Methods raise BadRequest where something else comes, and OSError where the stream cannot be read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def manifest(self) -> ArchiveManifest:
        """The first member."""
        name, size = self._header("this is no archive of hive")
        if name != MANIFEST or size > MAX_MANIFEST_BYTES:
            raise _refused("this is no archive of hive: it does not begin with a manifest")
        return decode_manifest(self._padded(size))

    def file(self, file: ArchivedFile) -> Iterator[memoryview]:
        """The bytes of the next file, which is to be this one. Each piece is good until the next is asked for."""
        name, size = self._header(f"it ends before {file.path[:80]!a}")
        if name != FILES + file.path:
            raise _refused(f"it has {name[:80]!a} where {file.path[:80]!a} is to come")
        if size != file.size:
            raise _refused(f"{file.path[:80]!a} has {counted(size, 'byte')} and should have {file.size}")
        buffer = memoryview(bytearray(min(COPY_BYTES, max(size, 1))))
        left = size
        while left:
            piece = buffer[: min(left, len(buffer))]
            self._fill(piece)
            left -= len(piece)
            yield piece
        self._fill(memoryview(bytearray(-size % BLOCK_BYTES)))

    def end(self) -> None:
        """Nothing may follow the last file but the end, and what pads it to a record of tar."""
        block = bytearray(BLOCK_BYTES)
        for _ in range(2):
            self._fill(memoryview(block))
            if any(block):
                raise _refused("it has more files than its manifest")

    def _header(self, at_end: str) -> tuple[str, int]:
        """The name and size of the next member, which is a plain file."""
        info = self._block(at_end)
        path, size = info.name, info.size
        if info.type == tarfile.XHDTYPE:
            if not 0 <= info.size <= MAX_PAX_BYTES:
                raise _refused("a header is too long")
            said = _pax(self._padded(info.size))
            info = self._block(at_end)
            path = said.get("path", info.name)
            size = info.size
            if (text := said.get("size")) is not None:
                if not (text.isascii() and text.isdecimal() and len(text) < 20):
                    raise _refused("a header has a size that is none")
                size = int(text)
        if info.type not in _REGULAR or size < 0:
            raise _refused(f"{path[:80]!a} is no plain file")
        return path, size

    def _block(self, at_end: str) -> tarfile.TarInfo:
        block = bytearray(BLOCK_BYTES)
        self._fill(memoryview(block))
        if not any(block):
            raise _refused(at_end)
        try:
            return tarfile.TarInfo.frombuf(bytes(block), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            if block.startswith(_COMPRESSED):
                text = "it is compressed; unpack it on the way, as in `gunzip -c x.tar.gz | hive import -`"
                raise _refused(text) from None
            raise _refused("a header cannot be read") from None

    def _padded(self, size: int) -> bytes:
        data = bytearray(size + -size % BLOCK_BYTES)
        self._fill(memoryview(data))
        return bytes(data[:size])

    def _fill(self, data: memoryview) -> None:
        read: Callable[[memoryview], int | None] = self._stream.readinto  # type: ignore[attr-defined]
        while data:
            count = read(data)
            if not count:
                raise _refused("it is cut off")
            data = data[count:]


def _pax(data: bytes) -> dict[str, str]:
    """The records of an extended header; raises BadRequest for those that change what a member is."""
    found: dict[str, str] = {}
    while data:
        length, blank, _ = data.partition(b" ")
        if not (blank and length.isdigit() and len(length) < 6 and len(length) + 3 <= int(length) <= len(data)):
            raise _refused("an extended header cannot be read")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, mark, value = record.removesuffix(b"\n").partition(b"=")
        if not mark or not record.endswith(b"\n"):
            raise _refused("an extended header cannot be read")
        try:
            name, text = key.decode(), value.decode()
        except UnicodeDecodeError:
            raise _refused("an extended header is not UTF-8") from None
        if name.startswith("GNU.sparse") or name in found:
            raise _refused("an extended header has fields that hive does not read")
        found[name] = text
    return found
