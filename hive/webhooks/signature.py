"""Signatures of webhooks, as the Standard Webhooks specification has them, and the keys that they are made with.

A receiver that knows the secret can tell that a message comes from this hive, was not changed, and was not sent long
ago. What is signed is `<webhook-id>.<webhook-timestamp>.<body>`, with HMAC-SHA256.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from hive.settings import WEBHOOK_PREFIX

#: What the keys of requests' webhooks are derived for (the salt of HKDF).
_SALT: Final = b"hive: the webhook of a request"


def derived_key(key: bytes, owner_mark: str, url: str) -> bytes:
    """The key for the webhook of somebody's request: HKDF-SHA256 (RFC 5869) of the operator's, 32 bytes.

    A request says where its webhook goes. Were it signed with the operator's key, whoever may ask could have hive sign
    messages that the operator's own receivers believe, and whoever is to check one would have to know the key of all.
    """
    info = f"{owner_mark}\0{url}".encode()
    return hmac.digest(hmac.digest(_SALT, key, hashlib.sha256), info + b"\x01", hashlib.sha256)


def as_secret(key: bytes) -> str:
    """A key as the libraries of the specification take it."""
    return WEBHOOK_PREFIX + base64.b64encode(key).decode()


def sign(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three headers that belong to a message sent at `timestamp_s` (unix seconds)."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    mac = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s), "webhook-signature": f"v1,{mac}"}
