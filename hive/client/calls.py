"""What a client may ask: one request each, with what its answer is decoded into; for `Client` and `AsyncClient`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from hive.client.bodies import JSON, encode_body
from hive.wire.api import (
    HUB_TOKEN_HEADER,
    Bandwidth,
    BandwidthRequest,
    Deleted,
    Download,
    DownloadPlan,
    DownloadRequest,
    Health,
    Listing,
    Model,
    Page,
    PlaceRequest,
    PlanRequest,
    PriorityRequest,
    RetryRequest,
    Running,
    RunningRequest,
    Started,
    Worker,
)
from hive.wire.jobs import Priority

T = TypeVar("T")

#: Entries asked for at a time.
PAGE_LIMIT: Final = 100


class Call(NamedTuple, Generic[T]):
    """One request, and what its answer is decoded into."""

    method: str
    path: str
    reply: type[T]
    params: dict[str, str] | None = None
    body: msgspec.Struct | None = None
    #: The caller's token of the Hub, in a header: addresses end up in logs.
    hf_token: str | None = None

    def __repr__(self) -> str:
        return f"Call({self.method} {self.path})"

    def options(self) -> dict[str, Any]:
        """What httpx2's `request` takes besides method and path."""
        headers = {HUB_TOKEN_HEADER: self.hf_token} if self.hf_token else {}
        if self.body is None:
            return {"params": self.params, "headers": headers}
        return {"params": self.params, "content": encode_body(self.body), "headers": {**JSON, **headers}}


WORKERS: Final = Call("GET", "/v1/workers", Listing[Worker])
HEALTH: Final = Call("GET", "/v1/health", Health)
BANDWIDTH: Final = Call("GET", "/v1/settings/bandwidth", Bandwidth)
RUNNING: Final = Call("GET", "/v1/settings/downloads", Running)


def health(nonce: str) -> Call[Health]:
    """That the server lives, and that it has a key."""
    return Call("GET", "/v1/health", Health, params={"nonce": nonce})


def download(
    model_ref: str,
    revision: str | None,
    include: Iterable[str],
    exclude: Iterable[str],
    update: bool,
    hf_token: str | None,
    sha256: str | None,
    max_bytes_per_second: int | None = None,
    priority: Priority = "normal",
    webhook_url: str | None = None,
    name: str | None = None,
) -> Call[Started]:
    """Ask for a model; what was not given is left out."""
    body = DownloadRequest(
        model_ref=model_ref,
        revision=revision,
        include=tuple(include),
        exclude=tuple(exclude),
        update=update,
        hf_token=hf_token or None,
        sha256=sha256,
        max_bytes_per_second=max_bytes_per_second or None,
        priority=priority,
        webhook_url=webhook_url,
        name=name,
    )
    return Call("POST", "/v1/models/download", Started, body=body)


def plan(
    model_ref: str,
    revision: str | None,
    include: Iterable[str],
    exclude: Iterable[str],
    update: bool,
    hf_token: str | None,
    sha256: str | None,
    name: str | None,
) -> Call[DownloadPlan]:
    """Ask what a model would bring."""
    body = PlanRequest(
        model_ref=model_ref,
        revision=revision,
        include=tuple(include),
        exclude=tuple(exclude),
        update=update,
        hf_token=hf_token or None,
        sha256=sha256,
        name=name,
    )
    return Call("POST", "/v1/models/plan", DownloadPlan, body=body)


def downloads(status: str | None, limit: int, cursor: str | None) -> Call[Page[Download]]:
    """One page of downloads."""
    given = {"status": status, "limit": str(min(limit, PAGE_LIMIT)), "cursor": cursor}
    return Call("GET", "/v1/downloads", Page[Download], params={name: value for name, value in given.items() if value})


def get(download_id: str) -> Call[Download]:
    """One download."""
    return Call("GET", f"/v1/downloads/{quote(download_id, safe='')}", Download)


def cancel(download_id: str, *, purge: bool) -> Call[Download]:
    """End a download; with `purge` its partial files go too."""
    params = {"purge": "true"} if purge else {}
    return Call("DELETE", f"/v1/downloads/{quote(download_id, safe='')}", Download, params=params)


def pause(download_id: str) -> Call[Download]:
    """Set a download aside."""
    return Call("POST", f"/v1/downloads/{quote(download_id, safe='')}/pause", Download)


def resume(download_id: str) -> Call[Download]:
    """Let a paused download go on."""
    return Call("POST", f"/v1/downloads/{quote(download_id, safe='')}/resume", Download)


def set_priority(download_id: str, priority: Priority) -> Call[Download]:
    """Change how soon a download gets a worker."""
    path = f"/v1/downloads/{quote(download_id, safe='')}/priority"
    return Call("PUT", path, Download, body=PriorityRequest(priority=priority))


def move(download_id: str, before: str | None, behind: str | None) -> Call[Download]:
    """Give a waiting download another place."""
    path = f"/v1/downloads/{quote(download_id, safe='')}/place"
    return Call("PUT", path, Download, body=PlaceRequest(before=before, behind=behind))


def retry(download_id: str, hf_token: str | None, webhook_url: str | None) -> Call[Started]:
    """Try again what failed or was cancelled."""
    asked = RetryRequest(hf_token=hf_token or None, webhook_url=webhook_url)
    body = asked if asked != RetryRequest() else None
    return Call("POST", f"/v1/downloads/{quote(download_id, safe='')}/retry", Started, body=body)


def models(hf_token: str | None) -> Call[Listing[Model]]:
    """The models on disk."""
    return Call("GET", "/v1/models", Listing[Model], hf_token=hf_token)


def model(model_id: str, hf_token: str | None) -> Call[Model]:
    """One model. Slashes, colons and @ stay as they are: a proxy may refuse an encoded slash."""
    return Call("GET", f"/v1/models/{quote(model_id, safe='/:@')}", Model, hf_token=hf_token)


def delete_model(model_id: str) -> Call[Deleted]:
    """Delete a model."""
    return Call("DELETE", f"/v1/models/{quote(model_id, safe='/:@')}", Deleted)


def set_running_limit(max_running: int | None) -> Call[Running]:
    """Limit how many downloads run at once in the whole fleet; None: no limit."""
    return Call("PUT", "/v1/settings/downloads", Running, body=RunningRequest(max_running=max_running))


def set_bandwidth(bytes_per_second: int | None) -> Call[Bandwidth]:
    """Limit what all workers together take from the network; None: no limit."""
    return Call("PUT", "/v1/settings/bandwidth", Bandwidth, body=BandwidthRequest(bytes_per_second=bytes_per_second))
