"""Plans for tests: made from the stand-in of the Hub, and fetched with plain requests instead of the engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import requests

from hive.net.egress import Network
from hive.settings import Settings
from hive.wire.refs import parse_ref
from tests.hub import AnyContent, SyntheticFile
from workers.publish import Store
from workers.sources import Plan, PlannedFile, resolve
from workers.transfer import Fetched

#: A model with git and LFS files, and folders.
MODEL: dict[str, AnyContent | None] = {
    "README.md": b"# A model\n",
    "config.json": b"{}\n",
    "deep/er/notes.txt": b"notes\n",
    "deep/model.safetensors": SyntheticFile(100_000, 2),
    "model.safetensors": SyntheticFile(200_000, 1),
}


def repo_folder(settings: Settings, name: str = "models--org--name") -> Path:
    """A repository's folder in the cache."""
    return settings.hub_dir / name


def plan_for(
    settings: Settings,
    ref: str,
    *,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    token: str | None = None,
    sha256: str | None = None,
) -> Plan:
    """The plan for a reference."""
    return resolve(
        parse_ref(ref),
        settings=settings,
        network=Network(user_agent=settings.user_agent),
        include=include,
        exclude=exclude,
        token=token,
        sha256=sha256,
    )


def content_of(file: PlannedFile) -> bytes:
    """The file's bytes, from where the plan says that they are."""
    location = file.source.locate()
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(location.url, headers=dict(location.headers), timeout=60)
        answer.raise_for_status()
        return answer.content


def fetch_into(store: Store, plan: Plan, file: PlannedFile) -> None:
    """Fetch one file and publish it, as the engine would."""
    content = content_of(file)
    partial = store.partial(plan, file)
    part = Path(f"{partial}.part")
    part.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    fetched = Fetched(part, len(content), digest, None, 0, 0.0, file.digest is not None)
    store.publish(plan, file, partial, fetched)


def download(settings: Settings, plan: Plan) -> Store:
    """Fetch what is missing and complete the plan."""
    store = Store(settings)
    for file in store.missing(plan):
        fetch_into(store, plan, file)
    store.complete(plan)
    return store
