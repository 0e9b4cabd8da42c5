"""The intent log: what is under way, on the disk, for the day on which Redis has lost everything.

Problem: Redis is the truth about what is in flight, and may lose all of it: FLUSHALL, a server without persistence, a
volume that was thrown away. What arrived is still in the store, but nobody knows any more who asked for what under
which id. The easy way, to write the record to the disk with every change, would make the disk a second Redis, and the
two would part. So only that is written which nothing else tells: the request, when it is made, and which attempt of
which worker runs it. How far it is stands in the journals of its partial files.

    hive/downloads/<hive>/<id>.json        the request, by the HTTP process, before it answers
    hive/downloads/<hive>/<id>.held.json   the latest attempt to bring it, by its worker

Each file has one kind of writer, so that none undoes what another wrote. Both go when the download has ended: a file
says that the download has not. `<hive>` comes from the secret key, which all processes of one hive share and which a
lost Redis does not take along: a store may serve several hives, and none may take the downloads of another for its
own.

Whoever can write to the store could otherwise have hive fetch what no request may ask for. So each file ends with a
signature (HMAC-SHA256 with a key that comes from the secret key) over its name and its content, and one without is
nobody's. The version before wrote none: its files are signed once, by the first server of this version, which leaves
a mark of that in HIVE_HOME, where a writer of the store has no business. Until then a planted file is as good as it
was before; and what comes of any file passes the same guard of addresses as a request (workers/download.py).

No fsync: what a process wrote is there when it dies. A power cut may take the newest file or leave it empty, and
counts only where Redis lost its data at the same moment. The disk's sync would make every request wait some ten
milliseconds for that.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Iterator
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec

from hive.disk_errors import FULL
from hive.downloads.record import Record
from hive.errors import StoreNotWritable
from hive.key_file import read_key_file
from hive.plain_file import open_plain_file
from hive.secrets import ensure_key
from hive.settings import Settings
from hive.store.dirfd import open_folder, read_file, remove_file, subfolders, write_file
from hive.store.layout import INTENTS
from hive.wire.jobs import Priority, Request
from hive.wire.refs import RefError, parse_ref

log = logging.getLogger("hive.downloads.intents")

#: Longest request and longest attempt that are read, in bytes: globs and names of some ten thousand partial files.
MAX_INTENT_BYTES: Final = 256 << 10
MAX_ATTEMPT_BYTES: Final = 8 << 20
#: Of the files: they say what somebody asked for.
FILE_MODE: Final = 0o600
#: Hex digits of the hash that names the folder of one hive.
REALM_CHARS: Final = 16

#: What says, in HIVE_HOME, that the files which the version before left are signed; the hive's name follows.
SIGNED_MARK: Final = "intents-signed-"

_SIGNATURE: Final = re.compile(rb',"mac":"([0-9a-f]{64})"\}$')
_INTENT, _ATTEMPT, _BAD = ".json", ".held.json", ".bad"
_FILE = re.compile(r"([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})(?:\.held)?\.json")
#: The name of a partial file without its ending; see workers.publish.
_Partial = Annotated[str, msgspec.Meta(pattern="^(?:url-|git-)?[0-9a-f]{40,64}$")]


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request as it stands in the record, and what people want of it now. No credentials: a URL has no query."""

    id: str
    dedup_key: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] = msgspec.field(name="identity")
    ref: str
    request: Request
    priority: Priority = "normal"
    created_ms: int = 0
    retry_of: str = ""
    request_id: str = ""
    #: As in the record.
    owner_lines: str = msgspec.field(name="owners", default="")
    paused: bool = False
    cancelled: bool = False
    #: Whether the partial files are to be removed at the end.
    purge: bool = False
    #: Whether a command wrote it, where no server ran: a server that starts sees to it that its record says the same.
    local: bool = False
    #: Whether such a command brought it, so that it has ended well; `cancelled` is set too, for the version before.
    completed: bool = False


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt. `held` turns False when its worker gives the download back; `partials` are its files under way."""

    attempt: int
    fence: int
    worker: str = ""
    held: bool = True
    bytes_done: int = 0
    bytes_total: int = 0
    partials: tuple[_Partial, ...] = ()


T = TypeVar("T", Intent, Attempt)


class IntentLog:
    """The files of one hive. Blocking; methods raise OSError where the store cannot be read or written."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.hive_dir
        self._realm = self.realm = realm_of(settings)
        self._key = hashlib.sha256(b"hive intents mac\0" + _secret_key(settings)).digest()
        #: Whether files without a signature are nobody's, so that they are set aside; else they are left alone.
        self._all_signed = False

    def ids(self) -> list[str]:
        """Every download of which there is a file, sorted."""
        with open_folder(self._root, INTENTS, self._realm, missing_ok=True) as folder:
            names = os.listdir(folder) if folder is not None else []
        return sorted({match[1] for name in names if (match := _FILE.fullmatch(name))})

    def sign_what_was_left(self) -> None:
        """Sign the files of the version before, once in the life of a hive. For a server. Raises OSError."""
        if self._all_signed:
            return
        mark = self._settings.home_dir / (SIGNED_MARK + self._realm)
        if not mark.exists():
            with open_folder(self._root, INTENTS, self._realm, missing_ok=True) as folder:
                for name in os.listdir(folder) if folder is not None else ():
                    if _FILE.fullmatch(name) and folder is not None:
                        self._sign_left(folder, name)
            mark.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            mark.touch(mode=0o600)
        self._all_signed = True

    def _sign_left(self, folder: int, name: str) -> None:
        data = read_file(folder, name, MAX_ATTEMPT_BYTES)
        if data is None or _SIGNATURE.search(data) or os.stat(name, dir_fd=folder).st_uid != os.geteuid():
            return
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = msgspec.json.decode(data, type=Attempt if name.endswith(_ATTEMPT) else Intent)
            if isinstance(found, Intent) and not _is_ref(found.request.ref, left=True):
                return  # the version before knew no files of this machine: somebody else wrote it
            write_file(folder, name, self._signed(name, data.rstrip()), durable=False, mode=FILE_MODE)
            log.info("a file of the version before is signed", extra={"fields": {"file": name}})

    def read(self, download_id: str) -> Intent | None:
        """The request; None where there is none. One that cannot be used is set aside."""
        intent = self._read(download_id + _INTENT, MAX_INTENT_BYTES, Intent)
        if intent is None or (intent.id == download_id and _is_ref(intent.request.ref)):
            return intent
        self._set_aside(download_id + _INTENT, "it belongs to another download, or its reference is none")
        return None

    def read_attempt(self, download_id: str) -> Attempt | None:
        """The latest attempt; None where no worker has had it. One that cannot be used is set aside."""
        return self._read(download_id + _ATTEMPT, MAX_ATTEMPT_BYTES, Attempt)

    def write(self, intent: Intent) -> None:
        """Write the request, or what people want of it now."""
        self._write(intent.id + _INTENT, msgspec.json.encode(intent))

    def write_attempt(self, download_id: str, attempt: Attempt) -> None:
        """Write the attempt of a worker, unless a later one is there."""
        known = self.read_attempt(download_id)
        if known is None or known.fence <= attempt.fence:
            self._write(download_id + _ATTEMPT, msgspec.json.encode(attempt))

    def remove(self, download_id: str) -> None:
        """The download has ended. The request goes last: while it is there, the rest is found."""
        with open_folder(self._root, INTENTS, self._realm, missing_ok=True) as folder:
            if folder is not None:
                remove_file(folder, download_id + _ATTEMPT)
                remove_file(folder, download_id + _INTENT)

    def partials_of_others(self, download_id: str) -> frozenset[str]:
        """The partial files of all other downloads that have not ended, of every hive on this store."""
        others = (entry for entry in read_all(self._settings) if entry.id != download_id)
        return frozenset(partial for entry in others for partial in entry.partials)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _read(self, name: str, limit: int, kind: type[T]) -> T | None:
        with open_folder(self._root, INTENTS, self._realm, missing_ok=True) as folder:
            data = read_file(folder, name, limit) if folder is not None else None
        if data is None:
            return None
        data = self._unsigned(name, data)
        if data is None:
            if self._all_signed:
                self._set_aside(name, "it is not signed with this hive's key")
            return None
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self._set_aside(name, str(error))
            return None

    def _write(self, name: str, data: bytes) -> None:
        with open_folder(self._root, INTENTS, self._realm, create=True) as folder:
            try:
                write_file(folder, name, self._signed(name, data), durable=False, mode=FILE_MODE)
            except OSError as error:
                if error.errno not in FULL or not self._overwrite(folder, name, data):
                    raise

    def _overwrite(self, folder: int, name: str, data: bytes) -> bool:
        """Write over the file that is there, in the room that it has: that what arrived is to be removed must be said
        on a disk that is full, too. Whether it could be; one write, and a reader sees by the signature whether it has
        all of it.
        """
        try:
            file = open_plain_file(name, os.O_WRONLY, folder=folder)
        except OSError:
            return False
        with os.fdopen(file, "wb", buffering=0):
            found = os.fstat(file)
            blanks = b" " * (found.st_size - len(self._signed(name, data)))  # nothing of the old one may stay behind it
            signed = self._signed(name, data[:1] + blanks + data[1:])
            fits = len(signed) <= found.st_blocks * 512 and found.st_nlink == 1  # a link may be to anything of ours
            return fits and os.pwrite(file, signed, 0) == len(signed)

    def _mac(self, name: str, data: bytes) -> str:
        return hmac.new(self._key, name.encode() + b"\0" + data, "sha256").hexdigest()

    def _signed(self, name: str, data: bytes) -> bytes:
        """A JSON object with its signature as the last member, which readers of the version before pass over."""
        return data[:-1] + f',"mac":"{self._mac(name, data)}"}}'.encode()

    def _unsigned(self, name: str, data: bytes) -> bytes | None:
        """The object without its signature; None where that is missing or wrong."""
        found = _SIGNATURE.search(data)
        if found is None:
            return None
        bare = data[: found.start()] + b"}"
        return bare if hmac.compare_digest(self._mac(name, bare).encode(), found[1]) else None

    def _set_aside(self, name: str, reason: str) -> None:
        """Keep what is no use for somebody to look at, where it is not read again."""
        log.error("a file of the intent log is broken; set aside", extra={"fields": {"file": name, "reason": reason}})
        with contextlib.suppress(OSError), open_folder(self._root, INTENTS, self._realm) as folder:
            os.replace(name, name + _BAD, src_dir_fd=folder, dst_dir_fd=folder)


class LogEntry(NamedTuple):
    """What a file of the intent log says of a download: its reference ("" where another file has it), its partials."""

    id: str
    ref: str
    partials: tuple[str, ...]
    realm: str = ""


class _AnyFile(msgspec.Struct):
    """What counts of both kinds of files, to whoever reads those of another hive."""

    request: _AnyRequest | None = None
    partials: tuple[str, ...] = ()


class _AnyRequest(msgspec.Struct):
    ref: str = ""


def read_all(settings: Settings, max_age_s: float = float("inf")) -> Iterator[LogEntry]:
    """Every file, of every hive on this store, that was written in the last `max_age_s` seconds.

    Files that cannot be read are left out. Raises OSError where the store cannot be read.
    """
    with open_folder(settings.hive_dir, INTENTS, missing_ok=True) as intents:
        if intents is None:
            return
        for realm in subfolders(intents):
            with contextlib.suppress(OSError), open_folder(intents, realm) as folder:
                for name in os.listdir(folder):
                    if (match := _FILE.fullmatch(name)) and (file := _read_any(folder, name, max_age_s)) is not None:
                        yield LogEntry(match[1], file.request.ref if file.request else "", file.partials, realm)


def _read_any(folder: int, name: str, max_age_s: float) -> _AnyFile | None:
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime <= max_age_s:
            return msgspec.json.decode(read_file(folder, name, MAX_ATTEMPT_BYTES) or b"", type=_AnyFile)
    return None


def intent_of(record: Record, *, cancelled: bool = False, purge: bool = False) -> Intent:
    """The request of a record, and what people want of it now."""
    return Intent(
        id=record.id,
        dedup_key=record.dedup_key,
        ref=record.ref,
        request=record.request,
        priority=record.priority,
        created_ms=record.created_ms,
        retry_of=record.retry_of,
        request_id=record.request_id,
        owner_lines=record.owner_lines,
        paused=record.state == "paused" or record.control == "pause",
        cancelled=cancelled,
        purge=purge,
    )


def _is_ref(text: str, *, left: bool = False) -> bool:
    """Whether this is a reference; `left`: one that the version before took."""
    try:
        ref = parse_ref(text)
        return not (left and ref.is_local_file)
    except RefError:
        return False


def realm_of(settings: Settings) -> str:
    """The name of this hive: its folder in the intent log, and whose its locks on partial files are.

    A process that can neither read nor make the key shares one with its like.
    """
    key = _secret_key(settings)
    # The word of the first release, so that its files are found.
    return hashlib.sha256(b"hive ledger\0" + key).hexdigest()[:REALM_CHARS]


def _secret_key(settings: Settings) -> bytes:
    with contextlib.suppress(OSError, StoreNotWritable):
        ensure_key(settings.secret_key_path)
        return read_key_file(settings.secret_key_path)
    return b""
