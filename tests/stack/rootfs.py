"""A root filesystem of Debian packages, unpacked and never configured: no more than programs in containers need.

Problem: it is to be made on the way to a test, on two cores, from whatever mirror the machine has. The easy way,
debootstrap, asks for each package by itself, unpacks an essential system one by one and runs the scripts of all of
them, which is most of three minutes, and none of it is used. So apt resolves and fetches what is named and what that
needs, by its signatures, in an empty system of its own, and each package is unpacked, several at once. The few things
that scripts would have made are made here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.support.apt_sources import debian_mirror

#: The Debian, and what is used of it: programs of images, then what compose, the Dockerfile and `prepare` call.
SUITE: Final = "bookworm"
PACKAGES: Final = (
    *("python3", "redis-server", "caddy", "busybox", "libgomp1"),
    *("base-files", "base-passwd", "bash", "dash", "coreutils", "findutils", "grep", "sed", "tar", "util-linux"),
    *("passwd", "login", "libc-bin", "ca-certificates"),
)
#: Packages, by the beginnings of their names, that only scripts of packages use.
FOR_SCRIPTS: Final = ("perl", "libperl", "debconf", "adduser")
#: What this needs to be installed.
TOOLS: Final = ("apt-get", "apt-config", "dpkg-deb", "tar", "setcap", "chroot")
#: Debian's own signatures, where a machine keeps them apart from those of all its sources.
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: Seconds for the mirror to send its lists, or all packages; and for one package to be unpacked.
FETCH_S: Final = 300.0
UNPACK_S: Final = 120.0
#: Folders that Debian has below usr, with links in their old places.
MERGED: Final = ("bin", "sbin", "lib", "lib64")


def make(root: Path) -> None:
    """Make it in a folder that is not there yet.

    Raises:
        RuntimeError: no mirror is known, or a command failed; the text says what it said.
        subprocess.TimeoutExpired: a command took too long.
    """
    with tempfile.TemporaryDirectory(prefix="apt-", dir=root.parent) as folder:
        packages = _fetch(Path(folder))
        for name in MERGED:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(lambda package: _unpack(package, root), packages))
    _do_what_scripts_do(root)


def _fetch(folder: Path) -> list[Path]:
    """The packages and what they need, in this folder."""
    config = folder / "apt.conf"
    config.write_text(_config(folder))
    for name in ("etc", "lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    signed = f"[signed-by={KEYRING}] " if KEYRING.is_file() else ""
    (folder / "sources.list").write_text(f"deb {signed}{debian_mirror(SUITE)} {SUITE} main\n")
    env = os.environ | {"APT_CONFIG": str(config)}
    _run("apt-get", "-qq", "update", env=env, seconds=FETCH_S)
    _run("apt-get", "-qq", "-y", "--download-only", "install", *PACKAGES, env=env, seconds=FETCH_S)
    found = sorted((folder / "archives").glob("*.deb"))
    return [package for package in found if not package.name.startswith(FOR_SCRIPTS)]


def _config(folder: Path) -> str:
    """A system of its own, which reaches the network as the machine's apt does, and has none of its hooks."""
    return f"""{_run("apt-config", "dump", "Acquire", seconds=FETCH_S)}
Dir::Etc "{folder}/etc";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
"""


def _unpack(package: Path, root: Path) -> None:
    """As dpkg would, through the links of the merged folders, and without the pages of its documentation."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as packed:
        options = ["--keep-directory-symlink", "--exclude=./usr/share/doc", "--exclude=./usr/share/man"]
        command = ["tar", "-x", "-p", "-C", str(root), *options]
        done = subprocess.run(command, stdin=packed.stdout, capture_output=True, text=True, timeout=UNPACK_S)
    if done.returncode or packed.returncode:
        raise RuntimeError(f"{package.name} cannot be unpacked: {done.stderr[-2_000:]}")


def _do_what_scripts_do(root: Path) -> None:
    """Users, names, certificates and the cache of libraries."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    shutil.copy(root / "usr/share/libc-bin/nsswitch.conf", root / "etc")
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.write_bytes(b"".join(path.read_bytes() for path in authorities))
    _run("chroot", str(root), "ldconfig", seconds=UNPACK_S)


def _run(*command: str, seconds: float, env: dict[str, str] | None = None) -> str:
    """What a command printed. Raises RuntimeError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2_000:]}")
    return done.stdout
