"""Settings: read once, checked with words that name the variable, and never shown with their secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hive.setting_ranges import RANGES
from hive.settings import Settings, SettingsError


def test_nothing_set_means_the_defaults() -> None:
    settings = Settings.from_env({})

    assert settings == Settings()
    assert settings.store_dir == Path("~/.cache/huggingface").expanduser()
    assert settings.hub_dir == settings.store_dir / "hub"
    assert settings.hive_dir == settings.store_dir / "hive"
    assert settings.hf_endpoint == "https://huggingface.co"
    assert not settings.hf_hub_offline


class TestSecretsInFiles:
    @pytest.mark.parametrize(
        ("name", "file_name", "field", "value"),
        [
            ("REDIS_URL", "HIVE_REDIS_URL_FILE", "redis_url", "redis://:secret@redis:6379/0"),
            ("HF_TOKEN", "HF_TOKEN_FILE", "hf_token", "hf_secret"),
            ("HIVE_WEBHOOK_SECRET", "HIVE_WEBHOOK_SECRET_FILE", "webhook_secret", "whsec_" + "c2VjcmV0" * 4),
        ],
    )
    def test_a_secret_comes_from_its_file_and_the_variable_itself_wins(
        self, tmp_path: Path, name: str, file_name: str, field: str, value: str
    ) -> None:
        file = tmp_path / "secret"
        file.write_text(value + "\n")
        assert getattr(Settings.from_env({file_name: str(file)}), field) == value
        other = value.replace("secret", "another") if name != "HIVE_WEBHOOK_SECRET" else value + "AAAA"
        assert getattr(Settings.from_env({file_name: str(file), name: other}), field) == other

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"hf_one\nhf_two\n", b"hf_\xff\xfe", b"x" * 20_000])
    def test_a_file_that_holds_no_secret_is_named_and_not_shown(self, tmp_path: Path, content: bytes | None) -> None:
        file = tmp_path / "secret"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SettingsError, match="HF_TOKEN_FILE") as caught:
            Settings.from_env({"HF_TOKEN_FILE": str(file)})
        assert "hf_" not in str(caught.value)
        assert str(file) in str(caught.value)


def test_every_setting_has_the_name_of_a_variable() -> None:
    names = [field.encode_name for field in msgspec.structs.fields(Settings)]

    assert len(set(names)) == len(names)
    assert all(name == name.upper() for name in names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIVE_LOG_LEVEL", b"\xff"),
        ("HIVE_FILES_AT_ONCE", b"\xff"),
        ("HF_HUB_OFFLINE", b"caf\xe9"),
        ("TRANSFORMERS_OFFLINE", b"perhaps"),
        ("HIVE_CA_FILE", b"/nowhere"),
        ("SSL_CERT_FILE", b"/nowhere"),
    ],
)
def test_a_value_that_cannot_be_used_is_told_by_the_name_that_it_was_given_under(
    monkeypatch: pytest.MonkeyPatch, name: str, value: bytes
) -> None:
    monkeypatch.setitem(os.environb, name.encode(), value)

    with pytest.raises(SettingsError, match=rf"^{name} "):
        Settings.from_env()


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_FILES_AT_ONCE", "3")

    assert Settings.from_env().files_at_once == 3


@pytest.mark.parametrize("around", ["{}\r", " {}\t", '"{}"', "'{}'", '"{}"\r', "' {} '"])
def test_what_env_files_leave_around_a_value_is_not_of_it(around: str) -> None:
    plain = {
        "HIVE_STORE": "/models",
        "HIVE_FILES_AT_ONCE": "4",
        "HIVE_METRICS_PUBLIC": "1",
        "HIVE_LOG_LEVEL": "error",
        "REDIS_URL": "redis://redis:6379/0",
        "HF_TOKEN": "hf_x",
        "HF_ENDPOINT": "http://hub.test",
        "https_proxy": "http://proxy:3128",
        "HIVE_HOST": "127.0.0.1:9",
    }
    assert Settings.from_env({name: around.format(value) for name, value in plain.items()}) == Settings.from_env(plain)
    assert Settings.from_env({"HIVE_STORE": around.format("")}) == Settings()


def test_words_may_be_in_capitals() -> None:
    assert Settings.from_env({"HIVE_LOG_LEVEL": "INFO", "HIVE_LOG_FORMAT": "JSON"}).log_format == "json"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_env({"HIVE_STORE": "", "HIVE_FILES_AT_ONCE": "", "HF_TOKEN": ""}) == Settings()


@pytest.mark.parametrize("name", ["HF_TOKEN_FILE", "HIVE_REDIS_URL_FILE", "HIVE_WEBHOOK_SECRET_FILE", "SSL_CERT_FILE"])
def test_the_null_device_counts_as_no_file(name: str) -> None:
    assert Settings.from_env({name: "/dev/null"}) == Settings()
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: "/dev/zero/none"})


@pytest.mark.parametrize(
    ("env", "store", "hub"),
    [
        ({"HIVE_STORE": "/a"}, "/a", "/a/hub"),
        ({"HF_HOME": "/b"}, "/b", "/b/hub"),
        ({"HIVE_STORE": "/a", "HF_HOME": "/b"}, "/a", "/a/hub"),
        ({"HF_HUB_CACHE": "/c/models"}, "/c", "/c/models"),
        ({"HF_HUB_CACHE": "/c/models", "HF_HOME": "/b"}, "/c", "/c/models"),
        ({"HF_HUB_CACHE": "/c/models", "HIVE_STORE": "/a"}, "/a", "/a/hub"),
    ],
)
def test_the_store_is_where_people_expect_it(env: dict[str, str], store: str, hub: str) -> None:
    settings = Settings.from_env(env)

    assert (str(settings.store_dir), str(settings.hub_dir)) == (store, hub)
    assert settings.hive_dir == Path(store) / "hive"


@pytest.mark.parametrize("value", ["1", "true"])
def test_offline_is_a_switch(value: str) -> None:
    assert Settings.from_env({"HF_HUB_OFFLINE": value}).hf_hub_offline


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HIVE_FILES_AT_ONCE", "many"),
        ("HIVE_FILES_AT_ONCE", "0"),
        ("HIVE_FILES_AT_ONCE", "65"),
        ("HIVE_KEEP_FREE_PERCENT", "91"),
        ("HIVE_LEASE_S", "0.1"),
        ("HIVE_KEEPALIVE_S", "61"),
        ("HIVE_ENDED_TTL_S", "1"),
        ("HIVE_LOG_LEVEL", "loud"),
        ("HIVE_LOG_FORMAT", "xml"),
        ("HF_ENDPOINT", "huggingface.co"),
        ("HF_ENDPOINT", "https://"),
        ("HF_ENDPOINT", "https://hub:99999"),
        ("HF_ENDPOINT", "https://user:password@hub"),
        ("HF_ENDPOINT", "https://hub/?token=x"),
        ("HIVE_FIRST_BYTE_TIMEOUT_S", "0.5"),
        ("HF_HUB_OFFLINE", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("HIVE_MAX_BYTES_PER_SECOND", "10MB", "HIVE_MAX_BYTES_PER_SECOND must be a whole number."),
        ("HIVE_LEASE_S", "6s", "HIVE_LEASE_S must be a number."),
        ("HIVE_ALLOW_FILE_URLS", "maybe", "HIVE_ALLOW_FILE_URLS must be 1 or 0."),
        ("HIVE_TRANSPORT", "fast", "HIVE_TRANSPORT must be one of auto, xet, http."),
    ],
)
def test_a_value_that_cannot_be_read_is_told_what_it_may_be(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({name: value})
    assert str(refused.value) == sentence


def test_proxies_are_read_in_either_case_and_passed_by_scheme() -> None:
    settings = Settings.from_env({"https_proxy": "http://p:1", "HTTP_PROXY": "http://q:2", "no_proxy": "a,b"})

    assert {scheme: proxy.url for scheme, proxy in settings.proxies.by_scheme.items()} == {
        "https": "http://p:1",
        "http": "http://q:2",
    }
    assert settings.proxies.without.entries == ("a", "b")
    assert not Settings.from_env({}).proxies.by_scheme


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_in_lower_case_is_taken_rather_as_other_tools_do(name: str) -> None:
    both = Settings.from_env({name: "http://big:1", name.lower(): "http://small:1"})
    assert {proxy.host for proxy in both.proxies.by_scheme.values()} == {"small"}
    assert not Settings.from_env({name: "http://big:1", name.lower(): ""}).proxies.by_scheme
    assert Settings.from_env({name: "http://big:1"}).proxies.by_scheme


def test_hosts_that_may_be_private_are_a_list() -> None:
    settings = Settings.from_env({"HIVE_ALLOW_HOSTS": " Models.Local, 10.0.0.1:8000 ,,"})

    assert settings.allowed_hosts == {"models.local", "10.0.0.1:8000"}


def test_hives_own_certificates_win_over_the_shells(tmp_path: Path) -> None:
    import certifi

    ours = certifi.where()
    assert Settings.from_env({"HIVE_CA_FILE": ours}).ssl_cert_file == ours
    assert Settings.from_env({"HIVE_CA_FILE": ours, "SSL_CERT_FILE": str(tmp_path)}).ssl_cert_file == ours
    assert Settings.from_env({"HIVE_CA_FILE": "/dev/null"}).ssl_cert_file is None


def test_hives_own_redis_wins_over_the_shells() -> None:
    both = {"REDIS_URL": "redis://other", "HIVE_REDIS_URL": "redis://ours"}
    assert Settings.from_env(both).redis_url == "redis://ours"
    assert Settings.from_env({"HIVE_REDIS_URL": "redis://ours"}).redis_url == "redis://ours"
    assert Settings.from_env({"REDIS_URL": "redis://other", "HIVE_REDIS_URL": ""}).redis_url == "redis://other"


class TestToken:
    """The Hub's token."""

    def test_the_variable_goes_before_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("hf_file\n")

        assert Settings.from_env({"HF_HOME": str(tmp_path), "HF_TOKEN": " hf_variable "}).token() == "hf_variable"
        assert Settings.from_env({"HF_HOME": str(tmp_path)}).token() == "hf_file"

    def test_the_file_may_lie_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("hf_elsewhere")

        assert Settings.from_env({"HF_TOKEN_PATH": str(tmp_path / "secret")}).token() == "hf_elsewhere"

    @pytest.mark.parametrize("content", [None, "", " \n"])
    def test_no_file_and_an_empty_file_are_no_token(self, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            (tmp_path / "token").write_text(content)

        assert Settings.from_env({"HF_HOME": str(tmp_path)}).token() is None


def test_no_secret_is_shown() -> None:
    secrets = {
        "HF_TOKEN": "hf_canary",
        "REDIS_URL": "redis://:canary@host",
        "HTTPS_PROXY": "http://user:canary@proxy",
        "HTTP_PROXY": "http://user:canary@proxy",
    }
    settings = Settings.from_env({**secrets, "HIVE_STORE": "/shown"})

    assert "canary" not in f"{settings!r} {settings}"
    assert "/shown" in repr(settings)


class TestPlaces:
    """Where huggingface_hub keeps its things, hive finds them."""

    #: Every way to say where: what is set, with `$HOME` for the home of the test.
    SAID: tuple[dict[str, str], ...] = (
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"},
        {"HF_HOME": "~/models"},
        {"HF_HOME": "$HOME/models"},
        {"HF_HOME": "${HOME}/models/$UNKNOWN"},
        {"HF_HUB_CACHE": "/c/hub"},
        {"HF_HUB_CACHE": "~/c"},
        {"HF_HUB_CACHE": "$DISK/c", "DISK": "/disk"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
        {"HUGGINGFACE_HUB_CACHE": "$HOME/old"},
        {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"},
        {"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old"},
    )
    TOKENS: tuple[dict[str, str], ...] = (
        {},
        {"HF_TOKEN": "hf_one"},
        {"HUGGING_FACE_HUB_TOKEN": "hf_old"},
        {"HUGGING_FACE_HUB_TOKEN": "hf_old", "HF_TOKEN": "hf_new"},
        {"HF_TOKEN_PATH": "~/elsewhere"},
        {"HF_TOKEN_PATH": "$HOME/elsewhere"},
        {"HF_HOME": "$HOME/models"},
        {"XDG_CACHE_HOME": "$HOME/x"},
    )

    @pytest.mark.parametrize("said", SAID, ids=str)
    def test_the_cache_is_where_huggingface_hub_has_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        env = {"HOME": str(tmp_path), **said}

        assert str(Settings.from_env(env).hub_dir) == _asked(env, "constants.HF_HUB_CACHE")

    @pytest.mark.parametrize("said", TOKENS, ids=str)
    def test_the_token_is_the_one_of_huggingface_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        said = {name: value.replace("$HOME", str(tmp_path)) if "XDG" in name else value for name, value in said.items()}
        for place in (".cache/huggingface/token", "elsewhere", "models/token", "x/huggingface/token"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_text(f"hf_in_{place.replace('/', '_')}\n")
        env = {"HOME": str(tmp_path), **said}

        assert Settings.from_env(env).token() == _asked(env, "get_token()")

    @pytest.mark.parametrize("said", [{"TRANSFORMERS_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "YES"}, {}], ids=str)
    def test_offline_is_what_it_is_to_huggingface_hub(self, said: dict[str, str]) -> None:
        assert str(Settings.from_env(said).hf_hub_offline) == _asked(said, "constants.HF_HUB_OFFLINE")

    def test_hive_s_own_paths_are_read_the_same_way(self) -> None:
        settings = Settings.from_env({"HOME": "/h", "HIVE_STORE": "$HOME/s", "HIVE_HOME": "~/i"})

        assert (str(settings.store_dir), str(settings.home_dir)) == ("/h/s", "/h/i")

    def test_a_cache_whose_parent_is_somebody_else_s_keeps_what_is_hive_s_inside(self, tmp_path: Path) -> None:
        settings = Settings.from_env({"HF_HUB_CACHE": "/proc/cache"})
        ours = Settings.from_env({"HF_HUB_CACHE": str(tmp_path / "hub")})

        assert settings.hive_dir == Path("/proc/cache/.hive") or os.access("/proc", os.W_OK)
        assert ours.hive_dir == tmp_path / "hive"

    def test_a_user_without_a_home_is_told_what_to_set(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

        with pytest.raises(SettingsError, match="set HIVE_STORE"):
            _ = Settings.from_env({}).store_dir
        ours = tmp_path / f"hive-{os.geteuid()}"
        assert Settings.from_env({}).home_dir == ours
        ours.symlink_to("/")
        with pytest.raises(SettingsError, match="set HIVE_HOME"):
            _ = Settings.from_env({}).home_dir
        assert Settings.from_env({}).token() is None


def _asked(env: dict[str, str], what: str) -> str | None:
    """What the installed huggingface_hub says in an environment of these variables."""
    code = f"from huggingface_hub import constants, get_token; print({what})"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    said = run.stdout.strip()
    return None if said == "None" else said


def test_every_number_has_a_range_that_its_default_keeps_and_none_is_of_a_setting_that_is_not_there() -> None:
    fields = {info.encode_name: info for info in msgspec.structs.fields(Settings)}
    assert set(RANGES) <= set(fields)
    numbers = {name for name, info in fields.items() if info.type in (int, float)}
    assert numbers - set(RANGES) == {"HIVE_MAX_BYTES_PER_SECOND"}, "checked by itself: 0, or a least that is no default"
    assert all(low <= fields[name].default <= high for name, (low, high) in RANGES.items())
