"""A client of hive's HTTP API: `Client`, and the same with `await` as `AsyncClient`.

    with Client() as hive:
        started = hive.download("hf:org/model")
        for event in hive.watch(started.download_id):
            print(event)

Errors are those of hive.errors, made again from the code that the server sent; ServerUnreachable where no server
answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx2

from hive.client import calls
from hive.client.calls import DEFAULT_URL, READ_TIMEOUT_S, Call
from hive.client.maintenance import AsyncMaintenance, Maintenance
from hive.client.watch import PATIENCE_S, Watch
from hive.errors import ServerUnreachable
from hive.wire.api import Deleted, Download, Health, Model, Started, Worker
from hive.wire.events import Event
from hive.wire.jobs import Priority

__all__ = ["DEFAULT_URL", "AsyncClient", "Client", "ServerUnreachable"]

T = TypeVar("T")

#: Entries that `downloads` gives unless asked for another number.
LIST_LIMIT: Final = 100


class Client(Maintenance):
    """A blocking client. Close it, or use it as a context manager.

    `address` is `host:port` or a URL. A watch gives up after `patience_s` seconds without a connection.
    """

    def __init__(
        self,
        address: str = DEFAULT_URL,
        *,
        patience_s: float = PATIENCE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        super().__init__(address, patience_s=patience_s, read_timeout_s=read_timeout_s)
        self._http = httpx2.Client(**self._options())

    def download(
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
    ) -> Started:
        """Ask for a model. The answer comes at once, with `local_path` where the model is on disk already.

        Raises:
            HiveError: InvalidModelRef and others, as the server says.
            ServerUnreachable: when no server answers.
        """
        limit = max_bytes_per_second
        call = calls.download(
            model_ref, revision, include, exclude, update, hf_token, sha256, limit, priority, webhook_url
        )
        return self._call(call)

    def watch(
        self, download_id: str, *, on_wait: Callable[[float], None] | None = None
    ) -> Generator[Event, None, None]:
        """The events of a download from its present state to its end, over as many connections as it takes.

        The last one is Complete or Error. `on_wait` is called with the seconds before each new connection.

        Raises:
            DownloadNotFound: when the server knows no such id.
            ServerUnreachable: when there was no connection for `patience_s` seconds.
        """
        watch = Watch(download_id, self._patience_s)
        while not watch.over:
            failure: Exception | None = None
            try:
                yield from self._watch_once(watch)
            except httpx2.RequestError as error:
                failure = error
            if not watch.over:
                delay_s = self._delay_s(watch, failure)
                if on_wait is not None:
                    on_wait(delay_s)
                time.sleep(delay_s)

    def _watch_once(self, watch: Watch) -> Generator[Event, None, None]:
        with self._http.sse(calls.PROGRESS_PATH, params=watch.params, headers=watch.headers) as source:
            if not source.response.is_success:
                source.response.read()
            if not self._check_stream(watch, source.response):
                return
            for frame in source:
                event = watch.take(frame)
                if event is not None:
                    yield event
                if watch.over:
                    return

    def downloads(self, status: str | None = None, *, limit: int = LIST_LIMIT) -> list[Download]:
        """Downloads, newest first, at most `limit`. `status` is one of theirs, or `active`, or `ended`."""
        found: list[Download] = []
        cursor: str | None = None
        while len(found) < limit:
            page = self._call(calls.downloads(status, limit - len(found), cursor))
            found.extend(page.data)
            cursor = page.next_cursor
            if not cursor or not page.data:
                break
        return found[:limit]

    def get(self, download_id: str) -> Download:
        """One download. Raises DownloadNotFound."""
        return self._call(calls.get(download_id))

    def cancel(self, download_id: str, *, purge: bool = False) -> Download:
        """Ask a download to end; what arrived stays on disk for the next one, unless `purge`.

        Raises DownloadNotFound and DownloadEnded.
        """
        return self._call(calls.cancel(download_id, purge=purge))

    def pause(self, download_id: str) -> Download:
        """Set a download aside; its worker is free within two seconds. Raises DownloadNotFound and DownloadEnded."""
        return self._call(calls.pause(download_id))

    def resume(self, download_id: str) -> Download:
        """Let a paused download go on. Raises DownloadNotFound and DownloadEnded."""
        return self._call(calls.resume(download_id))

    def set_priority(self, download_id: str, priority: Priority) -> Download:
        """Change how soon a download gets a worker. Raises DownloadNotFound and DownloadEnded."""
        return self._call(calls.set_priority(download_id, priority))

    def retry(self, download_id: str) -> Started:
        """Try again what failed or was cancelled, as a new download that goes on from what arrived.

        Raises DownloadNotFound, and Conflict where it has not ended.
        """
        return self._call(calls.retry(download_id))

    def models(self) -> list[Model]:
        """The models in the server's store."""
        return list(self._call(calls.MODELS).data)

    def model(self, model_id: str) -> Model:
        """One model in the server's store. Raises ModelNotOnDisk."""
        return self._call(calls.model(model_id))

    def delete_model(self, model_id: str) -> Deleted:
        """Delete a model from the server's store. Raises ModelNotOnDisk and ModelInUse."""
        return self._call(calls.delete_model(model_id))

    def workers(self) -> list[Worker]:
        """The workers that are alive."""
        return list(self._call(calls.WORKERS).data)

    def health(self) -> Health:
        """That the server lives, and its version."""
        return self._call(calls.HEALTH)

    def running_limit(self) -> int | None:
        """How many downloads may run at once in the whole fleet; None: no limit."""
        return self._call(calls.RUNNING).max_running

    def set_running_limit(self, max_running: int | None) -> int | None:
        """Change that limit; those that run go on."""
        return self._call(calls.set_running_limit(max_running)).max_running

    def bandwidth(self) -> int | None:
        """Bytes per second that all workers together may take from the network; None: no limit."""
        return self._call(calls.BANDWIDTH).bytes_per_second

    def set_bandwidth(self, bytes_per_second: int | None) -> int | None:
        """Change that limit; downloads under way follow within a second or two."""
        return self._call(calls.set_bandwidth(bytes_per_second)).bytes_per_second

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(self, call: Call[T]) -> T:
        try:
            response = self._http.request(call.method, call.path, params=call.params, json=call.body)
        except httpx2.RequestError as error:
            raise self._unreachable(error) from None
        return self._decode(call, response)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(AsyncMaintenance):
    """Client with `await`: the same methods, answers and errors."""

    def __init__(
        self,
        address: str = DEFAULT_URL,
        *,
        patience_s: float = PATIENCE_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        super().__init__(address, patience_s=patience_s, read_timeout_s=read_timeout_s)
        self._http = httpx2.AsyncClient(**self._options())

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
    ) -> Started:
        """See Client.download."""
        limit = max_bytes_per_second
        call = calls.download(
            model_ref, revision, include, exclude, update, hf_token, sha256, limit, priority, webhook_url
        )
        return await self._call(call)

    async def watch(
        self, download_id: str, *, on_wait: Callable[[float], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """See Client.watch."""
        watch = Watch(download_id, self._patience_s)
        while not watch.over:
            failure: Exception | None = None
            try:
                async with contextlib.aclosing(self._watch_once(watch)) as seen:
                    async for event in seen:
                        yield event
            except httpx2.RequestError as error:
                failure = error
            if not watch.over:
                delay_s = self._delay_s(watch, failure)
                if on_wait is not None:
                    on_wait(delay_s)
                await asyncio.sleep(delay_s)

    async def _watch_once(self, watch: Watch) -> AsyncGenerator[Event, None]:
        async with self._http.sse(calls.PROGRESS_PATH, params=watch.params, headers=watch.headers) as source:
            if not source.response.is_success:
                await source.response.aread()
            if not self._check_stream(watch, source.response):
                return
            async for frame in source:
                event = watch.take(frame)
                if event is not None:
                    yield event
                if watch.over:
                    return

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

    async def retry(self, download_id: str) -> Started:
        """See Client.retry."""
        return await self._call(calls.retry(download_id))

    async def models(self) -> list[Model]:
        """See Client.models."""
        return list((await self._call(calls.MODELS)).data)

    async def model(self, model_id: str) -> Model:
        """See Client.model."""
        return await self._call(calls.model(model_id))

    async def delete_model(self, model_id: str) -> Deleted:
        """See Client.delete_model."""
        return await self._call(calls.delete_model(model_id))

    async def workers(self) -> list[Worker]:
        """See Client.workers."""
        return list((await self._call(calls.WORKERS)).data)

    async def health(self) -> Health:
        """See Client.health."""
        return await self._call(calls.HEALTH)

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

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, call: Call[T]) -> T:
        try:
            response = await self._http.request(call.method, call.path, params=call.params, json=call.body)
        except httpx2.RequestError as error:
            raise self._unreachable(error) from None
        return self._decode(call, response)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
