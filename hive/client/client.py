"""A blocking client of hive's HTTP API.

    with Client() as hive:
        started = hive.download("hf:org/model")
        for event in hive.watch(started.download_id):
            print(event)

Errors are those of hive.errors, made again from the code that the server sent; ServerUnreachable where no server
answers.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx2

from hive.client import calls, maintenance
from hive.client.calls import Call
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

#: Bytes of a nonce.
NONCE_BYTES: Final = 32
#: Entries that `downloads` gives unless asked for another number.
LIST_LIMIT: Final = 100


class Client:
    """A blocking client. Close it, or use it as a context manager.

    `address` is `host:port` or a URL; without it this machine's, port 8080. `api_key` is sent with each request;
    without it the one in HIVE_API_KEY or HIVE_API_KEY_FILE, if it is for this server (api_key.py). With `secret` the
    server proves to have it (wire/proof.py) before each request: one that took the port of another is sent nothing. A
    watch gives up after `patience_s` seconds without a connection.
    """

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
        self._http = httpx2.Client(**self._connection.options(), event_hooks=hooks)
        #: The server's address as it may be shown: without a password.
        self.url = self._connection.url
        #: Whether requests carry an API key.
        self.has_key = self._connection.has_key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

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
        name: str | None = None,
    ) -> Started:
        """Ask for a model. The answer comes at once, with `local_path` where the model is on disk already.

        Raises:
            HiveError: InvalidModelRef and others, as the server says.
            ServerUnreachable: when no server answers.
        """
        limit = max_bytes_per_second
        call = calls.download(
            model_ref, revision, include, exclude, update, hf_token, sha256, limit, priority, webhook_url, name
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
        watch = Watch(download_id, self._connection.patience_s)
        while not watch.over:
            failure: Exception | None = None
            try:
                yield from self._watch_once(watch)
            except httpx2.RequestError as error:
                failure = error
            if not watch.over:
                delay_s = self._connection.delay_s(watch, failure)
                if on_wait is not None:
                    on_wait(delay_s)
                time.sleep(delay_s)

    def _watch_once(self, watch: Watch) -> Generator[Event, None, None]:
        with self._http.sse(PROGRESS_PATH, params=watch.params, headers=watch.headers) as source:
            if not source.response.is_success:
                source.response.read()
            if not self._connection.check_stream(watch, source.response):
                return
            for frame in source:
                event = watch.take(frame)
                if event is not None:
                    yield event
                if watch.over:
                    return

    def plan(
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
        """What a download would bring: files, sizes, digests, what is missing on the disk, and whether it fits.

        Raises:
            HiveError: ModelNotFound and others, as the end of a download would say it; WorkersSilent.
            ServerUnreachable: when no server answers.
        """
        return self._call(calls.plan(model_ref, revision, include, exclude, update, hf_token, sha256, name))

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

    def move(self, download_id: str, *, before: str | None = None, behind: str | None = None) -> Download:
        """Move a waiting download to before or behind another one that waits (one of the two is its id); it takes its
        priority.

        Raises DownloadNotFound and DownloadEnded, and Conflict where one does not wait, or where others share it.
        """
        return self._call(calls.move(download_id, before, behind))

    def retry(self, download_id: str, *, hf_token: str | None = None, webhook_url: str | None = None) -> Started:
        """Try again what failed or was cancelled, as a new download that goes on from what arrived. The first request's
        token and webhook were not kept.

        Raises DownloadNotFound, and Conflict where it has not ended.
        """
        return self._call(calls.retry(download_id, hf_token, webhook_url))

    def models(self, *, hf_token: str | None = None) -> list[Model]:
        """The models in the server's store: where keys are on, restricted ones by this token of the Hub, too."""
        return list(self._call(calls.models(hf_token)).data)

    def model(self, model_id: str, *, hf_token: str | None = None) -> Model:
        """One model in the server's store. Raises ModelNotOnDisk, also where it is restricted and not by this token."""
        return self._call(calls.model(model_id, hf_token))

    def delete_model(self, model_id: str) -> Deleted:
        """Delete a model from the server's store. Raises ModelNotOnDisk and ModelInUse."""
        return self._call(calls.delete_model(model_id))

    def workers(self) -> list[Worker]:
        """The workers that are alive."""
        return list(self._call(calls.WORKERS).data)

    def health(self) -> Health:
        """That the server lives, and its version."""
        return self._call(calls.HEALTH)

    def proves(self, key: bytes) -> bool:
        """Whether the server that answers has this key (hive/wire/proof.py); asked anew with each call.

        Raises:
            ServerUnreachable: when no server answers.
        """
        nonce = secrets.token_hex(NONCE_BYTES)
        call = calls.health(nonce)
        try:
            response = self._http.request(call.method, call.path, **call.options())
        except httpx2.RequestError as error:
            raise self._connection.unreachable(error) from None
        return self._connection.is_proven(response, key, nonce)

    def _check_proof(self, request: httpx2.Request) -> None:
        """Asked on a connection of its own, without the key."""
        assert self._secret is not None
        with Client(self._connection.address, api_key="", read_timeout_s=CONNECT_TIMEOUT_S) as stranger:
            try:
                is_known = stranger.proves(self._secret)
            except HiveError as error:
                raise httpx2.ConnectError(error.message, request=request) from None
        if not is_known:
            raise httpx2.ConnectError(UNPROVEN, request=request)

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

    def verify(self, models: Iterable[str] = (), *, fetch: bool = False) -> Generator[VerificationLine, None, None]:
        """Read what is on the server's disk (these models, or all) and say what is wrong; the last line is Verified.

        `fetch` sets wrong files aside and asks for them again. Closing the generator stops the server's work.

        Raises:
            ModelNotOnDisk: a model is not there.
            Conflict: the server is verifying already.
            ServerUnreachable: no server answers, or the answer was broken off.
        """
        return self._lines(maintenance.verify(models, fetch))

    def collect_garbage(
        self, *, dry_run: bool = False, older_than_s: float | None = None
    ) -> Generator[CollectionLine, None, None]:
        """Remove what nothing refers to from the server's store and say what; the last line is Collected.

        `dry_run` removes nothing; `older_than_s` takes the place of the server's HIVE_PARTIAL_TTL_S.

        Raises:
            Conflict: the server is collecting already.
            ServerUnreachable: no server answers, or the answer was broken off.
        """
        return self._lines(maintenance.collect(dry_run, older_than_s))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(self, call: Call[T]) -> T:
        waited_s = 0.0
        while True:
            try:
                response = self._http.request(call.method, call.path, **call.options())
            except httpx2.RequestError as error:
                raise self._connection.unreachable(error) from None
            if (wait_s := self._connection.asked_wait_s(response, waited_s)) is None:
                return self._connection.decode(call, response)
            waited_s += wait_s
            time.sleep(wait_s)

    def _lines(self, operation: MaintenanceCall[L]) -> Generator[L, None, None]:
        try:
            with self._http.stream("POST", operation.path, **operation.options()) as response:
                if not response.is_success:
                    raise self._connection.error(response.status_code, response.read())
                for text in response.iter_lines():
                    if (line := maintenance.read_line(self._connection, operation, text)) is not None:
                        yield line
                        if maintenance.is_last(line):
                            return
        except httpx2.RequestError as error:
            raise self._connection.unreachable(error) from None
        raise maintenance.broken_off(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
