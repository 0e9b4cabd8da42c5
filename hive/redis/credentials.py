"""Credentials for Redis from a function of the operator's, asked anew for each connection (a credential provider).

Problem: managed Redis (AWS IAM, Entra ID, Google IAM, Vault) wants a token that lives for minutes, where a URL holds a
password for ever. The easy way, to restart everything when it changes, cuts every stream. So HIVE_REDIS_CREDENTIALS
names a function, and whoever makes a connection asks it first. A connection that is there stays, as long as Redis lets
it.

What the function raises is told by its class alone: the text of an error may hold what it was about to give.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any, Final

from redis import CredentialProvider

from hive.call_within import NoAnswerError, call_within
from hive.redis.errors import ConnectError

_SPEC: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
#: Characters of the longest token; those of cloud providers have some 2,000.
MAX_TOKEN_CHARS: Final = 65_536
CODE: Final = "CREDENTIALS"
#: Seconds after which the function counts as one that does not answer. It should in one.
HOOK_TIMEOUT_S: Final = 10.0


class HookProvider(CredentialProvider):
    """Gives redis-py what the function gives: user and password, or the password alone."""

    def __init__(self, spec: str, username: str | None = None) -> None:
        self._spec = spec
        self._username = username
        self._ask: Callable[[], Any] | None = None

    def load(self) -> None:
        """Import the function, once. Raises ConnectError."""
        if self._ask is not None:
            return
        if not _SPEC.fullmatch(self._spec):
            raise ConnectError(CODE, "HIVE_REDIS_CREDENTIALS is no module:function")
        module, _, path = self._spec.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for name in path.split("."):
                found = getattr(found, name)
        except Exception as error:
            text = f"HIVE_REDIS_CREDENTIALS names {self._spec}, which cannot be loaded: {type(error).__name__}"
            raise ConnectError(CODE, text) from None
        asks = getattr(found, "get_credentials", None) if not isinstance(found, type) else None
        if not callable(asks or found):
            raise ConnectError(CODE, f"HIVE_REDIS_CREDENTIALS names {self._spec}, which cannot be called")
        self._ask = asks or found

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What to put behind AUTH. Raises ConnectError, which shows nothing of it."""
        self.load()
        ask = self._ask
        assert ask is not None
        try:
            given = call_within(HOOK_TIMEOUT_S, lambda: _given_by(ask), name="redis-credentials")
        except NoAnswerError:
            text = f"HIVE_REDIS_CREDENTIALS ({self._spec}) has not answered for {HOOK_TIMEOUT_S:g} s"
            raise ConnectError(CODE, text) from None
        except Exception as error:
            text = f"HIVE_REDIS_CREDENTIALS ({self._spec}) raised {type(error).__name__}"
            raise ConnectError(CODE, text) from None
        parts = (given,) if isinstance(given, str) else given
        if not _is_well_formed(parts):
            text = f"HIVE_REDIS_CREDENTIALS ({self._spec}) must give a password, or a user and a password"
            raise ConnectError(CODE, text)
        *user, password = parts
        username = user[0] if user else self._username
        return (username, password) if username else (password,)

    def __repr__(self) -> str:
        return f"HookProvider({self._spec!r})"


def _given_by(ask: Callable[[], Any]) -> Any:
    given = ask()
    asks = getattr(given, "get_credentials", None)
    return asks() if callable(asks) else given


def _is_well_formed(parts: Any) -> bool:
    return (
        isinstance(parts, tuple | list)
        and len(parts) in (1, 2)
        and all(isinstance(part, str) and 0 < len(part) <= MAX_TOKEN_CHARS for part in parts)
    )
