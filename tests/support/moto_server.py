"""moto's S3 as a process, with what puts objects into it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.support.processes import HiveProcess

#: Where `scripts/install --moto` puts it.
FOLDER = Path(sys.prefix) / "moto"
#: The key of a person, and what a role hands out.
KEY = {"AWS_ACCESS_KEY_ID": "AKIAMOTO", "AWS_SECRET_ACCESS_KEY": "s3cr3t+moto/key"}
ROLE = {
    "AWS_ACCESS_KEY_ID": "ASIAMOTO",
    "AWS_SECRET_ACCESS_KEY": "r0le+moto/key",
    "AWS_SESSION_TOKEN": "t0ken/of+a/role==",
}
SECRETS = ("X-Amz-", *KEY.values(), *ROLE.values(), *(quote(value, safe="") for value in ROLE.values()))
#: Whose the objects are: moto asks that somebody writes over one, and nothing more.
_OWNER = {"Authorization": "AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request"}
_VERSIONED = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


class MotoServer(HiveProcess):
    """Has the bucket `models`, of which every version of an object is kept."""

    def __init__(self) -> None:
        if not (FOLDER / "locked").exists():
            assert os.environ.get("CI") != "true", "moto is missing: scripts/install --moto"
            pytest.skip("moto is not here: scripts/install --moto")
        env = {"PYTHONPATH": str(FOLDER), "MOTO_KEYS": json.dumps([KEY, ROLE])}
        super().__init__("tests.support.moto_app", env=env)
        with self.killed_unless_ready():
            self.url: str = self.wait_for_log("listening")["address"]
            self._call("PUT", "/models")
            self._call("PUT", "/models?versioning", _VERSIONED.encode())

    def put(self, key: str, data: bytes, sha256_of: bytes | None = None) -> None:
        """An object in one piece. `sha256_of`: what the checksum is made of that is kept with it."""
        headers = {}
        if sha256_of is not None:
            checksum = base64.b64encode(hashlib.sha256(sha256_of).digest()).decode()
            headers = {"x-amz-sdk-checksum-algorithm": "SHA256", "x-amz-checksum-sha256": checksum}
        self._call("PUT", f"/models/{quote(key)}", data, headers)

    def delete(self, key: str) -> None:
        """Its versions stay."""
        self._call("DELETE", f"/models/{quote(key)}")

    def asked(self, key: str) -> list[dict[str, Any]]:
        """The requests for an object that were answered so far: method, range, status."""
        entries = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [entry for entry in entries if entry.get("path") == f"/models/{key}" and entry["method"] != "PUT"]

    def _call(self, method: str, path: str, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        answer = requests.request(method, self.url + path, data=data, headers={**_OWNER, **(headers or {})}, timeout=60)
        assert answer.ok, (answer.status_code, answer.text)
