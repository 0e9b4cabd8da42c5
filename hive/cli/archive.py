"""`hive export` and `hive import`: models on a stick, or through a pipe, to machines without a network.

Both work on this machine's disk and ask no server, as `hive wait` does.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import click

from hive.cli.disk import LocalStore
from hive.cli.errors import FULL, USAGE, CliError, each_in_turn, unwind_on_sigterm
from hive.cli.format import size
from hive.cli.models import match_models, not_there
from hive.cli.output import Stdout, echo_value
from hive.cli.progress import Printer, choose_printer
from hive.errors import DiskFull
from hive.settings import Settings
from hive.wire.events import BYTES_PER_MB, Complete, Downloading, FileProgress

if TYPE_CHECKING:
    from hive.store.archive import ArchivedFile, ArchiveManifest

#: What imports, as `module:name`: workers know the store's way in, and the command line does not import them.
IMPORTER: Final = "workers.local.archive:import_archive"
#: Standard input or output, in the place of a file.
STREAM: Final = "-"
#: Seconds between two events in which only figures change.
SHOW_INTERVAL_S: Final = 0.1
#: Seconds after which the time left is told.
RATE_AFTER_S: Final = 1.0


@click.command(short_help="Write a model to an archive, for a machine without a network.")
@click.argument("name", metavar="MODEL")
@click.option("-o", "--output", required=True, metavar="FILE", help="The archive, a plain tar; '-': standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def export(name: str, output: str, quiet: bool) -> None:
    """Write a model to an archive, for a machine without a network: hive import reads it there.

    MODEL is a name as `hive ls` shows it; org/name means all its variants. Every byte is compared with its digest
    while it is written, and the archive has its name only when it is whole.
    """
    from hive.store.export import export_of

    unwind_on_sigterm()
    settings = Settings.from_env()
    if output == STREAM and sys.stdout.isatty():
        raise CliError(
            "An archive is nothing for a terminal.", f"hive export {shlex.quote(name)} -o model.tar", exit_code=USAGE
        )
    models = LocalStore(settings).models()
    found = match_models(models, name)
    if not found:
        raise not_there(models, name)
    wanted = export_of(settings, found)
    with choose_printer(wanted.manifest.ref, as_json=False, quiet=quiet) as printer:
        shown = _Shown(printer)
        shown.begin(wanted.manifest)
        with _target(output, wanted.manifest.total_bytes) as stream:
            wanted.write(stream, shown.on_bytes)
        shown.end(output)
    if output != STREAM:
        echo_value(output)


@click.command("import", short_help="Bring the model of an archive into the store.")
@click.argument("archives", metavar="FILE...", nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress; print the path only.")
def import_(archives: tuple[str, ...], quiet: bool) -> None:
    """Bring the model of an archive that `hive export` wrote into the store, and print its path.

    FILE is the archive; '-' is standard input. Every byte is compared with the digests of the archive's manifest, and
    the model is there when all of it is. Those digests find damage: who made the archive says what is in it, so import
    what you trust.
    """
    unwind_on_sigterm()
    settings = Settings.from_env()
    each_in_turn(archives, lambda path: _import(settings, path, quiet=quiet))


def _import(settings: Settings, path: str, *, quiet: bool) -> None:
    module, _, attribute = IMPORTER.partition(":")
    import_archive = getattr(importlib.import_module(module), attribute)
    printers: list[_Shown] = []
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_source(path))

        def on_manifest(manifest: ArchiveManifest) -> None:
            printers.append(_Shown(stack.enter_context(choose_printer(manifest.ref, as_json=False, quiet=quiet))))
            printers[0].begin(manifest)

        def on_bytes(path: str, count: int) -> None:
            printers[0].on_bytes(path, count)

        done = import_archive(settings, stream, on_manifest, on_bytes)
        printers[0].end(done.local_path, was_there=done.was_there)
    echo_value(done.local_path)


@contextlib.contextmanager
def _source(path: str) -> Iterator[BinaryIO]:
    if path != STREAM:
        with open(path, "rb", buffering=0) as file:
            yield cast(BinaryIO, file)
        return
    if sys.stdin.isatty():
        raise CliError("An archive is read from a pipe here, not from a terminal.", "hive import FILE", exit_code=USAGE)
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as file:
        yield cast(BinaryIO, file)


@contextlib.contextmanager
def _target(path: str, n_bytes: int) -> Iterator[BinaryIO]:
    """The stream that an archive of so many bytes is written to. A file has its name when all of it is on the disk."""
    if path == STREAM:
        with Stdout() as stream:
            yield cast(BinaryIO, stream)
        return
    target = Path(path)
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            with open(target, "wb", buffering=0) as stream:  # a device, or a pipe with a name
                yield cast(BinaryIO, stream)
            return
        free = shutil.disk_usage(target.absolute().parent).free
        if n_bytes > free:
            text = f"There is not enough room for {path}: {size(n_bytes)} to come, {size(free)} free."
            raise CliError(text, code=DiskFull.code)
        temporary = target.with_name(f".{target.name[:200]}.{os.urandom(8).hex()}.tmp")
        try:
            with open(temporary, "xb", buffering=0) as stream:
                yield cast(BinaryIO, stream)
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        code = DiskFull.code if error.errno in FULL else None
        raise CliError(f"{error.filename or path}: {error.strerror}.", code=code) from error


class _Shown:
    """How far an archive is, as events of a download: both verify what they read."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._began_s = time.monotonic()
        self._next_s = 0.0
        self._done = self._total = self._files_done = 0
        self._files: dict[str, ArchivedFile] = {}
        self._path, self._file_done = "", 0

    def begin(self, manifest: ArchiveManifest) -> None:
        """What there is to do."""
        self._files = {file.path: file for file in manifest.files}
        self._total = manifest.total_bytes

    def on_bytes(self, path: str, count: int) -> None:
        """So many bytes of a file more."""
        if path != self._path:
            self._files_done += bool(self._path)
            self._path, self._file_done = path, 0
        self._file_done += count
        self._done += count
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + SHOW_INTERVAL_S
            self._printer.show(self._event(now_s - self._began_s))

    def _event(self, seconds: float) -> Downloading:
        rate = self._done / seconds if seconds > 0 else 0.0
        return Downloading(
            bytes_downloaded=self._done,
            bytes_total=self._total,
            speed_mbps=rate / BYTES_PER_MB,
            bytes_per_second=int(rate),
            eta_seconds=int((self._total - self._done) / rate) if rate and seconds >= RATE_AFTER_S else None,
            status="verifying",
            files_done=self._files_done,
            files_total=len(self._files),
            files=(FileProgress(self._path, self._file_done, self._files[self._path].size),),
        )

    def end(self, path: str, *, was_there: bool = False) -> None:
        """All of it is done, or nothing was to do."""
        seconds = None if was_there else round(time.monotonic() - self._began_s, 3)
        verified = None if was_there else True
        self._printer.show(
            Complete(local_path=path, status="complete", bytes_total=self._total, verified=verified, seconds=seconds)
        )
