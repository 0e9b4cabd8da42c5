"""A stand-in of Azure's blob storage, which computes the signature of a service SAS."""

from __future__ import annotations

import base64
import hmac
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote, unquote

from tests.support.object_store import ObjectStore

ACCOUNT = "standinaccount"
KEY = base64.b64encode(b"a key that no other account has.").decode()


class AzureServer(ObjectStore):
    """As an emulator has them, its addresses begin with the account."""

    signature, scheme, root = "sig", "az", f"/{ACCOUNT}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/{ACCOUNT}",
        }

    @property
    def secrets(self) -> tuple[str, ...]:
        return ("sig=", KEY, quote(KEY, safe=""))

    def refusal(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> str:
        if "sig" not in query:
            return "NoAuthenticationInformation"
        now = datetime.now(UTC)
        begins, ends = (datetime.fromisoformat(query[name]) if name in query else None for name in ("st", "se"))
        if ends is None or ends < now or (begins is not None and begins > now):
            return "AuthenticationFailed"
        if query["sr"] != "b" or "r" not in query["sp"]:
            return "AuthorizationPermissionMismatch"
        # One line for each, empty where it is not said, as since version 2020-12-06. The name is as the store has it.
        resource = f"/blob/{ACCOUNT}{unquote(path).removeprefix(self.root)}"
        lines = f"""{query["sp"]}
{query.get("st", "")}
{query["se"]}
{resource}
{query.get("si", "")}
{query.get("sip", "")}
{query.get("spr", "")}
{query["sv"]}
{query["sr"]}






"""
        wanted = base64.b64encode(hmac.digest(base64.b64decode(KEY), lines.encode(), "sha256")).decode()
        return "" if hmac.compare_digest(wanted, query["sig"]) else "AuthenticationFailed"
