"""Open WebUI's modules that speak Ollama's API, unmodified, as a server: `python -m tests.support.open_webui`.

Open WebUI whole is a database, a page and gigabytes of packages. The easy way, its requests written down and replayed,
tests what somebody read in its code and not the code. So its router runs, and what it talks through (the session, the
headers with the key, the codec, what turns a chat of OpenAI's form into one of Ollama's and back), from the wheel that
`scripts/install --open-webui` has unpacked. Stood in for are the users, the database and the settings. No line of it is
kept in this repository: it has a licence of its own, which lies beside it in the folder.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib
import json
import os
import socket
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
import requests
import uvicorn
from starlette.responses import StreamingResponse

from tests.support.processes import HiveProcess

#: Where `scripts/install --open-webui` unpacks it.
FOLDER = Path(sys.prefix) / "open-webui"
TIMEOUT_S = 120


def changed() -> set[str]:
    """The unpacked modules that are not, byte for byte, those of the wheel."""
    (record,) = FOLDER.glob("*.dist-info/RECORD")
    digests = {row[0]: row[1] for row in csv.reader(record.read_text().splitlines())}

    def digest(path: Path) -> str:
        found = hashlib.sha256(path.read_bytes()).digest()
        return f"sha256={base64.urlsafe_b64encode(found).rstrip(b'=').decode()}"

    modules = {str(path.relative_to(FOLDER)): digest(path) for path in FOLDER.glob("open_webui/**/*.py")}
    return {name for name, found in modules.items() if digests.get(name) != found}


class OpenWebui(HiveProcess):
    """The server, and somebody at its page who administers it."""

    def __init__(self) -> None:
        if not (FOLDER / "locked").exists():
            assert os.environ.get("CI") != "true", "Open WebUI is missing: scripts/install --open-webui"
            pytest.skip("Open WebUI is not here: scripts/install --open-webui")
        super().__init__("tests.support.open_webui", env={"PYTHONDONTWRITEBYTECODE": "1"})
        with self.killed_unless_ready():
            self.url: str = self.wait_for_log("listening")["address"]

    def call(self, method: str, path: str, body: object = None) -> requests.Response:
        return requests.request(method, f"{self.url}{path}", json=body, timeout=TIMEOUT_S)

    def connect(self, url: str, key: str | None = None) -> None:
        """Its only connection, as *Settings, Connections* saves it."""
        configs = {"0": {"enable": True, "key": key or ""}}
        body = {"ENABLE_OLLAMA_API": True, "OLLAMA_BASE_URLS": [url], "OLLAMA_API_CONFIGS": configs}
        answer = self.call("POST", "/ollama/config/update", body)
        assert answer.status_code == 200, answer.text

    def good(self, method: str, path: str, body: object = None) -> Any:
        answer = self.call(method, f"/ollama{path}", body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def stream(self, path: str, body: object) -> list[dict[str, Any]]:
        """The lines of a stream."""
        answer = self.call("POST", f"/ollama{path}", body)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]

    def refusal(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Status and text of what its page shows as an error."""
        answer = self.call(method, f"/ollama{path}", body)
        assert answer.status_code >= 400, answer.text
        detail = answer.json()["detail"]
        assert isinstance(detail, str), detail
        return answer.status_code, detail


def module(name: str, **content: Any) -> ModuleType:
    """Put a module there that stands in for one of Open WebUI."""
    made = ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made
    return made


class Config:
    """Its settings in the database, in memory."""

    values: dict[str, Any] = {"ollama.enable": True, "ollama.base_urls": [], "ollama.api_configs": {}}  # noqa: RUF012

    @classmethod
    async def get(cls, name: str, default: Any = None) -> Any:
        return cls.values.get(name, default)

    @classmethod
    async def get_many(cls, *names: str) -> dict[str, Any]:
        return {name: cls.values[name] for name in names if name in cls.values}

    @classmethod
    async def upsert(cls, values: dict[str, Any]) -> None:
        cls.values.update(values)


#: What its environment says by default, where a module that runs here reads it.
ENVIRONMENT: dict[str, Any] = {
    "AIOHTTP_CLIENT_SESSION_SSL": True,
    "AIOHTTP_CLIENT_STREAM_IDLE_TIMEOUT": None,
    "AIOHTTP_CLIENT_TIMEOUT": None,
    "AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST": 10,
    "AIOHTTP_FILE_STREAM_CHUNK_SIZE": 1 << 20,
    "AIOHTTP_POOL_CONNECTIONS": 100,
    "AIOHTTP_POOL_CONNECTIONS_PER_HOST": 30,
    "AIOHTTP_POOL_DNS_TTL": 300,
    "BYPASS_MODEL_ACCESS_CONTROL": True,
    "CHAT_STREAM_RESPONSE_CHUNK_MAX_BUFFER_SIZE": None,
    "ENABLE_FORWARD_USER_INFO_HEADERS": True,
    "ENABLE_ORJSON": False,
    "FORWARD_SESSION_INFO_HEADER_CHAT_ID": "X-OpenWebUI-Chat-Id",
    "FORWARD_USER_INFO_HEADER_AUTH_TYPE": "X-OpenWebUI-User-Auth-Type",
    "FORWARD_USER_INFO_HEADER_JWT": "X-OpenWebUI-User-Jwt",
    "FORWARD_USER_INFO_HEADER_JWT_EXPIRES_SECONDS": 300,
    "FORWARD_USER_INFO_HEADER_JWT_SECRET": "",
    "FORWARD_USER_INFO_HEADER_USER_EMAIL": "X-OpenWebUI-User-Email",
    "FORWARD_USER_INFO_HEADER_USER_ID": "X-OpenWebUI-User-Id",
    "FORWARD_USER_INFO_HEADER_USER_NAME": "X-OpenWebUI-User-Name",
    "FORWARD_USER_INFO_HEADER_USER_ROLE": "X-OpenWebUI-User-Role",
    # Its default is one second; what a test has just changed is to be seen.
    "MODELS_CACHE_TTL": 0.001,
    "REDIS_KEY_PREFIX": "open-webui",
}
USER = SimpleNamespace(id="u", role="admin", name="N\u00e4me", email="n@example.com", variables={})


def stand_ins() -> None:
    """The modules that its own import and that do not run here."""
    for package in ("open_webui", "open_webui.utils", "open_webui.routers"):
        # The real folder, without the package's own __init__: that starts what it has.
        module(package, __path__=[str(FOLDER / package.replace(".", "/"))])
    module("open_webui.config", UPLOAD_DIR="/nonexistent", DEFAULT_RAG_TEMPLATE="")
    module("open_webui.env", **ENVIRONMENT)
    failed = AsyncMock()
    module(
        "open_webui.events",
        EVENTS=MagicMock(),
        publish_event=AsyncMock(),
        publish_model_provider_request_failed=failed,
    )
    module("open_webui.internal", __path__=[])
    module("open_webui.internal.db", get_async_session=lambda: None)
    module("open_webui.models", __path__=[])
    models = SimpleNamespace(get_model_by_id=AsyncMock(return_value=None))
    module("open_webui.models.access_grants", AccessGrants=MagicMock())
    module("open_webui.models.config", Config=Config)
    module("open_webui.models.groups", Groups=MagicMock())
    module("open_webui.models.models", Models=models)
    module("open_webui.models.users", UserModel=object)
    module("open_webui.utils.access_control", check_model_access=AsyncMock())
    module("open_webui.utils.auth", get_admin_user=lambda: USER, get_verified_user=lambda: USER)
    module("open_webui.utils.oauth", get_system_oauth_token=AsyncMock(return_value=None))
    # Packages that it needs for what does not run here.
    module("engineio", json=json)
    module("jwt")
    module("sqlalchemy", __path__=[])
    module("sqlalchemy.ext", __path__=[])
    module("sqlalchemy.ext.asyncio", AsyncSession=object)


def application() -> Any:
    """Its router, and a route for a chat as its page asks for one: in OpenAI's form, which its code turns around."""
    stand_ins()
    fastapi = importlib.import_module("fastapi")
    router = importlib.import_module("open_webui.routers.ollama")
    payload = importlib.import_module("open_webui.utils.payload")
    response = importlib.import_module("open_webui.utils.response")
    app = fastapi.FastAPI()
    app.state.OLLAMA_MODELS = {}
    app.include_router(router.router, prefix="/ollama")

    async def chat(request: Any) -> Any:
        asked = payload.convert_payload_openai_to_ollama(await request.json())
        answer = await router.generate_chat_completion(request, asked, user=USER)
        if not asked["stream"]:
            return response.convert_response_ollama_to_openai(answer)
        lines = response.convert_streaming_response_ollama_to_openai(answer)
        return StreamingResponse(lines, media_type="text/event-stream")

    chat.__annotations__["request"] = fastapi.Request  # FastAPI looks types up in the module, which has none of it
    app.add_api_route("/api/chat/completions", chat, methods=["POST"], response_model=None)
    return app


def main() -> None:
    """Serve until told to end."""
    app = application()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sys.stdout.write(json.dumps({"message": "listening", "address": address}) + "\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, access_log=False, lifespan="off")).run([listener])


if __name__ == "__main__":
    main()
