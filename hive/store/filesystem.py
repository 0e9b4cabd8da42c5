"""Which folders lie on one filesystem: where a rename publishes a file, and where it would have to be copied.

Problem: a finished file becomes visible by one rename, which the system refuses across filesystems (EXDEV), after all
bytes came. People put the cache on another disk with a link, or mount it alone. Comparing device numbers is not enough:
two mounts of one disk have the same number, and no rename leads from one to the other. So the mount counts too, where
the system tells it.
"""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from hive.errors import StoreNotWritable
from hive.settings import HIVE_IN_HUB, Settings
from hive.store.layout import PARTIAL

#: Where Linux lists the mounts of this process, and the kinds of filesystems that several machines have at once. Those
#: of FUSE have their program's name behind a dot, or tell none; `fuseblk` is a disk of this machine.
MOUNTS: Final = Path("/proc/self/mountinfo")
SHARED_KINDS: Final = frozenset(
    {
        "fuse",
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "9p",
        "virtiofs",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "afs",
        "ocfs2",
        "gfs2",
    }
)

_MOUNT = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)


class Place(NamedTuple):
    """A folder below a root that may be a link; nothing in `names` may be one."""

    root: Path
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The whole path."""
        return self.root.joinpath(*self.names)


class StoreLimits(NamedTuple):
    """What the cache's filesystem can do. `max_name_bytes`: the longest name of a file."""

    symlinks: bool = True
    hardlinks: bool = True
    locks: bool = True
    case_sensitive: bool = True
    unicode_kept: bool = True
    max_name_bytes: int = 255

    def sentences(self) -> list[str]:
        """What is different from a filesystem that can do everything, for people."""
        found = [
            (self.symlinks, "It has no symbolic links: files that two paths or commits share are there twice."),
            (self.hardlinks, "It has no hard links: what another repository has already is fetched again."),
            (self.locks, "It has no locks: two hives on this store look at each other's notes instead."),
            (self.case_sensitive, "It takes names that differ in case for one."),
            (self.unicode_kept, "It writes names in another Unicode form."),
            (self.max_name_bytes >= 255, f"Its names have at most {self.max_name_bytes} bytes."),
        ]
        return [sentence for is_so, sentence in found if not is_so]


def partial_place(settings: Settings, *, for_url: bool = False) -> Place:
    """Where files on their way lie: on the filesystem of the cache, or of `hive/files` with `for_url`."""
    beside = Place(settings.hive_dir, (PARTIAL,))
    return beside if for_url or same_filesystem(settings.hive_dir, settings.hub_dir) else _in_hub(settings)


def partial_places(settings: Settings) -> Iterator[Place]:
    """Every place that may hold partial files."""
    yield Place(settings.hive_dir, (PARTIAL,))
    if settings.hive_dir != settings.hub_dir / HIVE_IN_HUB:
        yield _in_hub(settings)


def _in_hub(settings: Settings) -> Place:
    return Place(settings.hub_dir, (HIVE_IN_HUB, PARTIAL))


def same_filesystem(one: Path, other: Path) -> bool:
    """Whether a file can be renamed from one folder to the other; for a folder that will be made, from its parent.

    True where that cannot be told: a rename will.
    """
    with contextlib.suppress(OSError):
        return _filesystem_of(nearest(one)) == _filesystem_of(nearest(other))
    return True


def nearest(path: Path) -> Path:
    """This folder, or the nearest above it that is there, as far as that can be told."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            if folder.exists():
                return folder
    return path


def is_shared(path: Path, mounts: Path = MOUNTS) -> bool:
    """Whether this folder, or the nearest above it, lies on a filesystem that other machines may have mounted too.

    False where that cannot be told.
    """
    with contextlib.suppress(OSError):
        device = os.stat(nearest(path)).st_dev
        number = f"{os.major(device)}:{os.minor(device)}"
        for line in mounts.read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            if before.split(" ")[2:3] == [number]:
                kind = after.partition(" ")[0]
                return kind in SHARED_KINDS or kind.startswith("fuse.")
    return False


def _filesystem_of(folder: Path) -> tuple[int, str]:
    """The device, and the mount where the system tells it (Linux)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = ""
        with contextlib.suppress(OSError):
            found = _MOUNT.search(Path(f"/proc/self/fdinfo/{fd}").read_text("ascii"))
            mount = found[1] if found else ""
        return os.fstat(fd).st_dev, mount
    finally:
        os.close(fd)


def check_names(paths: list[str], limits: StoreLimits, hub: Path) -> None:
    """Whether a filesystem can hold these paths of one repository side by side.

    Raises:
        StoreNotWritable: a name is too long for it, it takes two of them for one, or one is a file and a folder.
    """
    for path in paths:
        for name in path.split("/"):
            if len(name.encode()) > limits.max_name_bytes:
                text = f"The name {name[:60]!r}... has {len(name.encode())} bytes; the store's filesystem takes"
                raise StoreNotWritable(f"{text} {limits.max_name_bytes}: {hub}.", path=str(hub))
    as_it_is = limits.case_sensitive and limits.unicode_kept
    seen: dict[str, str] = {}
    for path in paths:
        key = path if as_it_is else _folded(path)
        if (other := seen.get(key)) is not None:
            text = f"{other!r} and {path!r} are one name to the store's filesystem. Leave one out with exclude"
            raise StoreNotWritable(f"{text}: {hub}.", path=str(hub))
        seen[key] = path
    for key, path in seen.items():
        above = key
        while above := above.rpartition("/")[0]:
            if (other := seen.get(above)) is not None:
                text = f"{other!r} is a file, and a folder with {path!r} in it, to the store's filesystem"
                raise StoreNotWritable(f"{text}. Leave one out with exclude: {hub}.", path=str(hub))


def _folded(path: str) -> str:
    """What paths have in common that a filesystem may take for one: by case, by Unicode form, or by both."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
