"""Static files in memory: what `GET /` and the files beside it answer, with digests for ETags and a compressed twin.

Problem: the page is twenty small modules, and a browser asks for each. The easy way, StaticFiles on the folder, opens a
file per request in a thread, compresses nothing, and makes an ETag of a file's time: two replicas installed a minute
apart have different ones for the same bytes, so behind a load balancer every visit fetches everything again. The files
are 100 KiB together, so they are read once, when somebody first asks, and answered from memory; the ETag is the
content's digest, the same on every replica of a version. A name is looked up among those that were found, never in the
file system, so no path leads out.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Final, NamedTuple

#: The file that `GET /` is.
INDEX: Final = "index.html"
#: Bytes of all files together, as they are; tests/page keeps it. There is one of each in a process.
MAX_BYTES: Final = 1 << 18

#: By ending; what has another is not served.
MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: What the page may do: load what lies beside it, ask this server, and nothing else. No text becomes code or markup,
#: also by a mistake of ours: a browser that knows trusted types throws at every sink, as nothing here makes any.
POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    # Kept, and asked for again each time: a server of another version has others.
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


class Asset(NamedTuple):
    """One file: its bytes, the same compressed, its media type and ETag."""

    body: bytes
    compressed: bytes
    media_type: str
    etag: str


class Assets:
    """All files of the page, read when somebody first asks."""

    def __init__(self) -> None:
        self._found: dict[str, Asset] = {}
        self._lock = threading.Lock()

    @property
    def are_read(self) -> bool:
        """Whether `find` answers without reading the disk."""
        return bool(self._found)

    def find(self, name: str) -> Asset | None:
        """The file of this name; None where there is none. May read the disk."""
        with self._lock:
            if not self._found:
                self._found = _read(Path(__file__).with_name("static"))
        return self._found.get(name)


def _read(folder: Path) -> dict[str, Asset]:
    import gzip  # a server that nobody asks for its page has no use for it

    found = {}
    for file in folder.iterdir():
        kind = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            body = file.read_bytes()
            compressed = gzip.compress(body, 9, mtime=0)
            found[file.name] = Asset(body, compressed, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found
