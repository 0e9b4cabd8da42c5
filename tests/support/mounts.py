"""Filesystems of all kinds for tests, mounted in a mount namespace of the test process alone.

Needs root, on Linux; where a mount is not to be had the test is skipped. The namespace is that of the main thread and
of all threads and processes that it begins afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x00020000


@functools.cache
def _own_namespace() -> bool:
    """Whether mounts of this process are its own from now on."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.unshare(_CLONE_NEWNS) == 0 and _run("mount", "--make-rprivate", "/")


def _run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@contextlib.contextmanager
def mounted(kind: str, at: Path, *options: str) -> Iterator[Path]:
    """A filesystem at this folder: `tmpfs`, `bind` (of what `options` name), or `exfat` (no links, no case)."""
    if not _own_namespace():
        pytest.skip("needs root and a mount namespace")
    at.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if kind == "exfat":
            done = _exfat(at, stack)
        elif kind == "bind":
            done = _run("mount", "--bind", *options, str(at))
        else:
            done = _run("mount", "-t", kind, *(("-o", ",".join(options)) if options else ()), kind, str(at))
        if not done:
            pytest.skip(f"no {kind} here")
        stack.callback(_run, "umount", "-l", str(at))
        yield at


def read_only(at: Path) -> bool:
    """Turn a mount read-only."""
    return _run("mount", "-o", "remount,ro", str(at))


def _exfat(at: Path, stack: contextlib.ExitStack) -> bool:
    image = at.with_name(f"{at.name}.img")
    with image.open("wb") as file:
        file.truncate(96 << 20)
    if not _run("mkfs.exfat", str(image)):
        return False
    loop = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    if loop.returncode != 0:
        return False
    device = loop.stdout.strip()
    stack.callback(_run, "losetup", "-d", device)
    return _run("mount.exfat-fuse", device, str(at))


def program_of(at: Path) -> int:
    """The process that is the filesystem of an `exfat` mount: stopped, it answers nothing; killed, nothing is there."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(b"mount.exfat-fuse") for word in words) and str(at).encode() in words:
                return int(folder.name)
    raise AssertionError(f"no program has {at} mounted")


#: Runs the rest of its line on a machine of its own, as far as mounts go: they are those of now, and change apart.
ELSEWHERE = ("/usr/bin/env", "unshare", "--mount", "--propagation", "private")


def on_machine_of(pid: int, *command: str) -> bool:
    """Run a command among the mounts of this process; whether it ended well."""
    return _run("nsenter", "--mount", "--target", str(pid), *command)


def seen_by(pid: int, path: Path) -> Path:
    """A folder as this process sees it."""
    return Path(f"/proc/{pid}/root") / path.relative_to("/")
