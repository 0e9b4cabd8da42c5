"""What an attack costs those who are there: streams and downloads on a quiet server, then under everything at once.

The server, its Redis, the workers, the Hub, the subscribers and the attackers share the machine's cores, so the figure
is not what the server alone would show: on two cores the attackers take most of one. What counts is the ratio of the
two phases, which are measured one after the other in the same run with the same processes.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

from redis import Redis as Redis_

from benchmarks import machine
from benchmarks.attack import CONNECTIONS, Attack
from benchmarks.generator import Generator, compile_generator
from benchmarks.publisher import Publisher
from benchmarks.running import Redis, Server, Workers
from benchmarks.statichub import REPO, Listed, StaticHub, write_random
from benchmarks.stream import END_S, HIVE_PATH, RATE_PER_S, WARM_UP_S
from benchmarks.table import print_table
from hive.auth.keys import KeyFile
from hive.wire import keys

#: Downloads at once, bytes of each, and bytes a second of each: without an attack they take 16 s.
DOWNLOADS: Final = 4
DOWNLOAD_BYTES: Final = 32 << 20
DOWNLOAD_BYTES_PER_S: Final = 2 << 20
#: Seconds after which a phase ends though downloads are under way, and after which every attacker ends.
PHASE_TIMEOUT_S: Final = 45.0
ATTACK_TIMEOUT_S: Final = 120.0
#: Seconds between two looks at the downloads, and for one answer.
LOOK_S: Final = 0.5
ANSWER_TIMEOUT_S: Final = 15.0


#: All streams are of one key here, and connect at once. The limits of those who have none stay as they are.
_MANY_OF_ONE_KEY: Final = {"HIVE_MAX_STREAMS_PER_KEY": "0", "HIVE_MAX_REQUESTS_PER_SECOND": "0"}


@dataclass
class Phase:
    """What one phase showed; a download that did not end in time has none."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    deliveries_per_s: float = 0.0
    downloads_s: list[float] = field(default_factory=list)
    cpu_percent: float = 0.0
    rss_mib: float = 0.0
    open_streams: int = 0
    answer_ms: float = 0.0


def measure(folder: Path, subscribers: int) -> None:
    """Both phases, and the table."""
    program = compile_generator(folder)
    files = [write_random(folder / "files" / f"model-{n}.gguf", DOWNLOAD_BYTES) for n in range(2 * DOWNLOADS)]
    # Attackers have no key; streams come with a ticket, as a page's would.
    key = KeyFile(folder / "home" / "keys.json").add("load", ("admin",)).text
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(StaticHub(folder / "nginx", folder / "files", files))
        redis = stack.enter_context(Redis(folder / "redis", None))
        settings = {"HF_ENDPOINT": hub.url, "HIVE_KEEP_FREE_PERCENT": "0", **_MANY_OF_ONE_KEY}
        server = stack.enter_context(Server(redis.url, folder, None, 1, **settings))
        stack.enter_context(Workers(redis.url, folder, DOWNLOADS, **settings))
        caller = stack.enter_context(Caller(server.url, redis.url, key))
        publisher = stack.enter_context(Publisher(redis.url, 1, RATE_PER_S))
        ticket = caller.call("/v1/tickets", {"ids": publisher.ids, "ttl": 3600})["ticket"]
        path = f"{HIVE_PATH}{publisher.ids[0]}&ticket={ticket}"
        generator = stack.enter_context(Generator(program, server.port, [path], subscribers))
        publisher.tell("go")
        time.sleep(WARM_UP_S)
        _say(f"{subscribers} streams are open; {DOWNLOADS} downloads without an attack")
        quiet = _phase(caller, server.pid, generator, files[:DOWNLOADS])
        with contextlib.ExitStack() as attackers:
            attacks = {
                kind: attackers.enter_context(Attack(kind, server.port, ATTACK_TIMEOUT_S)) for kind in CONNECTIONS
            }
            for attack in attacks.values():
                attack.tell("count")
            _say("attackers are there; the same again")
            began_s = time.monotonic()
            loaded = _phase(caller, server.pid, generator, files[DOWNLOADS:])
            thrown = {kind: attack.tell("count") for kind, attack in attacks.items()}
            seconds = time.monotonic() - began_s
        publisher.tell("finish")
        ends = generator.tell(f"end {END_S}")
    _print(quiet, loaded, subscribers, ends, thrown, seconds)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Caller:
    """Somebody with a key who asks for models and looks after them."""

    def __init__(self, url: str, redis_url: str, key: str) -> None:
        self._url = url
        self._key = key
        self._redis = Redis_.from_url(redis_url, socket_timeout=ANSWER_TIMEOUT_S)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def call(self, path: str, body: object = None) -> Any:
        """The answer, which must be a good one. Raises OSError."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Authorization": f"Bearer {self._key}"})  # noqa: S310
        with urlopen(request, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)

    def ask(self, file: Listed, until_s: float) -> str | None:
        """The id of a download, asked for until there is an answer; None where there was none until then."""
        body = {"model_ref": f"hf:{REPO}/{file.name}", "max_bytes_per_second": DOWNLOAD_BYTES_PER_S}
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError):
                made: dict[str, str] = self.call("/v1/models/download", body)
                return made["download_id"]
        return None

    def took_s(self, download_id: str) -> float | None:
        """Seconds from the request to the end, as the record has them, however busy the server is; None before it.

        Raises:
            RuntimeError: it ended otherwise than well.
        """
        state, created_ms, ended_ms = self._redis.hmget(keys.record(download_id), "state", "created_ms", "ended_ms")
        if state == b"complete":
            return (int(ended_ms or 0) - int(created_ms or 0)) / 1000
        if state not in (b"queued", b"running"):
            raise RuntimeError(f"a download is {state!r}")
        return None


def _phase(caller: Caller, pid: int, generator: Generator, files: Sequence[Listed]) -> Phase:
    """Downloads from their request to their end, and the streams meanwhile."""
    phase = Phase()
    generator.tell("window")
    cpu_s, began_s = machine.cpu_s(pid), time.monotonic()
    asked = [caller.ask(file, began_s + PHASE_TIMEOUT_S) for file in files]
    waiting = [download_id for download_id in asked if download_id is not None]
    answers_ms = []
    while waiting and time.monotonic() - began_s < PHASE_TIMEOUT_S:
        time.sleep(LOOK_S)
        asked_s = time.monotonic()
        with contextlib.suppress(OSError):
            caller.call(f"/v1/downloads/{waiting[0]}")
        answers_ms.append((time.monotonic() - asked_s) * 1000)
        took = {download_id: caller.took_s(download_id) for download_id in waiting}
        phase.downloads_s += [seconds for seconds in took.values() if seconds is not None]
        waiting = [download_id for download_id, seconds in took.items() if seconds is None]
        phase.rss_mib = max(phase.rss_mib, machine.memory(pid).rss_kib / 1024)
    window = generator.tell("window")
    phase.cpu_percent = (machine.cpu_s(pid) - cpu_s) * 100 / (time.monotonic() - began_s)
    phase.p50_ms, phase.p99_ms, phase.max_ms = (window["latency"][name] for name in ("p50_ms", "p99_ms", "max_ms"))
    phase.deliveries_per_s = window["frames"] / window["seconds"]
    phase.open_streams = window["open"]
    phase.answer_ms = statistics.median(answers_ms) if answers_ms else 0.0
    return phase


def _print(
    quiet: Phase, loaded: Phase, subscribers: int, ends: dict[str, Any], thrown: dict[str, Any], seconds: float
) -> None:
    def row(what: str, name: str, digits: int = 0) -> list[str]:
        before, after = float(getattr(quiet, name)), float(getattr(loaded, name))
        ratio = f"{after / before:.2f}" if before and after else ""
        return [what, *(f"{figure:,.{digits}f}" if figure else "none" for figure in (before, after)), ratio]

    longest = [max(phase.downloads_s) if len(phase.downloads_s) == DOWNLOADS else 0.0 for phase in (quiet, loaded)]
    took = [f"{seconds_:.1f}" if seconds_ else "not all ended" for seconds_ in longest]
    rows = [
        row("streams: p50 from publish to client, ms", "p50_ms", 1),
        row("streams: p99, ms", "p99_ms", 1),
        row("streams: max, ms", "max_ms", 1),
        row("streams: deliveries a second", "deliveries_per_s"),
        row("streams open at the end", "open_streams"),
        [f"the last of {DOWNLOADS} downloads, s", *took, f"{longest[1] / longest[0]:.2f}" if all(longest) else ""],
        row("GET /v1/downloads/{id}, median, ms", "answer_ms", 1),
        row("CPU of the server process, % of a core", "cpu_percent"),
        row("memory of the server process, MiB", "rss_mib"),
        ["ends seen / subscribers; [DONE] seen", "", f"{ends['terminals']}/{subscribers}; {ends['dones']}", ""],
    ]
    print_table(
        f"{subscribers:,} streams and {DOWNLOADS} downloads under attack", ["", "quiet", "attack", "ratio"], rows
    )
    lines = []
    for kind, counts in thrown.items():
        opened, out = counts.get("opened", 0) / seconds, counts.get("thrown out", 0) / seconds
        sent = counts.get("sent", counts.get("bytes", 0)) / seconds
        answered = ", ".join(f"{name} {counts[name] / seconds:,.0f}" for name in sorted(counts) if name.endswith("xx"))
        lines.append([kind, f"{counts['open']:,}", f"{opened:,.0f}", f"{out:,.0f}", f"{sent:,.0f}", answered])
    head = ["attack", "open at the end", "opened a second", "thrown out a second", "sent a second", "answers a second"]
    print_table(f"What the attackers did in {seconds:.0f} s", head, lines)
