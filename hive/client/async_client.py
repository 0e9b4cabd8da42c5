"""`Client` with `await`: the same methods, answers and errors."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar

import httpx2

from hive.client import calls, maintenance
from hive.client.calls import Call
from hive.client.client import LIST_LIMIT, NONCE_BYTES
from hive.client.connection import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, UNPROVEN, Connection
from hive.client.maintenance import MaintenanceCall
from hive.client.watch import PATIENCE_S, Watch
from hive.errors import HiveError
from hive.wire.api import PROGRESS_PATH, Deleted, Download, DownloadPlan, Health, Model, Started, Worker
from hive.wire.events import Event
from hive.wire.jobs import Priority
from hive.wire.maintenance import CollectionLine, VerificationLine

T = TypeVar("T")
L = TypeVar("L")


class AsyncClient:
    """Client with `await`: the same methods, answers and errors."""

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        secret: bytes | None = None,
        patience_s: float = PATIENCE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._connection = Connection(address, api_key=api_key, patience_s=patience_s, read_timeout_s=read_timeout_s)
        self._secret = secret
        hooks = {"request": [self._check_proof]} if secret is not None else {}
        self._http = httpx2.AsyncClient(**self._connection.options(), event_hooks=hooks)
        #: The server's address as it may be shown: without a password.
        self.url = self._connection.url
        #: Whether requests carry an API key.
        self.has_key = self._connection.has_key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def download(
        self,
        model_ref: str,
        *,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        update: bool = False,
        hf_token: str | None = None,
        sha256: str | None = None,
        max_bytes_per_second: int | None = None,
        priority: Priority = "normal",
        webhook_url: str | None = None,
        name: str | None = None,
    ) -> Started:
        """See Client.download."""
        limit = max_bytes_per_second
        call = calls.download(
            model_ref, revision, include, exclude, update, hf_token, sha256, limit, priority, webhook_url, name
        )
        return await self._call(call)

    async def watch(
        self, download_id: str, *, on_wait: Callable[[float], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """See Client.watch."""
        watch = Watch(download_id, self._connection.patience_s)
        while not watch.over:
            failure: Exception | None = None
            try:
                async with contextlib.aclosing(self._watch_once(watch)) as seen:
                    async for event in seen:
                        yield event
            except httpx2.RequestError as error:
                failure = error
            if not watch.over:
                delay_s = self._connection.delay_s(watch, failure)
                if on_wait is not None:
                    on_wait(delay_s)
                await asyncio.sleep(delay_s)

    async def _watch_once(self, watch: Watch) -> AsyncGenerator[Event, None]:
        async with self._http.sse(PROGRESS_PATH, params=watch.params, headers=watch.headers) as source:
            if not source.response.is_success:
                await source.response.aread()
            if not self._connection.check_stream(watch, source.response):
                return
            async for frame in source:
                event = watch.take(frame)
                if event is not None:
                    yield event
                if watch.over:
                    return

    async def plan(
        self,
        model_ref: str,
        *,
        revision: str | None = None,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        update: bool = False,
        hf_token: str | None = None,
        sha256: str | None = None,
        name: str | None = None,
    ) -> DownloadPlan:
        """See Client.plan."""
        return await self._call(calls.plan(model_ref, revision, include, exclude, update, hf_token, sha256, name))

    async def downloads(self, status: str | None = None, *, limit: int = LIST_LIMIT) -> list[Download]:
        """See Client.downloads."""
        found: list[Download] = []
        cursor: str | None = None
        while len(found) < limit:
            page = await self._call(calls.downloads(status, limit - len(found), cursor))
            found.extend(page.data)
            cursor = page.next_cursor
            if not cursor or not page.data:
                break
        return found[:limit]

    async def get(self, download_id: str) -> Download:
        """See Client.get."""
        return await self._call(calls.get(download_id))

    async def cancel(self, download_id: str, *, purge: bool = False) -> Download:
        """See Client.cancel."""
        return await self._call(calls.cancel(download_id, purge=purge))

    async def pause(self, download_id: str) -> Download:
        """See Client.pause."""
        return await self._call(calls.pause(download_id))

    async def resume(self, download_id: str) -> Download:
        """See Client.resume."""
        return await self._call(calls.resume(download_id))

    async def set_priority(self, download_id: str, priority: Priority) -> Download:
        """See Client.set_priority."""
        return await self._call(calls.set_priority(download_id, priority))

    async def move(self, download_id: str, *, before: str | None = None, behind: str | None = None) -> Download:
        """See Client.move."""
        return await self._call(calls.move(download_id, before, behind))

    async def retry(self, download_id: str, *, hf_token: str | None = None, webhook_url: str | None = None) -> Started:
        """See Client.retry."""
        return await self._call(calls.retry(download_id, hf_token, webhook_url))

    async def models(self, *, hf_token: str | None = None) -> list[Model]:
        """See Client.models."""
        return list((await self._call(calls.models(hf_token))).data)

    async def model(self, model_id: str, *, hf_token: str | None = None) -> Model:
        """See Client.model."""
        return await self._call(calls.model(model_id, hf_token))

    async def delete_model(self, model_id: str) -> Deleted:
        """See Client.delete_model."""
        return await self._call(calls.delete_model(model_id))

    async def workers(self) -> list[Worker]:
        """See Client.workers."""
        return list((await self._call(calls.WORKERS)).data)

    async def health(self) -> Health:
        """See Client.health."""
        return await self._call(calls.HEALTH)

    async def proves(self, key: bytes) -> bool:
        """See Client.proves."""
        nonce = secrets.token_hex(NONCE_BYTES)
        call = calls.health(nonce)
        try:
            response = await self._http.request(call.method, call.path, **call.options())
        except httpx2.RequestError as error:
            raise self._connection.unreachable(error) from None
        return self._connection.is_proven(response, key, nonce)

    async def _check_proof(self, request: httpx2.Request) -> None:
        """See Client: asked on a connection of its own, without the key."""
        assert self._secret is not None
        async with AsyncClient(self._connection.address, api_key="", read_timeout_s=CONNECT_TIMEOUT_S) as stranger:
            try:
                is_known = await stranger.proves(self._secret)
            except HiveError as error:
                raise httpx2.ConnectError(error.message, request=request) from None
        if not is_known:
            raise httpx2.ConnectError(UNPROVEN, request=request)

    async def running_limit(self) -> int | None:
        """See Client.running_limit."""
        return (await self._call(calls.RUNNING)).max_running

    async def set_running_limit(self, max_running: int | None) -> int | None:
        """See Client.set_running_limit."""
        return (await self._call(calls.set_running_limit(max_running))).max_running

    async def bandwidth(self) -> int | None:
        """See Client.bandwidth."""
        return (await self._call(calls.BANDWIDTH)).bytes_per_second

    async def set_bandwidth(self, bytes_per_second: int | None) -> int | None:
        """See Client.set_bandwidth."""
        return (await self._call(calls.set_bandwidth(bytes_per_second))).bytes_per_second

    def verify(self, models: Iterable[str] = (), *, fetch: bool = False) -> AsyncGenerator[VerificationLine, None]:
        """See Client.verify."""
        return self._lines(maintenance.verify(models, fetch))

    def collect_garbage(
        self, *, dry_run: bool = False, older_than_s: float | None = None
    ) -> AsyncGenerator[CollectionLine, None]:
        """See Client.collect_garbage."""
        return self._lines(maintenance.collect(dry_run, older_than_s))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, call: Call[T]) -> T:
        waited_s = 0.0
        while True:
            try:
                response = await self._http.request(call.method, call.path, **call.options())
            except httpx2.RequestError as error:
                raise self._connection.unreachable(error) from None
            if (wait_s := self._connection.asked_wait_s(response, waited_s)) is None:
                return self._connection.decode(call, response)
            waited_s += wait_s
            await asyncio.sleep(wait_s)

    async def _lines(self, operation: MaintenanceCall[L]) -> AsyncGenerator[L, None]:
        try:
            async with self._http.stream("POST", operation.path, **operation.options()) as response:
                if not response.is_success:
                    raise self._connection.error(response.status_code, await response.aread())
                async for text in response.aiter_lines():
                    if (line := maintenance.read_line(self._connection, operation, text)) is not None:
                        yield line
                        if maintenance.is_last(line):
                            return
        except httpx2.RequestError as error:
            raise self._connection.unreachable(error) from None
        raise maintenance.broken_off(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
