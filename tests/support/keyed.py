"""Several people with keys at one server: each asks with a key of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import requests

from hive.auth.keys import KeyFile
from hive.auth.scopes import Scope
from hive.settings import Settings
from tests.support.sse_client import SseClient
from tests.support.waiting import wait_for

#: Seconds for one answer of a server on this machine.
ANSWER_S = 60.0


class Person:
    """Somebody who asks a server with a key."""

    def __init__(self, url: str, key: str, hub_token: str | None = None) -> None:
        self.url, self.key = url, key
        #: The id of a request is the caller's: what two answers differ in is what they say.
        self.headers = {"authorization": f"Bearer {key}", "x-request-id": "a-request"}
        self.hub_token = hub_token

    def call(self, method: str, path: str, body: object = None, **headers: str) -> requests.Response:
        return requests.request(
            method, self.url + path, json=body, headers={**self.headers, **headers}, timeout=ANSWER_S
        )

    def post(self, model_ref: str, **body: Any) -> requests.Response:
        if self.hub_token is not None:
            body.setdefault("hf_token", self.hub_token)
        return self.call("POST", "/v1/models/download", {"model_ref": model_ref, **body})

    def start(self, model_ref: str, **body: Any) -> dict[str, Any]:
        answer = self.post(model_ref, **body)
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def show(self, download_id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/v1/downloads/{download_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def downloads(self, query: str = "") -> list[str]:
        return [each["id"] for each in self.call("GET", f"/v1/downloads{query}").json()["data"]]

    def models(self, hub_token: str | None = None) -> list[str]:
        """Ids of the models that they see, by the Hub's token where they show one."""
        headers = {"x-hf-token": hub_token} if hub_token else {}
        return [each["id"] for each in self.call("GET", "/v1/models", None, **headers).json()["data"]]

    def end_of(self, download_id: str, within_s: float = 60.0) -> dict[str, Any]:
        """How a download ended, waited for."""

        def look() -> dict[str, Any] | None:
            shown = self.show(download_id)
            return shown if shown["status"] in ("complete", "failed", "cancelled") else None

        found: dict[str, Any] = wait_for(look, f"the end of {download_id}", within_s)
        return found

    def bring(self, model_ref: str, **body: Any) -> dict[str, Any]:
        """How a download ended that they ask for now."""
        return self.end_of(self.start(model_ref, **body)["download_id"])

    def watch(self, download_id: str) -> SseClient:
        return SseClient(f"{self.url}/v1/models/download/progress?id={download_id}", headers=self.headers)

    def watch_all(self, query: str = "") -> SseClient:
        return SseClient(f"{self.url}/v1/downloads/progress{query}", headers=self.headers)


def new_key(settings: Settings, owner: str, *scopes: Scope) -> str:
    """A key of this owner in the server's file; without scopes those of a person: read and pull."""
    return KeyFile(settings.api_keys_path).add(owner, scopes or ("read", "pull"), owner=owner).text


def keys_for(env: dict[str, str], *owners: str) -> dict[str, str]:
    """A key for each owner, and one of `ops`, who administers."""
    settings = Settings.from_env(env)
    Path(settings.home_dir).mkdir(parents=True, exist_ok=True)
    return {**{owner: new_key(settings, owner) for owner in owners}, "ops": new_key(settings, "ops", "admin")}
