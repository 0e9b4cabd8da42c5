"""A Hub of static files behind nginx: as fast as a server can be, so that it is not what is measured.

It answers what `hf download` and hive ask for one repo (its commit, its listing, and for each file the headers that
name its digest), and the same files as plain URLs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.running import HERE, Nginx, Place

#: The repo, and its one commit.
REPO, COMMIT = "bench/model", hashlib.sha1(b"hive's benchmarks", usedforsecurity=False).hexdigest()
#: Where programs look for whom they trust: those of OpenSSL, requests, and curl.
TRUST_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: Bytes written in one go.
BLOCK_BYTES = 2**24
#: Files from this size on are listed as large ones, with the sha256.
LARGE_BYTES = 10_000_000


class Listed(NamedTuple):
    """A file of the repo and its digests."""

    name: str
    size_bytes: int
    git_sha1: str
    sha256: str

    @property
    def etag(self) -> str:
        """What identifies the content: the sha256 of a large file, git's sha1 of a small one."""
        return self.sha256 if self.size_bytes >= LARGE_BYTES else self.git_sha1


def write_random(path: Path, size_bytes: int) -> Listed:
    """A file of random bytes."""
    sha256 = hashlib.sha256()
    git_sha1 = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        left = size_bytes
        while left:
            block = os.urandom(min(left, BLOCK_BYTES))
            file.write(block)
            sha256.update(block)
            git_sha1.update(block)
            left -= len(block)
    return Listed(path.name, size_bytes, git_sha1.hexdigest(), sha256.hexdigest())


@contextlib.contextmanager
def trusted_certificate(folder: Path, address: str) -> Iterator[Path]:
    """A key and its certificate for an address, in one file that all programs started from here trust."""
    folder.mkdir(parents=True, exist_ok=True)
    file, public = folder / "certificate.pem", folder / "public.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench"]
    command += ["-addext", f"subjectAltName=IP:{address}", "-keyout", str(file), "-out", str(public)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    file.write_bytes(file.read_bytes() + public.read_bytes())
    before = {name: os.environ.pop(name, None) for name in TRUST_VARIABLES}
    os.environ.update(dict.fromkeys(TRUST_VARIABLES, str(public)))
    try:
        yield file
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


class StaticHub(Nginx):
    """nginx with the repo. `limit` is what nginx calls limit_rate: bytes a second of each connection, 0 for none."""

    def __init__(
        self,
        folder: Path,
        files_folder: Path,
        files: Iterable[Listed],
        limit: str = "0",
        *,
        place: Place = HERE,
        certificate: Path | None = None,
    ) -> None:
        self.files = list(files)
        #: What it speaks TLS with, key and certificate in one file; None where it does not.
        self.certificate = certificate
        folder.mkdir(parents=True, exist_ok=True)
        api = folder / "api" / "api" / "models" / REPO
        for what, answer in (("revision", self._revision()), ("tree", self._tree())):
            (api / what).mkdir(parents=True, exist_ok=True)
            (api / what / COMMIT).write_text(json.dumps(answer))
            (api / what / "main").write_text(json.dumps(answer))
        tls = "" if certificate is None else f"ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}"
        etags = "\n".join(f'"/{file.name}" {file.etag};' for file in self.files)
        super().__init__(
            folder,
            f"""
            sendfile on; tcp_nopush on; keepalive_requests 100000; default_type application/octet-stream;
            map_hash_max_size 16384; map_hash_bucket_size 256;
            map $uri $digest {{ {etags} }}
            server {{
                listen ADDRESS:PORT backlog=1024 {tls};
                limit_rate {limit};
                location /api/ {{ root {folder}/api; default_type application/json; }}
                location /{REPO}/resolve/ {{ rewrite ^/{REPO}/resolve/[^/]+(/.*)$ $1 last; }}
                location / {{
                    root {files_folder};
                    etag off;
                    add_header ETag '"$digest"';
                    add_header X-Repo-Commit {COMMIT};
                    add_header X-Linked-Etag '"$digest"';
                }}
                location /plain/ {{ alias {files_folder}/; }}
            }}
            """,
            core=None,
            place=place,
            scheme="https" if certificate is not None else "http",
        )
        self.resolve = f"{self.url}/{REPO}/resolve/main"

    def _revision(self) -> dict[str, object]:
        siblings = [{"rfilename": file.name} for file in self.files]
        return {"id": REPO, "modelId": REPO, "sha": COMMIT, "private": False, "gated": False, "siblings": siblings}

    def _tree(self) -> list[dict[str, object]]:
        return [_entry(file) for file in self.files]


def _entry(file: Listed) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": file.name, "size": file.size_bytes, "oid": file.git_sha1}
    if file.etag == file.sha256:
        entry["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": 135}
    return entry
