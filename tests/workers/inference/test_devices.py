"""What a machine has to calculate on: what its driver lists, and an engine can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.serving.orders import Device
from workers.inference.devices import find_devices

MIB = 1 << 20
CARDS = "0, NVIDIA GeForce RTX 3090, 24576, 24000\n1, NVIDIA GB10, [N/A], [Not Supported]\ngarbage\n"
USAGE = "error: invalid argument: --list-devices"


def program(folder: Path, name: str, out: str, code: int = 0) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{out}\nE\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def gpus(engine: str) -> list[Device]:
    cpu, *others = find_devices(engine)
    assert cpu.backend == "cpu"
    return others


def test_gpus_are_those_of_the_driver_with_what_it_knows_of_their_memory(folder: Path) -> None:
    program(folder, "nvidia-smi", CARDS)
    listed = "Available devices:\n  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23800 MiB free)\n  CUDA1: NVIDIA GB10"
    first, second = gpus(program(folder, "llama-server", listed))
    assert (first.backend, first.index, first.memory_bytes, first.available_bytes) == (
        "cuda",
        0,
        24576 * MIB,
        24000 * MIB,
    )
    assert (second.index, second.name, second.memory_bytes, second.available_bytes) == (1, "NVIDIA GB10", 0, 0)


@pytest.mark.parametrize(
    ("said", "code", "count"),
    [("Available devices:", 0, 0), ("Available devices:\n  Vulkan0: a card (1 MiB, 1 MiB free)", 0, 1), (USAGE, 1, 2)],
    ids=["built for the cpu", "finds one of two", "an older one"],
)
def test_a_gpu_that_the_engine_was_not_built_for_is_none(folder: Path, said: str, code: int, count: int) -> None:
    program(folder, "nvidia-smi", CARDS)
    assert len(gpus(program(folder, "llama-server", said, code))) == count


@pytest.mark.parametrize(("out", "code"), [("", 0), ("NVIDIA-SMI has failed", 9), ("\u2603, x, y", 0)])
def test_a_driver_that_fails_or_says_garbage_is_none(folder: Path, out: str, code: int) -> None:
    program(folder, "nvidia-smi", out, code)
    assert gpus(program(folder, "llama-server", USAGE, 1)) == []
