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
    signature, scheme = "X-Amz-Signature", "s3"

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    @property
    def secrets(self) -> tuple[str, ...]:
        return ("X-Amz", KEY_ID, SECRET, quote(SECRET, safe=""))

    def refusal(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> str:
        signature = query.pop("X-Amz-Signature", "")
        if not signature:
            return "AccessDenied"
        date = query["X-Amz-Date"]
        age_s = (datetime.now(UTC) - datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)).total_seconds()
        if age_s > int(query["X-Amz-Expires"]):
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
