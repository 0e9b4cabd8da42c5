"""Dry run from the disk: the plan of a download of which all is there, without asking anybody."""

from __future__ import annotations

import msgspec

from hive.store.catalog import ModelCatalog, OnDisk
from hive.wire.api import DownloadPlan, PlanFile, PlanVariant
from hive.wire.selection import RepoFile, quantisations
from hive.wire.spec import DownloadSpec


def plan_on_disk(catalog: ModelCatalog, spec: DownloadSpec, found: OnDisk) -> DownloadPlan:
    """What a download of a model that is on the disk would bring: nothing more. Reads the disk."""
    repo = spec.ref.repo or None
    tree = catalog.tree(repo, found.commit) if repo and found.commit else None
    digests = {file.path: _digest(file) for file in tree or ()}
    files = tuple(
        PlanFile(path=file.path, size=file.size, digest=digests.get(file.path), on_disk=True) for file in found.files
    )
    return DownloadPlan(
        model_ref=spec.ref.display,
        name=found.model_id,
        repo=repo,
        commit=found.commit,
        variant=found.variant,
        local_path=found.local_path,
        files=files,
        bytes_total=found.size,
        bytes_missing=0,
        variants=msgspec.convert(quantisations(tree or ()), tuple[PlanVariant, ...]),
    )


def _digest(file: RepoFile) -> str:
    """A file's digest as plans have it."""
    return f"sha256:{file.sha256}" if file.sha256 else f"git-sha1:{file.blob_id}"
