"""Directory descriptors (openat): folders of the store, opened without following links.

Problem: the store is shared, and a link planted in it must never lead a write, a read or a delete elsewhere. The easy
way, `realpath` and then a path, leaves a gap between the check and the use. So every folder below the root is opened
by its one name from its parent's descriptor with O_NOFOLLOW, and everything in it is done relative to that
descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, overload

from hive.plain_file import open_plain_file
from hive.store.root_guard import GUARD

#: Deepest folder that is walked below a root: a path in a repository has at most 1,024 bytes.
MAX_DEPTH = 512
#: The mode of a file with content, of which the umask takes more. A store is shared as its folders say and may be read
#: like the Hub's own cache; its files are written by who made them and their group, also where the umask is 0.
CONTENT_MODE = 0o664
#: Of a folder, less what the umask takes: whoever writes in a folder can put another file in place of one.
FOLDER_MODE = 0o775
#: Bytes copied at a time.
COPY_BLOCK_BYTES = 4 << 20

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@overload
def open_folder(root: Path | int, *names: str, create: bool = False) -> AbstractContextManager[int]: ...
@overload
def open_folder(root: Path | int, *names: str, missing_ok: Literal[True]) -> AbstractContextManager[int | None]: ...
def open_folder(
    root: Path | int, *names: str, create: bool = False, missing_ok: bool = False
) -> AbstractContextManager[int | None]:
    """The descriptor of the folder `names` below `root`; closed at the end.

    `root` is a descriptor, or a path that may itself be a link. With `missing_ok` it gives None where there is no such
    folder: no name, or a name that is a file or a link.

    Raises:
        OSError: ENOENT where it does not exist and is not to be created; ENOTDIR or ELOOP where a name is a link.
        StoreMissing: `root` is a guarded path, and another folder than before (hive.store.root_guard).
    """
    return _open_if_there(root, names) if missing_ok else _open(root, names, create)


@contextlib.contextmanager
def _open_if_there(root: Path | int, names: tuple[str, ...]) -> Iterator[int | None]:
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_open(root, names, create=False))
        except (FileNotFoundError, NotADirectoryError):
            folder = None
        yield folder


@contextlib.contextmanager
def _open(root: Path | int, names: tuple[str, ...], create: bool) -> Iterator[int]:
    folder = _open_root(root, create) if isinstance(root, Path) else os.dup(root)
    try:
        for name in names:
            parent, folder = folder, _step(folder, name, create)
            os.close(parent)
        yield folder
    except OSError as error:
        _name(error, folder)
        raise
    finally:
        os.close(folder)


@contextlib.contextmanager
def naming(folder: int) -> Iterator[None]:
    """Inside the block the system's errors carry a whole path: they know only the name beside a descriptor."""
    try:
        yield
    except OSError as error:
        _name(error, folder)
        raise


def _name(error: OSError, folder: int) -> None:
    if error.errno is not None and not (isinstance(error.filename, str) and os.path.isabs(error.filename)):
        place = path_of(folder)
        name = error.filename if isinstance(error.filename, str) else ""
        error.filename = os.path.join(place, name) if place and name else place or error.filename


def path_of(folder: int) -> str | None:
    """The path of an open file or folder, where the system tells it."""
    with contextlib.suppress(OSError, ValueError):
        if sys.platform == "darwin":
            return fcntl.fcntl(folder, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode()
        return os.readlink(f"/proc/self/fd/{folder}")
    return None


def read_file(folder: int, name: str, limit: int) -> bytes | None:
    """The content of a plain file of at most `limit` bytes; None where there is none, or it is a link, or it is longer.

    Raises:
        OSError: where it cannot be read.
    """
    try:
        file = open_plain_file(name, os.O_RDONLY, folder=folder)
    except OSError:
        return None
    with os.fdopen(file, "rb") as stream:
        data = stream.read(limit + 1)
    return data if len(data) <= limit else None


def write_file(folder: int, name: str, data: bytes, *, durable: bool = True, mode: int = CONTENT_MODE) -> None:
    """Write a file so that readers see the old content or the new; the new survives a power cut where `durable`. `mode`
    is what the umask leaves of it.

    Raises:
        OSError: where it cannot be written.
    """
    temporary = temporary_name(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        _unlinked_on_error(folder, temporary),
        os.fdopen(os.open(temporary, flags, mode, dir_fd=folder), "wb") as stream,
    ):
        stream.write(data)
        stream.flush()
        if durable:
            os.fsync(stream.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    if durable:
        os.fsync(folder)


def copy_file(source: int, source_name: str, folder: int, name: str) -> None:
    """Copy a file so that readers see all of it or nothing; it survives a power cut.

    Raises:
        OSError: where it cannot be read or written.
    """
    temporary = temporary_name(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        os.fdopen(open_plain_file(source_name, os.O_RDONLY, folder=source), "rb") as content,
        _unlinked_on_error(folder, temporary),
        os.fdopen(os.open(temporary, flags, CONTENT_MODE, dir_fd=folder), "wb") as copy,
    ):
        shutil.copyfileobj(content, copy, COPY_BLOCK_BYTES)
        copy.flush()
        os.fsync(copy.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def write_link(folder: int, name: str, target: str) -> None:
    """Make a symbolic link, or turn an old one, so that readers never miss it. For power cuts, fsync the folder after.

    Raises:
        OSError: where it cannot be made.
    """
    temporary = temporary_name(name)
    with _unlinked_on_error(folder, temporary):
        os.symlink(target, temporary, dir_fd=folder)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def temporary_name(name: str) -> str:
    """A name beside `name` that nobody else has, within the 255 bytes of a file name."""
    return f".{name.encode()[:200].decode(errors='ignore')}.{os.urandom(8).hex()}.tmp"


def remove_file(folder: int, name: str) -> bool:
    """Remove a file or link; whether it was there.

    Raises:
        OSError: where it cannot be removed.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def size_of(folder: int, name: str) -> int | None:
    """The size in bytes of a plain file, or None where there is none or it is a link."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def subfolders(folder: int) -> list[str]:
    """The names of the real folders in a folder, sorted; links to folders are left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def walk(folder: int, prefix: str = "", depth: int = 0) -> Iterator[tuple[int, str, os.DirEntry[str]]]:
    """Every entry below a folder that is no folder: the descriptor of its folder, its path, and the entry.

    Links are not followed, and what disappears meanwhile is left out.
    """
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                yield folder, prefix + entry.name, entry
    for name in folders if depth < MAX_DEPTH else ():
        with contextlib.suppress(OSError), open_folder(folder, name) as below:
            yield from walk(below, f"{prefix}{name}/", depth + 1)


def remove_empty(folder: int, path: str) -> None:
    """Remove the folder at this path below `folder`, then its parents, as far as they are empty; `folder` stays."""
    names = [name for name in path.split("/") if name]
    while names:
        try:
            with open_folder(folder, *names[:-1]) as parent:
                os.rmdir(names[-1], dir_fd=parent)
        except OSError:
            return
        names.pop()


def _open_root(root: Path, create: bool) -> int:
    """A root by its path. Raises StoreMissing where it is not the one that this process began with."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        folder = os.open(root, flags)
    except FileNotFoundError:
        GUARD.check(root, None)
        if not create:
            raise
        for missing in reversed([place for place in (root, *root.parents) if not place.exists()]):
            with contextlib.suppress(FileExistsError):
                os.mkdir(missing, FOLDER_MODE)
        folder = os.open(root, flags)
    except OSError as error:
        GUARD.translate(root, error)
        raise
    try:
        GUARD.check(root, folder)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _step(parent: int, name: str, create: bool) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
    return os.open(name, _FOLDER_FLAGS, dir_fd=parent)


@contextlib.contextmanager
def _unlinked_on_error(folder: int, name: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
