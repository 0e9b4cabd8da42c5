"""The Helm chart: linted, rendered, and held against the strict schemas of Kubernetes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import msgspec
import pytest
import yaml
from cryptography.fernet import Fernet
from helm_python import chart as helm

from hive.cli import cli
from hive.environment import OWN_NAMES, SECRET_FILES
from hive.server import SHUTDOWN_GRACE_S, STOP_MARGIN_S
from hive.settings import Settings
from hive.version import VERSION

CHART = Path(__file__).parents[1] / "charts" / "hive"
#: The oldest version that the chart allows, and the newest whose schemas there are.
KUBERNETES = ("1.27", kubernetes_validate.latest_version())
#: What has to be said at the least.
LEAST = {"auth": {"existingSecret": "keys"}}
#: Everything that can be switched on.
ALL: dict[str, Any] = {
    **LEAST,
    "image": {"digest": "sha256:" + "a" * 64, "pullSecrets": [{"name": "registry"}]},
    "secretKey": {"existingSecret": "key"},
    "hub": {"tokenSecret": "hub"},
    "store": {"existingClaim": "models"},
    "redis": {"existingSecret": "redis", "tlsSecret": "redis-tls", "clientCertificate": True},
    "api": {
        "publicHosts": ["hive.corp"],
        "allowOrigins": ["https://ui.corp"],
        "env": {"HIVE_MAX_STREAMS": "5000"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "podAnnotations": {"a": "b"},
    },
    "worker": {"env": {"HTTPS_PROXY": "http://proxy:3128"}, "nodeSelector": {"disk": "fast"}},
    "ingress": {"enabled": True, "className": "nginx", "host": "hive.corp.example", "tlsSecret": "tls"},
    "networkPolicy": {"from": [{"podSelector": {}}], "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "bearerTokenSecret": "metrics"},
    "scaling": {"enabled": True, "bearerTokenSecret": "scaling"},
}
#: Kinds of other projects, which Kubernetes' own schemas do not know.
FOREIGN = frozenset({"ServiceMonitor", "ScaledObject", "TriggerAuthentication"})


@pytest.fixture(scope="module")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


def rendered(chart: helm.Chart, values: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What would be applied, by kind and name."""
    texts = chart.render(values, name="demo", namespace="models")
    documents = [
        document
        for name, text in texts.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document is not None
    ]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def containers(documents: dict[tuple[str, str], dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every pod's specification with each of its containers."""
    for document in documents.values():
        if document["kind"] in ("Deployment", "StatefulSet"):
            pod = document["spec"]["template"]["spec"]
            for container in pod["containers"]:
                yield pod, container


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container.get("env", [])}


def test_helm_finds_nothing_to_say_of_the_chart_but_that_it_has_no_icon(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(LEAST))
    found = helm.lint(CHART, helm.values_from_yaml(values.read_text()))
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", [LEAST, ALL, {"auth": {"allowUnauthenticated": True}}], ids=["least", "all", "open"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_what_it_renders_is_what_kubernetes_takes(chart: helm.Chart, version: str, values: dict[str, Any]) -> None:
    documents = rendered(chart, values)
    assert documents.keys() >= {("Deployment", "demo-api"), ("Deployment", "demo-worker"), ("Service", "demo")}
    for (kind, _), document in documents.items():
        if kind not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_every_pod_is_as_restricted_as_the_restricted_standard_wants(chart: helm.Chart, values: dict[str, Any]) -> None:
    found = list(containers(rendered(chart, values)))
    assert found
    for pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not any("hostPath" in volume for volume in pod["volumes"])


def test_a_cluster_may_say_who_the_pods_run_as(chart: helm.Chart) -> None:
    values = {**LEAST, "podSecurity": {"runAsUser": None, "fsGroup": None}}
    for pod, _ in containers(rendered(chart, values)):
        assert pod["securityContext"].keys() == {"runAsNonRoot", "runAsGroup", "seccompProfile"}
    for pod, _ in containers(rendered(chart, LEAST)):
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (1000, 1000)


def test_without_keys_it_is_not_installed_unless_that_is_said(chart: helm.Chart) -> None:
    with pytest.raises(helm_python.HelmError, match="hive key new"):
        chart.render({}, name="demo")
    api = dict(containers_by_name(rendered(chart, {"auth": {"allowUnauthenticated": True}})))["api"]
    assert "--allow-unauthenticated" in api["args"]
    api = dict(containers_by_name(rendered(chart, LEAST)))["api"]
    assert "--allow-unauthenticated" not in api["args"]
    assert environment(api)["HIVE_API_KEYS_FILE"] == "/run/secrets/keys/keys.json"


def containers_by_name(documents: dict[tuple[str, str], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for _, container in containers(documents):
        yield container["name"], container


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_the_environment_is_made_of_settings_that_exist_and_holds_no_secret(
    chart: helm.Chart, values: dict[str, Any]
) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    known |= set(OWN_NAMES.values()) | set(SECRET_FILES.values())
    for _, container in containers(rendered(chart, values)):
        assert environment(container).keys() <= known
        assert all("valueFrom" not in entry for entry in container.get("env", []))
        assert "redis://" not in str(container)


def test_the_files_for_tls_are_mounted_where_the_settings_name_them(chart: helm.Chart) -> None:
    names = {"HIVE_REDIS_CA_FILE": "ca.crt", "HIVE_REDIS_CERT_FILE": "tls.crt", "HIVE_REDIS_KEY_FILE": "tls.key"}
    for _, container in containers(rendered(chart, ALL)):
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "redis-tls")
        for name, file in names.items():
            assert environment(container)[name] == f"{mount['mountPath']}/{file}"
    redis = {**ALL["redis"], "clientCertificate": False}
    for _, container in containers(rendered(chart, {**ALL, "redis": redis})):
        assert environment(container).keys() & names.keys() == {"HIVE_REDIS_CA_FILE"}


def test_the_commands_are_commands_of_hive(chart: helm.Chart) -> None:
    for _, container in containers(rendered(chart, LEAST)):
        for arguments in filter(None, [container.get("args"), probe_of(container)]):
            command = cli.get_command(cli.make_context("hive", ["--help"], resilient_parsing=True), arguments[0])
            assert command is not None, arguments
            options = {name for parameter in command.params for name in parameter.opts}
            assert {word.partition("=")[0] for word in arguments[1:]} <= options


def probe_of(container: dict[str, Any]) -> list[str] | None:
    """The arguments of hive in a liveness probe that runs it."""
    words: list[str] = container["livenessProbe"].get("exec", {}).get("command", [])
    return words[1:] if words[:1] == ["hive"] else None


def test_the_secrets_that_it_makes_are_what_hive_and_redis_read(chart: helm.Chart) -> None:
    documents = rendered(chart, LEAST)
    key = base64.b64decode(documents["Secret", "demo-key"]["data"]["secret.key"])
    Fernet(key)
    data = documents["Secret", "demo-redis"]["data"]
    url, conf = (base64.b64decode(data[name]).decode() for name in ("url", "redis.conf"))
    password = conf.removeprefix("requirepass ").strip()
    assert url == f"redis://:{password}@demo-redis:6379/0"
    assert len(password) == 40
    address = Settings.from_env({"REDIS_URL": url}).redis_address
    assert address is not None
    assert address.password == password
    assert rendered(chart, ALL).keys().isdisjoint({("Secret", "demo-key"), ("Secret", "demo-redis")})


def test_redis_is_reached_by_hive_alone_and_workers_reach_only_public_addresses(chart: helm.Chart) -> None:
    documents = rendered(chart, LEAST)
    redis = documents["NetworkPolicy", "demo-redis"]["spec"]
    peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in redis["ingress"][0]["from"]]
    assert peers == ["api", "worker"]
    worker = documents["NetworkPolicy", "demo-worker"]["spec"]
    assert worker["ingress"] == []
    blocks = [peer["ipBlock"] for rule in worker["egress"] for peer in rule.get("to", []) if "ipBlock" in peer]
    assert "169.254.0.0/16" in blocks[0]["except"]
    assert "10.0.0.0/8" in blocks[0]["except"]


def test_a_pod_has_time_to_drain_before_it_is_killed(chart: helm.Chart) -> None:
    pods = {container["name"]: pod for pod, container in containers(rendered(chart, LEAST))}
    api = dict(containers_by_name(rendered(chart, LEAST)))["api"]
    drain_s = float(environment(api)["HIVE_DRAIN_S"])
    pre_stop_s = float(api["lifecycle"]["preStop"]["exec"]["command"][1])
    # Streams of progress, and then those of models: see run in hive/server.py.
    at_most_s = pre_stop_s + 2 * drain_s + SHUTDOWN_GRACE_S
    assert at_most_s + 5 <= pods["api"]["terminationGracePeriodSeconds"] <= at_most_s + STOP_MARGIN_S
    assert pods["worker"]["terminationGracePeriodSeconds"] >= 10


def test_clients_may_use_every_name_of_the_service(chart: helm.Chart) -> None:
    api = dict(containers_by_name(rendered(chart, ALL)))["api"]
    names = environment(api)["HIVE_PUBLIC_HOSTS"].split(",")
    assert names == [
        "demo",
        "demo.models",
        "demo.models.svc",
        "demo.models.svc.cluster.local",
        "hive.corp.example",
        "hive.corp",
    ]
    scaled = rendered(chart, ALL)["ScaledObject", "demo-worker"]["spec"]["triggers"][0]["metadata"]
    assert scaled["url"] == "http://demo.models.svc:80/v1/scaling"
    assert scaled["valueLocation"] == "wanted_workers"
    assert "replicas" not in rendered(chart, ALL)["Deployment", "demo-worker"]["spec"], "the autoscaler decides"


@pytest.mark.parametrize(
    "values",
    [
        {"worker": {"concurency": 3}},
        {"api": {"replicas": -1}},
        {"store": {"size": "lots"}},
        {"image": {"digest": "sha256:short"}},
        {"hub": {"endpoint": "https://user:password@hub"}},
        {"ingress": {"host": "https://hive"}},
        {"unknown": 1},
    ],
)
def test_a_value_that_means_nothing_is_refused(chart: helm.Chart, values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        chart.validate_schema({**LEAST, **values})
    chart.validate_schema(LEAST)


def test_every_value_is_in_the_schema_and_the_version_is_hive_s(chart: helm.Chart) -> None:
    schema = chart.schema
    assert schema is not None

    def missing(values: dict[str, Any], properties: dict[str, Any], path: str = "") -> list[str]:
        found = [f"{path}{name}" for name in values if name not in properties]
        for name, value in values.items():
            inner = properties.get(name, {}).get("properties")
            if isinstance(value, dict) and inner is not None:
                found += missing(value, inner, f"{path}{name}.")
        return found

    assert missing(chart.values, schema["properties"]) == []
    assert chart.metadata["appVersion"] == VERSION
