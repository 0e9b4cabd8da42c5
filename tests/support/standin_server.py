"""A stand-in of hive's HTTP server: real HTTP on loopback, answers that the test writes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hive.wire.events import Complete, Downloading, Error, Event, encode
from hive.wire.proof import proof

ID = "11111111-2222-4333-8444-555555555555"
OTHER_ID = "11119999-2222-4333-8444-555555555555"
#: In a script of frames: hold the stream open until the client goes.
HOLD = b"hold"
#: In a script of frames: a moment without anything, as between two events.
PAUSE = b"pause"
DONE = b"data: [DONE]\n\n"


def frame(event: Event, version: str = "1-1") -> bytes:
    """An event as the server sends it."""
    return f"id: {version}\ndata: ".encode() + encode(event) + b"\n\n"


def running(done: int, total: int = 1000, **more: Any) -> Downloading:
    """A download under way."""
    return Downloading(bytes_downloaded=done, bytes_total=total, speed_mbps=0.5, status="downloading", **more)


def complete(path: str = "/store/model.gguf") -> Complete:
    """The end, well."""
    return Complete(local_path=path, status="complete", bytes_total=1000, seconds=2.0, verified=True)


def failed(code: str = "DISK_FULL", **more: Any) -> Error:
    """The end, otherwise."""
    return Error(message="There is no room.", code=code, status="failed", **more)


def download(download_id: str = ID, status: str = "downloading", event: Event | None = None) -> dict[str, Any]:
    """A download in a list."""
    return {
        "id": download_id,
        "object": "download",
        "model_ref": "hf:org/name",
        "status": status,
        "attempt": 1,
        "worker": "w1",
        "created_at": 1_700_000_000.5,
        "updated_at": 1_700_000_001.0,
        "ended_at": None,
        "progress": json.loads(encode(event or running(420, eta_seconds=65, bytes_per_second=2_000_000))),
        "a_field_of_tomorrow": 1,
    }


def model(model_id: str = "org/name:Q4_K_M", size: int = 4_100_000_000) -> dict[str, Any]:
    """A model in a list."""
    return {
        "id": model_id,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "org",
        "size": size,
        "files": [{"path": "model.gguf", "size": size}],
        "path": "/store/hub/model.gguf",
        "revision": "a" * 40,
    }


class StandIn:
    """The server. `streams` holds what each connection to the progress stream gets, the last one again and again."""

    def __init__(self) -> None:
        self.streams: list[Sequence[bytes] | int] = [[frame(complete()), DONE]]
        #: The key that it proves to have; empty for none.
        self.key = b""
        self.downloads = [download()]
        self.models = [model()]
        self.errors: dict[str, tuple[int, Any]] = {}
        self.started: dict[str, Any] = {"download_id": ID, "local_path": None, "joined": False}
        self.requests: list[tuple[str, str, Any]] = []
        #: What came in the Authorization header of each request; None for nothing.
        self.authorizations: list[str | None] = []
        #: The token of the Hub in each request's header; None for nothing.
        self.hub_tokens: list[str | None] = []
        self.stream_headers: list[dict[str, str]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.address}"
        config = uvicorn.Config(self._app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def bodies(self) -> list[Any]:
        """The bodies of the requests for models."""
        return [body for method, path, body in self.requests if (method, path) == ("POST", "/v1/models/download")]

    def stop(self) -> None:
        """End the server, cutting what is open."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._listener.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _app(self) -> Starlette:
        routes = [
            Route("/v1/health", self._health),
            Route("/v1/models/download", self._download, methods=["POST"]),
            Route("/v1/models/download/progress", self._progress),
            Route("/v1/downloads", self._list),
            Route("/v1/downloads/{id}", self._one, methods=["GET", "DELETE"]),
            Route("/v1/downloads/{id}/retry", self._download, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{id:path}", self._model, methods=["GET", "DELETE"]),
            Route("/v1/workers", self._workers),
        ]
        return Starlette(routes=routes)

    async def _note(self, request: Request) -> Response | None:
        body = await request.body()
        self.authorizations.append(request.headers.get("authorization"))
        self.hub_tokens.append(request.headers.get("x-hf-token"))
        assert "hf_" not in str(request.url), "an address ends up in logs"
        self.requests.append((request.method, request.url.path, json.loads(body) if body else None))
        if request.url.path not in self.errors:
            return None
        status, content = self.errors[request.url.path]
        if isinstance(content, str):
            return Response(content, status_code=status, media_type="text/html")
        return JSONResponse({"error": content}, status_code=status)

    async def _health(self, request: Request) -> Response:
        said = {"status": "alive", "version": "9.9", "api_version": "v1"}
        if self.key and "nonce" in request.query_params:
            said["proof"] = proof(self.key, request.query_params["nonce"], *self._listener.getsockname()[:2])
        return await self._note(request) or JSONResponse(said)

    async def _download(self, request: Request) -> Response:
        return await self._note(request) or JSONResponse(self.started, status_code=202)

    async def _progress(self, request: Request) -> Response:
        self.stream_headers.append(dict(request.headers))
        if error := await self._note(request):
            return error
        script = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        if isinstance(script, int):
            return Response(status_code=script)
        return StreamingResponse(_play(request, script), media_type="text/event-stream")

    async def _list(self, request: Request) -> Response:
        error = await self._note(request)
        at, limit = int(request.query_params.get("cursor", 0)), int(request.query_params.get("limit", 50))
        rows = self.downloads[at : at + limit]
        following = str(at + limit) if at + limit < len(self.downloads) else None
        return error or JSONResponse({"object": "list", "data": rows, "next_cursor": following})

    async def _one(self, request: Request) -> Response:
        if error := await self._note(request):
            return error
        for row in self.downloads:
            if row["id"] == request.path_params["id"]:
                return JSONResponse(row, status_code=202 if request.method == "DELETE" else 200)
        return JSONResponse({"error": {"code": "DOWNLOAD_NOT_FOUND", "message": "No such.", "details": {}}}, 404)

    async def _models(self, request: Request) -> Response:
        return await self._note(request) or JSONResponse({"object": "list", "data": self.models})

    async def _model(self, request: Request) -> Response:
        if error := await self._note(request):
            return error
        for row in self.models:
            if row["id"] == request.path_params["id"]:
                gone = {"id": row["id"], "deleted": True, "freed_bytes": row["size"]}
                return JSONResponse(gone if request.method == "DELETE" else row)
        return JSONResponse({"error": {"code": "MODEL_NOT_ON_DISK", "message": "No such.", "details": {}}}, 404)

    async def _workers(self, request: Request) -> Response:
        worker = {"name": "w1", "host": "h", "pid": 7, "state": "idle", "download_id": None, "version": "9.9"}
        return await self._note(request) or JSONResponse({"object": "list", "data": [worker]})


async def _play(request: Request, script: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in script:
        if part == PAUSE:
            await asyncio.sleep(0.05)
        elif part == HOLD:
            while not await request.is_disconnected():
                yield b":\n\n"
                await asyncio.sleep(0.02)
        else:
            yield part
