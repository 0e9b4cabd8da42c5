"""Files of the machine itself: brought into the store where that is allowed, and refused everywhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.hub.server import HubServer
from tests.support.service import Service

CONTENT = b"GGUF" + bytes(100_000)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "my model.gguf"
    path.write_bytes(CONTENT)
    return path


def test_a_file_is_copied_into_the_store_where_that_is_allowed(
    env: dict[str, str], hub: HubServer, model: Path
) -> None:
    service = Service({**env, "HIVE_ALLOW_FILE_URLS": "1"}, workers=1)
    try:
        end = service.bring(f"file://{model}")
        assert end["stage"] == "complete", end
        model.write_bytes(b"changed later")
        assert Path(end["local_path"]).read_bytes() == CONTENT
        assert (end["bytes_total"], end["verified"]) == (len(CONTENT), False)
        listed = requests.get(f"{service.server.url}/v1/models", timeout=60).json()["data"]
        assert [entry["path"] for entry in listed] == [end["local_path"]]
        assert service.post(f"file://{model}")["local_path"] == end["local_path"]
        assert service.bring(f"file://{model}.missing")["code"] == "FILE_NOT_FOUND"
        assert service.bring(f"file://{model.parent}")["code"] == "FILE_NOT_FOUND"
        assert service.bring(f"file://{model}", update=True, sha256="ab" * 32)["code"] == "CHECKSUM_MISMATCH"
        assert list((Path(env["HIVE_STORE"]) / "hive" / "partial").glob("*.part")) == []
    finally:
        service.stop()


def test_a_server_that_was_not_told_so_refuses(service: Service, model: Path) -> None:
    answer = requests.post(
        f"{service.server.url}/v1/models/download", json={"model_ref": f"file://{model}"}, timeout=60
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "UNSAFE_URL")
    assert "HIVE_ALLOW_FILE_URLS" in answer.json()["error"]["message"]


def test_a_worker_that_was_not_told_so_refuses_too(env: dict[str, str], model: Path) -> None:
    service = Service(env, workers=1)
    service.server.stop()
    try:
        service.server = type(service.server)({**env, "HIVE_ALLOW_FILE_URLS": "1"})
        service.server.wait_until_ready()
        assert service.bring(f"file://{model}")["code"] == "UNSAFE_URL"
    finally:
        service.stop()
