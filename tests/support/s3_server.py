"""A stand-in of S3: private objects, of which a signed URL opens one, and the signature is really computed."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

KEY_ID, SECRET = "AKIASTANDIN", "s3cr3t+standin/key"
CHUNK_BYTES = 64 << 10


class S3Server:
    """Has `objects` by `/bucket/key`. A context manager."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = dict(objects)
        #: Every path with its query, and the status that was answered.
        self.answers: list[tuple[str, int]] = []
        #: Signatures that have run out.
        self.expired: set[str] = set()
        #: Bytes after which connections break and what was signed until then has run out; None: never.
        self.expire_after: int | None = None
        self.bytes_sent = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(ConnectionError):
                    server.handle(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def env(self) -> dict[str, str]:
        """What the operator of a worker sets."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    @property
    def signatures(self) -> set[str]:
        """All that were shown."""
        return {dict(parse_qsl(urlsplit(path).query)).get("X-Amz-Signature", "") for path, _ in self.answers} - {""}

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        parts = urlsplit(request.path)
        if refusal := self._refusal(request, parts.path, dict(parse_qsl(parts.query))):
            self._answer(request, 403, f"<Error><Code>{refusal}</Code><Message>{refusal}</Message></Error>".encode())
            return
        data = self.objects.get(unquote(parts.path))
        if data is None:
            self._answer(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2]), len(data) - 1)) if asked else (0, len(data) - 1)
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"'}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self._answer(request, 206 if asked else 200, data[first : last + 1], headers)

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.answers.append((request.path, status))
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        for at in range(0, len(body), CHUNK_BYTES):
            if self.expire_after is not None and self.bytes_sent >= self.expire_after:
                self.expired, self.expire_after = set(self.signatures), None
                request.close_connection = True
                return
            request.wfile.write(body[at : at + CHUNK_BYTES])
            self.bytes_sent += CHUNK_BYTES

    def _refusal(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> str:
        """Why the URL opens nothing; "" where it does."""
        signature = query.pop("X-Amz-Signature", "")
        if not signature:
            return "AccessDenied"
        date = query["X-Amz-Date"]
        age_s = (datetime.now(UTC) - datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)).total_seconds()
        if signature in self.expired or age_s > int(query["X-Amz-Expires"]):
            return "Request has expired"
        scope = query["X-Amz-Credential"].removeprefix(f"{KEY_ID}/")
        asked = "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query))
        host = request.headers["Host"]
        canonical = f"GET\n{quote(unquote(path), safe='/~')}\n{asked}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{SECRET}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        wanted = hmac.digest(key, f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}".encode(), "sha256").hex()
        return "" if hmac.compare_digest(wanted, signature) else "SignatureDoesNotMatch"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
