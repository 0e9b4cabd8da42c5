"""The list for browsers without scripts: what is under way and what is on disk, as HTML that asks for itself again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from hive.wire.api import Download, Model
from hive.wire.events import Complete, Downloading, Error, Event

#: Seconds after which a browser asks again.
REFRESH_S: Final = 10
#: Models that it shows.
MAX_MODELS: Final = 500
#: Bytes of the units in which sizes are shown.
_UNITS: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def render(downloads: Iterable[tuple[Download, Event]], models: Sequence[Model]) -> bytes:
    """The page. `downloads` with their latest events."""
    rows = [(download.name or download.model_ref, download.status, _progress(event)) for download, event in downloads]
    on_disk = [(model.id, _size(model.size), model.path) for model in models[:MAX_MODELS]]
    more = f"<p>and {len(models) - MAX_MODELS} more</p>" if len(models) > MAX_MODELS else ""
    body = (
        f"<h1>hive</h1><h2>Downloads</h2>{_table(('Model', 'Status', 'Progress'), rows, 'No downloads.')}"
        f"<h2>On disk</h2>{_table(('Model', 'Size', 'Path'), on_disk, 'No models yet.')}{more}"
    )
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>hive</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}"><link rel="stylesheet" href="/page/style.css">'
    )
    return f'{head}<body class="plain"><main>{body}</main></body></html>'.encode("utf-8", "replace")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    if not rows:
        return f"<p>{empty}</p>"
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    lines = (
        f'<tr><th scope="row"><bdi>{escape(first)}</bdi></th>'
        f"{''.join(f'<td><bdi>{escape(cell)}</bdi></td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _progress(event: Event) -> str:
    """How far it is, in a few words."""
    if isinstance(event, Complete):
        return event.local_path
    if isinstance(event, Error):
        return event.message
    return _under_way(event)


def _under_way(event: Downloading) -> str:
    if not event.bytes_total:
        return _size(event.bytes_downloaded) if event.bytes_downloaded else ""
    share = min(100, event.bytes_downloaded * 100 // event.bytes_total)
    return f"{share} % of {_size(event.bytes_total)}"


def _size(count: int) -> str:
    """Bytes as people read them."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
