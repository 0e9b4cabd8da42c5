"""The keys as a server has them in hand: looked up for each request, and read anew when their file changes.

Problem: `hive key revoke` must reach every replica within two seconds, and a request must not wait for a disk. The easy
way, to read the file with each request, puts a disk into each; a message through Redis would let whoever writes there
hold a revocation back. So the file is looked at once a second (one `stat`, in a thread) and read when it changed.

It fails closed. Keys are on from the moment the file holds one, and stay on for as long as the server lives, also in a
process that takes the place of one that died: a file that disappears, that others may read, or that cannot be read lets
nobody in until it is right again.
"""

from __future__ import annotations

import hmac
import logging
import mmap
import os
import time
from typing import Final

from hive.auth.keys import MAX_ENDED_SESSIONS, ApiKey, KeyFile, KeyList, digest_of, id_of, remembered
from hive.auth.principal import Principal
from hive.errors import InvalidApiKey, KeyFileUnusable

log = logging.getLogger("hive.auth")

#: Seconds between two looks at the file: twice as often as it must be, for a machine that is busy.
LOOK_INTERVAL_S: Final = 1.0
#: Seconds between two notes of when keys were used last.
NOTE_INTERVAL_S: Final = 60.0
#: What an unknown key is compared with, so that it takes the same steps as a known one. No digest is all zeros.
_NO_KEY: Final = ApiKey(id="", name="", sha256="0" * 64, scopes=(), owner="", created_s=0.0, expires_s=0.0)

#: What tells one state of the file from another; None where there is none.
_Seen = tuple[int, ...] | None


class Latch:
    """Whether keys have been on, as all processes know it that were forked with it. It never goes back."""

    def __init__(self, *, is_set: bool = False) -> None:
        self._shared = mmap.mmap(-1, 1)
        if is_set:
            self.set()

    def __bool__(self) -> bool:
        return self._shared[0] != 0

    def set(self) -> None:
        """Keys are on."""
        self._shared[0] = 1


class KeyRing:
    """The keys of one server process. `on` says whether there are keys: where there are none it is all that is read."""

    def __init__(self, file: KeyFile, latch: Latch | None = None) -> None:
        """`latch`: set where keys must be on whatever the file says now, and set by this ring when they are."""
        self._latch = Latch() if latch is None else latch
        self.on = bool(self._latch)
        self._file = file
        self._seen: _Seen = None
        self._keys: dict[str, tuple[ApiKey, Principal]] = {}
        self._ended: dict[str, float] = {}
        self._trouble: KeyFileUnusable | None = None
        self._used: dict[str, float] = {}
        self._noted_s = time.monotonic()

    def load(self) -> None:
        """Read the file at the start.

        Raises:
            KeyFileUnusable: it is there and cannot be used: the server is not to start.
        """
        self._seen = self._look()
        self._take(self._file.read())
        if self.on and self._seen is None:
            self._fail(self._gone())

    def refresh(self) -> bool:
        """Read the file again if it changed; whether it did. Blocks. What is wrong is logged and lets nobody in, and is
        tried again with each call: what ended it (too many open files, a share that was away) may leave no mark on it.
        """
        before = self._seen
        try:
            self._seen = self._look()
            if self._seen == before and self._trouble is None:
                return False
            if self._seen is not None:
                self._take(self._file.read())
            elif self.on:
                raise self._gone()
        except KeyFileUnusable as error:
            self._fail(error)
        except OSError as error:
            self._seen = ()
            self._fail(KeyFileUnusable(f"The key file cannot be looked at: {error.strerror or error}."))
        return self._seen != before

    def principal(self, text: str) -> Principal:
        """Who asks with this key. Unknown, wrong, expired and revoked ones take the same steps to the same answer.

        Raises:
            InvalidApiKey: it opens nothing.
            KeyFileUnusable: the file cannot be read, so nothing is known.
        """
        self._check()
        key, principal = self._keys.get(id_of(text), (_NO_KEY, None))
        is_right = hmac.compare_digest(digest_of(text), key.sha256)
        now_s = time.time()
        is_alive = key.is_alive(now_s)
        if not (is_right and is_alive and principal is not None):
            raise InvalidApiKey
        self._used[key.id] = now_s
        return principal

    def key_principal(self, key_id: str) -> Principal:
        """Who asks with what this key has made: a ticket or a session.

        Raises:
            InvalidApiKey: the key is revoked, expired or gone.
            KeyFileUnusable: the file cannot be read, so nothing is known.
        """
        self._check()
        key, principal = self._keys.get(key_id, (_NO_KEY, None))
        if principal is None or not key.is_alive(time.time()):
            raise InvalidApiKey
        return principal

    def is_ended(self, session_id: str) -> bool:
        """Whether this session was ended before its time."""
        return session_id in self._ended

    def is_alive(self, principal: Principal) -> bool:
        """Whether what this principal has opened may stay open."""
        if not self.on:
            return True
        if self._trouble is not None or (principal.expires_s is not None and time.time() >= principal.expires_s):
            return False
        key, _ = self._keys.get(principal.key_id, (_NO_KEY, None))
        return key.is_alive(time.time()) and principal.session_id not in self._ended

    def end_session(self, session_id: str, expires_s: float) -> None:
        """Forget a session here at once, and in the other replicas when they look. Blocks.

        Raises:
            KeyFileUnusable: the file cannot be written.
        """
        if self.on:
            self._ended[session_id] = expires_s
            if len(self._ended) > MAX_ENDED_SESSIONS:  # where the file cannot be written nothing else bounds them
                self._ended = remembered(self._ended, time.time())
            self._file.end_session(session_id, expires_s)

    def note_uses(self) -> None:
        """Write down when keys were used last, at most once a minute. Blocks.

        Raises:
            KeyFileUnusable: it cannot be written: a file that only this server reads, for example.
        """
        if self._used and time.monotonic() - self._noted_s >= NOTE_INTERVAL_S:
            self._noted_s = time.monotonic()
            used, self._used = self._used, {}
            self._file.note_uses(used)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._trouble is not None:
            raise KeyFileUnusable  # what is wrong stands in the log, and is nothing for whoever asks

    def _look(self) -> _Seen:
        try:
            found = os.stat(self._file.path)
        except FileNotFoundError:
            return None
        return (found.st_ino, found.st_dev, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def _take(self, found: KeyList) -> None:
        keys = {key.id: (key, key.principal()) for key in found.keys}
        if keys and not self.on:
            log.info("keys are on: requests need one from now on", extra={"fields": {"keys": len(keys)}})
        elif self._trouble is not None:
            log.info("the key file can be used again", extra={"fields": {"keys": len(keys)}})
        self._ended = remembered({**self._ended, **found.ended_sessions}, time.time())
        self._keys, self._trouble = keys, None
        if keys:
            self._turn_on()

    def _fail(self, error: KeyFileUnusable) -> None:
        if self._trouble is None or self._trouble.message != error.message:  # once for each reason
            log.error("nobody is let in: the key file cannot be used", extra={"fields": {"reason": error.message}})
        self._trouble = error
        self._turn_on()

    def _turn_on(self) -> None:
        self.on = True
        self._latch.set()

    def _gone(self) -> KeyFileUnusable:
        path = self._file.path
        return KeyFileUnusable(f"The key file {path} has gone. Restore it, or end hive to run it without keys.")
