"""The load generator: compiles `ssebench.c` and drives it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import DRIVER_CORE
from benchmarks.running import Told

#: Where the source lies.
SOURCE = Path(__file__).with_name("ssebench.c")
#: Seconds that the compiler may take.
COMPILE_TIMEOUT_S = 60
#: Seconds after which a generator ends whatever happens.
DEADLINE_S = 300


def compile_generator(folder: Path) -> Path:
    """The program, made in `folder`.

    Raises:
        SystemExit: where there is no C compiler, or it refuses the source.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "ssebench"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("There is no C compiler: apt-get install gcc libc6-dev")
    try:
        subprocess.run(
            [compiler, "-O2", "-Wall", "-o", str(target), str(SOURCE)], check=True, timeout=COMPILE_TIMEOUT_S
        )
    except subprocess.CalledProcessError:
        raise SystemExit(f"{compiler} does not compile {SOURCE}") from None
    return target


class Generator(Told):
    """Subscribers of one server. `ready` is how the opening went; see ssebench.c for the commands and answers."""

    def __init__(self, program: Path, port: int, paths: Sequence[str], subscribers: int, stalled: int = 0) -> None:
        options = ["--port", port, "--subscribers", subscribers, "--stalled", stalled, "--deadline", DEADLINE_S]
        super().__init__([str(program), *map(str, options), *paths], DRIVER_CORE)
        self.ready = self.hear()
