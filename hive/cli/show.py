"""`hive show`: one download or one model, with all that is known of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from hive.cli.download_ids import find_download, is_id
from hive.cli.format import age, duration, size, speed
from hive.cli.models import find_model, open_models
from hive.cli.progress import line, summary
from hive.cli.server import need_server
from hive.cli.table import print_fields
from hive.settings import Settings
from hive.wire.events import Complete, Downloading, Error

if TYPE_CHECKING:
    from hive.wire.api import Download, Model


@click.command(short_help="Show a download or a model.")
@click.argument("what", metavar="ID_OR_MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(what: str, as_json: bool) -> None:
    """Show a download, by its id or the start of it, or a model on disk, by its name."""
    settings = Settings.from_env()
    found: Download | Model
    if is_id(what):
        with need_server(settings).client() as client:
            found = find_download(client, what)
        fields = download_fields(found)
    else:
        with open_models(settings) as source:
            found = find_model(source, what)
        fields = model_fields(found)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(found)))
    else:
        print_fields(fields)


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
