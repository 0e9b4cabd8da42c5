"""Signatures of webhooks, as the Standard WebhookOutbox specification has them.

A receiver that knows the secret can tell that a message comes from this hive, was not changed, and was not sent long
ago. What is signed is `<webhook-id>.<webhook-timestamp>.<body>`, with HMAC-SHA256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

#: What a secret in the specification's form begins with; base64 follows.
PREFIX = "whsec_"
#: Bytes of a key: shorter ones can be guessed, longer ones the specification does not know.
MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
#: Bytes of a secret in plain text.
MAX_TEXT_BYTES = 512


def read_key(secret: str) -> bytes:
    """The key in a secret: `whsec_` and base64, or plain text, whose UTF-8 is the key.

    Raises:
        ValueError: it is neither, too short or too long. The text does not contain it.
    """
    if not secret.startswith(PREFIX):
        key, most = secret.encode(), MAX_TEXT_BYTES
    else:
        most = MAX_KEY_BYTES
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"what follows {PREFIX} is not base64") from None
    if not MIN_KEY_BYTES <= len(key) <= most:
        raise ValueError(f"its key has {len(key)} bytes; it must have {MIN_KEY_BYTES} to {most}")
    return key


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers that belong to a message sent at `timestamp_s` (unix seconds)."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    mac = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": f"v1,{mac}"}
