"""The long operations, verification and collection of garbage: what is asked, and how the lines of the answer are read.

An answer that ends without its last line was broken off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from hive.client.bodies import JSON, encode_body
from hive.client.connection import Connection, error_from
from hive.errors import ServerUnreachable
from hive.wire.api import CollectRequest, ErrorBody, ErrorReply, VerifyRequest
from hive.wire.maintenance import Collected, CollectionLine, Failed, VerificationLine, Verified

L = TypeVar("L")


class MaintenanceCall(NamedTuple, Generic[L]):
    """One request, and how a line of its answer is decoded."""

    path: str
    body: msgspec.Struct
    decoder: msgspec.json.Decoder[L]

    def options(self) -> dict[str, Any]:
        """What httpx2's `stream` takes besides method and path."""
        return {"content": encode_body(self.body), "headers": JSON}


def verify(models: Iterable[str], fetch: bool) -> MaintenanceCall[VerificationLine]:
    """Read what is on the disk and say what is wrong."""
    body = VerifyRequest(models=tuple(models), fetch=fetch)
    return MaintenanceCall("/v1/models/verify", body, msgspec.json.Decoder(VerificationLine))


def collect(dry_run: bool, older_than_s: float | None) -> MaintenanceCall[CollectionLine]:
    """Remove what nothing refers to, and say what."""
    body = CollectRequest(dry_run=dry_run, older_than_seconds=older_than_s)
    return MaintenanceCall("/v1/gc", body, msgspec.json.Decoder(CollectionLine))


def read_line(connection: Connection, operation: MaintenanceCall[L], text: str) -> L | None:
    """One line of an answer; None for an empty one.

    Raises:
        HiveError: the line says that the operation has failed.
        ServerUnreachable: it is no line of ours.
    """
    if not text.strip():
        return None
    try:
        line = operation.decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise connection.not_hive(str(error)) from None
    if isinstance(line, Failed):
        failure = ErrorReply(ErrorBody(code=line.code, message=line.message, details=line.details))
        raise error_from(500, msgspec.json.encode(failure))
    return line


def is_last(line: object) -> bool:
    """Whether nothing follows this line."""
    return isinstance(line, Verified | Collected)


def broken_off(connection: Connection) -> ServerUnreachable:
    """The answer ended without its last line."""
    return ServerUnreachable(f"The server at {connection.url} ended the answer before its end. Ask again.")
