"""One engine: llama.cpp's server as a process of its own, watched while it loads, ended with us whatever happens to us.

Problem: an engine takes minutes to load and says nothing over HTTP meanwhile; it may be killed for want of memory; and
who starts it may be killed with SIGKILL and runs no clean-up. llama.cpp's server has what is needed, for its own
router: with LLAMA_SERVER_ROUTER_PORT set it prints a line on standard output whenever loading gets on, and ends when
its standard input does. That is an internal protocol, so nothing depends on it alone: a line that is not known counts
as a sign of life and no more, readiness is asked of `/health` too, and the kernel is asked to kill the engine when we
die, because the end of its input is noticed only once it has loaded.

It listens on a socket in a folder of ours: no port, and nobody else on the machine can talk to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from hive.errors import BackendUnavailable
from hive.processes.children import bound_to_us, python_module
from hive.processes.log_file import MAX_LOG_BYTES, RotatedFile
from hive.serving.endpoint import Endpoint
from hive.serving.upstream import fetch
from hive.serving_errors import EngineFailed, LoadingTimeout
from hive.version import install_command
from hive.wire.buckets import CREDENTIALS
from hive.wire.llm import Backend

log = logging.getLogger("workers.inference.engine")

#: What a line begins with that says how far loading is.
STATE_PREFIX: Final = "cmd_child_to_router:state:"
#: Lines of an engine that are kept for its last words, and characters of each.
LAST_LINES: Final = 20
MAX_LINE_CHARS: Final = 500
#: What the name of a folder with an engine's socket begins with; the pid of its supervisor follows.
FOLDER_PREFIX: Final = "hive-llm-"
#: GPUs are numbered as nvidia-smi numbers them, and not by their speed.
GPU_ORDER: Final = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
#: Logs of engines that are kept.
MAX_LOGS: Final = 50
#: Bytes of a line after which it is cut.
MAX_LINE_BYTES: Final = 65_536
#: Tokens of a text that a model makes one vector of, at most: the engine's buffers grow with them.
MAX_TEXT_TOKENS: Final = 8192
#: Tokens of prompts that an engine reads in one go on a CPU, where more are no faster. Only between two such batches
#: does it look whether a client has left, and go on with the answers of others: 2,048, its own choice, were half a
#: minute of a busy machine.
CPU_BATCH_TOKENS: Final = 128
#: Seconds between two looks at `/health` while it loads, and for an answer.
HEALTH_POLL_S: Final = 0.5
HEALTH_TIMEOUT_S: Final = 5.0
#: Bytes of that answer.
MAX_HEALTH_BYTES: Final = 65_536
#: Seconds between two looks at whether loading still gets on.
LOOK_S: Final = 0.1
#: Seconds that an engine may take to end, which one that reads a prompt does not do before the end of a batch; that a
#: dead one's output is still read; and that a killed one may take.
STOP_TIMEOUT_S: Final = 1.0
LAST_WORDS_S: Final = 0.3
KILL_TIMEOUT_S: Final = 5.0
#: The stage whose share is that of the layers, and those before it, which load nothing. Behind it all layers are in.
LAYERS_STAGE: Final = "text_model"
BEFORE_LAYERS: Final = frozenset({"fit_params"})
#: What stands before a line of an engine: when it was said, and whether it is an error.
_CLOCK_AND_LEVEL: Final = re.compile(r"[\d.]+ [A-Z] +", re.ASCII)
_NO_ENGINE: Final = (
    f"There is no engine on this machine: {install_command('serve')}, or name a llama-server in HIVE_LLAMA_SERVER."
)


def remove_dead_folders() -> None:
    """Remove the folders of sockets that supervisors of this user have left behind who were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if not pid.isdecimal() or folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
                continue
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)


def forget_old_logs(folder: Path) -> None:
    """Remove the logs of workers that ended long ago: all but the newest. Raises OSError."""
    logs = sorted(folder.glob("worker-*.log*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in logs[MAX_LOGS:]:
        path.unlink(missing_ok=True)


class EngineSpec(NamedTuple):
    """What an engine is to run. `context` is the tokens of one slot; `threads` 0 for as many as there are cores;
    `name` is how the model is called in its answers.
    """

    path: Path
    context: int
    slots: int
    backend: Backend
    device: int
    load_mode: str
    threads: int
    name: str
    #: Whether the model makes vectors, and no text.
    embeddings: bool = False

    @property
    def batch_tokens(self) -> int:
        """Tokens that the engine works on at once; 0 for as many as it likes."""
        if self.embeddings:  # a text is one batch: what each token means goes by all the others
            return min(self.context, MAX_TEXT_TOKENS)
        return max(CPU_BATCH_TOKENS, self.slots) if self.backend == "cpu" else 0


def llama_server(named: str | None) -> str | None:
    """The llama-server that is named, or on PATH; None where there is none."""
    if named:
        return named if os.access(named, os.X_OK) else None
    return shutil.which("llama-server")


def command_for(spec: EngineSpec, socket_path: Path, named: str | None) -> list[str]:
    """The command of an engine: the llama-server that is named, else the one of the extra `serve`, else one on PATH.

    Raises:
        BackendUnavailable: there is none that could do this.
    """
    binary = llama_server(named)
    if named and binary is None:
        raise BackendUnavailable(f"HIVE_LLAMA_SERVER names no program that can be run: {named}")
    if not named and spec.backend == "cpu" and importlib.util.find_spec("xllamacpp") is not None:
        options = {**spec._asdict(), "path": str(spec.path), "socket": str(socket_path)}
        options["batch_tokens"] = spec.batch_tokens
        return python_module("workers.inference.xllamacpp_server", json.dumps(options))
    if binary is None:
        raise BackendUnavailable(_NO_ENGINE)
    command = [
        binary,
        "--model",
        str(spec.path),
        "--host",
        str(socket_path),
        "--ctx-size",
        str(spec.context * spec.slots),
    ]
    command += [
        "--alias",
        spec.name,
        "--parallel",
        str(spec.slots),
    ]
    command += ["--threads", str(spec.threads)] if spec.threads else []
    if spec.backend == "cpu":
        return [*command, "--gpu-layers", "0", "--device", "none"]
    return [*command, "--gpu-layers", "999", "--split-mode", "none", "--main-gpu", str(spec.device)]


def environment() -> dict[str, str]:
    """What an engine needs of our environment: nothing of hive's, and no secret."""
    return {
        n: v
        for n, v in os.environ.items()
        if not n.startswith(("HIVE_", "HF_", "REDIS_", "LLAMA_", *CREDENTIALS)) and "TOKEN" not in n
    }


def environment_for(spec: EngineSpec) -> dict[str, str]:
    """What a llama-server is told by its environment: options that have come, gone or changed their names between its
    versions, each of which ends at an option that it does not know and passes over a variable that it does not know.
    """
    told = {"LLAMA_ARG_UI": "0", "LLAMA_ARG_WEBUI": "0", "LLAMA_ARG_OFFLINE": "1"}
    if spec.backend == "cuda":
        told |= GPU_ORDER
    if spec.load_mode != "auto":
        told["LLAMA_ARG_LOAD_MODE"] = spec.load_mode
    if spec.embeddings:
        told["LLAMA_ARG_EMBEDDINGS"] = "1"
    if spec.batch_tokens:
        told["LLAMA_ARG_BATCH"] = told["LLAMA_ARG_UBATCH"] = str(spec.batch_tokens)
    # Before there was a load mode.
    if spec.load_mode == "none":
        told["LLAMA_ARG_MMAP"] = "0"
    if spec.load_mode == "mlock":
        told["LLAMA_ARG_MLOCK"] = "1"
    return told


class Engine:
    """An engine process. `on_share` hears how much of the layers is loaded, 0 to 1, whenever that changes."""

    def __init__(self, log_path: Path, on_share: Callable[[float], None]) -> None:
        self._log_path = log_path
        self._on_share = on_share
        remove_dead_folders()
        self._folder = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
        self._process: asyncio.subprocess.Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._share = 0.0
        self._ready = False
        self._spoke_s = self._moved_s = time.monotonic()
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        #: Set when the process has ended.
        self.ended = asyncio.Event()
        self.socket_path = Path(self._folder) / "engine.sock"
        self.target = Endpoint(path=str(self.socket_path))

    @property
    def pid(self) -> int | None:
        """The engine's process, None where none runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, command: list[str], env: Mapping[str, str]) -> None:
        """Start it. Raises OSError where its program cannot be run."""
        self._process = await asyncio.create_subprocess_exec(
            *bound_to_us(command, signal.SIGKILL),
            stdin=asyncio.subprocess.PIPE,  # never written to: its end is the word to end
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**env, "LLAMA_SERVER_ROUTER_PORT": "1"},
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
        self._spoke_s = self._moved_s = time.monotonic()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout)),
            asyncio.create_task(self._read(self._process.stderr)),
        ]
        self._readers.append(asyncio.create_task(self._watch()))

    async def wait_until_ready(self, stall_s: float, timeout_s: float, describe: Callable[[], str]) -> None:
        """Return when the model is loaded. `describe` says how far it is, for the error.

        Raises:
            EngineFailed: the engine has ended.
            LoadingTimeout: nothing gets on, or it takes too long.
        """
        began_s, asked_s = time.monotonic(), time.monotonic()
        while not self._ready:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self.ended.wait()
            if self.ended.is_set():
                raise self.failure()
            now = time.monotonic()
            last_s = self._moved_s if self._share < 1 else max(self._moved_s, self._spoke_s)
            if now - last_s > stall_s or now - began_s > timeout_s:
                seconds = stall_s if now - last_s > stall_s else timeout_s
                raise LoadingTimeout(
                    f"The engine got stuck at {describe()} after {seconds:g} s. Its log: {self._log_path}",
                    log=str(self._log_path),
                    last_lines=list(self.last_lines),
                )
            if now - asked_s >= HEALTH_POLL_S:
                asked_s = now
                self._ready = self._ready or await self.is_healthy()

    async def is_healthy(self) -> bool:
        """Whether it answers, and says that it is well."""
        try:
            answer = await fetch(self.target, "GET", "/health", timeout_s=HEALTH_TIMEOUT_S, max_bytes=MAX_HEALTH_BYTES)
        except OSError:
            return False
        return answer.status == 200

    def failure(self) -> EngineFailed:
        """What is to be told of an engine that has ended."""
        code = self._process.returncode if self._process is not None else None
        lines = [line for line in self.last_lines if line]
        # What goes wrong first is the cause; what is said behind it only that something has.
        word = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
        said = f" It said: {_CLOCK_AND_LEVEL.sub('', word).rstrip('.')}." if word else ""
        return EngineFailed(
            f"The engine ended with {_how(code)}.{said} Its log: {self._log_path}",
            last_lines=lines,
            exit_code=code,
            log=str(self._log_path),
        )

    async def stop(self) -> None:
        """End it: by the end of its input, else by force. Removes its folder."""
        process = self._process
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KILL_TIMEOUT_S):
                        await process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _watch(self) -> None:
        assert self._process is not None
        await self._process.wait()
        # Its last words may still be in the pipes, which a grandchild may hold open.
        await asyncio.wait(self._readers[:2], timeout=LAST_WORDS_S)
        self.ended.set()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        """Every line: a state, or one for the log."""
        file: RotatedFile | None = None
        with contextlib.suppress(OSError):  # a disk that is full is no reason not to read
            file = RotatedFile(self._log_path, MAX_LOG_BYTES)
        try:
            while True:
                try:
                    line = await stream.readuntil(b"\n")
                except asyncio.IncompleteReadError as error:
                    line = error.partial
                    if not line:
                        return
                except asyncio.LimitOverrunError as error:
                    line = await stream.readexactly(error.consumed)
                self._spoke_s = time.monotonic()
                text = line.decode(errors="replace").rstrip()
                if text.startswith(STATE_PREFIX):
                    self._on_state(text.removeprefix(STATE_PREFIX))
                    continue
                self.last_lines.append(text[:MAX_LINE_CHARS])
                with contextlib.suppress(OSError):
                    if file is not None:
                        os.write(file.descriptor(), text.encode() + b"\n")
        finally:
            if file is not None:
                file.close()

    def _on_state(self, text: str) -> None:
        """What it says of its loading; what is not understood is a sign of life."""
        share: float | None = None
        # Whatever it is: who stops reading stops the engine, once the pipe is full.
        with contextlib.suppress(Exception):
            found = json.loads(text)
            if found["state"] == "ready":
                share, self._ready = 1.0, True
            elif found["state"] == "loading":
                share = _share(found["payload"])
        if share is not None and self._share < share <= 1:
            self._share, self._moved_s = share, time.monotonic()
            self._on_share(share)


def _share(payload: Mapping[str, object]) -> float:
    """How much of the layers is in, by the stage that is under way."""
    current = payload["current"]
    if current == LAYERS_STAGE:
        return float(payload["value"])  # type: ignore[arg-type]
    stages = payload["stages"]
    assert isinstance(stages, list)
    known = LAYERS_STAGE in stages and current in stages
    return 1.0 if known and stages.index(current) > stages.index(LAYERS_STAGE) and current not in BEFORE_LAYERS else 0.0


def _how(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"signal {name}" + (" (was there enough memory?)" if name == "SIGKILL" else "")
    return f"code {code}"
