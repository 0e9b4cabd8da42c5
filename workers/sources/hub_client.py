"""What hive asks of the Hub's API, and the Hub's errors in hive's own words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import quote, urljoin

import httpx2
from huggingface_hub import errors as hub_errors
from huggingface_hub import get_session

from hive.errors import HiveError, HubRefused, InvalidModelRef, ModelAccessDenied
from hive.net.egress import Network
from hive.settings import Settings
from hive.store.layout import is_commit
from hive.store.restricted import ProbeFile
from hive.wire.refs import api_place
from hive.wire.selection import RepoFile
from workers.sources import hub_transport
from workers.sources.hub_refusals import HubRequest, refused
from workers.sources.plan import RetryLater
from workers.transfer import Location, Refusal, signed_url_expiry

#: Who may have a repository, as the Hub says it; a mirror may not say.
Visibility = Literal["public", "gated", "private", "unknown"]

#: Statuses by which a mirror may refuse the parameter `expand` and not the model.
MAYBE_EXPAND: Final = frozenset({400, 404, 405, 422, 501})

#: What can stand in a header. A token is never shown, so a line end in it must not show up as somebody else's mistake.
_TOKEN = re.compile(r"[!-~]{1,4096}")

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: How often each mark of JSON stands, at most, in what a Hub says of one file (2 objects and 8 fields, in 2026), and in
#: a reply beside that.
_MARKS_OF_A_FILE: Final = {b"{": 4, b"[": 4, b":": 16, b",": 24}
MARKS_BESIDE_FILES: Final = 10_000

#: By which a repository's tags name its licence, and characters of that tag.
_LICENSE_TAG: Final = "license:"
MAX_LICENSE_CHARS: Final = 80


class Head(NamedTuple):
    """What a revision stands for now, who may have the repository, and what its authors call the licence."""

    commit: str
    access: Visibility
    license: str | None


class FileMetadata(NamedTuple):
    """Where a file is now: its URL (signed, for LFS), when that ends in unix seconds; the size and the digest, where it
    is the Hub that says them.
    """

    url: str
    expires_at: float | None
    size: int | None
    etag: str | None


class HubClient:
    """The Hub's API with this token (None: anonymous). All methods raise hive's errors, or RetryLater."""

    def __init__(self, settings: Settings, token: str | None, network: Network) -> None:
        self._endpoint = settings.hf_endpoint.rstrip("/")
        hub_transport.install(self._endpoint, network)
        if token is not None and not _TOKEN.fullmatch(token):
            raise ModelAccessDenied("The token is none of the Hub: it holds blanks, line ends or special characters.")
        self._token = token
        self._bounds = hub_transport.CallBounds(
            settings.first_byte_timeout_s, settings.hub_timeout_s, settings.max_listing_bytes
        )
        self._max_files = settings.max_listing_files

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
        return Location(f"{self._endpoint}/api/{api_place(repo)}/xet-read-token/{commit}", self.credentials)

    def commit(self, repo: str, revision: str) -> Head:
        """The commit that a revision stands for now, who may have the repository, and under which licence."""
        with self._in_our_words(repo, revision):
            info = self._info(repo, revision)
            sha = info.get("sha")
            if not isinstance(sha, str) or not is_commit(sha.lower()):
                raise HubRefused("What answers at HF_ENDPOINT is not a Hub: its answer names no commit.")
            return Head(sha.lower(), _visibility(info), _license(info))

    def _info(self, repo: str, revision: str) -> dict[str, Any]:
        """What the Hub says of a revision: little, where it can; a mirror may not know how to say little.

        Not by huggingface_hub's `model_info`, which reads every field that comes, and fails on a date in another form.
        """
        url = f"{self._endpoint}/api/{api_place(repo)}/revision/{quote(revision, safe='')}"
        for expand in (["sha", "gated", "private", "tags"], []):
            response = get_session().get(url, params={"expand": expand}, headers=self.credentials)
            refusal = _refusal(response)
            if not expand or refusal.code or refusal.status not in MAYBE_EXPAND:
                break
        if not response.is_success:
            raise self._refused_here(repo, revision, None, refusal)
        found: dict[str, Any] = self._json(response)
        return found

    def tree(self, repo: str, commit: str) -> tuple[RepoFile, ...]:
        """All files of a commit."""
        found: list[RepoFile] = []
        with self._in_our_words(repo, commit):
            for number, entry in enumerate(self._entries(repo, commit), start=1):
                if number > self._max_files:
                    raise HubRefused(f"The Hub lists more than {self._max_files} files for this model.")
                if entry["type"] == "file":
                    found.append(_file(entry))
        return tuple(found)

    def _entries(self, repo: str, commit: str) -> Iterator[dict[str, Any]]:
        """Files and folders of a commit, page by page.

        Not by huggingface_hub's `list_repo_tree`: to that, whatever is no list is an empty one, and what is no file a
        folder. Raises ValueError for such.
        """
        url: str | None = (
            f"{self._endpoint}/api/{api_place(repo)}/tree/{quote(commit, safe='')}?recursive=true&expand=false"
        )
        while url is not None:
            response = get_session().get(url, headers=self.credentials)
            if not response.is_success:
                raise self._refused_here(repo, commit, None, _refusal(response))
            page = self._json(response)
            if not isinstance(page, list):
                raise ValueError("not a list")
            for entry in page:
                if not isinstance(entry, dict) or entry.get("type") not in ("file", "directory"):
                    raise ValueError("not an entry")
                yield entry
            url = response.links.get("next", {}).get("url")
            url = urljoin(str(response.url), url) if url else None

    def _json(self, response: httpx2.Response) -> Any:
        """What an answer holds. Counted before it is made: 64 MiB of `[],[],` are 1.5 GiB of lists.

        Raises:
            HubRefused: more than as many files as are taken can need.
        """
        for mark, of_each in _MARKS_OF_A_FILE.items():
            if response.content.count(mark) > of_each * self._max_files + MARKS_BESIDE_FILES:
                raise HubRefused(f"The Hub's reply holds more than what is said of {self._max_files} files.")
        return response.json()

    def metadata(self, repo: str, commit: str, path: str) -> FileMetadata:
        """Where a file is; also whether this token may have it.

        A mirror that refuses HEAD, or gives a size or an ETag of its own, says nothing by that: what the Hub vouches
        for stands in headers of the Hub, and whoever asks for the file itself hears whether it may be had.
        """
        url = self.resolve_url(repo, commit, path)
        with self._in_our_words(repo, commit, path):
            for _ in range(hub_transport.MAX_REDIRECTS + 1):
                response = get_session().request("HEAD", url, headers=self.credentials, follow_redirects=False)
                if not response.has_redirect_location:
                    break
                location = urljoin(url, response.headers["location"])
                if not self.is_own(location):
                    return _metadata(response, location)
                url = location
            else:
                raise HubRefused(f"The Hub redirects more than {hub_transport.MAX_REDIRECTS} times for one file.")
            said = _refusal(response)
            if response.is_success or not (said.code or said.text):
                return _metadata(response, url)
            raise self._refused_here(repo, commit, path, said)

    def check_readable(self, place: ProbeFile) -> None:
        """Return where the Hub lets this token have a file. What says neither yes nor no is a no: a company's Hub sends
        whoever it does not know to a page to log in, at its own origin or another, and some mirrors on to the Hub.

        Raises:
            HiveError: it does not; HubUnavailable where it does not say.
            RetryLater: it limits requests.
        """
        url = self.resolve_url(place.repo, place.commit, place.path)
        with self._in_our_words(place.repo, place.commit, place.path):
            for _ in range(hub_transport.MAX_REDIRECTS + 1):
                response = get_session().request("HEAD", url, headers=self.credentials, follow_redirects=False)
                if not response.has_redirect_location:
                    break
                url = urljoin(url, response.headers["location"])
                if not self.is_own(url):
                    if _names_file(response):
                        return  # a signed address: nobody else gets one
                    break
            if not response.is_success or _is_page(response):
                refusal = _refusal(response) if response.is_error else Refusal(HTTPStatus.FORBIDDEN, "", "")
                raise self.refused(place.repo, place.commit, place.path, refusal)

    def lets_in(self, place: ProbeFile) -> bool:
        """Whether the Hub lets this token have a file; False also where it does not say."""
        try:
            self.check_readable(place)
        except (HiveError, RetryLater):
            return False
        return True

    def refused(self, repo: str, revision: str, path: str | None, refusal: Refusal) -> HiveError:
        """What a final refusal of the Hub means, by its API or of a file."""
        return refused(refusal, HubRequest(self._endpoint, repo, revision, path, self._token is not None))

    def _refused_here(self, repo: str, revision: str, path: str | None, refusal: Refusal) -> HiveError:
        """The same of the answer that has just come."""
        error = self.refused(repo, revision, path, refusal)
        return type(error)(f"{error.message}{hub_transport.hint()}", **error.details)

    @contextlib.contextmanager
    def _in_our_words(self, repo: str, revision: str, path: str | None = None) -> Iterator[None]:
        try:
            with hub_transport.asking(self._endpoint, self._bounds):
                yield
        except hub_errors.HfHubHTTPError as error:
            raise self._refused_here(repo, revision, path, _refusal(error.response)) from None
        except hub_errors.HFValidationError:
            raise InvalidModelRef from None
        except httpx2.TooManyRedirects:
            raise HubRefused(f"The Hub redirects more than {hub_transport.MAX_REDIRECTS} times.") from None
        except (httpx2.InvalidURL, httpx2.HTTPError) as error:
            # What happens to connections is told by the transport. This is about what the Hub said.
            raise HubRefused(f"The Hub leads to an address that is none ({type(error).__name__}).") from None
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            raise HubRefused("What answers at HF_ENDPOINT is not a Hub: its reply has another form.") from None


def _license(info: dict[str, Any]) -> str | None:
    """The licence in a repository's tags: what its authors call it, such as `apache-2.0`; None where they do not."""
    tags = info.get("tags")
    for tag in tags if isinstance(tags, list) else ():
        if (
            isinstance(tag, str)
            and tag.startswith(_LICENSE_TAG)
            and len(tag) <= MAX_LICENSE_CHARS
            and tag.isprintable()
        ):
            return tag.removeprefix(_LICENSE_TAG)
    return None


def _visibility(info: dict[str, Any]) -> Visibility:
    if info.get("gated"):
        return "gated"
    if info.get("private"):
        return "private"
    return "public" if {"gated", "private"} <= info.keys() else "unknown"


def _refusal(response: httpx2.Response) -> Refusal:
    headers = response.headers
    return Refusal(response.status_code, headers.get("x-error-code", ""), headers.get("x-error-message", ""))


def _names_file(response: httpx2.Response) -> bool:
    """Whether an answer says of which file it is, as the Hub does where it sends on to its bytes."""
    return any(name in response.headers for name in ("x-linked-etag", "x-linked-size", "x-repo-commit"))


def _is_page(response: httpx2.Response) -> bool:
    """Whether an answer is a page for people: no weights are."""
    return "text/html" in response.headers.get("content-type", "").lower()


def _metadata(response: httpx2.Response, location: str) -> FileMetadata:
    size = response.headers.get("x-linked-size", "")
    etag = response.headers.get("x-linked-etag", "").removeprefix("W/").strip('"').lower()
    return FileMetadata(
        location, signed_url_expiry(location), int(size) if size.isdecimal() and len(size) < 19 else None, etag or None
    )


def _file(entry: dict[str, Any]) -> RepoFile:
    """The Hub's entry, with digests in the only form that hive lets name a file.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: a path, size or digest is none.
    """
    if not isinstance(entry["path"], str):
        raise ValueError("not a path")
    lfs = entry.get("lfs") or None
    sha256 = lfs["oid"].lower().removeprefix("sha256:") if lfs else None
    size, blob_id = int(lfs["size"] if lfs else entry["size"]), entry["oid"].lower()
    if not _SHA1.fullmatch(blob_id) or (lfs and not _SHA256.fullmatch(sha256 or "")) or not 0 <= size < 1 << 62:
        raise ValueError("not a digest or size")
    return RepoFile(entry["path"], size, blob_id, sha256, entry.get("xetHash"))
