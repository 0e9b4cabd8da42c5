"""The terminal as a picture: what commands draw on a pseudo-terminal, with its colours, in a browser's window."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from playwright.sync_api import BrowserContext
from rich.console import Console
from rich.text import Text

from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.cli import command
from tests.support.page import Stage, staged
from tests.support.processes import Workers
from tests.support.pty import Terminal

#: Characters of a line, and pixels of the picture.
COLUMNS, WIDTH = 112, 980
#: Bytes of the model, and how fast each connection is: long enough to be seen under way.
MODEL_BYTES, RATE_BYTES_PER_S = 160_000_000, 600_000
#: What begins a picture of the bars anew: the line before is erased.
_AGAIN = re.compile(rb"(?:\r|\x1b\[2K|\x1b\[1A)+")
_FORM = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 20px 24px; background: #15130f; color: #f1ebdf; width: fit-content; }}
pre {{ margin: 0; font: 14px/1.5 "DejaVu Sans Mono", monospace; }} {sheet}
</style><pre>{code}</pre>"""


def take(browser: BrowserContext, path: Path) -> None:
    """Write the picture of a pull under way, and of what `hive ps` says of it."""
    with HubServer(limit_rate_bytes_per_s=RATE_BYTES_PER_S) as hub:
        hub.create("ggml-org/gemma-3-270m-GGUF", {"gemma-3-270m-Q4_K_M.gguf": SyntheticFile(MODEL_BYTES, seed=3)})
        with staged(HF_ENDPOINT=hub.endpoint) as stage:
            workers = Workers(stage.env)
            try:
                text = _commands(stage)
            finally:
                workers.stop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(text)
    page = browser.new_page()
    page.set_viewport_size({"width": WIDTH, "height": 200})
    form = console.export_html(inline_styles=True, code_format="{code}")
    page.set_content(_FORM.format(sheet="", code=form))
    page.locator("body").screenshot(path=str(path))
    page.close()


def _commands(stage: Stage) -> Text:
    env = {**stage.env, "PATH": os.environ["PATH"], "HIVE_HOST": stage.server.url, "COLORTERM": "truecolor"}
    with Terminal(command("pull", "ggml-org/gemma-3-270m-GGUF"), env, columns=COLUMNS) as pull:
        pull.wait_for_text("s left", 20)
        frames = [frame for frame in _AGAIN.split(pull.raw) if b"s left" in frame]
        with Terminal(command("ps"), env, columns=COLUMNS) as ps:
            assert ps.wait(60) == 0
            said = ps.raw
    parts = (b"$ hive pull ggml-org/gemma-3-270m-GGUF\n", frames[-1].rstrip(), b"\n\n$ hive ps\n", said.rstrip())
    return Text.from_ansi(b"".join(parts).replace(b"\r\n", b"\n").decode(errors="replace"))
