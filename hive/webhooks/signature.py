"""Signatures of webhooks, as the Standard Webhooks specification has them.

A receiver that knows the secret can tell that a message comes from this hive, was not changed, and was not sent long
ago. What is signed is `<webhook-id>.<webhook-timestamp>.<body>`, with HMAC-SHA256.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers that belong to a message sent at `timestamp_s` (unix seconds)."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    mac = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": f"v1,{mac}"}
