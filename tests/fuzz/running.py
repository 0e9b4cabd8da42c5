"""Runs schemathesis against a server, as a command of its own: its machinery stays out of pytest's process.

Generated from a fixed beginning, so that two runs send the same requests in the same order; what the server answers
may differ, but no answer may be wrong.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hive.api.app import HUB_KINDS
from hive.wire.api import OLLAMA_PATHS

#: Streams never end by themselves: tests/fuzz/test_streams.py asks for them.
STREAMS = ("/v1/models/download/progress", "/v1/downloads/progress")
#: The Hub's addresses refuse in the Hub's form, by headers, and not in the document's: tests/doors has their odd ones.
HUB = (
    *("/api/whoami-v2", "/api/{id}", *(f"/api/{kind}/{{id}}" for kind in HUB_KINDS)),
    *sorted(OLLAMA_PATHS),
    "/api/{name}",
    *(f"/{kind}/{{org}}/{{name}}/resolve/{{id}}" for kind in HUB_KINDS[1:]),
    *("/{org}/{name}/resolve/{id}", "/{name}/resolve/{id}", "/v2/{org}/{name}/manifests/{tag}"),
)
#: Seconds for one answer, and beside that for a whole run.
REQUEST_TIMEOUT_S = 60
RUN_TIMEOUT_S = 3600

#: Left out: a valid reference may mean nothing (positive_data_acceptance); a cancelled download is still there
#: (use_after_free), and an id that exists may be another's (ensure_resource_availability); a server without keys asks
#: for none (ignored_auth, missing_required_header). A body may be refused as too large before it is read. Which 503 are
#: right is seen by hooks.py.
CONFIG = """
[checks]
positive_data_acceptance.enabled = false
use_after_free.enabled = false
ensure_resource_availability.enabled = false
ignored_auth.enabled = false
missing_required_header.enabled = false
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 421, 429, 431, 503]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
[generation]
with-security-parameters = false
"""


class Outcome(NamedTuple):
    """How a run ended: `requests` were sent; `report` says what was found."""

    passed: bool
    requests: int
    report: str


def fuzz(
    url: str,
    folder: Path,
    *,
    examples: int,
    seed: int | None = None,
    known: Mapping[str, list[str]] | None = None,
    headers: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> Outcome:
    """Send `examples` generated requests for each operation, and those that its schema's bounds suggest.

    `seed`: other requests; None for those of every run.
    `without`: paths that are left out.
    """
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command += ["--config-file", str(config), "run", f"{url}/openapi.json", "--phases", "coverage,fuzzing"]
    command += ["-n", str(examples), "--request-timeout", str(REQUEST_TIMEOUT_S), "--warnings", "off", "--no-color"]
    command += (
        ["--generation-deterministic"] if seed is None else ["--seed", str(seed), "--generation-database", "none"]
    )
    for path in (*STREAMS, *HUB, *without):
        command += ["--exclude-path", path]
    for name, value in (headers or {}).items():
        command += ["--header", f"{name}: {value}"]
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": root}
    env["HIVE_FUZZ_KNOWN"] = json.dumps(known or {})
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    sent = re.search(r"(\d[\d,]*) generated", done.stdout)
    return Outcome(done.returncode == 0, int(sent[1].replace(",", "")) if sent else 0, done.stdout + done.stderr)
