"""One frozen Settings object, read once from the environment by whoever starts a process; nothing else reads
os.environ.

Names people know keep their meaning (`REDIS_URL`, `HF_TOKEN`, `HF_HOME`, ...); hive's own begin with `HIVE_`.
docs/settings.md lists them all, and a test compares it with this file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import field

from hive.environment import MAX_SECRET_FILE_BYTES, UnusableVariable, read_environment, unusable, variable_of
from hive.errors import UnsafeUrl
from hive.given_file import check_given_file, read_given_file
from hive.net.forwarded import TrustedProxies, TrustedProxiesError
from hive.net.proxies import Proxies
from hive.net.redis_url import RedisAddress, RedisUrlError, parse_redis_url
from hive.net.tls import Trust, is_null_device
from hive.net.urls import Url, parse_url
from hive.setting_ranges import RANGES
from hive.version import VERSION
from hive.wire.buckets import read_allowed
from hive.wire.jobs import MIN_BYTES_PER_SECOND

#: Where the HTTP process listens, and where clients look for it.
DEFAULT_ADDRESS = "127.0.0.1:8080"

#: What HIVE_DOORS may list.
DOORS = frozenset({"hub", "ollama"})
#: Records of downloads, live and ended, that are kept at most unless somebody says otherwise.
MAX_RECORDS = 50_000
#: The most webhooks that may be set, and the most and longest waits between their tries.
MAX_WEBHOOKS, MAX_WEBHOOK_RETRIES, MAX_WEBHOOK_RETRY_S = 16, 24, 86_400.0

#: What a webhook secret in the form of the Standard Webhooks specification begins with; base64 follows.
WEBHOOK_PREFIX = "whsec_"

#: Bytes of a webhook key: shorter ones can be guessed, longer ones the specification does not know; and of plain text.
MIN_WEBHOOK_KEY_BYTES, MAX_WEBHOOK_KEY_BYTES, MAX_WEBHOOK_TEXT_BYTES = 24, 64, 512

#: The folder of hive's own inside a cache, where none beside it can be used.
HIVE_IN_HUB = ".hive"

#: An origin as browsers write it.
_ORIGIN = re.compile(r"https?://(?:\[[0-9a-f:]+\]|[a-z0-9._-]+)(?::\d{1,5})?")


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the text names it and says what is allowed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set. `from_env` reads it; every field's `name` is the variable."""

    redis_url: str | None = field(default=None, name="REDIS_URL")
    hf_token: str | None = field(default=None, name="HF_TOKEN")
    hf_token_path: str | None = field(default=None, name="HF_TOKEN_PATH")
    hf_home: str | None = field(default=None, name="HF_HOME")
    hf_hub_cache: str | None = field(default=None, name="HF_HUB_CACHE")
    hf_endpoint: str = field(default="https://huggingface.co", name="HF_ENDPOINT")
    ollama_registry: str = field(default="https://registry.ollama.ai", name="HIVE_OLLAMA_REGISTRY")
    registry_auth_file: str | None = field(default=None, name="HIVE_REGISTRY_AUTH_FILE")
    modelscope_endpoint: str = field(default="https://www.modelscope.cn", name="HIVE_MODELSCOPE_ENDPOINT")
    hf_hub_offline: bool = field(default=False, name="HF_HUB_OFFLINE")
    xdg_cache_home: str | None = field(default=None, name="XDG_CACHE_HOME")
    https_proxy: str | None = field(default=None, name="HTTPS_PROXY")
    http_proxy: str | None = field(default=None, name="HTTP_PROXY")
    no_proxy: str | None = field(default=None, name="NO_PROXY")
    all_proxy: str | None = field(default=None, name="ALL_PROXY")
    ca_bundle: str | None = field(default=None, name="REQUESTS_CA_BUNDLE")
    curl_ca_bundle: str | None = field(default=None, name="CURL_CA_BUNDLE")
    ssl_cert_file: str | None = field(default=None, name="SSL_CERT_FILE")
    ssl_cert_dir: str | None = field(default=None, name="SSL_CERT_DIR")
    no_color: str | None = field(default=None, name="NO_COLOR")
    term: str | None = field(default=None, name="TERM")

    host: str = field(default=DEFAULT_ADDRESS, name="HIVE_HOST")
    home: str = field(default="~/.hive", name="HIVE_HOME")
    store: str | None = field(default=None, name="HIVE_STORE")
    secret_key_file: str | None = field(default=None, name="HIVE_SECRET_KEY_FILE")
    api_keys_file: str | None = field(default=None, name="HIVE_API_KEYS_FILE")
    api_key: str | None = field(default=None, name="HIVE_API_KEY")
    api_key_file: str | None = field(default=None, name="HIVE_API_KEY_FILE")
    published_at: str | None = field(default=None, name="HIVE_PUBLISHED_AT")
    metrics_public: bool = field(default=False, name="HIVE_METRICS_PUBLIC")
    allow_hosts: str = field(default="", name="HIVE_ALLOW_HOSTS")
    allow_file_urls: bool = field(default=False, name="HIVE_ALLOW_FILE_URLS")
    buckets: str = field(default="", name="HIVE_BUCKETS")
    aws_endpoint_url: str | None = field(default=None, name="AWS_ENDPOINT_URL")
    allow_pickles: Literal["auto", "always", "never"] = field(default="auto", name="HIVE_ALLOW_PICKLES")
    public_hosts: str = field(default="", name="HIVE_PUBLIC_HOSTS")
    allow_origins: str = field(default="", name="HIVE_ALLOW_ORIGINS")
    doors: str = field(default="hub,ollama", name="HIVE_DOORS")
    trusted_proxies: str = field(default="", name="HIVE_TRUSTED_PROXIES")
    log_level: Literal["debug", "info", "warning", "error"] = field(default="info", name="HIVE_LOG_LEVEL")
    log_format: Literal["auto", "console", "json"] = field(default="auto", name="HIVE_LOG_FORMAT")
    audit_log: str | None = field(default=None, name="HIVE_AUDIT_LOG")
    redis_ca_file: str | None = field(default=None, name="HIVE_REDIS_CA_FILE")
    redis_cert_file: str | None = field(default=None, name="HIVE_REDIS_CERT_FILE")
    redis_key_file: str | None = field(default=None, name="HIVE_REDIS_KEY_FILE")
    redis_credentials: str | None = field(default=None, name="HIVE_REDIS_CREDENTIALS")
    redis_checks: Literal["refuse", "warn"] = field(default="refuse", name="HIVE_REDIS_CHECKS")
    redis_holes: Literal["warn", "refuse", "ignore"] = field(default="warn", name="HIVE_REDIS_HOLES")
    transport: Literal["auto", "xet", "http"] = field(default="auto", name="HIVE_TRANSPORT")
    first_byte_timeout_s: float = field(default=60.0, name="HIVE_FIRST_BYTE_TIMEOUT_S")
    hub_timeout_s: float = field(default=120.0, name="HIVE_HUB_TIMEOUT_S")
    max_listing_bytes: int = field(default=64 << 20, name="HIVE_MAX_LISTING_BYTES")
    max_listing_files: int = field(default=200_000, name="HIVE_MAX_LISTING_FILES")
    proxy_unresolved: bool = field(default=True, name="HIVE_PROXY_UNRESOLVED")
    max_bytes_per_second: int = field(default=0, name="HIVE_MAX_BYTES_PER_SECOND")
    files_at_once: int = field(default=8, name="HIVE_FILES_AT_ONCE")
    keep_free_percent: float = field(default=5.0, name="HIVE_KEEP_FREE_PERCENT")
    ended_ttl_s: int = field(default=86_400, name="HIVE_ENDED_TTL_S")
    max_undeclared_bytes: int = field(default=50 << 30, name="HIVE_MAX_UNDECLARED_BYTES")
    min_bytes_per_second: int = field(default=100_000, name="HIVE_MIN_BYTES_PER_SECOND")
    min_rate_window_s: float = field(default=300.0, name="HIVE_MIN_RATE_WINDOW_S")
    partial_ttl_s: int = field(default=604_800, name="HIVE_PARTIAL_TTL_S")
    max_attempts: int = field(default=6, name="HIVE_MAX_ATTEMPTS")
    lease_s: float = field(default=6.0, name="HIVE_LEASE_S")
    drain_s: float = field(default=5.0, name="HIVE_DRAIN_S")
    keepalive_s: float = field(default=10.0, name="HIVE_KEEPALIVE_S")
    max_streams: int = field(default=20_000, name="HIVE_MAX_STREAMS")
    max_records: int = field(default=MAX_RECORDS, name="HIVE_MAX_RECORDS")
    max_connections: int = field(default=0, name="HIVE_MAX_CONNECTIONS")
    max_connections_per_address: int = field(default=64, name="HIVE_MAX_CONNECTIONS_PER_ADDRESS")
    max_streams_per_key: int = field(default=200, name="HIVE_MAX_STREAMS_PER_KEY")
    max_many_streams_per_key: int = field(default=4, name="HIVE_MAX_MANY_STREAMS_PER_KEY")
    max_long_polls_per_key: int = field(default=50, name="HIVE_MAX_LONG_POLLS_PER_KEY")
    max_answers_per_key: int = field(default=50, name="HIVE_MAX_ANSWERS_PER_KEY")
    max_requests_per_second: float = field(default=50.0, name="HIVE_MAX_REQUESTS_PER_SECOND")
    max_anonymous_requests_per_second: float = field(default=10.0, name="HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND")
    max_download_requests_per_minute: float = field(default=60.0, name="HIVE_MAX_DOWNLOAD_REQUESTS_PER_MINUTE")
    max_webhooks_per_minute: float = field(default=30.0, name="HIVE_MAX_WEBHOOKS_PER_MINUTE")
    max_records_per_key: int = field(default=1_000, name="HIVE_MAX_RECORDS_PER_KEY")
    max_queued_per_key: int = field(default=1_000, name="HIVE_MAX_QUEUED_PER_KEY")
    max_bytes_per_key_and_day: int = field(default=0, name="HIVE_MAX_BYTES_PER_KEY_AND_DAY")
    max_queued: int = field(default=10_000, name="HIVE_MAX_QUEUED")
    max_running: int = field(default=0, name="HIVE_MAX_RUNNING")
    llama_server: str | None = field(default=None, name="HIVE_LLAMA_SERVER")
    llm_host: str = field(default="127.0.0.1", name="HIVE_LLM_HOST")
    llm_ports: str = field(default="8081-9000", name="HIVE_LLM_PORTS")
    llm_context: int = field(default=4_096, name="HIVE_LLM_CONTEXT")
    llm_slots: int = field(default=1, name="HIVE_LLM_SLOTS")
    llm_threads: int = field(default=0, name="HIVE_LLM_THREADS")
    llm_load_mode: Literal["auto", "none", "mmap", "mlock"] = field(default="auto", name="HIVE_LLM_LOAD_MODE")
    llm_keep_free_bytes: int = field(default=2_000_000_000, name="HIVE_LLM_KEEP_FREE_BYTES")
    llm_idle_s: float = field(default=300.0, name="HIVE_LLM_IDLE_S")
    llm_stall_s: float = field(default=30.0, name="HIVE_LLM_STALL_S")
    llm_loading_timeout_s: float = field(default=300.0, name="HIVE_LLM_LOADING_TIMEOUT_S")
    llm_token_timeout_s: float = field(default=300.0, name="HIVE_LLM_TOKEN_TIMEOUT_S")
    llm_drain_s: float = field(default=30.0, name="HIVE_LLM_DRAIN_S")
    llm_health_interval_s: float = field(default=30.0, name="HIVE_LLM_HEALTH_INTERVAL_S")
    autoload: bool = field(default=False, name="HIVE_AUTOLOAD")

    webhook_urls: str = field(default="", name="HIVE_WEBHOOK_URLS")
    webhook_secret: str | None = field(default=None, name="HIVE_WEBHOOK_SECRET")
    webhook_timeout_s: float = field(default=10.0, name="HIVE_WEBHOOK_TIMEOUT_S")
    webhook_retry_s: str = field(default="5,30,120,600,1800,3600,7200,14400,28800,28800", name="HIVE_WEBHOOK_RETRY_S")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Settings from `env` (the process's environment where None). An empty variable counts as not set.

        Raises:
            SettingsError: naming the variable, its value's problem, and nothing secret.
        """
        fields = msgspec.structs.fields(cls)
        try:
            given = os.environ if env is None else env
            values = read_environment(given, {info.encode_name: info.type for info in fields})
        except UnusableVariable as error:
            raise SettingsError(str(error)) from None
        try:
            settings = msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(unusable(error, cls, given)) from None
        settings._check()
        return settings

    def _check(self) -> None:
        for info in msgspec.structs.fields(type(self)):
            if (limits := RANGES.get(info.encode_name)) is None:
                continue
            low, high = limits
            if not low <= (value := getattr(self, info.name)) <= high:
                raise SettingsError(f"{info.encode_name} is {value}; it must lie between {low} and {high}.")
        if self.max_bytes_per_second and self.max_bytes_per_second < MIN_BYTES_PER_SECOND:
            raise SettingsError(f"HIVE_MAX_BYTES_PER_SECOND must be 0 (no limit) or at least {MIN_BYTES_PER_SECOND}.")
        assert self.proxies is not None
        assert self.llm_port_range
        try:
            self.trust.check()
            read_allowed(self.buckets)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        assert self.redis_address is not None or not self.redis_url
        self._check_token_path()
        self._check_endpoints()
        _ = self.allowed_origins, self.trusted, self.open_doors
        if self.webhook_key is None and self.webhooks:  # in this order: an unusable secret is told without a URL too
            raise SettingsError("HIVE_WEBHOOK_URLS needs HIVE_WEBHOOK_SECRET, which webhooks are signed with.")
        if len(self.webhooks) > MAX_WEBHOOKS:
            raise SettingsError(f"HIVE_WEBHOOK_URLS has {len(self.webhooks)} URLs; {MAX_WEBHOOKS} are the most.")
        waits_s = self.webhook_waits_s
        if len(waits_s) > MAX_WEBHOOK_RETRIES or not all(0 < wait_s <= MAX_WEBHOOK_RETRY_S for wait_s in waits_s):
            most = f"{MAX_WEBHOOK_RETRIES} waits of up to {MAX_WEBHOOK_RETRY_S:g} s"
            raise SettingsError(f"HIVE_WEBHOOK_RETRY_S must have at most {most}.")

    @property
    def redis_address(self) -> RedisAddress | None:
        """What `REDIS_URL` and the settings beside it say; None where it is not set. Raises SettingsError, which shows
        no part of it.
        """
        if not self.redis_url:
            return None
        try:
            address = parse_redis_url(self.redis_url).with_tls_files(
                ca=self.redis_ca_file, cert=self.redis_cert_file, key=self.redis_key_file
            )
        except RedisUrlError as error:
            raise SettingsError(self.redis_refusal(str(error))) from None
        if self.redis_credentials is None:
            return address
        if address.password:
            raise SettingsError("HIVE_REDIS_CREDENTIALS is set, and REDIS_URL has a password: only one of them counts.")
        return replace(address, credentials=self.redis_credentials)

    @staticmethod
    def redis_refusal(text: str) -> str:
        """The sentence that says why the address of Redis cannot be used, with the variable that it came from."""
        return f"{variable_of('REDIS_URL', os.environ)} cannot be used: {text}"

    def _check_token_path(self) -> None:
        """Raises SettingsError where what is named can never be read; a file may still come, and be unreadable."""
        if self.hf_token_path and not is_null_device(self.hf_token_path):
            try:
                check_given_file(self.hf_token_path, MAX_SECRET_FILE_BYTES)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EISDIR, errno.EFBIG, errno.ENXIO):
                    text = f"HF_TOKEN_PATH names {self.hf_token_path}, which cannot be read: {error.strerror}."
                    raise SettingsError(text) from None

    def _check_endpoints(self) -> None:
        """Raises SettingsError, which does not show a password that somebody wrote into the URL."""
        for name, value in (
            ("HF_ENDPOINT", self.hf_endpoint),
            ("HIVE_OLLAMA_REGISTRY", self.ollama_registry),
            ("HIVE_MODELSCOPE_ENDPOINT", self.modelscope_endpoint),
        ):
            if "@" in value:
                raise SettingsError(f"{name} must not hold a user or a password. The Hub's token goes to HF_TOKEN.")
            try:
                if not value.startswith(("http://", "https://")):
                    raise UnsafeUrl("It must be an http(s) URL.")
                if "?" in parse_url(value).target or "#" in value:
                    raise UnsafeUrl("It must be an address without a query.")
            except UnsafeUrl as error:
                raise SettingsError(f"{name} cannot be used: {error.message}") from None

    @property
    def home_dir(self) -> Path:
        """hive's own folder: the embedded Redis, its socket and the secret key. Without HOME, one for temporary files.

        Raises:
            SettingsError: that one is somebody else's.
        """
        with contextlib.suppress(SettingsError):
            return _absolute(self.home, "HIVE_HOME")
        folder = Path(tempfile.gettempdir()) / f"hive-{os.geteuid()}"
        with contextlib.suppress(FileNotFoundError):
            if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
                raise SettingsError(f"HOME is not set, and {folder} is another user's: set HIVE_HOME.")
        return folder

    @property
    def store_dir(self) -> Path:
        """The store: `HIVE_STORE`, else the parent of the cache that is named, else the Hub's own folder.

        Raises:
            SettingsError: none is named, and this user has no home.
        """
        if self.store is None and (cache := self.hf_hub_cache) is not None:
            return _absolute(cache, "HF_HUB_CACHE").parent
        return _absolute(self.store, "HIVE_STORE") if self.store else self._hf_home

    @property
    def hub_dir(self) -> Path:
        """The standard Hugging Face cache: inside the store, or where `HF_HUB_CACHE` says. Raises SettingsError."""
        if self.store is None and (cache := self.hf_hub_cache) is not None:
            return _absolute(cache, "HF_HUB_CACHE")
        return self.store_dir / "hub"

    @property
    def hive_dir(self) -> Path:
        """What hive keeps beside the cache: what is under way, files from plain URLs. Raises SettingsError.

        It lies in the cache itself where that was named and is a mount of its own, or lies in somebody else's folder:
        what is beside it then is another disk, or cannot be written.
        """
        beside = self.store_dir / "hive"
        if self.store is not None or self.hf_hub_cache is None or _is_ours_beside(self.hub_dir, beside):
            return beside
        return self.hub_dir / HIVE_IN_HUB

    @property
    def llm_port_range(self) -> range:
        """The ports that LLM workers may listen on. Raises SettingsError."""
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", self.llm_ports.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= 65_535:
            raise SettingsError("HIVE_LLM_PORTS names ports such as 8081-9000.")
        return range(first, last + 1)

    @property
    def llm_dir(self) -> Path:
        """The logs of engines and workers of models in memory. Raises SettingsError."""
        return self.home_dir / "llm"

    @property
    def _hf_home(self) -> Path:
        """Where the Hub's own tools keep everything."""
        if self.hf_home:
            return _absolute(self.hf_home, "HF_HOME")
        cache = self.xdg_cache_home
        return _absolute(f"{cache}/huggingface" if cache else "~/.cache/huggingface", "HIVE_STORE")

    @property
    def secret_key_path(self) -> Path:
        """The file with the key that encrypts credentials on their way to a worker."""
        file = self.secret_key_file
        return _absolute(file, "HIVE_SECRET_KEY_FILE") if file else self.home_dir / "secret.key"

    @property
    def api_keys_path(self) -> Path:
        """The file with the digests of the keys that a server takes."""
        return _absolute(self.api_keys_file or f"{self.home_dir}/keys.json", "HIVE_API_KEYS_FILE")

    @property
    def local_key_path(self) -> Path:
        """The file with the key of this user's own command line, where `hive up` has made one."""
        return self.home_dir / "local.key"

    @property
    def audit_log_path(self) -> Path | None:
        """The file for what was changed by whom; None for the log."""
        return _absolute(self.audit_log, "HIVE_AUDIT_LOG") if self.audit_log else None

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Hosts (`host` or `host:port`) that plain URLs may reach although their address is private."""
        return frozenset(entry.strip().lower() for entry in self.allow_hosts.split(",") if entry.strip())

    @property
    def public_host_names(self) -> frozenset[str]:
        """Names (`name` or `name:port`) that clients may know this server by, beside those of this machine."""
        return frozenset(entry.strip().lower().rstrip(".") for entry in self.public_hosts.split(",") if entry.strip())

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Origins whose pages may use the API. Raises SettingsError where one is no origin."""
        found = frozenset(entry.strip().rstrip("/") for entry in self.allow_origins.split(",") if entry.strip())
        for origin in found:
            if not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"HIVE_ALLOW_ORIGINS lists origins such as https://ui.example.org, and {origin[:80]!r} is none."
                )
        return found

    @property
    def open_doors(self) -> frozenset[str]:
        """The other systems whose clients are answered. Raises SettingsError where one is not known."""
        found = frozenset(entry.strip().lower() for entry in self.doors.split(",") if entry.strip()) - {"none"}
        if unknown := found - DOORS:
            known = ", ".join(sorted(DOORS))
            raise SettingsError(f"HIVE_DOORS lists {known}, or says none; {min(unknown)[:40]!r} is no door.")
        return found

    @property
    def trusted(self) -> TrustedProxies:
        """The proxies in front of this server, whose forwarded headers are believed. Raises SettingsError."""
        try:
            return TrustedProxies.parse(self.trusted_proxies)
        except TrustedProxiesError as error:
            raise SettingsError(f"HIVE_TRUSTED_PROXIES cannot be used: {error}") from None

    @property
    def webhooks(self) -> tuple[Url, ...]:
        """Where every end of a download is told. Raises SettingsError, which names no URL."""
        texts = dict.fromkeys(text.strip() for text in self.webhook_urls.split(",") if text.strip())
        try:
            return tuple(parse_url(text) for text in texts)
        except UnsafeUrl as error:
            raise SettingsError(f"HIVE_WEBHOOK_URLS cannot be used: {error.message}") from None

    @property
    def webhook_key(self) -> bytes | None:
        """What webhooks are signed with, or None. Raises SettingsError, which does not name it."""
        try:
            return read_webhook_key(self.webhook_secret.strip()) if self.webhook_secret else None
        except ValueError as error:
            raise SettingsError(f"HIVE_WEBHOOK_SECRET cannot be used: {error}.") from None

    @property
    def webhook_waits_s(self) -> tuple[float, ...]:
        """Seconds between the tries of a webhook. Raises SettingsError."""
        try:
            return tuple(float(part) for part in self.webhook_retry_s.split(",") if part.strip())
        except ValueError:
            raise SettingsError("HIVE_WEBHOOK_RETRY_S must be seconds separated by commas.") from None

    @property
    def proxies(self) -> Proxies:
        """Outbound proxies. Raises SettingsError, which does not name a password."""
        try:
            return Proxies.parse(self.http_proxy, self.https_proxy, self.all_proxy, self.no_proxy or "")
        except ValueError as error:
            raise SettingsError(str(error)) from None

    @property
    def trust(self) -> Trust:
        """Whose certificates are trusted."""
        bundle, variable = self.ca_bundle, "REQUESTS_CA_BUNDLE"
        if bundle is None:
            bundle, variable = self.curl_ca_bundle, "CURL_CA_BUNDLE"
        cert_variable = variable_of("SSL_CERT_FILE", os.environ)
        return Trust(bundle, variable, self.ssl_cert_file, self.ssl_cert_dir, cert_variable)

    @property
    def user_agent(self) -> str:
        """What hive calls itself to servers."""
        return f"hive/{VERSION} python/{platform.python_version()}"

    def token(self) -> str | None:
        """The Hub token of this process: `HF_TOKEN`, else the file that `hf auth login` writes, else None."""
        if self.hf_token and (given := self.hf_token.strip()):
            return given
        with contextlib.suppress(OSError, UnicodeDecodeError, SettingsError):
            file = Path(self.hf_token_path).absolute() if self.hf_token_path else self._hf_home / "token"
            check_given_file(file, MAX_SECRET_FILE_BYTES)
            return read_given_file(file, MAX_SECRET_FILE_BYTES).decode().strip() or None
        return None

    def __repr__(self) -> str:
        """Without what is secret, and without addresses that may hold a password."""
        hidden = {"hf_token", "api_key", "redis_url", "https_proxy", "http_proxy", "all_proxy"}
        hidden |= {"webhook_urls", "webhook_secret"}
        shown = {f: ("***" if f in hidden and getattr(self, f) else getattr(self, f)) for f in self.__struct_fields__}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _absolute(text: str, name: str) -> Path:
    """A path that is whole. Raises SettingsError, which names `name` as the way out."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise SettingsError(f"This user (uid {os.getuid()}) has no home and HOME is not set: set {name}.") from None


def _is_ours_beside(hub: Path, beside: Path) -> bool:
    """Whether a folder beside the cache is there, or would lie on the same disk and can be made."""
    try:
        if beside.exists():
            return True
        parent = next(folder for folder in hub.parents if folder.exists())
        return not hub.is_mount() and os.access(parent, os.W_OK | os.X_OK)
    except OSError:
        return True  # a folder above it cannot be read: what comes of that is told where it is used


def read_webhook_key(secret: str) -> bytes:
    """The key in a webhook secret: `whsec_` and base64, or plain text, whose UTF-8 is the key.

    Raises:
        ValueError: it is neither, too short or too long. The text does not contain it.
    """
    if not secret.startswith(WEBHOOK_PREFIX):
        key, most = secret.encode(errors="surrogateescape"), MAX_WEBHOOK_TEXT_BYTES
    else:
        most = MAX_WEBHOOK_KEY_BYTES
        try:
            key = base64.b64decode(secret.removeprefix(WEBHOOK_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"what follows {WEBHOOK_PREFIX} is not base64") from None
    if not MIN_WEBHOOK_KEY_BYTES <= len(key) <= most:
        raise ValueError(f"its key has {len(key)} bytes; it must have {MIN_WEBHOOK_KEY_BYTES} to {most}")
    return key
