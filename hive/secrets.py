"""Credentials on their way from a request to a worker: encrypted with a key that only hive's processes can read.

Problem: a worker needs the token of a request, and the only road is Redis, whose contents end up in append-only
files, backups and the screens of whoever may look. The easy way, the token in the job, leaves it there in clear. So
it travels under a key of its own, encrypted (Fernet: AES-128-CBC and HMAC-SHA256) with a key from a file of mode
0600, expires, and is deleted at the download's end.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets as random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hive.errors import StoreNotWritable

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

#: Seconds that encrypted credentials are kept for a download that never ends.
SECRET_TTL_S = 7 * 86_400
#: Bytes of the key: Fernet takes so many, in base64.
KEY_BYTES = 32


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


def seal(credentials: Credentials, key_file: Path) -> bytes:
    """The credentials, encrypted. Makes the key file where there is none."""
    return _cipher(key_file, create=True).encrypt(msgspec.json.encode(credentials))


def unseal(sealed: bytes, key_file: Path) -> Credentials:
    """The credentials again.

    Raises:
        SecretKeyError: when this process has another key than the one that sealed them, or none.
    """
    from cryptography.fernet import InvalidToken

    try:
        return msgspec.json.decode(_cipher(key_file, create=False).decrypt(sealed), type=Credentials)
    except InvalidToken:
        raise SecretKeyError(
            "The credentials of this download were encrypted with another key. "
            "Give the server and all workers the same HIVE_SECRET_KEY_FILE."
        ) from None


def seal_text(text: str, key_file: Path) -> bytes:
    """Any text, encrypted. Makes the key file where there is none."""
    return _cipher(key_file, create=True).encrypt(text.encode())


def unseal_text(sealed: bytes, key_file: Path) -> str:
    """The text again. Raises SecretKeyError."""
    from cryptography.fernet import InvalidToken

    try:
        return _cipher(key_file, create=False).decrypt(sealed).decode()
    except InvalidToken:
        raise SecretKeyError("It was encrypted with another key: HIVE_SECRET_KEY_FILE differs.") from None


def fingerprint(text: str, key_file: Path) -> str:
    """A name for a secret text: the same for the same text, and of no use to whoever has not the key."""
    _cipher(key_file, create=True)
    return hmac.digest(key_file.read_bytes().strip(), b"name:" + text.encode(), hashlib.sha256).hex()[:24]


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


def check_key(key_file: Path) -> None:
    """Make the key file where there is none, and read it.

    Raises:
        StoreNotWritable: it cannot be made, or not be read; with the path, and what to set.
    """
    _cipher(key_file, create=True)


def _make_key(key_file: Path) -> None:
    key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = key_file.with_name(f".{key_file.name}.{random.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, base64.urlsafe_b64encode(os.urandom(KEY_BYTES)))
        os.fsync(descriptor)
        _publish(temporary, key_file)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


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
            with key_file.with_name(f".{key_file.name}.lock").open("ab") as lock:
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not key_file.exists():
                    os.replace(temporary, key_file)


def _unusable(key_file: Path, error: Exception) -> StoreNotWritable:
    reason = error.strerror or str(error) if isinstance(error, OSError) else "it holds no key"
    path = getattr(error, "filename", None) or str(key_file)
    text = f"The secret key cannot be used by this user (uid {os.getuid()}): {reason}: {path}."
    return StoreNotWritable(f"{text} Set HIVE_HOME to a folder of its own, or HIVE_SECRET_KEY_FILE.", path=path)


def _cipher(key_file: Path, *, create: bool) -> Fernet:
    if create:
        ensure_key(key_file)
    # Imported where it is used: it takes longer to load than a command takes that needs no more than the key's file.
    from cryptography.fernet import Fernet

    try:
        return Fernet(key_file.read_bytes().strip())
    except (OSError, ValueError) as error:
        if create:
            raise _unusable(key_file, error) from error
        raise SecretKeyError(f"The secret key file cannot be used: {error}. Set HIVE_SECRET_KEY_FILE.") from None
