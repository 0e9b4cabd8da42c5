"""A reference to the Hugging Face Hub as a plan: the commit, its files, which of them, and where their bytes are.

The Hub counts requests per five minutes and address, and a repository may have thousands of files. So a plan costs
one request for the commit and one per thousand files for the listing (none of them, where the commit's listing is on
the disk), and a small file costs no request of its own: its location is the Hub's own `resolve` address, which
redirects to a signed URL. Only for a large file, whose parts are fetched over many connections, the signed URL is
asked for first and used by all of them until it expires.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from hive.errors import (
    BadRequest,
    DownloadError,
    FileNotFound,
    HiveError,
    HubUnavailable,
    RevisionNotFound,
    SourceChanged,
    VariantNotFound,
)
from hive.net.egress import Network
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.restricted import AccessNotes, ProbeFile
from hive.wire.refs import ModelRef, path_problem
from hive.wire.selection import NoSuchFile, NoSuchVariant, Pickles, RepoFile, Selection, SelectionError, select
from workers.sources.hub_client import Head, HubClient, Visibility
from workers.sources.plan import Plan, PlannedFile, RetryLater, everywhere, plan_of_listing
from workers.transfer import Digest, Limits, Location, Refusal, Source

#: Names that an error lists, and characters of each.
MAX_SHOWN: Final = 20
MAX_SHOWN_CHARS: Final = 200

#: Bytes from which the signed URL of a file is asked for by itself: below, the engine fetches the file with one
#: request.
SIGNED_FROM_BYTES: Final = Limits().small_file_bytes


def resolve(
    ref: ModelRef,
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    settings: Settings,
    token: str | None,
    network: Network,
    as_operator: bool = True,
) -> Plan:
    """The plan for a reference to the Hub, pinned to the commit that its revision stands for now.

    Raises:
        HubUnavailable: the Hub does not answer, or HF_HUB_OFFLINE is set.
        ModelNotFound, RevisionNotFound, FileNotFound, VariantNotFound: it has no such thing.
        ModelAccessDenied: it is gated, or the token is not valid.
        BadRequest: patterns beside a path or a quantisation.
        RetryLater: the Hub limits requests.
    """
    if settings.hf_hub_offline:
        raise HubUnavailable("HF_HUB_OFFLINE is set, so the Hub is not asked, and this model is not on the disk.")
    hub = HubClient(settings, token, network)
    access: Visibility = "unknown"
    license_name: str | None = None
    commit = ref.rev
    if not ref.is_pinned:
        commit, access, license_name = _commit(hub, ref)
    noted = AccessNotes(settings.hive_dir).places(ref.repo, commit)
    withheld = bool(noted) and not as_operator
    # A listing that is on the disk was perhaps another's to read.
    tree = (None if withheld else ModelCatalog(settings).tree(ref.repo, commit)) or hub.tree(ref.repo, commit)
    selection = selected(tree, ref, include, exclude, settings.allow_pickles)
    # The largest: a README may be had without the terms that the weights ask for.
    largest = max(selection.files, key=lambda file: file.size).path
    if access == "gated":
        hub.metadata(ref.repo, commit, largest)
    if withheld:
        hub.check_readable(ProbeFile(ref.repo, commit, largest))
        for place in noted:
            if place.repo != ref.repo:
                hub.check_readable(place)
    places = noted
    probe = ProbeFile(ref.repo, commit, largest)
    if token is not None and not noted and not _is_public(settings, network, access, probe):
        places = (ProbeFile(ref.repo, commit, max(tree, key=lambda file: file.size).path),)
    plan = plan_of_listing(ref, commit, tree, selection, lambda file: _planned(hub, ref.repo, commit, file))
    return replace(
        plan,
        license=license_name,
        xet_token=hub.xet_token_location(ref.repo, commit),
        places=places,
        lets_in=everywhere if as_operator else hub.lets_in,
    )


def _is_public(settings: Settings, network: Network, access: Visibility, largest: ProbeFile) -> bool:
    """Whether a model that is fetched with a token could be had without: what the Hub says of it, or does when it is
    asked without. While it does not answer that, the model counts as restricted.
    """
    if access != "unknown":
        return access == "public"
    try:
        HubClient(settings, None, network).check_readable(largest)
    except (HiveError, RetryLater):
        return False
    return True


def _commit(hub: HubClient, ref: ModelRef) -> Head:
    """The commit of the reference's revision, and what the Hub says of the model beside it."""
    try:
        return hub.commit(ref.repo, ref.rev)
    except RevisionNotFound as error:
        if ref.path is None or ref.revision is None:
            raise
        path = f"{ref.path}@{ref.revision}"
        hint = f"If {path} is a file, write @main behind it: hf:{ref.repo}/{path}@main."
        raise RevisionNotFound(f"{error.message} {hint}", **error.details) from None


def selected(
    tree: tuple[RepoFile, ...], ref: ModelRef, include: Sequence[str], exclude: Sequence[str], pickles: Pickles
) -> Selection:
    """The files that a reference means, all of which can be written. Raises HiveError."""
    try:
        selection = select(
            tree,
            path=ref.path,
            quant=ref.quant,
            include=include,
            exclude=exclude,
            pickles=pickles,
            is_model=ref.is_model,
        )
    except NoSuchFile as error:
        raise FileNotFound(str(error), **error.details) from None
    except NoSuchVariant as error:
        raise VariantNotFound(str(error), **error.details, repo=ref.repo, revision=ref.revision) from None
    except SelectionError as error:
        raise BadRequest(str(error), **error.details) from None
    _check_names(selection)
    return selection


def _check_names(selection: Selection) -> None:
    """Raise DownloadError where a file's name cannot, or must not, be that of a file; it says how to go on without.

    All of the model is refused, and nothing left out in silence: a snapshot that lacks what its listing has would be
    fetched again each time, and nobody knows here whether the file matters.
    """
    bad = [(file.path, problem) for file in selection.files if (problem := path_problem(file.path))]
    if not bad:
        return
    path, problem = bad[0]
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    text = f"The model has a file with a name that hive does not write to a disk{more}: {path[:80]!a}: {problem}."
    paths = [found.encode("utf-8", "replace").decode()[:MAX_SHOWN_CHARS] for found, _ in bad[:MAX_SHOWN]]
    raise DownloadError(f"{text} To fetch the others leave it out: hive pull --exclude, with a pattern.", paths=paths)


def _planned(hub: HubClient, repo: str, commit: str, file: RepoFile) -> PlannedFile:
    digest = Digest("sha256", file.sha256) if file.sha256 else Digest("git-sha1", file.blob_id)

    is_signed = bool(file.sha256) and file.size >= SIGNED_FROM_BYTES

    def locate() -> Location:
        if is_signed:
            return _signed(hub, repo, commit, file)
        return Location(url=hub.resolve_url(repo, commit, file.path), headers=hub.credentials)

    def explain(refusal: Refusal) -> HiveError:
        return hub.refused(repo, commit, file.path, refusal)

    source = Source(locate=locate, size=file.size, digest=digest, name=file.path, explain=explain, asks=is_signed)
    return PlannedFile(file.path, file.size, digest, file.etag, source, file.xet_hash)


def _signed(hub: HubClient, repo: str, commit: str, file: RepoFile) -> Location:
    """Where a large file is now, after a look whether the Hub still means the content of the plan."""
    found = hub.metadata(repo, commit, file.path)
    if found.size not in (None, file.size) or found.etag not in (None, file.sha256):
        raise SourceChanged(f"The Hub has another content for {quote(file.path)} than its listing says.")
    headers = hub.credentials if hub.is_own(found.url) else {}
    return Location(url=found.url, headers=headers, expires_at=found.expires_at)
