"""`hive show`: one download or one model, with all that is known of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from hive.cli.disk import CommandSource, list_models, open_source
from hive.cli.download_ids import find_download, is_id
from hive.cli.format import age, duration, size, speed
from hive.cli.models import match_downloads, match_models, not_there
from hive.cli.output import echo, echo_json
from hive.cli.progress import line, summary
from hive.cli.table import print_fields
from hive.settings import Settings
from hive.wire.api import Download, Model
from hive.wire.events import Complete, Downloading, Error


@click.command(short_help="Show a download or a model.")
@click.argument("what", metavar="ID_OR_MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object, or an array where there are several.")
def show(what: str, as_json: bool) -> None:
    """Show a download, by its id or the start of it, or a model on disk, by its name; org/name shows all its variants.

    Works without a server, from the disk itself.
    """
    settings = Settings.from_env()
    with open_source(settings) as source:
        found = _find(settings, source, what)
    if as_json:
        echo_json(found if len(found) > 1 else found[0], indented=True)
        return
    for number, one in enumerate(found):
        if number:
            echo()
        print_fields(model_fields(one) if isinstance(one, Model) else download_fields(one))


def _find(settings: Settings, source: CommandSource, what: str) -> Sequence[Model | Download]:
    if is_id(what):
        return [find_download(source, what)]
    models = list_models(settings, source)
    if whole := match_models(models, what):
        return whole
    if partial := match_downloads(source.downloads("active"), what):
        return partial
    raise not_there(models, what)


def download_fields(download: Download) -> list[tuple[str, str]]:
    """What a person wants to know of a download."""
    event = download.progress
    progress = ""
    if isinstance(event, Downloading):
        progress = line(event)
    elif isinstance(event, Complete):
        progress = summary(event)
    elif isinstance(event, Error):
        progress = event.message + (f" [{event.code}]" if event.code else "")
    path = event.local_path if isinstance(event, Complete) else download.local_path
    return [
        ("id", download.id),
        ("model", download.model_ref),
        ("status", download.status),
        ("progress", progress),
        ("path", path or ""),
        ("reason", download.reason or ""),
        ("priority", download.priority),
        ("attempt", str(download.attempt or "")),
        ("worker", download.worker or ""),
        ("created", _moment(download.created_at)),
        ("updated", _moment(download.updated_at)),
        ("ended", _moment(download.ended_at)),
        ("took", _took(download)),
        ("received", _received(download)),
    ]


def _took(download: Download) -> str:
    """`3m05s, 2m10s of it at work`, of a download that has ended."""
    if download.duration_seconds is None:
        return ""
    return f"{duration(download.duration_seconds)}, {duration(download.active_seconds)} of it at work"


def _received(download: Download) -> str:
    """`7.2 GB at 210 MB/s, 1.2 MB of it again`: what came over the network."""
    if not download.bytes_received:
        return ""
    again = f", {size(download.bytes_refetched)} of it again" if download.bytes_refetched else ""
    rate = speed(download.average_bytes_per_second)
    return size(download.bytes_received) + (f" at {rate}" if rate else "") + again


def model_fields(model: Model) -> list[tuple[str, str]]:
    """What a person wants to know of a model; its files last, one a line."""
    files = [("file" if at == 0 else "", f"{size(file.size):>9}  {file.path}") for at, file in enumerate(model.files)]
    return [
        ("model", model.id),
        ("path", model.path),
        ("size", size(model.size)),
        ("revision", " ".join(filter(None, [model.revision, *(f"({ref})" for ref in model.refs)]))),
        ("variant", model.variant or ""),
        ("modified", _moment(model.created)),
        *files,
    ]


def _moment(unix_s: float | None) -> str:
    """`2026-01-31 14:03:07 (3m05s ago)`, in local time."""
    if not unix_s:
        return ""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(unix_s))} ({age(unix_s)})"
