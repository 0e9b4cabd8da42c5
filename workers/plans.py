"""Plans as people see them: what a download would bring, and what of it is missing."""

from __future__ import annotations

import msgspec

from hive.wire.api import DownloadPlan, PlanFile, PlanVariant
from hive.wire.selection import quantisations
from workers import sources
from workers.publish import Store


def described(found: sources.Plan, store: Store) -> DownloadPlan:
    """What is to come, and how much of it is not on the disk; without the room that there is. Raises HiveError."""
    missing = store.missing(found)
    digests = {file.digest for file in missing if file.digest}
    files = tuple(
        PlanFile(
            path=file.path,
            size=file.size,
            digest=str(file.digest) if file.digest else None,
            on_disk=file not in missing and file.digest not in digests,
        )
        for file in found.files
    )
    wanted = sum(file.size or 0 for file in missing)
    return DownloadPlan(
        model_ref=found.ref.display,
        name=name_of(found),
        repo=found.repo,
        commit=found.commit,
        variant=found.variant,
        files=files,
        bytes_total=found.total_bytes,
        bytes_missing=wanted if found.total_bytes is not None or not missing else None,
        license=found.license,
        variants=msgspec.convert(quantisations(found.tree), tuple[PlanVariant, ...]),
    )


def name_of(plan: sources.Plan) -> str:
    """What people call it: the repository with the variant or the path, or the name of a URL's file."""
    if plan.repo is None:
        return plan.primary or plan.ref.display
    if plan.variant:
        return f"{plan.repo}:{plan.variant}"
    return f"{plan.repo}/{plan.ref.path}" if plan.ref.path else plan.repo
