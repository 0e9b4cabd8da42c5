"""The Hub's refusals in hive's own words: one text for what its API refuses and for what its files refuse.

The Hub says what it means in `X-Error-Code` and `X-Error-Message`; the status alone is misleading (401 stands for a
repository that does not exist, one that is private, one that is gated, and a wrong token). A mirror may say nothing but
the status.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

from hive.errors import FileNotFound, HiveError, HubRefused, ModelAccessDenied, ModelNotFound, RevisionNotFound
from workers.transfer import Refusal

#: How the Hub words a token that nobody has issued, and a repository that it has taken away.
_BAD_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105 - not a token
_DISABLED = "Access to this resource is disabled."


class HubRequest(NamedTuple):
    """What the Hub was asked for. `path` is None for the repository itself, `signed_in` whether a token was sent."""

    endpoint: str
    repo: str
    revision: str
    path: str | None
    signed_in: bool

    @property
    def kind(self) -> str:
        """What it is: a model, a data set or a Space."""
        return {"datasets": "data set", "spaces": "Space"}.get(self.repo.partition("/")[0], "model")

    @property
    def page(self) -> str:
        """The address of the repository's page, for people."""
        return f"{self.endpoint}/{self.repo}"


def refused(refusal: Refusal, asked: HubRequest) -> HiveError:
    """The error for an answer of the Hub that is final. The most specific first: a gated repository is also one that is
    not found.
    """
    repo, page = asked.repo, asked.page
    if refusal.code == "GatedRepo":
        return ModelAccessDenied(_how_to_get_access(asked), repo=repo, page=page)
    if refusal.text == _DISABLED or refusal.status == HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS:
        return ModelAccessDenied(f"The Hub has disabled access to {repo}. See {page}.", repo=repo, page=page)
    if refusal.code == "RevisionNotFound":
        text = f"{repo} has no branch, tag or commit {asked.revision}."
        return RevisionNotFound(text, repo=repo, revision=asked.revision)
    if refusal.code == "EntryNotFound":
        return FileNotFound(f"{repo} has no file {asked.path or ''}.", repo=repo, path=asked.path)
    if refusal.code == "RepoNotFound" or (refusal.status == HTTPStatus.UNAUTHORIZED and refusal.text != _BAD_TOKEN):
        why = "the token does not see it" if asked.signed_in else "no token was sent (set HF_TOKEN or send hf_token)"
        return ModelNotFound(f"The Hub has no {asked.kind} {repo}, or it is private and {why}.", repo=repo)
    return _by_status(refusal, asked)


def _by_status(refusal: Refusal, asked: HubRequest) -> HiveError:
    repo, page = asked.repo, asked.page
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        text = f"The Hub refused the token for {repo}: it is wrong or expired. Check HF_TOKEN, or the hf_token sent."
        return ModelAccessDenied(text, repo=repo, page=page)
    if refusal.status == HTTPStatus.FORBIDDEN:
        text = f"The Hub refused the token for {repo}: it may not read it. See {page}."
        if not asked.signed_in:
            text = f"The Hub refuses access to {repo} (403). See {page}; a token may help (HF_TOKEN or hf_token)."
        return ModelAccessDenied(text, repo=repo, page=page)
    if refusal.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        if asked.path is not None:
            return FileNotFound(f"The Hub has no file {asked.path} of {repo}.", repo=repo, path=asked.path)
        return ModelNotFound(f"The Hub has no {repo} at {asked.revision}.", repo=repo)
    said = f": {refusal.text.rstrip('.')}" if refusal.text else ""
    text = f"The Hub refuses what hive asked of it ({refusal.status}){said}. Check HF_ENDPOINT; see {page}."
    return HubRefused(text, status=refusal.status, repo=repo)


def _how_to_get_access(asked: HubRequest) -> str:
    step = " with the account of the token" if asked.signed_in else ", then set HF_TOKEN or send hf_token"
    return f"Access to this {asked.kind} is restricted. Accept its terms at {asked.page}{step}."
