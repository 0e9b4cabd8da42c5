"""Plain URLs, end to end: what the file is called, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import SyntheticFile, faults
from tests.hub.content import read_all
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.service import Service

GGUF = b"GGUF\3\0\0\0" + b"\1" * 16 + read_all(SyntheticFile(MIB, seed=3))


@pytest.fixture
def service(env: dict[str, str], hub: HubServer) -> Iterator[Service]:
    made = Service({**env, "HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://")}, 1)
    try:
        yield made
    finally:
        made.stop()


def test_a_file_is_called_what_its_server_says_or_what_was_asked_for(service: Service, hub: HubServer) -> None:
    url = hub.plain("/get.php", GGUF, disposition="attachment; filename*=UTF-8''..%2F..%2F%E6%A8%A1%E5%9E%8B.gguf")
    first = service.bring(f"  {hub.redirect('/latest model', url)}\n")
    path = Path(first["local_path"])
    assert (first["stage"], first["verified"], path.name) == ("complete", False, "模型.gguf")
    assert path.read_bytes() == GGUF
    again = service.post(f"{hub.endpoint}/latest model")
    assert again["local_path"] == str(path)

    named = service.bring(f"{hub.endpoint}/latest%20model", name="mine.gguf")
    assert Path(named["local_path"]) == path.with_name("mine.gguf")
    assert sorted(found.name for found in path.parent.iterdir()) == ["manifest.json", "mine.gguf"]


def test_a_web_page_in_place_of_a_model_ends_the_download_and_leaves_nothing(
    service: Service, hub: HubServer, env: dict[str, str]
) -> None:
    url = hub.plain("/model.gguf", GGUF)
    hub.faults.add(faults.presented(b"<html>Please sign in</html>", "text/html"), "/model.gguf")
    end = service.bring(url)
    assert (end["stage"], end["code"]) == ("error", "NOT_A_MODEL")
    assert "a web page" in end["message"]
    assert not [path for path in (Path(env["HIVE_STORE"]) / "hive").rglob("*") if path.suffix in (".part", ".gguf")]
    hub.faults.clear()
    assert service.bring(url)["stage"] == "complete"
