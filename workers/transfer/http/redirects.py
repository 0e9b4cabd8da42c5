"""Signed URLs: how long they are good for."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from urllib.parse import parse_qsl


def signed_url_expiry(url: str) -> float | None:
    """The Unix second at which a signed URL (CloudFront, S3, GCS, Azure) is refused, or None when it does not say."""
    try:
        query = {name.lower(): value for name, value in parse_qsl(url.partition("?")[2], max_num_fields=100)}
        if "expires" in query:
            return float(int(query["expires"]))
        for vendor in ("x-amz", "x-goog"):
            if f"{vendor}-expires" in query:
                began = datetime.strptime(query[f"{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return began.timestamp() + int(query[f"{vendor}-expires"])
        if "sig" in query and "se" in query:
            return datetime.fromisoformat(query["se"].replace("Z", "+00:00")).timestamp()
    except (ValueError, KeyError, OverflowError):
        return None
    return None


def expired(expires_at: float | None, margin_s: float) -> bool:
    """Whether a URL with that expiry should be resolved anew."""
    return expires_at is not None and time.time() > expires_at - margin_s
