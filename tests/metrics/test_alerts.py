"""The alert rules, by Prometheus' own tool: each is heard where it must be, and none in a healthy fleet."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.programs import path_of

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yml"
CASES = Path(__file__).with_name("alerts_cases.yml")


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Debian's `prometheus` brings it, 19 MB; .ci/run installs that, and elsewhere it is a skip."""
    tool = os.environ.get("HIVE_TEST_PROMTOOL") or path_of("promtool")
    if tool is None:
        pytest.skip("promtool is not installed")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60)


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stderr


def test_each_alert_is_heard_where_it_must_be_and_none_in_a_healthy_fleet(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    cases.write_text(yaml.safe_dump({**yaml.safe_load(CASES.read_text()), "rule_files": [str(ALERTS)]}))
    done = promtool("test", "rules", str(cases))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_cases_have_every_alert() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    said = CASES.read_text()
    assert [rule["alert"] for rule in group["rules"] if f'alertname="{rule["alert"]}"' not in said] == []
