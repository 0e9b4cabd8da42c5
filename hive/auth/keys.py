"""API keys: the file that they live in. Bearer tokens, stored as digests.

Problem: a request must say whose it is, on every replica, and a key that leaked must stop at once. The easy way, a
table in Redis, gives the API to whoever can write there. So the keys lie in one file that only hive's user may read,
and even it holds no key: a key is shown once, when it is made, and kept as its SHA-256. That is enough without salt or
stretching: 43 random characters (256 bits) are in no dictionary.

    hive_k3v9x2ma_pT4...Q        the public id finds the key and is shown in logs; the rest is the secret
    hf_hivek3v9x2mapT4...Q       the same for tools that send nothing but tokens of the Hub's form, as llama.cpp does

A revoked key stays in the file, marked, for a month. So the last key that is revoked does not open the server: keys are
on as long as the file holds any.

Writers take a lock of the kernel beside the file, and a change is a new file under the old name: readers see the whole
old or the whole new one, and nobody's change is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import stat
import string
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from hive.auth.principal import Principal
from hive.auth.scopes import SCOPES, Scope, with_implied
from hive.errors import BadRequest, KeyFileUnusable, NotFound
from hive.key_file import is_of_owner, is_private
from hive.private_file import private_file_beside

T = TypeVar("T")

#: The forms of a key: its public id, and 32 random bytes in base64url, or as much in letters and digits alone.
KEY: Final = re.compile(r"hive_([0-9a-z]{8})_[0-9A-Za-z_-]{43}|hf_hive([0-9a-z]{8})[0-9A-Za-z]{43}")
#: What is meant for one, also where it was written wrongly. Tokens of the Hub are shorter.
LIKE_KEY: Final = re.compile(r"hive_.*|hf_hive.{44,}", re.DOTALL)
KEY_ID: Final = re.compile(r"[0-9a-z]{8}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ID_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_CHARS: Final = 8
_SECRET_BYTES: Final = 32
_SECRET_ALPHABET: Final = string.ascii_letters + string.digits
_SECRET_CHARS: Final = 43

#: Keys of one file, revoked ones too.
MAX_KEYS: Final = 10_000
#: Bytes of the file that are read.
MAX_FILE_BYTES: Final = 16 << 20
#: Characters of a name and of an owner.
MAX_NAME_CHARS: Final = 64
#: Seconds of the longest life of a key: ten years.
MAX_LIFE_S: Final = 10 * 366 * 86_400
#: Seconds that a key which is revoked or has expired stays in the file, for `hive key ls` to show.
DEAD_KEPT_S: Final = 30 * 86_400
#: Ended sessions of one key, and of all, that are remembered until they would have expired anyway. Beyond it the oldest
#: of the key that has the most is forgotten: nobody who ends many brings another key's back to life.
MAX_ENDED_OF_KEY: Final = 100
MAX_ENDED_SESSIONS: Final = 10_000
#: Seconds that a writer waits for its turn, and between two tries.
LOCK_TIMEOUT_S: Final = 10.0
_LOCK_RETRY_S: Final = 0.01
#: Seconds by which a last use must be newer to be written: nobody asks for more.
USE_RESOLUTION_S: Final = 60.0


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as it is kept. Times are Unix seconds."""

    id: str
    name: str
    #: SHA-256 of the whole key, in hexadecimal.
    sha256: str
    scopes: tuple[Scope, ...]
    #: Whose downloads it makes and sees: keys of one owner share them.
    owner: str
    created_s: float
    expires_s: float | None = None
    revoked_s: float | None = None
    used_s: float | None = None

    def is_alive(self, now_s: float) -> bool:
        """Whether it opens anything at this time."""
        return self.revoked_s is None and (self.expires_s is None or now_s < self.expires_s)

    def state(self, now_s: float) -> str:
        """In a word: active, expired or revoked."""
        if self.revoked_s is not None:
            return "revoked"
        return "active" if self.is_alive(now_s) else "expired"

    def principal(self) -> Principal:
        """Who asks with this key."""
        return Principal(self.id, self.owner, with_implied(self.scopes), expires_s=self.expires_s)


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """What the file holds."""

    keys: tuple[ApiKey, ...] = ()
    #: Ids of sessions that were ended before they expired, and when they would have.
    ended_sessions: dict[str, float] = {}
    version: int = 1


class NewKey(NamedTuple):
    """A key that was just made: `text` is the key itself, which is shown once and kept nowhere."""

    text: str
    key: ApiKey

    def __repr__(self) -> str:
        return f"NewKey(id={self.key.id!r})"


class KeyFile:
    """The file with the keys. Every method reads it anew; several processes may change it at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> KeyList:
        """What it holds; nothing where there is no file.

        Raises:
            KeyFileUnusable: it is there and cannot be used; the text says what to do.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return KeyList()
        except OSError as error:
            raise self._unusable(error.strerror or str(error), "make it readable for this user alone") from None
        try:
            self._check(os.fstat(descriptor))
            with open(descriptor, "rb", closefd=False) as file:
                return self._parse(file.read(MAX_FILE_BYTES + 1))
        except OSError as error:
            raise self._unusable(error.strerror or str(error), "make it readable for this user alone") from None
        finally:
            os.close(descriptor)

    def add(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        owner: str = "",
        expires_in_s: float | None = None,
        in_hub_form: bool = False,
    ) -> NewKey:
        """Make a key. Without `owner` it is its own; `in_hub_form`: it looks like a token of the Hub.

        Raises:
            BadRequest: a name or time that cannot be, or no scope.
            KeyFileUnusable: the file cannot be read or written.
        """
        _check_words(name, owner, scopes, expires_in_s)
        now_s = time.time()

        def change(found: KeyList) -> tuple[KeyList, NewKey]:
            kept = [key for key in found.keys if key.is_alive(now_s) or _ended_s(key) > now_s - DEAD_KEPT_S]
            if len(kept) >= MAX_KEYS:
                raise BadRequest(f"The key file holds {MAX_KEYS} keys; more are not kept in it.")
            key_id = _new_id({key.id for key in kept})
            text = _new_text(key_id, in_hub_form=in_hub_form)
            key = ApiKey(
                id=key_id,
                name=name,
                sha256=digest_of(text),
                scopes=tuple(scope for scope in SCOPES if scope in scopes),
                owner=owner or key_id,
                created_s=now_s,
                expires_s=None if expires_in_s is None else now_s + expires_in_s,
            )
            return msgspec.structs.replace(found, keys=(*kept, key)), NewKey(text, key)

        return self._change(change, create=True)

    def revoke(self, key_id: str) -> ApiKey:
        """End a key, for good; gives it as it is kept. One that was revoked before stays as it is.

        Raises:
            NotFound: there is no such key.
            KeyFileUnusable: the file cannot be read or written.
        """

        def change(found: KeyList) -> tuple[KeyList, ApiKey]:
            for at, key in enumerate(found.keys):
                if key.id == key_id:
                    if key.revoked_s is None:
                        key = msgspec.structs.replace(key, revoked_s=time.time())
                    return msgspec.structs.replace(found, keys=(*found.keys[:at], key, *found.keys[at + 1 :])), key
            raise NotFound("There is no key with this id. `hive key ls` lists them.")

        return self._change(change)

    def note_uses(self, used: Mapping[str, float]) -> None:
        """Write down when keys were used last (Unix seconds by id), where that is news.

        Raises:
            KeyFileUnusable: the file cannot be read or written.
        """

        def with_use(key: ApiKey) -> ApiKey:
            used_s = used.get(key.id, 0.0)
            news = used_s >= (key.used_s or 0.0) + USE_RESOLUTION_S
            return msgspec.structs.replace(key, used_s=used_s) if news else key

        self._change(
            lambda found: (msgspec.structs.replace(found, keys=tuple(with_use(key) for key in found.keys)), None)
        )

    def end_session(self, session_id: str, expires_s: float) -> None:
        """Note that a session is over although its cookie has not expired.

        Raises:
            KeyFileUnusable: the file cannot be read or written.
        """

        def change(found: KeyList) -> tuple[KeyList, None]:
            now_s = time.time()
            ended = remembered({**found.ended_sessions, session_id: expires_s}, now_s)
            return msgspec.structs.replace(found, ended_sessions=ended), None

        self._change(change)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _change(self, change: Callable[[KeyList], tuple[KeyList, T]], *, create: bool = False) -> T:
        """Read, change and write under the lock. Where there is no file, one is made only if `create`: a server that
        notes something must not bring a file back that somebody took away.
        """
        try:
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                if not create and not self.path.exists():
                    raise self._unusable("there is no such file", "make a key with `hive key new`")
                before = self.read()
                after, result = change(before)
                if after != before:
                    self._write(msgspec.json.format(msgspec.json.encode(after)))
                return result
        except OSError as error:
            what = error.strerror or str(error)
            raise self._unusable(what, "set HIVE_API_KEYS_FILE to a file in a folder of this user's") from None

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """The lock lies beside the file, which is replaced with each change."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path.with_name(f".{self.path.name}.lock"), flags, 0o600)
        try:
            deadline_s = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise self._unusable("another process holds its lock", "try again") from None
                    time.sleep(_LOCK_RETRY_S)
            yield
        finally:
            os.close(descriptor)

    def _write(self, data: bytes) -> None:
        """A new file under the old name; where that is a link, under the name that it leads to."""
        path = Path(os.path.realpath(self.path))
        with private_file_beside(path, data) as temporary:
            if os.geteuid() == 0 and path.exists():  # it stays readable for the user whose server reads it
                os.chown(temporary, path.stat().st_uid, path.stat().st_gid, follow_symlinks=False)
            os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every filesystem lets a folder be flushed
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._unusable("it is no file", "make a key with `hive key new`, and name the file that it makes")
        if not is_of_owner(status, self.path.parent):
            owner = f"it belongs to another user (uid {status.st_uid})"
            raise self._unusable(owner, f"chown {os.geteuid()} {self.path}")
        if not is_private(status):
            mode = f"others may read or change it (mode {stat.S_IMODE(status.st_mode):04o})"
            raise self._unusable(mode, f"chmod 600 {self.path}, and revoke what may have been copied")
        if status.st_size > MAX_FILE_BYTES:
            raise self._unusable("it is too large", "it was not written by hive: name the right one")

    def _parse(self, data: bytes) -> KeyList:
        try:
            found = msgspec.json.decode(data, type=KeyList)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self._unusable("it is no key file", "restore it from a backup, or move it away") from None
        ids = {key.id for key in found.keys}
        if len(ids) != len(found.keys) or not all(KEY_ID.fullmatch(id_) for id_ in ids):
            raise self._unusable("its ids are not those of keys, or not unique", "restore it from a backup")
        if not all(_SHA256.fullmatch(key.sha256) for key in found.keys):
            raise self._unusable("it holds something else than digests", "restore it from a backup")
        return found

    def _unusable(self, why: str, what_to_do: str) -> KeyFileUnusable:
        text = f"The key file {self.path} cannot be used: {why}. What to do: {what_to_do}."
        return KeyFileUnusable(text, path=str(self.path))


def id_of(text: str) -> str:
    """The public id of a key; "" of what is none."""
    found = KEY.fullmatch(text)
    return (found[1] or found[2]) if found is not None else ""


def digest_of(text: str) -> str:
    """What is kept of a key: its SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def new_session_id(key_id: str) -> str:
    """An id for a session of this key, which tells whose it is."""
    return f"{key_id}-{secrets.token_hex(16)}"


def remembered(ended: Mapping[str, float], now_s: float) -> dict[str, float]:
    """Of these ended sessions those that are kept, in their order: none that has expired, and so many of a key."""
    by_key: dict[str, list[str]] = {}
    for session_id, until_s in ended.items():
        if until_s > now_s:
            by_key.setdefault(session_id.rpartition("-")[0], []).append(session_id)
    kept = {key_id: ids[-MAX_ENDED_OF_KEY:] if key_id else ids for key_id, ids in by_key.items()}
    for _ in range(sum(map(len, kept.values())) - MAX_ENDED_SESSIONS):
        max(kept.values(), key=len).pop(0)
    left = {session_id for ids in kept.values() for session_id in ids}
    return {session_id: until_s for session_id, until_s in ended.items() if session_id in left}


def _new_text(key_id: str, *, in_hub_form: bool) -> str:
    if in_hub_form:
        return f"hf_hive{key_id}{''.join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_CHARS))}"
    return f"hive_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def _new_id(taken: set[str]) -> str:
    while (found := "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS))) in taken:
        pass
    return found


def _ended_s(key: ApiKey) -> float:
    return min(ended_s for ended_s in (key.revoked_s, key.expires_s) if ended_s is not None)


def _check_words(name: str, owner: str, scopes: Sequence[Scope], expires_in_s: float | None) -> None:
    for what, text in (("name", name), ("owner", owner)):
        if len(text) > MAX_NAME_CHARS or not text.isprintable() or text != text.strip():
            raise BadRequest(f"The {what} of a key is up to {MAX_NAME_CHARS} printable characters.")
    if not name:
        raise BadRequest("A key needs a name, by which you know later what it is for.")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise BadRequest(f"A key needs scopes, of {', '.join(SCOPES)}.")
    if expires_in_s is not None and not 0 < expires_in_s <= MAX_LIFE_S:
        raise BadRequest("A key lives for up to ten years, or without end.")
