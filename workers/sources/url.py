"""A plain http(s) URL as a plan of one file, of which only its server knows the size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hive.downloads.asked import checked_sha256
from hive.errors import HiveError, InvalidModelRef
from hive.store.layout import safe_name
from hive.wire.refs import ModelRef
from workers.sources.naming import name_of, name_of_url
from workers.sources.plan import Plan, PlannedFile
from workers.sources.sniff import check_head, check_whole
from workers.transfer import Digest, Limits, Location, Network, Refusal, Served, Source, probe


def resolve(
    ref: ModelRef,
    sha256: str | None,
    name: str | None = None,
    locate: Callable[[], Location] | None = None,
    explain: Callable[[Refusal], HiveError] | None = None,
) -> Plan:
    """The plan for a URL. Its file is called `name`; without one, by the last segment of the path, made safe, until its
    server has answered: see `named`. `locate`: where it is to be had, if that is not the URL itself; `explain`: see
    Source.

    Raises:
        InvalidModelRef: the reference is no URL.
        BadRequest: `sha256` is not 64 hex digits.
    """
    if ref.url is None:
        raise InvalidModelRef
    asked, name = name_of_url(ref.url), safe_name(name) if name else None
    digest = Digest("sha256", checked_sha256(sha256)) if sha256 else None
    location = Location(url=ref.url, headers={})
    source = Source(
        locate=locate or (lambda: location),
        size=None,
        digest=digest,
        name=name or asked,
        explain=explain,
        asks=locate is not None,
    )
    if digest is None:
        source = _inspected(source, asked, name)
    file = PlannedFile(source.name, None, digest, None, source)
    return Plan(ref=ref, kind="url", files=(file,), primary=file.path, name=name)


def probed(plan: Plan, network: Network, limits: Limits) -> Plan:
    """The plan with the size and the name that its server says, asked now; the plan itself where it says nothing.

    Raises:
        HiveError: what the download would end with.
    """
    [file] = plan.files
    found = probe(file.source, network, limits)
    if found is None:
        return plan
    file = replace(named(plan, file, found.served), size=found.size)
    return replace(plan, files=(file,), primary=file.path)


def named(plan: Plan, file: PlannedFile, served: Served | None) -> PlannedFile:
    """The file of a URL's plan under the name that it is kept by, now that its server has said one."""
    return replace(file, path=plan.name or name_of(served, file.path))


def _inspected(source: Source, asked: str, name: str | None) -> Source:
    """The source with a look at what comes: no digest vouches for it."""

    def names(served: Served) -> list[str]:
        return [asked, name or name_of(served, asked)]

    return replace(
        source,
        inspect=lambda served, head: check_head(served, head, names(served)),
        inspect_whole=lambda served, fd: check_whole(fd, names(served)),
    )
