"""A model of a registry as a plan: Ollama's, and any that speaks the OCI distribution protocol (artifacts, ORAS).

    GET /v2/<name>/manifests/<tag or digest>     the manifest: a layer for each file, with its size and digest
    GET /v2/<name>/blobs/<digest>                a file; mostly a redirect to a signed URL of a store
    401 with WWW-Authenticate: Bearer            where tokens are handed out, to anybody for what is public

A manifest is content that its digest names, as a commit is, so the first 40 digits stand for the commit in the store,
and a tag for a branch. Ollama's files have no names, and are called after the tag: two tags of one manifest, as
`llama3.2:latest` and `llama3.2:3b` are, are two commits there, whose blobs are the same.

The registry's requests go the way of the Hub's (workers.sources.hub_transport): the same time-outs, bounds and guards.
No credentials of the Hub's are sent here; those of the registry itself (workers.sources.registry_auth) go to it, where
it says `Basic`, or to the place that hands out its tokens.

Written after the OCI Distribution and Image Specifications 1.1 and Ollama's client (server/images.go).
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode, urlsplit

import httpx2
import msgspec

from hive.errors import (
    ChecksumMismatch,
    DownloadError,
    HubRefused,
    ModelAccessDenied,
    ModelNotFound,
    RevisionNotFound,
)
from hive.net.egress import Network
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.wire.gguf import main_models, variants
from hive.wire.refs import ModelRef, is_quant
from hive.wire.registries import RegistryName, digest_of_revision
from hive.wire.selection import RepoFile
from hive.wire.weights import is_beside_weights
from workers.sources.elsewhere import asking, base_url, is_of_this_machine
from workers.sources.hub_transport import CallBounds, origin_of
from workers.sources.huggingface import selected
from workers.sources.plan import Plan, PlannedFile, plan_of_listing, planned_by_sha256
from workers.sources.registry_auth import SETTING, basic_credentials
from workers.transfer import Location

#: Longest manifest and longest configuration in bytes: what the specification asks of registries.
MAX_MANIFEST_BYTES: Final = 4 << 20
#: Most files of a manifest.
MAX_LAYERS: Final = 10_000
#: Seconds for which a token is taken to be good where the registry does not say: what its specification says; and how
#: long before its end it is exchanged.
TOKEN_TTL_S: Final = 60.0
TOKEN_MARGIN_S: Final = 10.0
#: Seconds for which one is believed at most, whatever the registry says.
MAX_TOKEN_TTL_S: Final = 3600.0

_INDEXES: Final = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_ACCEPT: Final = ", ".join(
    (
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        *sorted(_INDEXES),
    )
)
#: How the name of a file is told: by ORAS, and by the CNCF's model specification.
_TITLES: Final = ("org.opencontainers.image.title", "org.cncf.model.filepath")
_UNPACK: Final = "io.deis.oras.content.unpack"
#: What ORAS calls every file that nobody gave a media type: with a title, and without `_UNPACK`, it is no tar.
_ORAS_FILE: Final = "application/vnd.oci.image.layer.v1.tar"
_TARS: Final = (".tar", ".tar+gzip", ".tar.gzip", ".tar+zstd", ".tar.zstd", ".tar+lz4")
_ATTESTATION: Final = "vnd.docker.reference.type"
#: Ollama's layers that become files, and what they are called; `{}` is the model.
_OLLAMA_PREFIX: Final = "application/vnd.ollama.image."
_OLLAMA_FILES: Final = {
    "model": "{}.gguf",
    "projector": "mmproj-{}.gguf",
    "adapter": "adapter-{}.gguf",
    "template": "template",
    "system": "system",
    "params": "params.json",
    "messages": "messages.json",
    "license": "LICENSE",
}
_DOCKER_GGUF: Final = re.compile(r"application/vnd\.docker\.ai\.gguf(\.v\d+)?")
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")
_CHALLENGE = re.compile(r'([a-z_]{1,20})="([^"\\]{0,2000})"', re.IGNORECASE)


class Descriptor(msgspec.Struct, rename="camel"):
    """A content that a manifest names."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] = {}


class RegistryManifest(msgspec.Struct, rename="camel"):
    """A manifest, or an index of manifests."""

    media_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] | None = None


class _Config(msgspec.Struct):
    file_type: str = ""


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float = TOKEN_TTL_S


def resolve(
    ref: ModelRef,
    name: RegistryName,
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    settings: Settings,
    network: Network,
) -> Plan:
    """The plan for a reference to a registry, pinned to the manifest that its tag stands for now.

    Raises:
        HubUnavailable: the registry does not answer.
        ModelNotFound, RevisionNotFound, FileNotFound, VariantNotFound: it has no such thing.
        ModelAccessDenied: it is not public.
        DownloadError: what it has is no model that hive can bring.
    """
    registry = Registry(settings, name, network)
    if ref.is_pinned:
        commit, tree = ref.rev, ModelCatalog(settings).tree(ref.repo, ref.rev)
        if tree is None:
            raise RevisionNotFound(
                "Of a registry only what is on the disk has such a revision. Name a tag or a digest."
            )
    else:
        digest, manifest = registry.manifest(digest_of_revision(ref.rev) or ref.rev)
        commit, tree = _commit(digest, manifest, ref.rev), _tree(registry, manifest, name, ref.rev)
    selection = selected(tree, ref, include, exclude, settings.allow_pickles)
    if not (ref.path or ref.quant or include or exclude) and len(main_models(variants(tree))) <= 1:
        # What the weights come with: a template, parameters, licences.
        chosen = set(selection.files)
        files = tuple(file for file in tree if file in chosen or _comes_along(file.path))
        selection = msgspec.structs.replace(selection, files=files)
    return plan_of_listing(ref, commit, tree, selection, lambda file: _planned(registry, file))


def _comes_along(path: str) -> bool:
    """Whether a file comes with the one model that there is: a template, an adapter."""
    return is_beside_weights(path) or path.endswith(".gguf")


def _planned(registry: Registry, file: RepoFile) -> PlannedFile:
    sha256 = file.sha256 or ""
    return planned_by_sha256(file, lambda: registry.location(sha256))


def _is_ollama(manifest: RegistryManifest) -> bool:
    return any(layer.media_type.startswith(_OLLAMA_PREFIX) for layer in manifest.layers)


def _commit(digest: str, manifest: RegistryManifest, tag: str) -> str:
    """What stands for the commit: whatever the names of files come from has a part in it."""
    return (hashlib.sha256(f"{digest}\n{tag}".encode()).hexdigest() if _is_ollama(manifest) else digest)[:40]


def _tree(registry: Registry, manifest: RegistryManifest, name: RegistryName, tag: str) -> tuple[RepoFile, ...]:
    """The files of a manifest, as the Hub would list them."""
    if len(manifest.layers) > MAX_LAYERS:
        raise DownloadError(f"The manifest has more than {MAX_LAYERS} layers.")
    is_ollama = _is_ollama(manifest)
    stem = _ollama_stem(registry, manifest, name, tag) if is_ollama else ""
    files: dict[str, RepoFile] = {}
    seen: Counter[str] = Counter()
    for layer in manifest.layers:
        path = _ollama_path(layer, stem, seen) if is_ollama else _title(layer, files)
        if path is None:
            continue
        if path in files:
            raise DownloadError(f"The manifest has two files that are called {path[:80]!a}.")
        sha256 = _hex(layer)
        files[path] = RepoFile(path, layer.size, sha256[:40], sha256)
    if not files:
        why = "its layers have no titles" if manifest.layers else "it has no layers"
        raise DownloadError(f"Nothing in this manifest is a model's file: {why}.")
    return tuple(files.values())


def _title(layer: Descriptor, files: dict[str, RepoFile]) -> str | None:
    """The path that a layer says it has; None where it is no file."""
    if _is_folder(layer):
        named = next((layer.annotations[key] for key in _TITLES if key in layer.annotations), layer.media_type)
        text = (
            f"{named[:80]!a} is a folder in a tar, which hive does not unpack: its files have no digests. Push them one"
        )
        raise DownloadError(f"{text} by one (`oras push` with the path of each), or take the model from elsewhere.")
    for key in _TITLES:
        if title := layer.annotations.get(key):
            return title
    return "model.gguf" if _DOCKER_GGUF.fullmatch(layer.media_type) and "model.gguf" not in files else None


def _is_folder(layer: Descriptor) -> bool:
    """Whether a layer is a tar whose content is meant: KitOps, ModelPack, Docker's folders, images."""
    if layer.annotations.get(_UNPACK) == "true":
        return True
    is_file = layer.media_type == _ORAS_FILE and _TITLES[0] in layer.annotations
    return layer.media_type.endswith(_TARS) and not is_file


def _ollama_path(layer: Descriptor, stem: str, seen: Counter[str]) -> str | None:
    """The path of a layer, numbered where others of its kind are in `seen`; None where it is no file."""
    kind = layer.media_type.removeprefix(_OLLAMA_PREFIX)
    pattern = _OLLAMA_FILES.get(kind)
    if pattern is None:
        return None
    path = pattern.format(stem)
    seen[kind] += 1
    if seen[kind] == 1:
        return path
    first, dot, ending = path.rpartition(".")
    return f"{first}.{seen[kind]}.{ending}" if dot else f"{ending}.{seen[kind]}"


def _ollama_stem(registry: Registry, manifest: RegistryManifest, name: RegistryName, tag: str) -> str:
    """What a model of Ollama's is called as a file: its name, its tag, and the quantisation where the tag has none."""
    stem = f"{name.path.rpartition('/')[2]}-{tag}"
    config = manifest.config
    if config is None or not 0 < config.size <= MAX_MANIFEST_BYTES:
        return stem
    try:
        quant = msgspec.json.decode(registry.blob(_hex(config)), type=_Config).file_type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return stem
    return f"{stem}-{quant}" if is_quant(quant) and quant.casefold() not in stem.casefold() else stem


def _hex(content: Descriptor) -> str:
    """The digest, in hex. Raises DownloadError where it is none that hive checks, or the size none."""
    found = _SHA256.fullmatch(content.digest)
    if found is None or content.size < 0:
        raise DownloadError("The manifest names a content by something else than its SHA-256 and its size.")
    return found[1]


class Registry:
    """One repository of a registry. Its methods may be called from any thread."""

    def __init__(self, settings: Settings, name: RegistryName, network: Network) -> None:
        self._base = base_url(settings, name)
        self._host = urlsplit(self._base).netloc
        self._path = _docker_path(name)
        self._shown = name.path
        self._bounds = CallBounds(settings.first_byte_timeout_s, settings.hub_timeout_s, 2 * MAX_MANIFEST_BYTES)
        self._network = network
        self._lock = threading.Lock()
        self._heard = False
        #: The contents that were located with the present token.
        self._located: set[str] = set()
        self._challenge: dict[str, str] | None = None
        self._token, self._token_until_s = "", 0.0
        #: What the operator's file has for this repository, and whether the registry takes it without a token.
        self._basic = basic_credentials(settings, self._host, name)
        self._wants_basic = False

    def manifest(self, reference: str) -> tuple[str, RegistryManifest]:
        """The manifest of a tag or digest, and its own digest in hex; of an index, the only one in it."""
        for _ in range(2):
            data = self._get(f"/v2/{self._path}/manifests/{reference}", reference, accept=_ACCEPT)
            if len(data) > MAX_MANIFEST_BYTES:
                raise DownloadError(f"The manifest of {self._shown} is longer than {MAX_MANIFEST_BYTES >> 20} MiB.")
            digest = hashlib.sha256(data).hexdigest()
            if reference.startswith("sha256:") and reference != f"sha256:{digest}":
                raise ChecksumMismatch(f"The registry {self._host} sent another manifest than that of the digest.")
            try:
                manifest = msgspec.json.decode(data, type=RegistryManifest)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise DownloadError(f"What the registry {self._host} sent is no manifest.") from None
            if manifest.manifests is None and manifest.media_type not in _INDEXES:
                return digest, manifest
            reference = self._only(manifest.manifests or ())
        raise DownloadError("An index of the registry leads to another index.")

    def _only(self, manifests: Sequence[Descriptor]) -> str:
        """The digest of the one manifest that an index has, its attestations aside."""
        found = [entry for entry in manifests if _ATTESTATION not in entry.annotations]
        if not found:
            raise DownloadError("This is an index that names no manifest: there is no model. Name another tag.")
        if len(found) != 1:
            digests = [entry.digest[:80] for entry in found[:20]]
            text = "This is an index of several manifests. Name one of them: oci://host/name@sha256:..."
            raise DownloadError(text, digests=digests)
        return f"sha256:{_hex(found[0])}"

    def blob(self, sha256: str) -> bytes:
        """A small content, verified."""
        data = self._get(f"/v2/{self._path}/blobs/sha256:{sha256}", sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ChecksumMismatch(f"The registry {self._host} sent another content than that of the digest.")
        return data

    def location(self, sha256: str) -> Location:
        """Where a content is, with a token that is still good. Who asks twice for one was refused with the token, which
        the registry may have taken back before its time. Raises HiveError.
        """
        with self._lock:
            if sha256 in self._located:
                self._located.clear()
                self._token_until_s = 0.0
            self._located.add(sha256)
        self._greet()
        headers = self._headers()
        is_lasting = not headers or self._wants_basic
        return Location(
            url=f"{self._base}/v2/{self._path}/blobs/sha256:{sha256}",
            headers=headers,
            expires_at=None if is_lasting else time.time() + max(0.0, self._token_until_s - time.monotonic()),
        )

    def _greet(self) -> None:
        """Hear whether the registry wants a token, where nothing was asked of it yet."""
        if not self._heard:
            answer = self._ask(f"{self._base}/v2/", self._headers())
            self._heard = True
            if answer.status_code == HTTPStatus.UNAUTHORIZED:
                self._learn(answer)

    def _get(self, target: str, what: str, accept: str = "*/*") -> bytes:
        for is_last in (False, True):
            answer = self._ask(f"{self._base}{target}", {"Accept": accept, **self._headers()})
            self._heard = True
            if answer.status_code == HTTPStatus.UNAUTHORIZED and not is_last and self._learn(answer):
                continue
            break
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise self._denied("does not let everybody have {}, or has no such thing", "does not let them have {}")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise ModelNotFound(f"The registry {self._host} has no {self._shown} with {what[:80]}.")
        if not answer.is_success:
            raise HubRefused(f"The registry {self._host} answered with status {answer.status_code}.")
        data: bytes = answer.content
        return data

    def _denied(self, everybody: str, them: str) -> ModelAccessDenied:
        """What is told where a registry refuses: everybody, or whose credentials there are."""
        if self._basic is None:
            text, way_out = everybody, f"For what is private {SETTING} names a file (docs/sources.md)."
        else:
            text, way_out = them, f"It was asked with the credentials of {SETTING}."
        return ModelAccessDenied(f"The registry {self._host} {text.format(self._shown)}. {way_out}", host=self._host)

    def _headers(self) -> dict[str, str]:
        """The headers for requests to the registry itself; asks for a token where there is none any more."""
        with self._lock:
            if self._wants_basic and self._basic is not None:
                return {"Authorization": self._basic}
            if self._challenge is not None and time.monotonic() >= self._token_until_s - TOKEN_MARGIN_S:
                self._token, ttl_s = self._ask_token(self._challenge)
                self._token_until_s = time.monotonic() + ttl_s
            return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _learn(self, answer: httpx2.Response) -> bool:
        """Whether a refusal says what it wants, and that can be had: a token, or the credentials that there are."""
        scheme, _, rest = answer.headers.get("www-authenticate", "").partition(" ")
        fields = {key.lower(): value for key, value in _CHALLENGE.findall(rest)}
        if scheme.lower() == "basic" and self._basic is not None and not self._wants_basic:
            self._check_encrypted(self._base)
            self._wants_basic = True
            return True
        if scheme.lower() != "bearer" or not fields.get("realm"):
            return False
        with self._lock:
            self._challenge, self._token_until_s = fields, 0.0
        return True

    def _ask_token(self, challenge: dict[str, str]) -> tuple[str, float]:
        scope = challenge.get("scope") or f"repository:{self._path}:pull"
        query = urlencode({"service": challenge.get("service", ""), "scope": scope})
        realm, headers = challenge["realm"], {}
        try:
            origin = origin_of(realm)
            is_safe = origin[0] == "https" or origin == origin_of(self._base)
        except ValueError:
            raise HubRefused(f"The registry {self._host} cannot be asked: its tokens are at no address.") from None
        if not is_safe:
            raise HubRefused(f"The registry {self._host} hands out tokens without encryption; hive does not ask there.")
        if self._basic is not None:
            self._check_encrypted(realm)
            headers["Authorization"] = self._basic
        answer = self._ask(f"{realm}{'&' if '?' in realm else '?'}{query}", headers)
        try:
            found = msgspec.json.decode(answer.content, type=_Token) if answer.is_success else _Token()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = _Token()
        token = found.token or found.access_token
        if not token or not re.fullmatch(r"[\x21-\x7e]{1,16384}", token):
            raise self._denied("gives nobody a token for {}", "gives no token for {}")
        return token, min(max(found.expires_in, TOKEN_TTL_S), MAX_TOKEN_TTL_S)

    def _check_encrypted(self, url: str) -> None:
        """Raise HubRefused where a password would be seen by who is on the way."""
        scheme, host, _ = origin_of(url)
        if scheme != "https" and not is_of_this_machine(host):
            raise HubRefused(f"The registry {self._host} wants a password without encryption; hive sends none there.")

    def _ask(self, url: str, headers: dict[str, str]) -> httpx2.Response:
        """The answer of the registry, or of where its tokens are: what `headers` may authorize goes to this origin and
        to no other that it redirects to.
        """
        with asking(url, self._bounds, self._network, f"The registry {self._host}") as client:
            return client.get(url, headers=headers)


def _docker_path(name: RegistryName) -> str:
    """The path in the registry; Docker's own images have no namespace in front."""
    return f"library/{name.path}" if name.host == "docker.io" and "/" not in name.path else name.path
