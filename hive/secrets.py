"""Credentials on their way from a request to a worker: encrypted with a key that only hive's processes can read.

Problem: a worker needs the token of a request, and the only road is Redis, whose contents end up in append-only
files, backups and the screens of whoever may look. The easy way, the token in the job, leaves it there in clear. So
it travels under a key of its own, encrypted with a key from a file of mode 0600, expires, and is deleted at the
download's end.

Encryption alone lets whoever writes to Redis put one download's credentials under another: a token would go to an
origin of his choice. So the encryption is authenticated (AES-256-GCM) together with what the credentials are for: the
kind of thing, its id, and the origin that they are to be sent to. Under any other they do not open.

The version before sealed with Fernet, which knows no such binding. What its downloads hold still opens in this
release, where it was sealed within minutes of the making of the very download that holds it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from hive.errors import StoreNotWritable
from hive.key_file import read_key_file
from hive.private_file import private_file_beside
from hive.wire.refs import ModelRef

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: Seconds that encrypted credentials are kept for a download that never ends.
SECRET_TTL_S = 7 * 86_400
#: Bytes of the key, which stands in its file in base64; and of the number that is used once.
KEY_BYTES = 32
NONCE_BYTES = 12
#: Seconds between the making of a download and the sealing of its credentials by the version before, at most: two
#: clocks are in it.
LEGACY_SKEW_S = 300.0

#: What sealed texts of this version begin with; those of the version before are base64 of a first byte 0x80.
_SEALED = b"2."


class Credentials(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request brought: the Hub's token, and the query of a plain URL (which may be a signature)."""

    hf_token: str | None = None
    url_query: str | None = None

    def __repr__(self) -> str:
        return "Credentials(***)"

    def __bool__(self) -> bool:
        return bool(self.hf_token or self.url_query)


class SecretKeyError(RuntimeError):
    """The key file cannot be read, or the credentials were encrypted with another key."""


class Purpose(NamedTuple):
    """What something sealed is for, and opens for: a `kind` of thing, its id, and the origin that it is sent to."""

    kind: Literal["download", "plan", "access", "webhook"]
    id: str
    origin: str = ""

    @property
    def data(self) -> bytes:
        """The same in one text, in which no part can pass for another."""
        return msgspec.json.encode(("hive", *self))


def purpose_of(kind: Literal["download", "plan"], id_: str, ref: ModelRef, endpoint: str) -> Purpose:
    """That of the credentials of a request: a URL's query goes to the URL's origin, a token to the Hub's `endpoint`."""
    return Purpose(kind, id_, _origin(ref.url or endpoint))


def token_purpose(kind: Literal["access"], id_: str, endpoint: str) -> Purpose:
    """That of a token which the Hub's `endpoint` is asked with."""
    return Purpose(kind, id_, _origin(endpoint))


def seal(credentials: Credentials, key_file: Path, purpose: Purpose) -> bytes:
    """The credentials, encrypted. Makes the key file where there is none."""
    return _sealed(msgspec.json.encode(credentials), key_file, purpose)


def unseal(sealed: bytes, key_file: Path, purpose: Purpose, made_s: float | None = None) -> Credentials:
    """The credentials again. `made_s`: when the download was made that holds them, in unix seconds; without it what
    the version before has sealed does not open.

    Raises:
        SecretKeyError: they were sealed for something else; or this process has another key than the one that sealed
            them, or none.
    """
    try:
        return msgspec.json.decode(_opened(sealed, key_file, purpose, made_s), type=Credentials)
    except (_WrongKey, msgspec.DecodeError, UnicodeDecodeError):
        raise SecretKeyError(
            "The credentials of this download were encrypted with another key, or for another download or origin. "
            "Give the server and all workers the same HIVE_SECRET_KEY_FILE and HF_ENDPOINT."
        ) from None


def seal_text(text: str, key_file: Path, purpose: Purpose) -> bytes:
    """Any text, encrypted. Makes the key file where there is none."""
    return _sealed(text.encode(), key_file, purpose)


def unseal_text(sealed: bytes, key_file: Path, purpose: Purpose) -> str:
    """The text again; also one that the version before has sealed. Raises SecretKeyError."""
    try:
        return _opened(sealed, key_file, purpose, math.inf).decode()
    except (_WrongKey, UnicodeDecodeError):
        text = "It was encrypted with another key, or for something else: HIVE_SECRET_KEY_FILE differs."
        raise SecretKeyError(text) from None


def fingerprint(text: str, key_file: Path) -> str:
    """A name for a secret text: the same for the same text, and of no use to whoever has not the key."""
    _read_key(key_file, create=True)
    return hmac.digest(read_key_file(key_file), b"name:" + text.encode(), hashlib.sha256).hex()[:24]


def ensure_key(key_file: Path) -> None:
    """Make the key file, mode 0600, unless there is one. Several processes may try at once: one wins.

    Raises:
        StoreNotWritable: its folder cannot be made or written; with the path, and what to set.
    """
    try:
        if not key_file.exists():
            _make_key(key_file)
    except OSError as error:
        raise _unusable(key_file, error) from error


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{parts.hostname}:{port}"


class _WrongKey(Exception):
    """What is sealed does not open."""


def _sealed(data: bytes, key_file: Path, purpose: Purpose) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return _SEALED + base64.urlsafe_b64encode(nonce + _aead(key_file, create=True).encrypt(nonce, data, purpose.data))


def _opened(sealed: bytes, key_file: Path, purpose: Purpose, made_s: float | None) -> bytes:
    """What was sealed. Raises SecretKeyError where there is no key, _WrongKey where it does not open."""
    from cryptography.exceptions import InvalidTag

    if not sealed.startswith(_SEALED):
        return _opened_legacy(sealed, key_file, made_s)
    cipher = _aead(key_file, create=False)
    try:
        data = base64.urlsafe_b64decode(sealed.removeprefix(_SEALED))
        return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], purpose.data)
    except (ValueError, InvalidTag):
        raise _WrongKey from None


def _opened_legacy(sealed: bytes, key_file: Path, made_s: float | None) -> bytes:
    """What the version before has sealed. Fernet notes when."""
    from cryptography.fernet import Fernet, InvalidToken

    cipher = Fernet(base64.urlsafe_b64encode(_read_key(key_file, create=False)))
    try:
        data, sealed_s = cipher.decrypt(sealed), cipher.extract_timestamp(sealed)
    except InvalidToken:
        raise _WrongKey from None
    if made_s is None or (made_s != math.inf and abs(sealed_s - made_s) > LEGACY_SKEW_S):
        raise _WrongKey
    return data


def check_key(key_file: Path) -> None:
    """Make the key file where there is none, and read it.

    Raises:
        StoreNotWritable: it cannot be made, or not be read; with the path, and what to set.
    """
    _read_key(key_file, create=True)


def check_others_key(key_file: Path) -> None:
    """Read the key file, which somebody else makes.

    Raises:
        SecretKeyError: it is not there, or cannot be read; with what to set.
    """
    _read_key(key_file, create=False)


def _make_key(key_file: Path) -> None:
    key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with private_file_beside(key_file, base64.urlsafe_b64encode(os.urandom(KEY_BYTES))) as temporary:
        _publish(temporary, key_file)


def _publish(temporary: Path, key_file: Path) -> None:
    """Give the key its name, unless another process was faster. A link does both in one step; where the filesystem has
    none (exFAT, some shares), a rename under a lock, and without locks a rename.
    """
    with contextlib.suppress(FileExistsError):
        try:
            os.link(temporary, key_file)
        except FileExistsError:
            raise
        except OSError:
            with _private(key_file.with_name(f".{key_file.name}.lock")) as lock:
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not key_file.exists():
                    os.replace(temporary, key_file)


def _private(path: Path) -> BinaryIO:
    """A file of this user alone, opened to be locked."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "rb+")


def _unusable(key_file: Path, error: Exception) -> StoreNotWritable:
    reason = error.strerror or str(error) if isinstance(error, OSError) else "it holds no key"
    path = getattr(error, "filename", None) or str(key_file)
    text = f"The secret key cannot be used by this user (uid {os.getuid()}): {reason}: {path}."
    return StoreNotWritable(f"{text} Set HIVE_HOME to a folder of its own, or HIVE_SECRET_KEY_FILE.", path=path)


def _aead(key_file: Path, *, create: bool) -> AESGCM:
    # Imported where it is used: it takes longer to load than a command takes that needs no more than the key's file.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    # Not the key itself: Fernet's use of it and this one must not meet.
    return AESGCM(hmac.digest(_read_key(key_file, create=create), b"hive sealed 2", hashlib.sha256))


def _read_key(key_file: Path, *, create: bool) -> bytes:
    """The key's bytes. Raises StoreNotWritable or, where it is not to be made, SecretKeyError."""
    if create:
        ensure_key(key_file)
    try:
        key = base64.urlsafe_b64decode(read_key_file(key_file))
        if len(key) != KEY_BYTES:
            raise ValueError("it holds no key")
        return key
    except (OSError, ValueError) as error:
        if create:
            raise _unusable(key_file, error) from error
        raise SecretKeyError(f"The secret key file cannot be used: {error}. Set HIVE_SECRET_KEY_FILE.") from None
