"""Names of models elsewhere than on the Hub: in Ollama's registry, in those that speak OCI's protocol, on ModelScope.

    ollama:llama3.2:1b                       the repository ollama.library/llama3.2 of the store, revision 1b
    ollama:ns/name                           ollama.ns/name, revision latest
    oci://ghcr.io/org/phi3.5:q4              oci.ghcr.io/org.phi3._5, revision q4
    oci://host:5000/name@sha256:<64 hex>     oci.host.5000/name, revision sha256-<64 hex>
    modelscope:org/name@v1:Q4_K_M            modelscope.org/name, revision v1, and the rest as on the Hub

Problem: what comes from a registry lies in the same cache as the Hub's models, so that every tool, list and check of
the store knows it; and there a repository has two parts. The easy way, to cut a long name short, would let two names be
one repository, and who owns one of them decide what the other's users get. So a name is written in a way that can be
read back: of the host the port behind a dot, of the path '.' for '/', and '._' for a dot, which no name has.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

from hive.wire.pasted import RefError

#: What owners of the store's repositories begin with that are from a registry; the Hub has no such owners.
OLLAMA: Final = "ollama."
OCI: Final = "oci."
MODELSCOPE: Final = "modelscope."
MODELSCOPE_SCHEME: Final = "modelscope:"
OLLAMA_SCHEME: Final = "ollama:"
OCI_SCHEME: Final = "oci://"
#: The tag that is meant where none is written, and the namespace of Ollama's own models.
LATEST: Final = "latest"
#: The branch that is meant on ModelScope.
MASTER: Final = "master"
LIBRARY: Final = "library"
#: Characters of an owner, and of a name, in the store.
MAX_PART_CHARS: Final = 96

_OLLAMA_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
#: With one of these a name in the store would look like the address of a page.
_NOT_OWNERS: Final = frozenset({"com", "ai", "cn"})
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-)[a-z0-9]+)*")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_DIGEST_REVISION = re.compile(r"sha256-([0-9a-f]{64})")


class RegistryName(NamedTuple):
    """A repository of a registry, or of ModelScope: `host` (`host:port`; "" where the settings name it) and path."""

    kind: Literal["ollama", "oci", "modelscope"]
    host: str
    path: str


def is_registry(repo: str) -> bool:
    """Whether a repository of the store is from a registry."""
    return repo.startswith((OLLAMA, OCI, MODELSCOPE))


def default_revision(repo: str) -> str:
    """What is meant of such a repository where no revision is written."""
    return MASTER if repo.startswith(MODELSCOPE) else LATEST


def registry_name(repo: str) -> RegistryName | None:
    """What a repository of the store is called in its registry; None where it is none of a registry, or no name."""
    owner, _, name = repo.partition("/")
    if owner.startswith(OLLAMA):
        found = RegistryName("ollama", "", f"{owner.removeprefix(OLLAMA)}/{name}")
    elif owner.startswith(MODELSCOPE):
        found = RegistryName("modelscope", "", f"{owner.removeprefix(MODELSCOPE)}/{name}")
    elif owner.startswith(OCI):
        path = re.sub(r"\.(?!_)", "/", name).replace("._", ".")
        found = RegistryName("oci", _with_port(owner.removeprefix(OCI)), path)
    else:
        return None
    try:
        return found if _repo(found) == repo else None
    except RefError:
        return None


def digest_of_revision(revision: str) -> str | None:
    """The digest that a revision is, as `sha256:<hex>`; None where it is a tag."""
    found = _DIGEST_REVISION.fullmatch(revision)
    return f"sha256:{found[1]}" if found else None


def read_name(text: str) -> tuple[str, str] | None:
    """The store's repository and the revision of `ollama:` and `oci://` references; None for any other text.

    Raises:
        RefError: it is one of these, and names nothing.
    """
    if text[: len(OCI_SCHEME)].lower() == OCI_SCHEME:
        return _read_oci(text[len(OCI_SCHEME) :])
    if text[: len(OLLAMA_SCHEME)].lower() == OLLAMA_SCHEME:
        return _read_ollama(text[len(OLLAMA_SCHEME) :].removeprefix("//"))
    return None


def spelled(repo: str, revision: str) -> str | None:
    """A reference as people write it; None for what is none of a registry, or is written as on the Hub."""
    name = registry_name(repo)
    if name is None or name.kind == "modelscope":
        return None
    if name.kind == "ollama":
        return f"{OLLAMA_SCHEME}{name.path.removeprefix(f'{LIBRARY}/')}:{revision}"
    digest = digest_of_revision(revision)
    return f"{OCI_SCHEME}{name.host}/{name.path}" + (f"@{digest}" if digest else f":{revision}")


def _read_ollama(text: str) -> tuple[str, str]:
    name, colon, tag = text.partition(":")
    path = name if "/" in name else f"{LIBRARY}/{name}"
    if path.count("/") != 1:
        raise RefError(
            f"{text[:80]!r} names no model of Ollama's. Write ollama:name:tag, or ollama:namespace/name:tag;"
            " a model of the Hub is written hf:org/name."
        )
    return _repo(RegistryName("ollama", "", path)), _tag(tag if colon else LATEST)


def _read_oci(text: str) -> tuple[str, str]:
    host, _, rest = text.partition("/")
    path, at, digest = rest.partition("@")
    path, colon, tag = path.partition(":")
    repo = _repo(RegistryName("oci", host.lower(), path))
    if not at:
        return repo, _tag(tag if colon else LATEST)
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise RefError("Behind the '@' of an oci:// reference stands sha256: and 64 hex digits.")
    return repo, f"sha256-{found[1]}"


def _tag(tag: str) -> str:
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith((".", ".lock")):
        raise RefError(f"{tag[:80]!r} is not a tag.")
    return tag


def _repo(name: RegistryName) -> str:
    """The store's repository. Raises RefError where it would be none, or not be read back."""
    if name.kind != "oci":
        prefix = MODELSCOPE if name.kind == "modelscope" else OLLAMA
        owner, _, last = name.path.partition("/")
        parts = (owner, last)
        bad = [part for part in parts if not _OLLAMA_PART.fullmatch(part) or part.endswith((".", "-", ".git"))]
        if bad or any(mark in name.path for mark in ("..", "--")) or owner.lower() in _NOT_OWNERS:
            way = "modelscope:org/name" if name.kind == "modelscope" else "ollama:name:tag"
            raise RefError(f"{name.path[:80]!r} names no model there. Write {way}.")
        return f"{prefix}{owner}/{last}"
    host, colon, port = name.host.partition(":")
    components = name.path.split("/")
    is_port = port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65_536 and port == str(int(port))
    if not _HOST.fullmatch(host) or (colon and not is_port) or "--" in host:
        raise RefError("An oci:// reference has a host: write oci://host/name:tag.")
    if not all(_COMPONENT.fullmatch(part) for part in components):
        raise RefError(
            f"{name.path[:80]!r} names nothing in a registry: small letters, digits and single '.', '_', '-'."
        )
    owner = f"{OCI}{host}{f'.{port}' if colon else ''}"
    last = ".".join(part.replace(".", "._") for part in components)
    if _with_port(owner.removeprefix(OCI)) != name.host or max(len(owner), len(last)) > MAX_PART_CHARS:
        raise RefError(f"The store cannot hold this name: it is too long, or its host is unusual: {name.host[:80]!r}.")
    return f"{owner}/{last}"


def _with_port(text: str) -> str:
    """The host of an owner: a last label of digits is a port, unless it is that of an IPv4 address."""
    labels = text.split(".")
    is_address = len(labels) == 4 and all(label.isdecimal() for label in labels)
    return text if is_address or not labels[-1].isdecimal() else f"{'.'.join(labels[:-1])}:{labels[-1]}"
