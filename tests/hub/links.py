"""Signed, expiring URLs, as the Hub hands out for files on its CDN.

The signature covers the path, the expiry and the disposition, so that a test notices a client which alters a signed
URL, keeps one for too long, or asks the CDN without one.
"""

import base64
import hashlib
import hmac
import secrets
import time
from enum import Enum
from urllib.parse import urlencode

from tests.hub.messages import Request

#: Names in the query, in the order of a CloudFront link.
_EXPIRES, _DISPOSITION, _SIGNATURE = "Expires", "response-content-disposition", "Signature"


class Verdict(Enum):
    """What the CDN makes of a link."""

    GOOD = "good"
    EXPIRED = "Request has expired"
    FORGED = "The request signature we calculated does not match the signature you provided."
    UNSIGNED = "Missing Key-Pair-Id query parameter or cookie value"


class Signer:
    """Signs and checks links with a key of its own, made at the start."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, path: str, disposition: str, ttl_s: float) -> str:
        """Path and query of a link that is good for `ttl_s` seconds (below zero: expired already)."""
        expires = str(int(time.time() + ttl_s))
        query = {
            "X-Xet-Cas-Uid": "public",
            _DISPOSITION: disposition,
            _EXPIRES: expires,
            _SIGNATURE: self._signature(path, expires, disposition),
            "Key-Pair-Id": "K3STANDIN",
        }
        return f"{path}?{urlencode(query)}"

    def check(self, request: Request) -> Verdict:
        """Whether a request's link is signed by this signer and not expired."""
        signature, expires = request.first(_SIGNATURE), request.first(_EXPIRES)
        if not signature or not expires.isascii() or not expires.isdecimal():
            return Verdict.UNSIGNED
        expected = self._signature(request.raw_path, expires, request.first(_DISPOSITION))
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            return Verdict.FORGED
        return Verdict.EXPIRED if time.time() >= int(expires) else Verdict.GOOD

    def _signature(self, path: str, expires: str, disposition: str) -> str:
        message = "\n".join((path, expires, disposition)).encode()
        return base64.urlsafe_b64encode(hmac.digest(self._key, message, hashlib.sha256)).decode().rstrip("=")
