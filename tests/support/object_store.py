"""Stand-ins of stores of objects: private objects, of which a signed URL opens one.

Each computes the signature itself, as the store's own documentation says, with nothing of what signs.
"""

from __future__ import annotations

import hashlib
import re
import threading
from abc import abstractmethod
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.tiny_server import LocalServer, send_head

CHUNK_BYTES = 64 << 10


def written_below(*folders: Path) -> list[tuple[str, bytes]]:
    """Every file that may tell something, by its path; not the models themselves."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [(str(path), path.read_bytes()) for path in found if path.suffix != ".gguf"]


def check_none_in(places: Iterable[tuple[str, bytes]], secrets: Iterable[str]) -> None:
    """That none of the secrets is in what these places have."""
    for secret in secrets:
        for name, data in places:
            assert secret.encode() not in data, (name, secret[:30])


class ObjectStore(LocalServer):
    """Has `objects` by `/bucket/key`. What is a store's own stands in its class."""

    #: The parameter of a URL that has the signature.
    signature: str
    #: How buckets are named.
    scheme: str
    #: What stands before them in an address.
    root = ""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.endpoint = f"http://{self.host}"
        self.objects = dict(objects)
        #: Every path with its query, and the status that was answered.
        self.answers: list[tuple[str, int]] = []
        #: Signatures that have run out.
        self.expired: set[str] = set()
        self.refuses_all = False
        #: The status of all answers; None: what is right.
        self.status: int | None = None
        #: Its headers.
        self.headers: dict[str, str] = {}
        #: Bytes after which connections break and what was signed until then has run out; None: never.
        self.expire_after: int | None = None
        #: Bytes after which no more are sent until `go_on` is set; None: never.
        self.hold_after: int | None = None
        self.go_on = threading.Event()
        self.bytes_sent = 0

    @property
    @abstractmethod
    def env(self) -> dict[str, str]:
        """What the operator of a worker sets."""

    @property
    @abstractmethod
    def secrets(self) -> tuple[str, ...]:
        """What must stand nowhere, beside the signatures."""

    @abstractmethod
    def refusal(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> str:
        """Why a URL opens nothing, its signature aside where that has run out; "" where it does."""

    def refused(self, refusal: str) -> tuple[int, bytes]:
        """The answer to what opens nothing."""
        return 403, f"<Error><Code>{refusal}</Code><Message>{refusal}</Message></Error>".encode()

    def object_headers(self, request: BaseHTTPRequestHandler, path: str) -> dict[str, str]:
        """What the store says of an object."""
        return {"ETag": f'"{hashlib.md5(self.objects[path]).hexdigest()}"'}

    def let_go(self) -> None:
        """Send everything, on connections that are not held too."""
        self.hold_after = None
        self.go_on.set()

    @property
    def signatures(self) -> set[str]:
        """All that were shown."""
        return {dict(parse_qsl(urlsplit(path).query)).get(self.signature, "") for path, _ in self.answers} - {""}

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query))
        if self.refuses_all:
            refusal = "AllRefused"
        elif query.get(self.signature) in self.expired:
            refusal = "Request has expired"
        else:
            refusal = self.refusal(request, parts.path, query)
        path = unquote(parts.path).removeprefix(self.root)
        if self.status is not None:
            self._answer(request, self.status, b"", self.headers)
        elif refusal:
            self._answer(request, *self.refused(refusal))
        elif path not in self.objects:
            self._answer(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            data, headers = self.objects[path], self.object_headers(request, path)
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
            first, last = (int(asked[1]), min(int(asked[2]), len(data) - 1)) if asked else (0, len(data) - 1)
            if asked:
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._answer(request, 206 if asked else 200, data[first : last + 1], headers)

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.answers.append((request.path, status))
        send_head(request, status, headers or {}, len(body))
        if request.command == "HEAD":
            return
        for at in range(0, len(body), CHUNK_BYTES):
            if self.expire_after is not None and self.bytes_sent >= self.expire_after:
                self.expired, self.expire_after = set(self.signatures), None
                request.close_connection = True
                return
            if self.hold_after is not None and self.bytes_sent >= self.hold_after:
                self.go_on.wait(60)
            request.wfile.write(body[at : at + CHUNK_BYTES])
            self.bytes_sent += CHUNK_BYTES
