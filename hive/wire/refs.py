"""Model references: `hf:org/name@revision:QUANT`, one file of a repository, or a plain URL.

    hf:org/name[/path/in/repo][@revision][:QUANT]       org/name and hf.co/org/name are short for hf:org/name
    https://host/path/file.gguf                          any http(s) URL; file:///path where that is allowed
    s3://bucket/path/file.gguf, gs://, az://             an object of a bucket, where that is allowed
    https://huggingface.co/org/name/resolve/main/f.gguf  read as hf:org/name/f.gguf@main
    https://huggingface.co/org/name/tree/main/folder     read as hf:org/name/folder/@main: what lies below it
    hf:datasets/org/name, hf:spaces/org/name             a data set, or a Space's files, with what may stand behind

A reference is parsed once, here, by an allow-list, and every URL or path is rebuilt from the parts: two parsers that
read one text differently are how a check is passed on one address and the request goes to another.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from hive.wire.buckets import is_object, read_object
from hive.wire.commands import several
from hive.wire.hosts import to_ascii_host
from hive.wire.pasted import (
    BLANKS,
    FILE_ENDING,
    HIDDEN_QUERY,
    HUB_PORTS,
    INVISIBLE,
    RefError,
    as_written,
    backslash,
    hub_address,
    is_hub_host,
    normalise,
)
from hive.wire.registries import (
    MODELSCOPE,
    MODELSCOPE_SCHEME,
    RegistryName,
    default_revision,
    is_registry,
    read_name,
    registry_name,
    spelled,
)

__all__ = ["HIDDEN_QUERY", "RefError"]

#: Longest reference in characters. Signed URLs reach some 2,000.
MAX_REF_CHARS = 4096
#: References in one text that are told apart, to say that hive takes one at a time.
MAX_SEVERAL = 16
#: Longest path of a file inside a repository, in bytes, and of one of its segments (the limit of common filesystems).
MAX_PATH_BYTES = 1024
MAX_SEGMENT_BYTES = 255
#: What Ollama's users write behind a ':' where they mean whatever there is.
ANY_QUANT = "latest"
#: The branch that a reference without a revision means.
DEFAULT_REVISION = "main"

#: What a repository's name begins with that is no model's, as in the Hub's addresses; the cache has it as well.
REPO_KINDS = ("datasets/", "spaces/")

#: What stays as it is in a URL: printable ASCII, the sign of an encoding included.
_PRINTABLE = "".join(map(chr, range(33, 127)))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+=#-]{0,254}")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
#: The host of a URL, before its port and path.
_AUTHORITY = re.compile(r"(https?://)([^/?#@:\[\]]+)(?=[/?#:]|$)", re.IGNORECASE)
#: What nobody sees in a host that was pasted.
_UNSEEN = dict.fromkeys(map(ord, INVISIBLE))
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?|\[[0-9a-f:.]{2,45}\]")


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person asked for, in parts. `kind` "hf" has `repo`; `kind` "url" has `url` and nothing else."""

    kind: Literal["hf", "url"] = "hf"
    repo: str = ""
    revision: str | None = None
    path: str | None = None
    quant: str | None = None
    url: str | None = None

    @property
    def is_local_file(self) -> bool:
        """Whether this is a file of the machine itself."""
        return self.url is not None and self.url.startswith("file:")

    @property
    def is_object(self) -> bool:
        """Whether this is an object of a bucket, and its `url` one that nobody can ask for: hive.wire.buckets."""
        return is_object(self.url)

    @property
    def is_strangers(self) -> bool:
        """Whether a stranger may have chosen the host of what this names: by a URL, or by oci://."""
        return self.url is not None or bool(self.registry and self.registry.host)

    @property
    def registry(self) -> RegistryName | None:
        """What this is called in a registry; None for what is on the Hub, or a URL's."""
        return registry_name(self.repo) if self.repo else None

    def __str__(self) -> str:
        """The reference as `parse_ref` reads it. A URL is given whole: see `display` for what may be shown."""
        if self.url is not None:
            return self.url
        is_plain = is_registry(self.repo) and not (self.path or self.quant or self.is_pinned)
        if is_plain and (written := spelled(self.repo, self.rev)) is not None:
            return written
        path = f"/{self.path}" if self.path else ""
        revision = self.revision or (DEFAULT_REVISION if path and _needs_revision(path) else "")
        revision = f"@{revision}" if revision else ""
        quant = f":{self.quant}" if self.quant else ""
        text = f"{self.repo}{path}{revision}{quant}"
        if self.repo.startswith(MODELSCOPE):
            return MODELSCOPE_SCHEME + text.removeprefix(MODELSCOPE)
        return f"hf:{text}"

    @property
    def is_model(self) -> bool:
        """Whether this is no data set and no Space, of which nothing is chosen by what models consist of."""
        return not self.repo.startswith(REPO_KINDS)

    @property
    def display(self) -> str:
        """The reference for logs, events and lists. The query of a URL may be a signature, so it is not shown."""
        if self.url is None:
            return str(self)
        return f"{without_query(self)}{HIDDEN_QUERY if urlsplit(self.url).query else ''}"

    @property
    def rev(self) -> str:
        """The revision that is meant, `main` where none is written."""
        return self.revision or DEFAULT_REVISION

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a full commit hash, which never moves."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))


def parse_ref(text: str, endpoint: str = "") -> ModelRef:
    """Read a reference, also as people paste it (`hive.wire.pasted`). In a URL spaces and what is not ASCII are
    percent-encoded. `endpoint` is the address of a mirror of the Hub, whose pages then are those of the Hub.

    Raises:
        RefError: with a sentence that says what is wrong with it and how to write it.
    """
    text = text.strip(BLANKS)
    if len(text) > MAX_REF_CHARS:
        raise RefError(f"The model reference has {len(text)} characters; the limit is {MAX_REF_CHARS}.")
    try:
        return _parse(text, endpoint)
    except RefError:
        if len(each := _each(text, endpoint)) > 1:
            raise several(each) from None
        raise


def _each(text: str, endpoint: str) -> list[str]:
    """The references of a text that is several, with blanks or commas between; none where a part of it is no model."""
    words = re.split(r"[\s,;]+", text)
    if len(words) > MAX_SEVERAL or not all("/" in word for word in words):
        return []
    try:
        return list(dict.fromkeys(str(_parse(word, endpoint)) for word in words))
    except RefError:
        return []


def _parse(text: str, endpoint: str) -> ModelRef:
    text = as_written(text)
    if not text.strip() or any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise RefError("A model reference is not empty and has no control characters.")
    if "\\" in text:
        raise backslash(text)
    if text[: len(MODELSCOPE_SCHEME)].lower() == MODELSCOPE_SCHEME:
        return _parse_hub(MODELSCOPE + text[len(MODELSCOPE_SCHEME) :].removeprefix("//").lstrip())
    if (named := read_name(text)) is not None:
        return ModelRef(repo=named[0], revision=named[1])
    if (address := read_object(text)) is not None:
        return ModelRef(kind="url", url=address)
    text = normalise(text, endpoint)
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in ("http", "https"):
        return _parse_url(text)
    if colon and scheme.lower() == "file":
        return _parse_file_url(text)
    if colon and scheme.lower() == "hf":
        return _parse_hub(rest)
    if colon and "/" not in scheme:
        raise RefError(f"'{scheme[:40]}:' is not a scheme hive knows. Use hf:org/name, or an http(s) URL.")
    return _parse_hub(text)


def is_quant(name: str) -> bool:
    """Whether a variant of this name can be written behind a ':'."""
    return _QUANT.fullmatch(name) is not None and FILE_ENDING.search(name) is None


def repo_in(text: str) -> str:
    """The repository that a reference, or a model's id, begins with; for texts that hive wrote itself."""
    text = text.removeprefix("hf:")
    if text.startswith(MODELSCOPE_SCHEME):
        text = MODELSCOPE + text.removeprefix(MODELSCOPE_SCHEME)
    with contextlib.suppress(RefError):
        if (named := read_name(text)) is not None:
            return named[0]
    parts = 3 if text.startswith(REPO_KINDS) else 2
    return "/".join(text.split("/")[:parts]).partition("@")[0].partition(":")[0]


def api_place(repo: str) -> str:
    """What the Hub's API calls a repository, below `/api`: `models/org/name`, `datasets/org/name`."""
    return repo if repo.startswith(REPO_KINDS) else f"models/{repo}"


def with_revision(ref: ModelRef, revision: str | None) -> ModelRef:
    """The reference with a revision that was given beside it.

    Raises:
        RefError: it has another one, or none fits.
    """
    if revision is None:
        return ref
    if ref.revision not in (None, revision) or ref.kind != "hf":
        raise RefError("Give the revision once: behind an '@' in the reference, or as 'revision'.")
    return parse_ref(str(msgspec.structs.replace(ref, revision=revision)))


def without_query(ref: ModelRef) -> ModelRef:
    """The reference without a URL's query, which may be a signature and travels encrypted. See `with_query`."""
    return msgspec.structs.replace(ref, url=urlunsplit(urlsplit(ref.url)._replace(query=""))) if ref.url else ref


def with_query(ref: ModelRef, query: str | None) -> ModelRef:
    """The reference with this query on its URL."""
    return (
        msgspec.structs.replace(ref, url=urlunsplit(urlsplit(ref.url)._replace(query=query)))
        if ref.url and query
        else ref
    )


def dedup_key(
    ref: ModelRef,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    sha256: str | None = None,
    name: str | None = None,
    permission: str = "",
) -> str:
    """What makes two requests the same download: 64 hex digits over the reference and the selection, order aside.

    A digest is part of it: who asks for one must not join a download that checks none. So is a name of one's own, and
    `permission`: by what the Hub lets the download in. Who joined one that another token opened would get what their
    own does not open.
    """
    same: tuple[object, ...] = (
        ref.kind,
        ref.repo,
        ref.rev if ref.repo else "",
        ref.path,
        ref.quant,
        ref.url,
        sorted(set(include)),
        sorted(set(exclude)),
        sha256,
    )
    # Without these the key is that of versions which knew none: a download of theirs is still joined.
    if name or permission:
        same = (*same, name)
    if permission:
        same = (*same, permission)
    return hashlib.sha256(msgspec.json.encode(same)).hexdigest()


def check_path(path: str) -> str:
    """A path inside a repository that is safe to put below a folder, unchanged.

    Raises:
        RefError: for absolute paths, `.`, `..` and empty segments, control characters, backslashes, names of `.git`,
            and anything too long.
    """
    problem = path_problem(path)
    if problem:
        raise RefError(f"The path {path[:80]!r} is not allowed: {problem}.")
    return path


def path_problem(path: str) -> str | None:
    """Why a repository path must not be used, or None where it is safe."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if not path or size > MAX_PATH_BYTES:
        return f"it must have 1 to {MAX_PATH_BYTES} bytes"
    if any(ord(char) < 32 or ord(char) == 127 or char == "\\" for char in path):
        return "control characters and backslashes are not allowed"
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            return "empty, '.' and '..' segments are not allowed"
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            return f"a segment is longer than {MAX_SEGMENT_BYTES} bytes"
        if segment.lower() == ".git":
            return "'.git' is not allowed"
        if not segment.strip(". "):
            return f"{segment[:40]!r} is not a portable file name"
    return None


def _parse_hub(text: str) -> ModelRef:
    """`org/name[/path][@revision][:QUANT]`, where a path may itself hold '@' and ':'; see `_cut`."""
    kind = next((kind for kind in REPO_KINDS if text.startswith(kind)), "")
    text = text.removeprefix(kind)
    text = text.rstrip("/") if text.rstrip("/").count("/") <= 1 else text
    repo, path, revision, quant = _cut(text)
    org, _, name = repo.partition("/")
    if revision == "sha256" or (revision or "").startswith("sha256:"):
        raise RefError(
            "A digest is no revision: hive checks every file by the digest that the Hub lists. Leave it away."
        )
    if revision is not None:
        # As it stands in an address: refs%2Fpr%2F1.
        revision = re.sub("%2f", "/", revision, flags=re.IGNORECASE)
    if revision is not None and not is_revision(revision):
        raise RefError(f"{revision[:80]!r} is not a revision. Write a branch, tag or commit behind the '@'.")
    if not (_is_name(org) and _is_name(name.removesuffix(".git"))):
        raise RefError(_no_repository(kind + repo.rstrip("/")))
    if quant is not None and path is not None:
        raise RefError("Name one file of the repository or a quantisation, not both.")
    if quant is not None and FILE_ENDING.search(quant):
        quant, path = None, quant
    if quant is not None and quant.lower() == ANY_QUANT:
        quant = None
    if quant is not None and not _QUANT.fullmatch(quant):
        raise RefError(f"{quant[:80]!r} is not a quantisation. Write one such as Q4_K_M behind the ':'.")
    if quant is not None and kind:
        raise RefError("A data set and a Space have no quantisations. Leave the ':' and what follows away.")
    repo = f"{kind}{org}/{name.removesuffix('.git')}"
    return ModelRef(
        repo=repo,
        revision=_of_registry(repo, revision) if is_registry(repo) else revision,
        path=_check_ref_path(path) if path is not None else None,
        quant=quant.upper() if quant else None,
    )


def _of_registry(repo: str, revision: str | None) -> str:
    """The revision that is meant of a registry's repository. Raises RefError where the name is none of a registry."""
    if registry_name(repo) is None:
        raise RefError(_no_repository(repo))
    return revision or default_revision(repo)


def _no_repository(text: str) -> str:
    """What to say of a text that is no `org/name`."""
    if text.startswith(MODELSCOPE):
        name = text.removeprefix(MODELSCOPE)
        return f"{name[:120]!r} names no repository of ModelScope. Write modelscope:org/name."
    said = f"{text[:120]!r} names no repository."
    if "/" not in text and _is_name(text):
        return f"{said} Its name has two parts; look for it at https://huggingface.co/models?search={text}."
    return f"{said} Write hf:org/name, for example hf:org/model."


def _cut(text: str) -> tuple[str, str | None, str | None, str | None]:
    """The repository, path, revision and quantisation of a reference; None for what is not written.

    The last '@' begins the revision, and a ':' behind it, or behind the repository, the quantisation. But a ':' with a
    '/' behind it belongs to a path, and so does an '@' with a '/' and the name of a file behind it.
    """
    org, _, rest = text.partition("/")
    cut = min((at for at in (rest.find(char) for char in "/@:") if at >= 0), default=len(rest))
    repo, tail = f"{org}/{rest[:cut]}", rest[cut:]
    if tail.startswith(":") and "/" in tail and "@" not in tail.partition("/")[0]:
        tail = f"/{tail[1:]}"  # org/name:folder/file
    path, at, revision = tail.rpartition("@") if _has_revision(tail) else (tail, "", "")
    quant: str | None = None
    if at:
        revision, colon, quant_text = revision.partition(":")
        quant = quant_text if colon else None
    if path.startswith(":"):
        if quant is not None:
            raise RefError("Name one quantisation.")
        path, quant = "", path[1:]
    elif quant is None and not at and (colon_at := path.rfind(":")) >= 0 and not _is_of_path(path, colon_at):
        path, quant = path[:colon_at], path[colon_at + 1 :]
    return repo, path[1:] if path else None, revision if at else None, quant


def _has_revision(tail: str) -> bool:
    """Whether the last '@' begins a revision: it does, unless a file's name follows it behind a '/'."""
    path, at, revision = tail.rpartition("@")
    return bool(at) and not ("/" in path and "/" in revision and FILE_ENDING.search(revision) is not None)


def _is_of_path(path: str, colon_at: int) -> bool:
    """Whether a ':' belongs to a path: a '/' or a file's ending follows it."""
    tail = path[colon_at + 1 :]
    return "/" in tail or FILE_ENDING.search(tail) is not None


def _needs_revision(path: str) -> bool:
    """Whether a path (with its slash) is only read as one where a revision stands behind it."""
    try:
        found = _cut(f"o/n{path}")
    except RefError:
        return True
    return found != ("o/n", path[1:], None, None) or path != path.strip(BLANKS)


def _check_ref_path(path: str) -> str:
    """A path in a reference; a folder's ends in a slash."""
    check_path(path.removesuffix("/") if path else "")
    return path


def _is_name(part: str) -> bool:
    """Whether the Hub would accept this as an organisation or a repository's name."""
    return (
        bool(_NAME.fullmatch(part)) and ".." not in part and "--" not in part and not part.endswith((".", "-", ".git"))
    )


def is_revision(text: str) -> bool:
    """Whether a branch or tag of this name can be written behind an '@'."""
    return (
        bool(_REVISION.fullmatch(text)) and ".." not in text and "//" not in text and not text.endswith(("/", ".lock"))
    )


def _parse_file_url(text: str) -> ModelRef:
    """A file of this machine, which is brought into the store where that is allowed."""
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise RefError(f"The URL is not valid: {str(error).rstrip('.')}.") from None
    # A name on a disk need not be UTF-8: its other bytes come from the command line as they come from an encoding.
    path = unquote(parts.path, errors="surrogateescape")
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or path.endswith("/"):
        raise RefError("Write a file of this machine with its whole path: file:///models/file.gguf.")
    if parts.query or any(ord(char) < 32 or ord(char) == 127 for char in path) or ".." in path.split("/"):
        raise RefError("A file: URL has a path and nothing else, without '..' and control characters.")
    return ModelRef(kind="url", url=f"file://{quote(path, errors='surrogateescape')}")


def _parse_url(text: str) -> ModelRef:
    # As browsers do with what people paste: the host has an encoding of its own, the rest is percent-encoded.
    head = _AUTHORITY.match(text)
    try:
        text = f"{head[1]}{to_ascii_host(head[2].translate(_UNSEEN))}{text[head.end() :]}" if head else text
        parts = urlsplit(quote(text, safe=_PRINTABLE, errors="surrogateescape"))
        port = parts.port
    except ValueError as error:
        raise RefError(f"The URL is not valid: {str(error).rstrip('.')}.") from None
    host = parts.netloc.rpartition("@")[2]
    host = (host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]).lower()
    if "@" in parts.netloc:
        hint = " Write hf:org/name, and give the token as HF_TOKEN." if is_hub_host(host) else ""
        raise RefError(f"A URL with a user or password in it is not accepted.{hint}")
    if not _HOST.fullmatch(host) or port == 0:
        raise RefError("The URL has no valid host name.")
    scheme = parts.scheme.lower()
    is_default_port = port in (None, {"http": 80, "https": 443}[scheme])
    if is_hub_host(host) and (is_default_port or port in HUB_PORTS):
        return _parse_hub(hub_address(parts).removeprefix("hf:"))
    netloc = host if is_default_port else f"{host}:{port}"
    return ModelRef(kind="url", url=urlunsplit((scheme, netloc, parts.path or "/", parts.query, "")))
