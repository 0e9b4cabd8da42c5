"""A stand-in of Google Cloud Storage, which compares signatures with the public key of a service account."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.support.object_store import ObjectStore

EMAIL = "hive@project.iam.gserviceaccount.com"
#: What stands for itself in a canonical request.
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def encoded(text: str, also: bytes = b"") -> str:
    return "".join(chr(byte) if byte in UNRESERVED or byte in also else f"%{byte:02X}" for byte in text.encode())


class GoogleServer(ObjectStore):
    """`folder`: for the file of the service account."""

    signature, scheme = "X-Goog-Signature", "gs"

    def __init__(self, objects: dict[str, bytes], folder: Path) -> None:
        super().__init__(objects)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public = key.public_key()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._pem = pem.decode()
        self._file = folder / "account.json"
        self._file.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "private_key": self._pem,
                    "private_key_id": "id",
                    "client_email": EMAIL,
                    "token_uri": "https://oauth2.googleapis.com/token",
                }
            )
        )

    @property
    def env(self) -> dict[str, str]:
        return {"GOOGLE_APPLICATION_CREDENTIALS": str(self._file), "GOOGLE_BASE_URL": self.endpoint}

    @property
    def secrets(self) -> tuple[str, ...]:
        return ("X-Goog", "PRIVATE KEY", self._pem.splitlines()[5])

    def refusal(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> str:
        if "X-Goog-Signature" not in query:
            return "AccessDenied"
        date = query["X-Goog-Date"]
        age_s = (datetime.now(UTC) - datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)).total_seconds()
        if not -900 < age_s <= int(query["X-Goog-Expires"]) <= 604_800:
            return "ExpiredToken"
        email, _, scope = query["X-Goog-Credential"].partition("/")
        if email != EMAIL or query["X-Goog-Algorithm"] != "GOOG4-RSA-SHA256" or query["X-Goog-SignedHeaders"] != "host":
            return "InvalidArgument"
        lines = [
            request.command,
            encoded(unquote(path), b"/"),
            "&".join(f"{encoded(name)}={encoded(query[name])}" for name in sorted(query) if name != self.signature),
            f"host:{request.headers['Host']}",
            "",
            "host",
            "UNSIGNED-PAYLOAD",
        ]
        hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        signed = "\n".join(["GOOG4-RSA-SHA256", date, scope, hashed])
        try:
            signature = bytes.fromhex(query["X-Goog-Signature"])
            self._public.verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            return "SignatureDoesNotMatch"
        return ""
