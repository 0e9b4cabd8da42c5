"""Audit log: one line for each request that changes something, or was refused to.

Problem: who deleted the model? The log of what happens to a download does not say who asked, nor from where. The easy
way, a line in every handler, is forgotten in the next one, and says nothing of what was refused before a handler ran.
So the line is written around the gate, where every request passes, for all methods but those that only read; GET and
the streams do not come here. It holds ids and codes and nothing that somebody typed but an id, so that no secret can be
in it. Refusals are told up to a limit, with the number of those that were not: a flood must not fill the disk.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hive.api.gate import ANSWER_HEADERS
from hive.auth.holder import holder_of_address
from hive.auth.principal import PRINCIPAL, Principal
from hive.log_writer import LineWriter, WriterHandler
from hive.logs import JsonFormatter
from hive.processes.log_file import RotatedFile
from hive.wire.words import counted

log = logging.getLogger("hive.audit")

#: What only reads.
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
#: Refused requests of one address, and of all, that are told in a minute.
REFUSED_PER_ADDRESS, REFUSED_IN_ALL = 20, 200
#: Seconds over which they are counted, and addresses that are counted apart.
WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 1000
#: Bytes of an answer that are read for its id or its code.
MAX_ANSWER_BYTES: Final = 16_384
#: Characters of a model's id.
MAX_ID_CHARS: Final = 300
_DOWNLOAD_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _Answer(msgspec.Struct):
    """What of an answer is told."""

    class Error(msgspec.Struct):
        code: str = ""

    download_id: str = ""
    #: A text where Ollama's clients are answered, with the code beside it.
    error: Error | str | None = None
    code: str = ""

    @property
    def error_code(self) -> str:
        """The code of the error; "" for none."""
        return self.error.code if isinstance(self.error, _Answer.Error) else self.code


class Refusals:
    """Which refusals are told: so many a minute of each address (of IPv6 each /64), and in all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._counts: Counter[str] = Counter()
        self._told = 0
        self._untold = 0

    def is_told(self, address: str) -> bool:
        """Whether one more of this address is told; counts it."""
        now = self._clock()
        if now - self._since >= WINDOW_S:
            self._since, self._told = now, 0
            self._counts.clear()
        source = holder_of_address(address)
        known = source if source in self._counts or len(self._counts) < MAX_ADDRESSES else "others"
        self._counts[known] += 1
        if self._counts[known] > REFUSED_PER_ADDRESS or self._told >= REFUSED_IN_ALL:
            self._untold += 1
            return False
        self._told += 1
        return True

    def take_untold(self) -> int:
        """How many were not told since this was asked last."""
        untold, self._untold = self._untold, 0
        return untold


class Audit:
    """Writes the lines of one HTTP process."""

    def __init__(self, routes: Iterable[object]) -> None:
        """`routes`: the route table, for the templates of addresses."""
        self._routes = [route for route in routes if isinstance(route, Route) and not (route.methods or set()) <= READS]
        self._refusals = Refusals()

    async def __call__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let `app` answer, and write what came of it."""
        status, body = 0, bytearray()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif len(body) < MAX_ANSWER_BYTES:
                body.extend(message.get("body", b"")[:MAX_ANSWER_BYTES])
            await send(message)

        try:
            await app(scope, receive, watched)
        finally:
            self._write(scope, status, bytes(body))

    def _write(self, scope: Scope, status: int, body: bytes) -> None:
        client = scope.get("client")
        address = str(client[0]) if client else ""
        principal: Principal | None = scope.get(PRINCIPAL)
        # Without an answer the client has gone; whatever it was let do may be done.
        is_refused = status >= 400 or (not status and principal is None)
        if is_refused and not self._refusals.is_told(address):
            return
        route, asked = self._find(scope)
        answer = _read(body)
        target = asked or answer.download_id
        fields: dict[str, Any] = {
            "request_id": scope[ANSWER_HEADERS][0][1].decode() if scope.get(ANSWER_HEADERS) else "",
            "key": f"key:{principal.key_id}" if principal is not None and principal.key_id else None,
            "address": address,
            "method": scope["method"][:16],
            "route": route,
            # What does not exist is whatever somebody typed.
            "id": target[:MAX_ID_CHARS] if not is_refused or _DOWNLOAD_ID.fullmatch(target) else None,
            "status": status or None,
            "code": answer.error_code if is_refused else None,
        }
        if untold := self._refusals.take_untold():
            fields["refused_untold"] = untold
        fields = {name: value for name, value in fields.items() if value not in (None, "")}
        log.info("refused" if is_refused else "allowed", extra={"fields": fields})

    def _find(self, scope: Scope) -> tuple[str, str]:
        """The template of the address, and the id in it; both "" where there is no such route."""
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return route.path, str(child.get("path_params", {}).get("id", ""))
        return "", ""


def _read(body: bytes) -> _Answer:
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Answer()


def open_log(path: Path | None) -> None:
    """Send the lines to a file of their own, in JSON, or to the log where None; whatever the level of the log is.

    Raises:
        OSError: it cannot be written.
    """
    log.setLevel(logging.INFO)
    if path is None:
        return
    formatter = JsonFormatter()

    def notice(lost: int) -> str:
        text = f"The audit log has lost {counted(lost, 'line')}: the disk is too slow"
        return formatter.format(logging.LogRecord(log.name, logging.WARNING, __file__, 0, text, None, None))

    handler = WriterHandler(LineWriter(RotatedFile(path).descriptor, notice))
    handler.setFormatter(formatter)
    log.handlers[:] = [handler]
    log.propagate = False
