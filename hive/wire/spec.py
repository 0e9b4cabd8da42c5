"""DownloadSpec: what somebody asks for, whoever asks: a route, a retry, a repair."""

from __future__ import annotations

from typing import NamedTuple

from hive.wire.jobs import Origin, Priority, Request
from hive.wire.refs import ModelRef, without_query


class DownloadSpec(NamedTuple):
    """A model that somebody asks for, and how it is to come.

    `sha256` is the digest of a plain URL's file and `name` what it is to be called, `hf_token` the caller's own,
    `max_bytes_per_second` for this download alone, `request_id` that of the HTTP request,
    `owner` whose it is ("" without a key), `as_operator`
    whether whoever runs the service asks (see `Request`), `origin` by which door.
    """

    ref: ModelRef
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    update: bool = False
    sha256: str | None = None
    hf_token: str | None = None
    max_bytes_per_second: int | None = None
    priority: Priority = "normal"
    request_id: str = ""
    name: str | None = None
    owner: str = ""
    as_operator: bool = True
    origin: Origin = "api"


def request_of(spec: DownloadSpec) -> Request:
    """What is kept of what was asked for: all but what is secret."""
    return Request(
        ref=str(without_query(spec.ref)),
        include=spec.include,
        exclude=spec.exclude,
        update=spec.update,
        sha256=spec.sha256,
        max_bytes_per_second=spec.max_bytes_per_second,
        name=spec.name,
        as_operator=spec.as_operator,
        origin=spec.origin,
    )
