"""Settings: read once, checked with words that name the variable, and never shown with their secrets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hive.settings import Settings, SettingsError


def test_nothing_set_means_the_defaults() -> None:
    settings = Settings.from_env({})

    assert settings == Settings()
    assert settings.store_dir == Path("~/.cache/huggingface").expanduser()
    assert settings.hub_dir == settings.store_dir / "hub"
    assert settings.hive_dir == settings.store_dir / "hive"
    assert settings.hf_endpoint == "https://huggingface.co"
    assert not settings.hf_hub_offline


def test_every_setting_has_the_name_of_a_variable() -> None:
    names = [field.encode_name for field in msgspec.structs.fields(Settings)]

    assert len(set(names)) == len(names)
    assert all(name == name.upper() for name in names)


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVE_FILES_AT_ONCE", "3")

    assert Settings.from_env().files_at_once == 3


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_env({"HIVE_STORE": "", "HIVE_FILES_AT_ONCE": "", "HF_TOKEN": ""}) == Settings()


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
        ("HF_HUB_OFFLINE", "perhaps"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env({name: value})


def test_proxies_are_read_in_either_case_and_passed_by_scheme() -> None:
    settings = Settings.from_env({"https_proxy": "http://p:1", "HTTP_PROXY": "http://q:2", "no_proxy": "a,b"})

    assert settings.proxies == {"https": "http://p:1", "http": "http://q:2", "no_proxy": "a,b"}
    assert Settings.from_env({"HTTPS_PROXY": "http://big", "https_proxy": "http://small"}).https_proxy == "http://big"
    assert Settings().proxies == {}


def test_hosts_that_may_be_private_are_a_list() -> None:
    settings = Settings.from_env({"HIVE_ALLOW_HOSTS": " Models.Local, 10.0.0.1:8000 ,,"})

    assert settings.allowed_hosts == {"models.local", "10.0.0.1:8000"}


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
