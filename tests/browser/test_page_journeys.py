"""Whole journeys on the page, with workers, the stand-in of the Hub and keys: ask, choose, watch, use."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from playwright.sync_api import BrowserContext, Page, Response, expect

from hive.auth.keys import KeyFile
from tests.hub import SyntheticFile
from tests.hub.access import DEFAULT_TOKEN
from tests.hub.server import HubServer
from tests.support.axe import violations
from tests.support.balancer import Balancer
from tests.support.content import MIB
from tests.support.gguf_models import write_reciting
from tests.support.keys import make
from tests.support.llm import ENGINE, PIECES, RECITED
from tests.support.page import GB, Stage, staged
from tests.support.processes import Server, Workers, stopping

pytestmark = pytest.mark.slow

#: Milliseconds that a step may take on a machine that has other things to do.
expect.set_options(timeout=60_000)
#: The page's one stream.
STREAM = "/v1/downloads/progress"
#: Everything that a page can find out about the key that it was given.
KEPT = "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, document.documentElement.outerHTML])"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    reciting = write_reciting(tmp_path_factory.mktemp("model") / "m-Q4_K_M.gguf", PIECES)
    with HubServer() as running:
        quants = {f"m-{name}.gguf": SyntheticFile(n * MIB, seed=n) for n, name in enumerate(("Q2_K", "Q8_0"), 1)}
        running.create("org/quants", quants)
        running.create("org/closed", {"model.safetensors": b"weights"}, gated="manual")
        running.create("org/reciting", {"m-Q4_K_M.gguf": reciting})
        yield running


@pytest.fixture(scope="module")
def stage(hub: HubServer) -> Iterator[Stage]:
    with staged(HF_ENDPOINT=hub.endpoint, **ENGINE) as made, stopping(Workers(made.env)):
        yield made


@pytest.fixture
def page(shared: BrowserContext) -> Iterator[Page]:
    opened = shared.new_page()
    yield opened
    opened.close()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Which model?").fill(text)
    page.get_by_role("button", name="Look").click()


def test_a_variant_is_chosen_by_its_size_fetched_and_used(page: Page, stage: Stage) -> None:
    page.goto(stage.server.url)
    ask(page, "ollama run hf.co/org/quants")
    plan = page.get_by_role("group", name="What would come")
    expect(plan).to_contain_text("The model has several variants")
    plan.get_by_role("button", name="Q8_0").click()
    expect(plan.get_by_role("heading")).to_have_text("org/quants:Q8_0")
    expect(plan).to_contain_text("It fits")
    assert violations(page) == []
    plan.get_by_role("radio", name="Q2_K").check()
    expect(plan.get_by_role("heading")).to_have_text("org/quants:Q2_K")
    plan.get_by_role("button", name="Download 1.0 MB").click()
    expect(page.locator("tr.download", has_text="org/quants")).to_contain_text("Done")
    model = page.locator("hive-models tr", has_text="org/quants:Q2_K")
    model.get_by_role("button", name="Verify").click()
    expect(model).to_contain_text("Every byte is right")
    model.get_by_text("Use it").click()
    expect(model).to_contain_text("llama-server -m /")
    ask(page, "org/quants:Q2_K")
    expect(plan).to_contain_text("all on disk")


def test_a_data_set_is_used_as_one_and_is_no_model(page: Page, stage: Stage, hub: HubServer) -> None:
    hub.create("datasets/org/set", {"data/a b.parquet": SyntheticFile(MIB)})
    hub.create("datasets/org/closed", {"a.parquet": b"rows"}, gated="manual")
    page.goto(stage.server.url)
    ask(page, "hf download --repo-type dataset org/closed")
    plan = page.get_by_role("group", name="What would come")
    expect(plan.get_by_role("link", name="its terms")).to_have_attribute("href", re.compile("/datasets/org/closed$"))
    ask(page, 'load_dataset("org/set")')
    expect(plan.get_by_role("heading")).to_have_text("datasets/org/set")
    expect(plan.get_by_role("link")).to_have_attribute("href", "https://huggingface.co/datasets/org/set")
    plan.get_by_role("button", name="Download 1.0 MB").click()
    expect(page.locator("tr.download", has_text="datasets/org/set")).to_contain_text("Done")
    expect(page.locator("hive-models .sum")).to_contain_text(re.compile(r"\b1 data set · "))
    found = page.locator("hive-models tr", has_text="datasets/org/set")
    found.get_by_text("Use it").click()
    expect(found).to_contain_text("load_dataset(")
    expect(found).not_to_contain_text("vllm")
    expect(found.get_by_role("button", name="Load into memory")).to_have_count(0)


def test_a_gated_model_comes_with_a_token_that_is_kept_nowhere(page: Page, stage: Stage) -> None:
    page.goto(stage.server.url)
    ask(page, "org/closed")
    plan = page.get_by_role("group", name="What would come")
    expect(plan.get_by_role("link", name="accept its terms")).to_be_visible()
    plan.get_by_label("A token of somebody").fill(DEFAULT_TOKEN)
    plan.get_by_role("button", name="Try with the token").click()
    plan.get_by_role("button", name="Download").click()
    expect(page.locator("tr.download", has_text="org/closed")).to_contain_text("Done")
    assert DEFAULT_TOKEN not in page.evaluate(KEPT)
    assert DEFAULT_TOKEN not in stage.server.output


def test_a_gated_download_that_failed_goes_on_with_a_token(page: Page, stage: Stage, hub: HubServer) -> None:
    hub.create("org/closed-too", {"model.safetensors": b"others"}, gated="manual")
    body = {"model_ref": "hf:org/closed-too"}
    assert requests.post(f"{stage.server.url}/v1/models/download", json=body, timeout=60).status_code == 202
    page.goto(stage.server.url)
    row = page.locator("tr.download", has_text="org/closed-too")
    expect(row).to_contain_text("Failed")
    row.get_by_label("A token of somebody").fill(DEFAULT_TOKEN)
    row.get_by_label("A token of somebody").press("Enter")
    expect(row).to_contain_text("Done")


def test_a_model_is_loaded_tried_and_ended(page: Page, stage: Stage) -> None:
    page.goto(stage.server.url)
    ask(page, "org/reciting")
    page.get_by_role("button", name="Download").click()
    page.get_by_role("button", name="Load into memory org/reciting").click()
    loaded = page.locator("li.loaded", has_text="org/reciting")
    expect(loaded).to_contain_text("Ready · on the CPU")
    loaded.get_by_label("Prompt for").fill("?")
    loaded.get_by_label("Prompt for").press("Control+Enter")
    expect(loaded.get_by_label("Answer of")).to_have_text(RECITED)
    expect(loaded).to_contain_text("tokens")
    assert violations(page) == []
    loaded.get_by_role("button", name=re.compile("^(End|Really end)")).click()
    loaded.get_by_role("button", name=re.compile("^(End|Really end)")).click()
    expect(loaded).to_have_count(0)


def test_a_key_is_asked_for_once_and_not_kept(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = make(KeyFile(file), "read", "pull")
    with staged(HIVE_API_KEYS_FILE=str(file)) as keyed:
        page.goto(keyed.server.url)
        dialog = page.get_by_role("dialog", name="This hive wants a key")
        dialog.get_by_label("API key").fill("hive_wrong")
        dialog.get_by_role("button", name="Open").click()
        expect(dialog.get_by_role("alert")).not_to_be_empty()
        assert violations(page) == []
        dialog.get_by_label("API key").fill(key)
        dialog.get_by_role("button", name="Open").click()
        expect(dialog).to_be_hidden()
        expect(page.get_by_text("Nothing is under way.")).to_be_visible()
        expect(page.get_by_role("heading", name="Fleet")).to_be_hidden()  # this key does not administer
        assert key not in page.evaluate(KEPT)
        page.reload()
        expect(page.get_by_text("No models yet.")).to_be_visible()
        expect(dialog).to_be_hidden()
        page.get_by_role("button", name="Sign out").click()
        expect(dialog).to_be_visible()


def test_the_page_goes_on_when_its_replica_is_killed(page: Page, stage: Stage, tmp_path: Path) -> None:
    with stopping(Server(stage.env)) as one, stopping(Server(stage.env)) as two:
        servers = {str(server.port): server for server in (one, two) if isinstance(server, Server)}
        for server in servers.values():
            server.wait_until_ready()
        with Balancer(tmp_path / "nginx", [int(port) for port in servers]) as balancer:
            answers: list[str] = []
            page.on("response", lambda one: _note(answers, one))
            page.goto(balancer.url)
            download_id = stage.drawn.running("org/survives", 0.25, 4 * GB)
            row = page.locator(f'tr[data-id="{download_id}"]')
            expect(row).to_contain_text("25 %")
            killed = servers[answers[-1].rpartition(":")[2]]
            with page.expect_response(lambda answer: STREAM in answer.url) as moved:
                os.kill(killed.pid, signal.SIGKILL)
                killed.wait()
            assert servers[moved.value.headers["x-replica"].rpartition(":")[2]] is not killed
            stage.drawn.progress(download_id, 3 * GB, 4 * GB)
            expect(row).to_contain_text("75 %")
            stage.drawn.complete(download_id)
            expect(row).to_contain_text("Done")
            expect(page.locator("#lost")).to_be_hidden()


def _note(answers: list[str], answer: Response) -> None:
    """Which replica answers the stream."""
    if STREAM in answer.url and "x-replica" in answer.headers:
        answers.append(answer.headers["x-replica"])
