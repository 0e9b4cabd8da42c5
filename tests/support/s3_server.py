"""A stand-in of S3, which computes signatures of version 4."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote, unquote

from tests.support.object_store import ObjectStore

KEY_ID, SECRET = "AKIASTANDIN", "s3cr3t+standin/key"


class S3Server(ObjectStore):
    """Tells the `checksums` of its objects, by `/bucket/key`, as S3 does: to who asks with a header that is signed."""

    signature, scheme = "X-Amz-Signature", "s3"

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.checksums: dict[str, str] = {}
        #: Another ETag than an object has by itself; "" for none.
        self.etag: str | None = None

    def object_headers(self, request: BaseHTTPRequestHandler, path: str) -> dict[str, str]:
        headers = super().object_headers(request, path)
        if self.etag is not None:
            headers |= {"ETag": self.etag}
        if request.headers.get("x-amz-checksum-mode") == "ENABLED" and path in self.checksums:
            headers["x-amz-checksum-sha256"] = self.checksums[path]
        return headers

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    @property
    def secrets(self) -> tuple[str, ...]:
        return ("X-Amz", KEY_ID, SECRET, quote(SECRET, safe=""))

    def refusal(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> str:
        signature = query.pop("X-Amz-Signature", "")
        signed = query.get("X-Amz-SignedHeaders", "").split(";")
        if any(name.startswith("x-amz-") and name not in signed for name in map(str.lower, request.headers)):
            return "There were headers present in the request which were not signed"
        if not signature:
            return "AccessDenied"
        date = query["X-Amz-Date"]
        age_s = (datetime.now(UTC) - datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)).total_seconds()
        if age_s > int(query["X-Amz-Expires"]):
            return "Request has expired"
        scope = query["X-Amz-Credential"].removeprefix(f"{KEY_ID}/")
        asked = "&".join(f"{quote(name, safe='~')}={quote(query[name], safe='~')}" for name in sorted(query))
        headers = "".join(f"{name}:{request.headers[name]}\n" for name in signed)
        name = quote(unquote(path), safe="/~")
        canonical = f"{request.command}\n{name}\n{asked}\n{headers}\n{';'.join(signed)}\nUNSIGNED-PAYLOAD"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{SECRET}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        wanted = hmac.digest(key, f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}".encode(), "sha256").hex()
        return "" if hmac.compare_digest(wanted, signature) else "SignatureDoesNotMatch"
