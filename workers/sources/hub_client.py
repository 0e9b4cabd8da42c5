"""What hive asks of the Hub's API, and the Hub's errors in hive's own words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import quote, urljoin

import httpx2
from huggingface_hub import HfApi, get_hf_file_metadata
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile as HubFile

from hive.errors import (
    FileNotFound,
    HubUnavailable,
    InvalidModelRef,
    ModelAccessDenied,
    ModelNotFound,
    RevisionNotFound,
)
from hive.net.egress import Network
from hive.settings import Settings
from hive.store.layout import is_commit
from hive.wire.selection import RepoFile
from workers.sources import hub_transport
from workers.transfer import Location, signed_url_expiry

#: Most files of a repository that are listed: beyond the Hub's own recommendation of 100,000.
MAX_FILES: Final = 200_000

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileMetadata(NamedTuple):
    """Where a file is now: its URL (signed, for LFS), when that ends in unix seconds, the size and the digest."""

    url: str
    expires_at: float | None
    size: int | None
    etag: str | None


class HubClient:
    """The Hub's API with this token (None: anonymous). All methods raise hive's errors, or RetryLater."""

    def __init__(self, settings: Settings, token: str | None, network: Network) -> None:
        self._endpoint = settings.hf_endpoint.rstrip("/")
        hub_transport.install(self._endpoint, network)
        self._token = token
        # Without a token it must be False: None means that huggingface_hub looks for one by itself.
        self._api = HfApi(endpoint=self._endpoint, token=token or False)

    @property
    def credentials(self) -> dict[str, str]:
        """The headers for requests to the endpoint's own origin."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def is_own(self, url: str) -> bool:
        """Whether this URL is at the endpoint's own origin, the only one that may see the token."""
        return hub_transport.origin_of(url) == hub_transport.origin_of(self._endpoint)

    def resolve_url(self, repo: str, commit: str, path: str) -> str:
        """The Hub's own address of a file; it redirects to a signed URL for an LFS file."""
        return f"{self._endpoint}/{repo}/resolve/{commit}/{quote(path)}"

    def xet_token_location(self, repo: str, commit: str) -> Location:
        """Where the Hub hands out tokens for its Xet store, to those who may read the repository."""
        return Location(f"{self._endpoint}/api/models/{repo}/xet-read-token/{commit}", self.credentials)

    def commit(self, repo: str, revision: str) -> tuple[str, bool]:
        """The commit that a revision stands for now, and whether the repository is gated."""
        with self._in_our_words(repo, revision):
            info = self._api.model_info(repo, revision=revision, expand=["sha", "gated"])
            if not info.sha or not is_commit(info.sha):
                raise HubUnavailable("The Hub's answer names no commit.")
            return info.sha, bool(info.gated)

    def tree(self, repo: str, commit: str) -> tuple[RepoFile, ...]:
        """All files of a commit."""
        found: list[RepoFile] = []
        with self._in_our_words(repo, commit):
            for entry in self._api.list_repo_tree(repo, recursive=True, revision=commit):
                if isinstance(entry, HubFile):
                    found.append(_file(entry))
                if len(found) > MAX_FILES:
                    raise HubUnavailable(f"The Hub lists more than {MAX_FILES} files for this model.")
        return tuple(found)

    def metadata(self, repo: str, commit: str, path: str) -> FileMetadata:
        """Where a file is; also whether this token may have it."""
        url = self.resolve_url(repo, commit, path)
        with self._in_our_words(repo, commit, path):
            found = get_hf_file_metadata(url, token=self._token or False, endpoint=self._endpoint)
            location = urljoin(url, found.location)
            return FileMetadata(location, signed_url_expiry(location), found.size, found.etag)

    @contextlib.contextmanager
    def _in_our_words(self, repo: str, revision: str, path: str | None = None) -> Iterator[None]:
        """The most specific first: a gated repository is also one that is not found."""
        page = f"{self._endpoint}/{repo}"
        try:
            with hub_transport.asking(self._endpoint):
                yield
        except hub_errors.GatedRepoError:
            raise ModelAccessDenied(_how_to_get_access(page, self._token), repo=repo, page=page) from None
        except hub_errors.DisabledRepoError:
            raise ModelAccessDenied(f"The Hub has disabled access to {repo}.", repo=repo, page=page) from None
        except hub_errors.RepositoryNotFoundError:
            why = "the token does not see it" if self._token else "no token was sent (set HF_TOKEN or send hf_token)"
            raise ModelNotFound(f"The Hub has no model {repo}, or it is private and {why}.", repo=repo) from None
        except hub_errors.RevisionNotFoundError:
            text = f"{repo} has no branch, tag or commit {revision}."
            raise RevisionNotFound(text, repo=repo, revision=revision) from None
        except hub_errors.EntryNotFoundError:
            raise FileNotFound(f"{repo} has no file {path or ''}.", repo=repo, path=path) from None
        except hub_errors.HfHubHTTPError as error:
            raise _by_status(error.response.status_code, repo, page, revision) from None
        except hub_errors.HFValidationError:
            raise InvalidModelRef from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise HubUnavailable(f"The Hub cannot be asked ({type(error).__name__}).") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise HubUnavailable("What answers at HF_ENDPOINT is not a Hub: its reply has another form.") from None


def _by_status(status: int, repo: str, page: str, revision: str) -> Exception:
    if status in (401, 403):
        text = f"The Hub refused the token for {repo}: it is wrong, expired, or may not read it. See {page}."
        return ModelAccessDenied(text, repo=repo, page=page)
    if status == 404:
        return ModelNotFound(f"The Hub has no {repo} at {revision}.", repo=repo)
    return HubUnavailable(f"The Hub answered with status {status}.", status=status)


def _how_to_get_access(page: str, token: str | None) -> str:
    if token:
        return f"Access to this model is restricted. Accept its terms at {page} with the account of the token."
    return f"Access to this model is restricted. Accept its terms at {page}, then set HF_TOKEN or send hf_token."


def _file(entry: HubFile) -> RepoFile:
    """The Hub's entry, with digests in the only form that hive lets name a file.

    Raises:
        ValueError: a size or digest is none.
    """
    sha256 = entry.lfs.sha256 if entry.lfs else None
    size = entry.lfs.size if entry.lfs else entry.size
    if not _SHA1.fullmatch(entry.blob_id) or (sha256 and not _SHA256.fullmatch(sha256)) or not 0 <= int(size) < 1 << 62:
        raise ValueError("not a digest or size")
    return RepoFile(entry.path, int(size), entry.blob_id, sha256, entry.xet_hash)
