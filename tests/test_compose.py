"""The compose file is valid, and says what the documentation promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hive.environment import SECRET_FILES
from hive.settings import Settings
from hive.version import VERSION

ROOT = Path(__file__).parent.parent
#: What runs as long as the stack does.
LASTING = ("balancer", "api", "worker", "inference", "redis", "prometheus", "grafana")
#: Settings that the compose file decides, and why nobody has to.
DECIDED = {
    "REDIS_URL": "a file: HIVE_REDIS_URL_FILE",
    "HIVE_STORE": "HIVE_MODELS",
    "HIVE_HOME": "a folder of each container",
    "HIVE_SECRET_KEY_FILE": "in the volume that all share",
    "HIVE_API_KEYS_FILE": "in the volume that all share",
    "HIVE_PUBLISHED_AT": "HIVE_BIND",
    "HIVE_HOST": "all addresses of the container",
    "HF_TOKEN_PATH": "HF_TOKEN_FILE",
    "HIVE_REGISTRY_AUTH_FILE": "a file",
    "SSL_CERT_FILE": "HIVE_CA_FILE",
    "HIVE_REDIS_CA_FILE": "a file",
    "HIVE_REDIS_CERT_FILE": "a file",
    "HIVE_REDIS_KEY_FILE": "a file",
    "HIVE_LLM_HOST": "all addresses of the container",
}
#: Settings that mean nothing to servers and workers in containers.
MEANINGLESS = {
    *("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"),
    *("NO_COLOR", "TERM", "HIVE_API_KEY", "HIVE_API_KEY_FILE"),
}


def configured(**env: str) -> dict[str, Any]:
    """The file as docker-compose reads it, with these variables and no others."""
    if shutil.which("docker-compose") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("docker-compose is missing: .ci/run installs it")
        pytest.skip("docker-compose is not installed")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **env}
    done = subprocess.run(
        ["docker-compose", "--env-file", ".env.example", "config"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return configured()


def given(service: dict[str, Any]) -> dict[str, str]:
    """The variables of a service that are set."""
    return {name: str(value) for name, value in service["environment"].items() if value is not None}


def test_api_and_workers_share_one_image_and_the_store(stack: dict[str, Any]) -> None:
    api, worker = stack["services"]["api"], stack["services"]["worker"]
    assert api["image"] == worker["image"] == stack["services"]["prepare"]["image"] == "hive"
    assert api["command"][0] == "serve"
    assert worker["command"][0] == "worker"
    for service in (api, worker):
        folder = given(service)["HIVE_STORE"]
        assert f"{folder}:{folder}:rw" in service["volumes"]
        assert "state:/var/lib/hive:rw" in service["volumes"]


@pytest.mark.parametrize("name", [*LASTING, "prepare"])
def test_every_container_is_bounded_and_guarded(stack: dict[str, Any], name: str) -> None:
    service = stack["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]
    if name in LASTING:
        assert service["user"] == "1000:1000"
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]
        assert service["stop_grace_period"]
    else:
        assert service["network_mode"] == "none"


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_health_of_a_server_is_its_own_answer_and_no_proxy_s(
    stack: dict[str, Any], status: int, exit_code: int
) -> None:
    command = stack["services"]["api"]["healthcheck"]["test"]
    found = re.search(r"^    CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    assert json.loads(found[1]) == command[1:]

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        code = command[-1].replace("8080", str(server.server_port))
        env = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
        assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == exit_code


def test_nothing_is_scaled_into_a_name_or_a_port_of_its_own(stack: dict[str, Any]) -> None:
    for name in ("api", "worker", "inference"):
        service = stack["services"][name]
        assert not {"ports", "container_name", "hostname"} & set(service)
        assert service["healthcheck"]["test"]


def test_how_many_there_are_stays_in_the_environment(stack: dict[str, Any]) -> None:
    names = ("api", "worker", "inference")
    assert [stack["services"][name]["scale"] for name in names] == [1, 1, 1]
    more = configured(HIVE_API_REPLICAS="3", HIVE_WORKER_REPLICAS="8", HIVE_INFERENCE_REPLICAS="2")["services"]
    assert [more[name]["scale"] for name in names] == [3, 8, 2]


def test_another_redis_starts_servers_and_workers_anew(stack: dict[str, Any]) -> None:
    other = configured(HIVE_REDIS_URL_FILE="/s/redis")["services"]
    for name in ("api", "worker", "inference"):
        assert other[name]["labels"] != stack["services"][name]["labels"]


def test_the_guide_finds_names_that_nobody_reads(tmp_path: Path) -> None:
    command = re.search(r"^    (grep .*)$", (ROOT / "docs" / "compose.md").read_text(), re.MULTILINE)
    assert command is not None
    example = (ROOT / ".env.example").read_text()
    (tmp_path / ".env.example").write_text(example)
    (tmp_path / ".env").write_text(example.replace("#HIVE_", "HIVE_") + "HIVE_WORKER=3\n")
    found = subprocess.run(["sh", "-c", command[1]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert found.stdout == "HIVE_WORKER= is not known\n"


def test_redis_keeps_what_it_was_told_and_is_reachable_by_hive_alone(stack: dict[str, Any]) -> None:
    redis = stack["services"]["redis"]
    command = " ".join(redis["command"])
    assert "--appendonly yes" in command
    assert "noeviction" in command
    assert "ports" not in redis
    assert list(redis["networks"]) == ["backplane"]
    assert stack["networks"]["backplane"]["internal"] is True
    inside = [name for name, service in stack["services"].items() if "backplane" in (service.get("networks") or {})]
    assert sorted(inside) == ["api", "inference", "redis", "worker"]


def test_nothing_but_the_balancer_is_published_and_on_the_loopback_only(stack: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in stack["services"].items() if service.get("ports")}
    assert sorted(published) == ["balancer", "grafana"]
    for ports in published.values():
        assert all(str(port).startswith("127.0.0.1:") for port in ports)
    elsewhere = configured(HIVE_BIND="192.0.2.9", HIVE_PORT="80")["services"]
    assert "192.0.2.9:80:8080/tcp" in elsewhere["balancer"]["ports"]
    assert given(elsewhere["api"])["HIVE_PUBLISHED_AT"] == "192.0.2.9"
    assert elsewhere["grafana"]["ports"] == published["grafana"]


def test_clients_are_told_apart_behind_the_balancer(stack: dict[str, Any]) -> None:
    env = {name: value for name, value in given(stack["services"]["api"]).items() if not name.endswith("_FILE")}
    settings = Settings.from_env(env)
    assert settings.trusted.trusts("172.18.0.4")
    assert settings.max_connections_per_address == Settings().max_connections_per_address
    assert settings.max_anonymous_requests_per_second == Settings().max_anonymous_requests_per_second


def test_the_name_of_the_site_is_one_that_clients_may_use() -> None:
    site = configured(HIVE_SITE="hive.example.org", HIVE_PUBLIC_HOSTS="other.example.org")["services"]
    settings = Settings.from_env({"HIVE_PUBLIC_HOSTS": given(site["api"])["HIVE_PUBLIC_HOSTS"]})
    assert settings.public_host_names == {"hive.example.org", "other.example.org"}
    assert given(site["balancer"])["HIVE_SITE"] == "hive.example.org"


def test_every_setting_reaches_those_whom_it_concerns() -> None:
    names = {field.encode_name for field in msgspec.structs.fields(Settings)} - MEANINGLESS - set(DECIDED)
    value = "4097"
    services = configured(**dict.fromkeys(names, value))["services"]
    told = [given(services[to]) for to in ("api", "worker", "inference")]
    reached = {name for name in names if any(value in service.get(name, "") for service in told)}
    assert names - reached == set(), "settings that docker-compose.yml does not pass on"


def test_every_variable_of_the_file_is_in_the_example() -> None:
    said = set(re.findall(r"^#?([A-Z][A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    passed = {field.encode_name for field in msgspec.structs.fields(Settings)} - MEANINGLESS - set(DECIDED)
    assert said == used | passed
    listed = configured(**dict.fromkeys(sorted(said), ""))
    assert listed["services"]["api"]["environment"]["HIVE_STORE"] == "/srv/hive/models"


def test_secrets_come_as_files() -> None:
    services = configured(HF_TOKEN_FILE="/s/hub", HIVE_WEBHOOK_SECRET_FILE="/s/hook", HIVE_REDIS_URL_FILE="/s/redis")[
        "services"
    ]
    assert {"/s/hub", "/s/hook", "/s/redis"} <= {
        volume["source"]
        for service in services.values()
        for volume in service.get("volumes", ())
        if isinstance(volume, dict)
    }
    assert given(services["worker"])["HF_TOKEN_FILE"] == "/run/secrets/hf-token"
    assert "HF_TOKEN_FILE" not in given(services["api"])
    # Not by a name that other libraries read: to them /dev/null is a store without certificates.
    assert given(services["worker"])["HIVE_CA_FILE"] == "/run/secrets/ca"
    assert "SSL_CERT_FILE" not in given(services["worker"])
    none = dict.fromkeys(SECRET_FILES.values(), "/dev/null") | {"HIVE_CA_FILE": "/dev/null"}
    assert Settings.from_env(none) == Settings()


def test_the_label_of_the_image_is_the_version() -> None:
    assert f'org.opencontainers.image.version="{VERSION}"' in (ROOT / "Dockerfile").read_text()


def test_the_monitoring_s_files_are_what_they_name(stack: dict[str, Any]) -> None:
    for service in ("prometheus", "grafana", "balancer", "prepare"):
        for volume in stack["services"][service]["volumes"]:
            source = str(volume if isinstance(volume, str) else volume["source"]).partition(":")[0]
            assert not source.startswith(str(ROOT)) or Path(source).is_file(), source
    folder = ROOT / "deploy" / "monitoring"
    (source,) = yaml.safe_load((folder / "grafana" / "datasource.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((folder / "grafana" / "dashboards.yml").read_text())["providers"]
    assert f"{provider['options']['path']}/hive.json" in str(stack["services"]["grafana"]["volumes"])
    (job,) = yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["api:8080"]}]
