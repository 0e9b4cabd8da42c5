"""A registry for tests: manifests, tokens for anybody, and blobs that another server has, as real registries do it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.hub import HubServer
from tests.support.tiny_server import Answer, TinyServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class OciRegistry(TinyServer):
    """Serves what `put` was given; blobs by a redirect to `hub`, another origin."""

    def __init__(self, hub: HubServer) -> None:
        super().__init__()
        self._hub = hub
        self._manifests: dict[str, bytes] = {}
        self._blobs: dict[str, str] = {}
        self._direct: dict[str, bytes] = {}
        #: Whether a token is wanted, and for how many seconds one is good.
        self.tokens, self.token_ttl_s = False, 300
        self.realm = ""
        #: `user:password` that is wanted, by the place of its tokens, or else (`is_basic`) by every request.
        self.password, self.is_basic = "", False
        self._given = 0

    def blob(self, data: bytes, direct: bytes | None = None) -> str:
        """Have a content; gives its digest. `direct` is what is sent for it without a redirect."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._blobs[digest] = self._hub.plain(f"/store/{digest[7:]}", data)
        if direct is not None:
            self._direct[digest] = direct
        return digest

    def layer(self, data: bytes, media_type: str = "application/octet-stream", **annotations: str) -> dict[str, Any]:
        """Have a content; gives its descriptor. Of an annotation's name `title` is short for the whole."""
        named = {key.replace("title", "org.opencontainers.image.title"): value for key, value in annotations.items()}
        return {"mediaType": media_type, "digest": self.blob(data), "size": len(data), "annotations": named}

    def put(self, name: str, tag: str, manifest: Mapping[str, Any]) -> str:
        """Have a manifest under a tag and its digest, which is given."""
        data = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **manifest}).encode()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._manifests[f"{name}/manifests/{tag}"] = self._manifests[f"{name}/manifests/{digest}"] = data
        return digest

    def answer(self, path: str, authorization: str | None) -> Answer:
        """A token, a manifest, or where a blob is."""
        basic = f"Basic {base64.b64encode(self.password.encode()).decode()}"
        if self.is_basic and authorization != basic:
            return Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="registry"'})
        if path.startswith("/token"):
            if self.password and authorization != basic:
                return Answer(b"{}", 401)
            scope = parse_qs(urlsplit(path).query)["scope"][0]
            self._given += 1
            return Answer(json.dumps({"token": f"{scope}#{self._given}", "expires_in": self.token_ttl_s}).encode())
        if self.tokens and not (authorization or "").startswith("Bearer repository:"):
            realm = self.realm or f"http://{self.host}/token"
            return Answer(b"{}", 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="registry"'})
        digest = path.rpartition("/blobs/")[2]
        if path == "/v2/":
            return Answer(b"{}")
        if (data := self._manifests.get(path.removeprefix("/v2/"))) is not None:
            return Answer(data, headers={"Content-Type": MANIFEST})
        if (data := self._direct.get(digest)) is not None:
            return Answer(data)
        if (url := self._blobs.get(digest)) is not None:
            return Answer(b"", 307, {"Location": url})
        return Answer(b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', 404)
