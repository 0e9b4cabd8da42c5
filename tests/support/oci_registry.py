"""A registry for tests: manifests, tokens for anybody, and blobs that another server has, as real registries do it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.hub import HubServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class OciRegistry:
    """Serves what `put` was given; blobs by a redirect to `hub`, another origin."""

    def __init__(self, hub: HubServer) -> None:
        self._hub = hub
        self._manifests: dict[str, bytes] = {}
        self._blobs: dict[str, str] = {}
        self._direct: dict[str, bytes] = {}
        #: Paths and Authorization headers of all requests.
        self.requests: list[tuple[str, str | None]] = []
        #: Whether a token is wanted, and for how many seconds one is good.
        self.tokens, self.token_ttl_s = False, 300
        self.realm = ""
        self._given = 0
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def blob(self, data: bytes, direct: bytes | None = None) -> str:
        """Have a content; gives its digest. `direct` is what is sent for it without a redirect."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blobs[digest] = self._hub.plain(f"/store/{digest[7:]}", data)
        if direct is not None:
            self._direct[digest] = direct
        return digest

    def layer(self, data: bytes, media_type: str = "application/octet-stream", **annotations: str) -> dict[str, Any]:
        """Have a content; gives its descriptor. Of an annotation's name `title` is short for the whole."""
        named = {key.replace("title", "org.opencontainers.image.title"): value for key, value in annotations.items()}
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data), "annotations": named}

    def put(self, name: str, tag: str, manifest: Mapping[str, Any]) -> str:
        """Have a manifest under a tag and its digest, which is given."""
        data = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **manifest}).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._manifests[f"{name}/manifests/{tag}"] = self._manifests[f"{name}/manifests/{digest}"] = data
        return digest

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path, authorization = request.path, request.headers.get("Authorization")
        self.requests.append((path, authorization))
        if path.startswith("/token"):
            scope = parse_qs(urlsplit(path).query)["scope"][0]
            self._given += 1
            body = {"token": f"{scope}#{self._given}", "expires_in": self.token_ttl_s}
            self._send(request, 200, json.dumps(body).encode())
            return
        if self.tokens and not (authorization or "").startswith("Bearer repository:"):
            realm = self.realm or f"http://{self.host}/token"
            self._send(request, 401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}",service="registry"'})
            return
        if path == "/v2/":
            self._send(request, 200, b"{}")
        elif (data := self._manifests.get(path.removeprefix("/v2/"))) is not None:
            self._send(request, 200, data, {"Content-Type": MANIFEST})
        elif (data := self._direct.get(path.rpartition("/blobs/")[2])) is not None:
            self._send(request, 200, data)
        elif (url := self._blobs.get(path.rpartition("/blobs/")[2])) is not None:
            self._send(request, 307, b"", {"Location": url})
        else:
            self._send(request, 404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)
