"""Xet through the whole service: which transport brings a file is a setting."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub import DEFAULT_TOKEN, SyntheticFile, faults
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.processes import Workers, stopping
from tests.support.service import Service
from tests.support.waiting import AT_ONCE_S, wait_for
from tests.support.xet_server import XetServer
from tests.support.xet_store import need_hf_xet, upload

LARGE = SyntheticFile(40 * MIB, seed=91)
SMALL = SyntheticFile(MIB, seed=92)


@pytest.fixture
def start(env: dict[str, str]) -> Iterator[Callable[[str], Service]]:
    made: list[Service] = []

    def start(transport: str) -> Service:
        made.append(Service({**env, "HIVE_TRANSPORT": transport, "HF_TOKEN": DEFAULT_TOKEN}, workers=1))
        return made[-1]

    try:
        yield start
    finally:
        for service in made:
            service.stop()


@pytest.fixture
def store(hub: HubServer, tmp_path: Path) -> Path:
    """A Hub with a gated repository whose files lie in a Xet store."""
    need_hf_xet()
    folder = tmp_path / "xet-store"
    files = {"model.safetensors": LARGE, "small.safetensors": SMALL}
    repo = hub.create("org/xet", {**files, "config.json": b"{}"}, xet=True, gated="manual")
    for path, content in files.items():
        repo.set_xet_hash(path, upload(folder, content))
    hub.api.xet_endpoint = f"local://{folder}"
    return folder


@pytest.mark.parametrize(
    ("transport", "large_over_http", "small_over_http"), [("auto", 0, MIB), ("xet", 0, 0), ("http", 40 * MIB, MIB)]
)
def test_the_setting_says_which_transport_brings_a_file(
    start: Callable[[str], Service],
    hub: HubServer,
    store: Path,
    transport: str,
    large_over_http: int,
    small_over_http: int,
) -> None:
    end = start(transport).bring("hf:org/xet")
    assert end["stage"] == "complete", end
    assert end["verified"] is True
    folder = Path(end["local_path"])
    assert file_sha256(str(folder / "model.safetensors")) == LARGE.sha256()
    assert file_sha256(str(folder / "small.safetensors")) == SMALL.sha256()
    sent = hub.bytes_sent("*model.safetensors", origin="cdn")
    assert large_over_http <= sent <= large_over_http * 1.5
    assert hub.bytes_sent("*small.safetensors", origin="cdn") == small_over_http
    tokens = hub.hits("*xet-read-token*")
    assert len(tokens) == (0 if transport == "http" else 1)
    assert all(hit.headers["authorization"] == f"Bearer {DEFAULT_TOKEN}" for hit in tokens)


@pytest.fixture
def served(hub: HubServer, store: Path) -> Iterator[XetServer]:
    """The same store over HTTP."""
    with XetServer(store) as server:
        hub.api.xet_endpoint = server.endpoint
        yield server


def test_a_worker_reads_a_store_over_http_and_hands_on_no_token_of_the_hub(
    start: Callable[[str], Service], hub: HubServer, served: XetServer
) -> None:
    service = start("auto")
    end = service.bring("hf:org/xet/model.safetensors")
    assert end["stage"] == "complete", end
    assert end["verified"] is True
    assert file_sha256(end["local_path"]) == LARGE.sha256()
    assert served.bytes_of_blocks() > 0
    assert hub.bytes_sent("*model.safetensors", origin="cdn") == 0
    assert DEFAULT_TOKEN not in served.tokens_seen()
    shown = [*(hit.path + hit.query for hit in hub.hits()), service.workers.output, service.server.output]
    assert not any(token in text for token in served.tokens_seen() for text in shown)


def test_a_store_that_refuses_its_blocks_is_made_good_by_http_without_showing_their_urls(
    start: Callable[[str], Service], hub: HubServer, served: XetServer
) -> None:
    served.faults.add(faults.status(403), "/blocks/*")
    service = start("auto")
    end = service.bring("hf:org/xet/model.safetensors")
    assert end["stage"] == "complete", end
    assert file_sha256(end["local_path"]) == LARGE.sha256()
    assert hub.bytes_sent("*model.safetensors", origin="cdn") >= LARGE.size
    wait_for(lambda: "this transport does not bring the file" in service.workers.output, "it says so")
    assert "Signature=" not in service.workers.output


def test_under_a_limit_files_come_over_http_which_does_not_run_ahead(
    start: Callable[[str], Service], hub: HubServer, store: Path
) -> None:
    end = start("auto").bring("hf:org/xet/model.safetensors", max_bytes_per_second=100 * MIB)
    assert end["stage"] == "complete", end
    assert hub.hits("*xet-read-token*") == []
    assert hub.bytes_sent("*model.safetensors", origin="cdn") >= LARGE.size


def test_a_store_that_is_gone_is_made_good_by_http(
    start: Callable[[str], Service], hub: HubServer, store: Path
) -> None:
    for block in (store / "xet" / "xorbs" / "xorbs").iterdir():
        if block.is_file():
            block.unlink()
    service = start("auto")
    end = service.bring("hf:org/xet/model.safetensors")
    assert end["stage"] == "complete", end
    assert file_sha256(end["local_path"]) == LARGE.sha256()
    wait_for(lambda: "this transport does not bring the file" in service.workers.output, "it says so")
    assert hub.bytes_sent("*model.safetensors", origin="cdn") >= LARGE.size


def test_a_worker_that_is_stopped_leaves_at_once_and_another_goes_on_over_xet(
    start: Callable[[str], Service], hub: HubServer, store: Path
) -> None:
    service = start("xet")
    download_id = service.post("hf:org/xet/model.safetensors", max_bytes_per_second=4 * MIB)["download_id"]
    watch = service.watch(download_id)
    wait_for(lambda: watch.events and watch.last["bytes_downloaded"] > 4 * MIB)
    began = time.monotonic()
    service.workers.signal(signal.SIGTERM)
    assert service.workers.wait() == 0
    assert time.monotonic() - began < AT_ONCE_S
    with stopping(Workers(service.env)):
        end = watch.wait(60).last
    assert end["stage"] == "complete", end
    assert end["attempt"] == 2
    assert file_sha256(end["local_path"]) == LARGE.sha256()
    assert hub.bytes_sent("*model.safetensors", origin="cdn") == 0


def test_a_worker_that_waits_for_a_silent_store_leaves_at_once(
    start: Callable[[str], Service], hub: HubServer, served: XetServer
) -> None:
    silence = served.faults.add(faults.stall(1000), "/blocks/*")
    service = start("xet")
    watch = service.watch(service.post("hf:org/xet/model.safetensors")["download_id"])
    served.log.wait_for("/blocks/*", sent_bytes=1000)
    began = time.monotonic()
    service.workers.signal(signal.SIGTERM)
    assert service.workers.wait() == 0
    assert time.monotonic() - began < AT_ONCE_S
    served.faults.remove(silence)
    with stopping(Workers(service.env)):
        end = watch.wait(60).last
    assert end["stage"] == "complete", end
    assert file_sha256(end["local_path"]) == LARGE.sha256()
    assert hub.bytes_sent("*model.safetensors", origin="cdn") == 0
