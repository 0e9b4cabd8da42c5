"""Base images of the Dockerfile and the compose file, made from Debian's packages where none can be pulled.

Problem: a machine without a registry has no `python:3.13-slim`, no Caddy and no Valkey, and what the stack does is to
be seen there all the same. The easy way, a Dockerfile of another base for tests, tests another Dockerfile. So a
stand-in is imported under the very names that users pull: one root of Debian packages with Python, Redis and Caddy in
it, laid out as far as the two files rely on it (tests/stack/rootfs.py).

What makes it a stand-in, and stands nowhere else: Debian's Python, older than the real one; Redis under Valkey's name;
Caddy older, with the same right on its file as the real image gives it; and a folder with the locked wheels, where pip
looks instead of at an index, so that a build needs no network.

Of what it takes nothing but the import needs an engine. With HIVE_STACK_CACHE, a folder, it is made there once and
kept as long as what it is made of stays the same; `--prepare` makes it and does no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from tests.stack import rootfs
from tests.stack.engine import NoEngine

ROOT: Final = Path(__file__).parents[2]
#: The locks whose wheels are in it; `serve` has those of `run` too.
LOCKS: Final = ("serve.txt", "build.txt", "pip.txt")
#: The label by which a stand-in is known.
LABEL: Final = "hive.stand-in"
#: Seconds for a registry to answer and send an image.
PULL_S: Final = 120.0
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoImages(NoEngine):
    """The images can neither be pulled nor made here; the text says why."""


def wanted() -> tuple[str, ...]:
    """Names of the images that the Dockerfile and the compose file begin with."""
    python = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    compose = (ROOT / "docker-compose.yml").read_text()
    others = re.findall(r"\$\{HIVE_(?:BALANCER|REDIS)_IMAGE:-([^}]+)\}", compose)
    assert python is not None
    assert len(others) == 2
    return python[1], *others


def provide() -> dict[str, str]:
    """Every wanted image, as it is here, pulled, or made; what each is. Raises NoImages."""
    found = {name: "here" for name in wanted() if _is_here(name)}
    missing = [name for name in wanted() if name not in found]
    for name in missing:
        if not _pull(name):
            break
        found[name] = "pulled"
    missing = [name for name in missing if name not in found]
    if missing:
        with tempfile.TemporaryDirectory(prefix="hive-stand-in-", dir="/var/tmp") as folder:
            _import(_made(_cache() or Path(folder)), missing)
    return found | dict.fromkeys(missing, "a stand-in")


def _is_here(name: str) -> bool:
    """Whether the engine has it; a stand-in of other locks does not count."""
    shown = subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False)
    if shown.returncode:
        return False
    labels = json.loads(shown.stdout)[0]["Config"].get("Labels") or {}
    return LABEL not in labels or labels[LABEL] == _locks()


def _pull(name: str) -> bool:
    try:
        return subprocess.run(["docker", "pull", "-q", name], capture_output=True, timeout=PULL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _locks() -> str:
    """What of the repository goes into the stand-in, as one word."""
    texts = b"".join((ROOT / "requirements" / name).read_bytes() for name in LOCKS)
    code = b"".join(Path(file).read_bytes() for file in (__file__, rootfs.__file__))
    return hashlib.sha256(texts + code).hexdigest()[:16]


def prepare() -> Path:
    """The stand-in, made in the cache unless it is there. Raises NoImages."""
    folder = _cache()
    assert folder is not None, "HIVE_STACK_CACHE names no folder"
    return _made(folder)


def _cache() -> Path | None:
    named = os.environ.get("HIVE_STACK_CACHE")
    return Path(named) if named else None


def _made(folder: Path) -> Path:
    """The stand-in in this folder, as an archive: the one that is there, or made. Raises NoImages."""
    made = folder / f"stand-in-{_locks()}.tar"
    if made.is_file():
        return made
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in rootfs.TOOLS):
        raise NoImages(f"no image can be pulled, and only root with {', '.join(rootfs.TOOLS)} can make one")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as here:
        root = Path(here, "root")
        try:
            rootfs.make(root)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise NoImages(f"no image can be pulled, and none can be made of Debian's packages: {error}") from None
        _lay_out(root)
        packed = Path(here, "packed")
        # With what files may do beyond their mode, or a balancer would start here that does not start elsewhere.
        command = ["tar", "-C", str(root), "--xattrs", "--xattrs-include=security.*", "-cf", str(packed), "."]
        subprocess.run(command, check=True)
        packed.rename(made)
    return made


def _lay_out(root: Path) -> None:
    """Debian as the two files expect their bases."""
    (root / "usr/bin/python").symlink_to("python3")
    (root / "usr/bin/wget").symlink_to("busybox")
    for name in ("server", "cli"):
        (root / f"usr/bin/valkey-{name}").symlink_to(f"redis-{name}")
    for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        mark.unlink()
    subprocess.run(["setcap", "cap_net_bind_service=+ep", str(root / "usr/bin/caddy")], check=True)
    python = subprocess.run(
        ["chroot", str(root), "python3", "-B", "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    wheels = root / "opt/wheels"
    _fetch_wheels(wheels, python)
    (root / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /opt/wheels\n")
    # The locked pip, not Debian's, which brings a dozen packages and is two years older than the real image's.
    places = root / f"usr/local/lib/python{python.rpartition('.')[0]}/dist-packages"
    zipfile.ZipFile(next(wheels.glob("pip-*.whl"))).extractall(places)
    command = root / "usr/local/bin/pip"
    command.parent.mkdir(exist_ok=True)
    command.write_text('#!/bin/sh\nexec python -m pip "$@"\n')
    command.chmod(0o755)


def _fetch_wheels(folder: Path, python: str) -> None:
    """The locked wheels for that Python on this system, compared with their digests, from where pip takes them here."""
    marks = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    lines = []
    for name in LOCKS:
        text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            package, *hashes = line.split(" --hash=")
            requirement = Requirement(package.strip())
            if requirement.marker is None or requirement.marker.evaluate(marks):
                requirement.marker = None
                lines.append(" --hash=".join([str(requirement), *(text.strip() for text in hashes)]))
    folder.mkdir(parents=True)
    listed = folder / "wanted.txt"
    # Each once: pip takes no package twice.
    listed.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--python-version", python, "--dest", str(folder), "-r", str(listed)]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    if fetched.returncode:
        raise NoImages(f"no image can be pulled, and pip has no wheels for one: {fetched.stderr[-2_000:]}")


def _import(archive: Path, names: Iterable[str]) -> None:
    take = ["docker", "import", "--change", f"ENV PATH={PATH}", "--change", f"LABEL {LABEL}={_locks()}", str(archive)]
    image = subprocess.run(take, capture_output=True, text=True, check=True).stdout.strip()
    for name in names:
        subprocess.run(["docker", "tag", image, name], check=True)
