"""The client's long operations: verification and collection of garbage, told line by line.

`Client` and `AsyncClient` inherit them; an answer that ends without its last line was broken off.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import httpx2
import msgspec

from hive.client.calls import Connection, error_from
from hive.errors import ServerUnreachable
from hive.wire.maintenance import Collected, CollectionLine, Failed, VerificationLine, Verified

L = TypeVar("L")

_VERIFY: Final = "/v1/models/verify"
_COLLECT: Final = "/v1/gc"


class _Operation(NamedTuple, Generic[L]):
    """What is asked, and how a line of the answer is read."""

    path: str
    body: dict[str, Any]
    decoder: msgspec.json.Decoder[L]


def _verify(models: Iterable[str], fetch: bool) -> _Operation[VerificationLine]:
    return _Operation(_VERIFY, {"models": list(models), "fetch": fetch}, msgspec.json.Decoder(VerificationLine))


def _collect(dry_run: bool, older_than_s: float | None) -> _Operation[CollectionLine]:
    body = {"dry_run": dry_run, "older_than_seconds": older_than_s}
    return _Operation(_COLLECT, body, msgspec.json.Decoder(CollectionLine))


class _Lines(Connection):
    """How the lines of an answer are read, whoever carries them."""

    def _line(self, operation: _Operation[L], text: str) -> L | None:
        """One line; None for an empty one.

        Raises:
            HiveError: the line says that the operation has failed.
        """
        if not text.strip():
            return None
        try:
            line = operation.decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise self._not_hive(str(error)) from None
        if isinstance(line, Failed):
            failure = {"code": line.code, "message": line.message, "details": line.details}
            raise error_from(500, msgspec.json.encode({"error": failure}))
        return line

    def _broken_off(self) -> ServerUnreachable:
        return ServerUnreachable(f"The server at {self.url} ended the answer before its end. Ask again.")


class Maintenance(_Lines):
    """The blocking ones."""

    _http: httpx2.Client

    def verify(self, models: Iterable[str] = (), *, fetch: bool = False) -> Generator[VerificationLine, None, None]:
        """Read what is on the server's disk (these models, or all) and say what is wrong; the last line is Verified.

        `fetch` sets wrong files aside and asks for them again. Closing the generator stops the server's work.

        Raises:
            ModelNotOnDisk: a model is not there.
            Conflict: the server is verifying already.
            ServerUnreachable: no server answers, or the answer was broken off.
        """
        return self._lines(_verify(models, fetch))

    def collect_garbage(
        self, *, dry_run: bool = False, older_than_s: float | None = None
    ) -> Generator[CollectionLine, None, None]:
        """Remove what nothing refers to from the server's store and say what; the last line is Collected.

        `dry_run` removes nothing; `older_than_s` takes the place of the server's HIVE_PARTIAL_TTL_S.

        Raises:
            Conflict: the server is collecting already.
            ServerUnreachable: no server answers, or the answer was broken off.
        """
        return self._lines(_collect(dry_run, older_than_s))

    def _lines(self, operation: _Operation[L]) -> Generator[L, None, None]:
        try:
            with self._http.stream("POST", operation.path, json=operation.body) as response:
                if not response.is_success:
                    raise error_from(response.status_code, response.read())
                for text in response.iter_lines():
                    if (line := self._line(operation, text)) is not None:
                        yield line
                        if isinstance(line, Verified | Collected):
                            return
        except httpx2.RequestError as error:
            raise self._unreachable(error) from None
        raise self._broken_off()


class AsyncMaintenance(_Lines):
    """The same with `async for`."""

    _http: httpx2.AsyncClient

    def verify(self, models: Iterable[str] = (), *, fetch: bool = False) -> AsyncGenerator[VerificationLine, None]:
        """See Client.verify."""
        return self._lines(_verify(models, fetch))

    def collect_garbage(
        self, *, dry_run: bool = False, older_than_s: float | None = None
    ) -> AsyncGenerator[CollectionLine, None]:
        """See Client.collect_garbage."""
        return self._lines(_collect(dry_run, older_than_s))

    async def _lines(self, operation: _Operation[L]) -> AsyncGenerator[L, None]:
        try:
            async with self._http.stream("POST", operation.path, json=operation.body) as response:
                if not response.is_success:
                    raise error_from(response.status_code, await response.aread())
                async for text in response.aiter_lines():
                    if (line := self._line(operation, text)) is not None:
                        yield line
                        if isinstance(line, Verified | Collected):
                            return
        except httpx2.RequestError as error:
            raise self._unreachable(error) from None
        raise self._broken_off()
