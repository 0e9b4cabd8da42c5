"""The page in a real browser: what it shows, what can be done with it, by mouse, by keyboard, in two tabs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from hive.settings import Settings
from hive.wire.api import MANY_PATH
from tests.support.axe import violations
from tests.support.gc import age, partial
from tests.support.page import GB, HOSTILE, Stage, put_models, put_sparse, staged
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: Milliseconds that a step may take on a machine that has other things to do.
expect.set_options(timeout=60_000)
#: Counts what is put in and taken out below the table of downloads.
COUNT_MOVES = """() => {
  window.moves = 0;
  new MutationObserver((seen) => {
    for (const one of seen) {
      if ([...one.addedNodes, ...one.removedNodes].some((node) => node.nodeType === Node.ELEMENT_NODE)) moves += 1;
    }
  }).observe(document.querySelector("hive-downloads tbody"), { childList: true, subtree: true });
}"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as made:
        put_models(Settings.from_env(made.env))
        put_sparse(Settings.from_env(made.env), "org/zeros", {"model.safetensors": 10**6})
        yield made


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained of: the policy, a script that failed."""
    return []


@pytest.fixture
def page(shared: BrowserContext, stage: Stage, complaints: list[str]) -> Iterator[Page]:
    opened = shared.new_page()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    opened.goto(stage.server.url)
    opened.wait_for_function("() => document.documentElement.dataset.link === 'open'")
    yield opened
    opened.close()
    assert [text for text in complaints if "Failed to load resource" not in text and "ERR_" not in text] == []


def row(page: Page, download_id: str) -> Locator:
    return page.locator(f'tr[data-id="{download_id}"]')


def record(stage: Stage, download_id: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{stage.server.url}/v1/downloads/{download_id}", timeout=60).json()
    return found


def test_it_is_drawn_before_the_api_answers_and_is_light(shared: BrowserContext, stage: Stage) -> None:
    page = shared.new_page()
    weights: list[int] = []
    page.on("requestfinished", lambda request: weights.append(request.sizes()["responseBodySize"]))
    page.route("**/v1/**", lambda route: None)  # never answered
    page.goto(stage.server.url)
    expect(page.get_by_label("Which model?")).to_be_visible()
    expect(page.get_by_role("heading", name="On disk")).to_be_visible()
    page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length === 1")
    assert len(weights) > 15
    assert sum(weights) < 80 * 1024
    page.unroute_all(behavior="ignoreErrors")
    page.close()


def test_a_row_moves_with_its_download_in_two_tabs_and_after_a_reload(
    page: Page, shared: BrowserContext, stage: Stage
) -> None:
    download_id = stage.drawn.running("org/moving", 0.25, 4 * GB)
    other = shared.new_page()
    other.goto(stage.server.url)
    for tab in (page, other):
        expect(row(tab, download_id)).to_contain_text("25 % · 1.0 GB of 4.0 GB")
    stage.drawn.progress(download_id, 2 * GB, 4 * GB, 100_000_000)
    for tab in (page, other):
        expect(row(tab, download_id)).to_contain_text("50 % · 2.0 GB of 4.0 GB")
        expect(row(tab, download_id)).to_contain_text("100.0 MB/s")
        expect(row(tab, download_id)).to_contain_text("20 s left")
    page.reload()
    expect(row(page, download_id)).to_contain_text("50 %")
    expect(page).to_have_title(re.compile(r"^\d+ % · hive$"))
    stage.drawn.complete(download_id, 4 * GB)
    for tab in (page, other):
        expect(row(tab, download_id)).to_contain_text("Done")
        expect(tab.get_by_role("status")).to_have_text("org/moving is there.")
    other.close()


def test_what_goes_quickly_is_shown_too(page: Page, stage: Stage) -> None:
    download_id = stage.drawn.failed("org/quick", "DOWNLOAD_FAILED", "It broke.")
    expect(row(page, download_id)).to_contain_text("Failed · It broke.")
    page.reload()
    expect(row(page, download_id)).to_contain_text("Failed · It broke.")
    row(page, download_id).get_by_role("button", name="Dismiss").click()
    expect(row(page, download_id)).to_have_count(0)
    later = stage.drawn.failed("org/shown-later", "DOWNLOAD_FAILED", "It broke too.")
    page.reload()
    expect(row(page, later)).to_be_visible()
    expect(row(page, download_id)).to_have_count(0)


def test_every_control_does_what_it_says(page: Page, stage: Stage) -> None:
    waiting, running = stage.drawn.queued("org/waiting"), stage.drawn.running("org/running")
    row(page, waiting).get_by_label("Priority of org/waiting").select_option("high")
    wait_for(lambda: record(stage, waiting)["priority"] == "high")
    row(page, waiting).get_by_role("button", name="Pause").click()
    expect(row(page, waiting)).to_contain_text("Paused")
    row(page, waiting).get_by_role("button", name="Resume").click()
    expect(row(page, waiting).get_by_role("button", name="Pause")).to_be_visible()
    cancel = row(page, waiting).get_by_role("button", name="Cancel")
    cancel.click()
    assert record(stage, waiting)["status"] == "queued", "it asks again first"
    cancel.click()
    expect(row(page, waiting)).to_contain_text("Cancelled")
    row(page, waiting).get_by_role("button", name="Retry").click()
    expect(row(page, waiting)).to_have_count(0)
    expect(page.locator("tr.download", has_text="org/waiting")).to_contain_text("Waits")
    with page.expect_response(lambda answer: answer.url.endswith(f"/{running}/pause")) as paused:
        row(page, running).get_by_role("button", name="Pause").click()
    assert paused.value.status == 202
    slider = page.get_by_label("Bandwidth of all workers")
    slider.focus()
    slider.press("ArrowLeft")
    bandwidth = f"{stage.server.url}/v1/settings/bandwidth"
    wait_for(lambda: requests.get(bandwidth, timeout=60).json()["bytes_per_second"] == 5 * GB)
    slider.press("End")
    wait_for(lambda: requests.get(bandwidth, timeout=60).json()["bytes_per_second"] is None)
    page.get_by_label("Downloads at once").fill("7")
    page.get_by_label("Downloads at once").press("Enter")
    limit = f"{stage.server.url}/v1/settings/downloads"
    wait_for(lambda: requests.get(limit, timeout=60).json()["max_running"] == 7)
    page.get_by_label("Downloads at once").fill("")
    page.get_by_label("Downloads at once").press("Enter")
    wait_for(lambda: requests.get(limit, timeout=60).json()["max_running"] is None)


def waiting(page: Page) -> list[str]:
    """What waits, in the order of the page."""
    return page.locator("tr[data-status=queued] .title").all_inner_texts()


def test_what_waits_is_moved_by_dragging_and_by_the_arrow_keys(page: Page, stage: Stage) -> None:
    ids = []
    for name in "abcd":  # a millisecond for each: those of the same one wait in the order of their ids
        ids.append(stage.drawn.queued(f"queue/{name}"))
        made = record(stage, ids[-1])["created_at"]
        wait_for(lambda made=made: time.time() >= made + 0.001)  # type: ignore[misc]
    for download_id in ids:
        expect(row(page, download_id).get_by_role("button", name="Move")).to_be_visible()

    def places() -> list[str]:
        return [name for name in waiting(page) if name.startswith("queue/")]

    def server_says() -> list[str]:
        found = {name: record(stage, download_id)["ahead"] for name, download_id in zip("abcd", ids, strict=True)}
        return [f"queue/{name}" for name in sorted(found, key=found.__getitem__)]

    assert places() == server_says() == [f"queue/{name}" for name in "abcd"]
    handle, goal = row(page, ids[3]).get_by_role("button", name="Move"), row(page, ids[1])
    handle.scroll_into_view_if_needed()
    handle.hover()
    page.mouse.down()
    goal.scroll_into_view_if_needed()
    box = goal.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 30, box["y"] + 4, steps=5)
    expect(goal).to_have_attribute("data-drop", "before")
    page.mouse.up()
    wait_for(lambda: places() == ["queue/a", "queue/d", "queue/b", "queue/c"])
    assert server_says() == places()
    expect(page.locator("[data-drop], [data-dragged]")).to_have_count(0)

    row(page, ids[0]).get_by_role("button", name="Move").press("ArrowDown")
    wait_for(lambda: places() == ["queue/d", "queue/a", "queue/b", "queue/c"])
    page.wait_for_function("() => document.activeElement.ariaLabel === 'Move queue/a'")
    page.keyboard.press("ArrowDown")
    wait_for(lambda: places() == ["queue/d", "queue/b", "queue/a", "queue/c"])
    assert server_says() == places()

    row(page, ids[2]).get_by_label("Priority of").select_option("high")
    page.mouse.move(5, 5)
    page.get_by_label("Which model?").focus()  # nothing is put in order below a hand
    wait_for(lambda: places()[0] == "queue/c")
    row(page, ids[1]).get_by_role("button", name="Move").press("ArrowUp")
    wait_for(lambda: places()[:2] == ["queue/c", "queue/b"])
    row(page, ids[1]).get_by_role("button", name="Move").press("ArrowUp")
    wait_for(lambda: places()[:2] == ["queue/b", "queue/c"])
    expect(row(page, ids[1]).get_by_label("Priority of")).to_have_value("high")

    handle = row(page, ids[1]).get_by_role("button", name="Move")
    handle.hover()
    page.mouse.down()
    page.mouse.move(10, box["y"] + 500, steps=3)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert places()[0] == "queue/b", "Escape lets go"
    for download_id in ids:
        requests.delete(f"{stage.server.url}/v1/downloads/{download_id}", timeout=60)


def test_models_can_be_used_and_deleted_and_history_is_found(page: Page, stage: Stage) -> None:
    model = page.locator("hive-models tr", has_text="openai/whisper")
    model.get_by_text("Use it").click()
    expect(model).to_contain_text("vllm serve openai/whisper-large-v3-turbo")
    delete = model.get_by_role("button", name="Delete")
    delete.click()
    delete.click()
    expect(model).to_have_count(0)
    stage.drawn.failed("org/for-history", "DOWNLOAD_FAILED", "It broke here.")
    stage.drawn.complete(stage.drawn.running("org/history-done"))
    page.locator("hive-history summary").click()
    page.get_by_label("Find in the history").fill("HISTORY")
    expect(page.locator("hive-history tbody tr")).to_have_count(2)
    page.get_by_label("How it ended").select_option("failed")
    expect(page.locator("hive-history tbody tr")).to_have_count(1)
    expect(page.locator("hive-history tbody tr")).to_contain_text("It broke here.")


def test_a_model_is_verified_and_what_is_wrong_with_it_said(page: Page, stage: Stage) -> None:
    model = page.locator("hive-models tr", has_text="org/zeros")
    model.get_by_role("button", name="Verify").click()
    expect(model.locator(".note")).to_contain_text("model.safetensors: ")
    model.get_by_role("button", name="Fetch what is wrong again").click()
    expect(page.locator("tr.download", has_text="org/zeros")).to_contain_text("Waits")


def test_what_has_not_come_whole_is_listed_and_what_nobody_needs_is_removed(page: Page, stage: Stage) -> None:
    settings = Settings.from_env(stage.env)
    download_id = stage.drawn.running("org/half-way")
    partial(settings, f"{'cd' * 32}.{download_id}.part").write_bytes(b"x" * 50_000)
    old = partial(settings, f"{'ab' * 32}.part")
    old.write_bytes(b"x" * 200_000)
    age(old)
    page.get_by_text("Files that have not come whole").click()
    listed = page.locator("hive-partials li")
    expect(listed.filter(has_text="org/half-way")).to_contain_text("goes on")
    expect(listed.first).to_contain_text("abababababab")
    expect(listed.first).to_contain_text("left")
    page.get_by_role("button", name="Free room").click()
    remove = page.get_by_role("button", name="Remove")
    remove.click()
    page.get_by_role("button", name="Really remove?").click()
    expect(page.get_by_role("status")).to_contain_text("are free again.")
    assert not old.exists()


#: Notes what the browser is asked to show, and lets a test say that nobody looks at the page.
NOTED = """() => {
  window.shown = [];
  const Real = Notification;
  window.Notification = class extends Real { constructor(title, more) { super(title, more); shown.push(more.body); } };
  Object.defineProperty(document, "hidden", { get: () => window.away === true });
}"""


def test_who_asks_for_it_is_told_of_an_end_while_the_page_is_not_seen(shared: BrowserContext, stage: Stage) -> None:
    shared.grant_permissions(["notifications"], origin=stage.server.url)
    page = shared.new_page()
    page.add_init_script(f"({NOTED})()")
    page.goto(stage.server.url)
    page.wait_for_function("() => document.documentElement.dataset.link === 'open'")
    bell = page.get_by_role("button", name="Notify me")
    expect(bell).to_have_attribute("aria-pressed", "false")
    bell.click()
    expect(bell).to_have_attribute("aria-pressed", "true")
    seen, unseen = stage.drawn.running("org/seen"), stage.drawn.running("org/unseen")
    for download_id in (seen, unseen):
        expect(row(page, download_id)).to_contain_text("Downloading")
    stage.drawn.complete(seen)
    expect(row(page, seen)).to_contain_text("Done")
    page.evaluate("window.away = true")
    stage.drawn.complete(unseen)
    page.wait_for_function("() => shown.length > 0")
    assert page.evaluate("shown") == ["org/unseen is there"]
    page.evaluate("window.away = false")
    bell.click()
    expect(bell).to_have_attribute("aria-pressed", "false")
    page.close()
    shared.clear_permissions()


def test_hostile_names_are_texts(page: Page, stage: Stage) -> None:
    ids = [stage.drawn.running(name) for name in HOSTILE]
    ids.append(stage.drawn.failed("org/hostile", "DOWNLOAD_FAILED", "<script>document.title='x'</script>"))
    ids.append(stage.drawn.failed("org/link", "MODEL_ACCESS_DENIED", "No.", page="javascript:document.body.remove()"))
    for download_id in ids:
        expect(row(page, download_id)).to_be_visible()
    assert page.locator("hive-downloads img, hive-downloads script").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    shown = row(page, ids[2]).locator("bdi").inner_text()
    assert not set("\u202a\u202b\u202c\u202d\u202e") & set(shown)
    assert row(page, ids[0]).locator("bdi").inner_text() == HOSTILE[0]
    page.set_viewport_size({"width": 320, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.set_viewport_size({"width": 1280, "height": 720})


def test_fifty_rows_are_changed_in_place(page: Page, stage: Stage) -> None:
    """That no task is long is measured by scripts/bench page; here is what makes it so: no element comes or goes."""
    ids = [stage.drawn.running(f"crowd/model-{n}", 0.1) for n in range(50)]
    for download_id in ids:
        expect(row(page, download_id)).to_have_count(1)
    page.wait_for_function("() => !document.querySelector('tr[data-status=resolving]')")
    page.evaluate(COUNT_MOVES)
    for step in range(5):
        for download_id in ids:
            stage.drawn.progress(download_id, GB + step * 10**8, 5 * GB)
    for download_id in ids:
        expect(row(page, download_id)).to_contain_text("28 %")
    assert page.evaluate("moves") == 0
    for download_id in ids:
        stage.drawn.complete(download_id)
    expect(page.locator("tr[data-status=complete]", has_text="crowd/")).to_have_count(50)
    page.get_by_role("button", name="Clear ended").click()
    expect(page.locator("tr.download", has_text="crowd/")).to_have_count(0)


def test_it_can_be_used_by_keyboard_alone(page: Page, stage: Stage) -> None:
    download_id = stage.drawn.queued("org/by-keyboard")
    expect(row(page, download_id)).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "[document.activeElement.ariaLabel || document.activeElement.textContent,"
            " getComputedStyle(document.activeElement).outlineStyle, document.activeElement.tagName]"
        )
        if focused[2] not in ("BODY", "HTML", "INPUT"):
            assert focused[1] == "solid", focused
        reached.add(focused[0])
        if focused[0] == "Pause org/by-keyboard":
            break
    assert "Pause org/by-keyboard" in reached
    page.keyboard.press("Enter")
    expect(row(page, download_id)).to_contain_text("Paused")
    page.wait_for_function("() => document.activeElement.ariaLabel === 'Resume org/by-keyboard'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Page, stage: Stage, scheme: str) -> None:
    if page.get_by_role("button", name="Clear ended").is_visible():
        page.get_by_role("button", name="Clear ended").click()
    stage.drawn.running(f"org/axe-{scheme}")
    variants = [{"name": "Q8_0", "size": GB, "files": ["m-Q8_0.gguf"]}]
    stage.drawn.failed(f"org/gated-{scheme}", "MODEL_ACCESS_DENIED", "No.", page="https://huggingface.co/org/x")
    stage.drawn.failed(f"org/variant-{scheme}", "VARIANT_NOT_FOUND", "No.", variants=variants)
    expect(page.locator("tr.download", has_text=f"org/variant-{scheme}")).to_be_visible()
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.locator("hive-models summary").first.click()
    page.locator("hive-history summary").click()
    page.locator("hive-partials summary").click()
    expect(page.locator("hive-partials .quiet").first).not_to_be_empty()
    page.get_by_text("More choices").click()
    # What is dark is only coloured differently.
    assert violations(page, *([] if scheme == "light" else ["color-contrast"])) == []
    page.emulate_media(color_scheme="light")


def test_offline_is_said_and_all_is_current_when_it_is_back(page: Page, shared: BrowserContext, stage: Stage) -> None:
    download_id = stage.drawn.running("org/through-the-dark", 0.25, 4 * GB)
    expect(row(page, download_id)).to_contain_text("25 %")
    shared.set_offline(True)
    expect(page.locator("#lost")).to_be_visible()
    stage.drawn.complete(download_id, 4 * GB)
    shared.set_offline(False)
    expect(page.locator("#lost")).to_be_hidden()
    expect(row(page, download_id)).to_contain_text("Done")


class Fault:
    """Answers of the page's own questions in place of the server's, while it is `on`; counts them."""

    def __init__(self, page: Page, address: str, **answer: Any) -> None:
        """`answer`: what `Route.fulfill` takes; none: the connection breaks."""
        self.on, self.asked, self._answer = True, 0, answer
        page.route(re.compile(address), self._take)

    def _take(self, route: Route) -> None:
        if not self.on:
            return route.fallback()
        self.asked += 1
        return route.fulfill(**self._answer) if self._answer else route.abort()


def refused(status: int, message: str, **headers: str) -> dict[str, Any]:
    """An error of the API."""
    body = {"error": {"code": "REFUSED", "message": message, "details": {}}}
    return {"status": status, "json": body, "headers": {name.replace("_", "-"): text for name, text in headers.items()}}


@pytest.fixture
def timed(shared: BrowserContext, stage: Stage, complaints: list[str]) -> Iterator[Page]:
    """A page whose clock a test moves; it has asked for nothing yet."""
    made = shared.new_page()
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.clock.install()
    yield made
    made.unroute_all(behavior="ignoreErrors")
    made.close()
    assert complaints == []


def test_what_cannot_be_read_at_first_is_read_again_by_itself(timed: Page, stage: Stage) -> None:
    waits = stage.drawn.queued("org/read-late")
    stage.drawn.failed("org/ended-late", "DOWNLOAD_FAILED", "It broke.")
    faults = {
        "hive-downloads": Fault(timed, r"/v1/downloads\?status=active"),
        "hive-models": Fault(timed, "/v1/models$", **refused(503, "The server starts.")),
        "hive-partials": Fault(timed, "/v1/partials$", **refused(500, "It broke.")),
        "hive-history": Fault(timed, r"/v1/downloads\?status=ended", **refused(429, "Too many.", retry_after="1")),
        "hive-memory": Fault(timed, "/v1/workers/list$", status=502, body="<html>no gateway</html>"),
        "hive-fleet": Fault(timed, "/v1/workers$", status=200, body="<html>sign in to the network</html>"),
    }
    timed.goto(stage.server.url)
    for name in ("hive-partials", "hive-history"):
        timed.locator(f"{name} > details > summary").click()
    for name, fault in faults.items():
        expect(timed.locator(f"{name} .unread")).to_contain_text("It is read again at ")
        expect(timed.locator(f"{name} .empty:visible")).to_have_count(0)
        assert fault.asked > 0
    assert violations(timed) == []
    for fault in faults.values():
        fault.on = False
    timed.clock.fast_forward(40_000)  # longer than the longest wait
    expect(row(timed, waits)).to_be_visible()
    expect(timed.locator("hive-models tr", has_text="meta-llama")).to_be_visible()
    expect(timed.locator("hive-history tr", has_text="org/ended-late")).to_be_visible()
    expect(timed.get_by_text("No model is in memory.")).to_be_visible()
    expect(timed.locator(".unread")).to_have_count(0)


def test_a_region_is_not_asked_for_before_the_servers_time_and_not_at_all_where_time_does_not_help(
    timed: Page, stage: Stage
) -> None:
    limited = Fault(timed, "/v1/models$", **refused(429, "Too many requests.", retry_after="600"))
    denied = Fault(timed, "/v1/workers/list$", **refused(403, "This key may not."))
    failing = Fault(timed, "/v1/settings/bandwidth$", **refused(503, "Not now."))
    opened: list[str] = []  # with each stream all is read, but for what is to wait
    timed.on("request", lambda request: opened.append(request.url) if MANY_PATH in request.url else None)
    timed.goto(stage.server.url)
    models, memory = timed.locator("hive-models .unread"), timed.locator("hive-memory .unread")
    expect(models).to_contain_text("Too many requests. It is read again at")
    expect(memory).to_contain_text("This key may not.")
    expect(memory).not_to_contain_text("again")
    for _ in range(8):  # waits that have an end
        before = failing.asked
        with timed.expect_response("**/v1/settings/bandwidth"):
            timed.clock.fast_forward(40_000)
        assert failing.asked > before
    stage.drawn.complete(stage.drawn.running("org/while-limited"))  # has the models read, at other times
    expect(timed.locator("tr.download", has_text="org/while-limited")).to_contain_text("Done")
    assert limited.asked == 1
    assert denied.asked <= len(opened)
    limited.on = denied.on = False
    with timed.expect_response("**/v1/models"):
        timed.clock.fast_forward(600_000)
    expect(timed.locator("hive-models tr", has_text="meta-llama")).to_be_visible()
    memory.get_by_role("button", name="Try now").press("Enter")
    expect(timed.get_by_text("No model is in memory.")).to_be_visible()
    assert timed.evaluate("document.activeElement.localName") == "hive-memory", "the focus stays where it was"


def test_what_was_read_stays_when_it_cannot_be_read_again(timed: Page, stage: Stage) -> None:
    worker: dict[str, Any] = dict.fromkeys(("url", "model_ref", "download_id"), "")
    worker |= {"id": "w1", "model_id": "org/loaded", "backend": "cpu", "device": 0, "state": "idle"}
    worker |= {"slots_total": 1, "slots_available": 1}
    Fault(timed, "/v1/workers/list$", status=200, json={"workers": [worker]})
    timed.goto(stage.server.url)
    prompt = timed.get_by_label("Prompt for org/loaded")
    prompt.fill("a long question")
    Fault(timed, "/v1/workers/list$", **refused(503, "Redis does not answer."))
    timed.clock.fast_forward(20_000)
    expect(timed.locator("hive-memory .unread")).to_contain_text("Redis does not answer. What is shown may be old.")
    expect(prompt).to_have_value("a long question")
