"""The files that stand beside each other while a file is under way, and how they become one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Final

from workers.transfer.state.disk import sync_folder, translated
from workers.transfer.state.journal import boot_id, recover

#: Bytes that a copy has in memory.
COPY_BLOCK_BYTES: Final = 4 << 20


def data_path(partial: Path) -> Path:
    """The bytes, at their offsets."""
    return partial.with_name(partial.name + ".part")


def journal_path(partial: Path) -> Path:
    """What of them is real."""
    return partial.with_name(partial.name + ".journal")


def kept_bytes(partial: Path) -> int:
    """Bytes that are on the disk already, as the journal says: what a fetch would not receive again. 0 where it cannot
    be read.
    """
    try:
        found = recover(journal_path(partial), data_path(partial).stat().st_size, boot_id())
    except OSError:
        return 0
    return sum(extent.end - extent.start for extent in found.extents) if found is not None else 0


def bad_path(partial: Path) -> Path:
    """Where a file goes whose digest stays wrong, for somebody to look at."""
    return partial.with_name(partial.name + ".bad")


def move_file(source: Path, target: str | Path, *, folder: int | None = None) -> None:
    """Give a whole file the name `target` (below the descriptor `folder`, where there is one), which readers see whole
    or not at all.

    One rename, mostly. A folder of the store may be a mount of its own, where nobody looked for one (`hive/files`, the
    `blobs` of one model), and no rename leads there: the file is copied beside its name, and renamed there.

    Raises:
        OSError: it cannot be read, or not be written there.
    """
    try:
        os.replace(source, target, dst_dir_fd=folder)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    path = Path(target)
    # Of a name as long as a filesystem takes, its beginning: hive.store.dirfd names its own so.
    beginning = os.fsencode(path.name)[:200].decode(errors="ignore")
    copy = path.with_name(f".{beginning}.{os.urandom(8).hex()}.tmp")

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o664, dir_fd=folder)

    try:
        with open(source, "rb") as content, open(str(copy), "xb", opener=opened) as written:
            shutil.copyfileobj(content, written, COPY_BLOCK_BYTES)
            written.flush()
            os.fsync(written.fileno())
        os.replace(copy, target, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(copy, dir_fd=folder)
        raise
    source.unlink()


def finish(partial: Path, target: Path) -> None:
    """Move a fetched file to `target`, durably, and remove its journal.

    Safe to repeat after a crash at any point: a rename that was done is found done. Raises StoreNotWritable, DiskFull.
    """
    with translated():
        try:
            move_file(data_path(partial), target)
        except FileNotFoundError:
            if not target.exists():
                raise
        sync_folder(target.parent)
        # The journal goes last: without its data file it says nothing, but data without a journal would be fetched
        # again.
        if _remove(journal_path(partial)):
            sync_folder(partial.parent)


def discard(partial: Path) -> None:
    """Remove all that a fetch left: data, journal, and a file set aside. Raises StoreNotWritable."""
    with translated():
        journal = journal_path(partial)
        # Version 0.1 wrote a new journal under that second name.
        for path in (journal, journal.with_name(journal.name + ".new"), data_path(partial), bad_path(partial)):
            _remove(path)


def set_aside(partial: Path) -> None:
    """Keep a wrong file for inspection, where nothing takes it for a good one; raises OSError."""
    _remove(journal_path(partial))
    os.replace(data_path(partial), bad_path(partial))


def _remove(path: Path) -> bool:
    """Remove a file; whether it was there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        return True
    return False
