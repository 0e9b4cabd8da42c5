"""A stand-in of ModelScope: listings, cut off as there, and files that another server has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.hub import HubServer
from tests.support.tiny_server import Answer, TinyServer

MODEL = "/api/v1/models/Org/model/repo"


class ModelScopeServer(TinyServer):
    """Has the model Org/model at `master`; a listing ends at `limit` entries."""

    def __init__(self, hub: HubServer, files: Mapping[str, bytes], limit: int = 3000) -> None:
        super().__init__()
        self._hub = hub
        self.files, self.limit = dict(files), limit
        #: Fields of entries that are not as they should be, by path.
        self.wrong: dict[str, dict[str, Any]] = {}

    def answer(self, path: str, authorization: str | None) -> Answer:
        """A listing, or where a file is."""
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        if query.get("Revision") != "master" or parts.path not in (MODEL, f"{MODEL}/files"):
            return Answer(b'{"Code":10010205001,"Message":"not found","Success":false}', 404)
        if parts.path == MODEL:
            name = query["FilePath"]
            return Answer(b"", 302, {"Location": self._hub.plain(f"/oss/{name}", self.files[name])})
        entries = self._entries(query.get("Root", ""), recursive=query["Recursive"] == "True")
        return Answer(json.dumps({"Code": 200, "Success": True, "Data": {"Files": entries[: self.limit]}}).encode())

    def _entries(self, root: str, *, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{root}/" if root else ""
        found: dict[str, dict[str, Any]] = {}
        for path, data in self.files.items():
            if not path.startswith(prefix):
                continue
            below = path.removeprefix(prefix).split("/")
            for depth in range(1, len(below) if recursive else min(2, len(below))):
                folder = prefix + "/".join(below[:depth])
                found[folder] = {"Path": folder, "Type": "tree", "Size": 0, "Sha256": ""}
            if recursive or len(below) == 1:
                sha256 = hashlib.sha256(data).hexdigest()
                found[path] = {"Path": path, "Type": "blob", "Size": len(data), "Sha256": sha256}
        return [entry | self.wrong.get(path, {}) for path, entry in found.items()]
