"""Private registries: credentials of the operator's file, where they go, and what is told without them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hive.errors import HubRefused, ModelAccessDenied
from hive.settings import Settings
from hive.wire.registries import RegistryName
from tests.hub import HubServer
from tests.support.oci_registry import OciRegistry
from tests.support.plans import content_of, download, plan_for
from workers.sources.registry import Registry
from workers.sources.registry_auth import basic_credentials

PASSWORD = "robot:s3cret:pass"
GGUF = b"GGUF" + bytes(1000)


@pytest.fixture
def registry(hub: HubServer) -> Iterator[OciRegistry]:
    with OciRegistry(hub) as registry:
        registry.password = PASSWORD
        registry.put("org/x", "v1", {"layers": [registry.layer(GGUF, title="m.gguf")]})
        yield registry


def encoded(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def with_file(settings: Settings, folder: Path, content: object, mode: int = 0o600) -> Settings:
    file = folder / "auth.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    file.chmod(mode)
    values = {"HIVE_STORE": str(settings.store_dir), "HIVE_HOME": str(settings.home_dir)}
    return Settings.from_env(values | {"HIVE_REGISTRY_AUTH_FILE": str(file), "HF_ENDPOINT": "http://h.test"})


def with_password(settings: Settings, folder: Path, place: str, pair: str = PASSWORD) -> Settings:
    return with_file(settings, folder, {"auths": {place: encoded(pair), "other.test": encoded("a:b")}})


@pytest.mark.parametrize("is_basic", [False, True], ids=["by a token", "at every request"])
def test_what_is_private_comes_with_the_credentials_of_the_file_and_they_go_to_the_registry_alone(
    registry: OciRegistry, hub_settings: Settings, hub: HubServer, tmp_path: Path, is_basic: bool
) -> None:
    registry.is_basic, registry.tokens = is_basic, not is_basic
    settings = with_password(hub_settings, tmp_path, f"{registry.host}/org")
    plan = plan_for(settings, f"oci://{registry.host}/org/x:v1")
    assert [content_of(file) for file in plan.files] == [GGUF]
    download(settings, plan)
    basic = f"Basic {encoded(PASSWORD)['auth']}"
    sent = {path.partition("?")[0]: authorization for path, authorization in registry.requests if authorization}
    assert (sent.pop("/token", basic), basic in sent.values()) == (basic, is_basic)
    assert all("authorization" not in hit.headers for hit in hub.hits())
    kept = [path.read_bytes() for path in settings.store_dir.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in each or basic[6:].encode() in each for each in kept)
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(plan)


@pytest.mark.parametrize("is_basic", [False, True], ids=["by a token", "at every request"])
def test_without_credentials_and_with_wrong_ones_it_is_said_which_setting_to_look_at(
    registry: OciRegistry, hub_settings: Settings, tmp_path: Path, is_basic: bool
) -> None:
    registry.is_basic, registry.tokens = is_basic, not is_basic
    ref = f"oci://{registry.host}/org/x:v1"
    with pytest.raises(ModelAccessDenied, match="HIVE_REGISTRY_AUTH_FILE names a file") as without:
        plan_for(hub_settings, ref)
    assert without.value.status == 403
    with pytest.raises(ModelAccessDenied, match="asked with the credentials of HIVE_REGISTRY") as wrong:
        plan_for(with_password(hub_settings, tmp_path, registry.host, "robot:wr0ng"), ref)
    assert "wr0ng" not in str(wrong.value)


def test_a_password_goes_nowhere_without_encryption(
    hub_settings: Settings, tmp_path: Path, registry: OciRegistry
) -> None:
    settings = with_password(hub_settings, tmp_path, registry.host)
    asked = Registry(settings, RegistryName("oci", registry.host, "org/x"), None)  # type: ignore[arg-type]
    for url in ("http://registry.test/token", "http://127.registry.test/token"):
        with pytest.raises(HubRefused, match="wants a password without encryption"):
            asked._check_encrypted(url)


@pytest.mark.parametrize(
    ("place", "host", "path", "is_meant"),
    [
        ("ghcr.io", "ghcr.io", "org/x", True),
        ("https://ghcr.io/v2/", "ghcr.io", "org/x", True),
        ("ghcr.io/org", "ghcr.io", "org/x", True),
        ("ghcr.io/org/x", "ghcr.io", "org/x", True),
        ("ghcr.io/org/xy", "ghcr.io", "org/x", False),
        ("ghcr.io/other", "ghcr.io", "org/x", False),
        ("ghcr.io", "ghcr.io:5000", "org/x", False),
        ("ghcr.io", "evil-ghcr.io", "org/x", False),
        ("https://index.docker.io/v1/", "docker.io", "org/x", True),
        ("docker.io/org", "docker.io", "org/x", True),
        ("https://index.docker.io/v1/", "registry-1.docker.io", "org/x", False),
    ],
)
def test_an_entry_is_for_its_host_and_path(
    hub_settings: Settings, tmp_path: Path, place: str, host: str, path: str, is_meant: bool
) -> None:
    settings = with_file(hub_settings, tmp_path, {"auths": {place: encoded("a:b")}})
    found = basic_credentials(settings, host, RegistryName("oci", host, path))
    assert (found is not None) is is_meant


def test_the_narrowest_entry_counts(hub_settings: Settings, tmp_path: Path) -> None:
    pairs = {"r.test": "wide:1", "r.test/org/x": "narrow:1", "r.test/org": "middle:1"}
    settings = with_file(hub_settings, tmp_path, {"auths": {place: encoded(pair) for place, pair in pairs.items()}})
    found = basic_credentials(settings, "r.test", RegistryName("oci", "r.test", "org/x"))
    assert found == f"Basic {encoded('narrow:1')['auth']}"


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        ("[", 0o600, "not of the form"),
        ('{"auths": []}', 0o600, "not of the form"),
        ({"auths": {"r.test": {"auth": "s3cret!"}}}, 0o600, "no base64 of user:password"),
        ({"auths": {"r.test": {"identitytoken": "s3cret"}}}, 0o600, "an `identitytoken`"),
        ({"auths": {"r.test": {}}, "credsStore": "desktop"}, 0o600, "a helper may keep them"),
        ({"auths": {"r.test": encoded("s3cret:x")}}, 0o644, "others may read it .* chmod 600"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_of_what_stands_in_it(
    hub_settings: Settings, tmp_path: Path, content: Any, mode: int, text: str
) -> None:
    settings = with_file(hub_settings, tmp_path, content, mode)
    with pytest.raises(ModelAccessDenied, match=f"HIVE_REGISTRY_AUTH_FILE names .*auth.json.*{text}") as error:
        basic_credentials(settings, "r.test", RegistryName("oci", "r.test", "org/x"))
    assert "s3cret" not in str(error.value)
    (tmp_path / "auth.json").unlink()
    with pytest.raises(ModelAccessDenied, match="cannot be read: No such file"):
        basic_credentials(settings, "r.test", RegistryName("oci", "r.test", "org/x"))
