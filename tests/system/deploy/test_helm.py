"""``deploy/helm/``：``helm lint``；渲染出来的合 Kubernetes 的模式；角色、宽限、设置对得上。"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from meeting_push.settings import FLAT, PREFIX, Role

CHART: Final = Path(__file__).parents[3] / "deploy" / "helm" / "meeting-push"
#: 最旧的与现在的。
VERSIONS: Final = ("1.27", "1.33")
ALL_ON: Final = (
    *("ingress.enabled=true", "ingress.tlsSecret=tls"),
    "gateway.autoscaling.socketsPerPod=20000",
)

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="no helm")


def _helm(*arguments: str | Path) -> str:
    done = subprocess.run(["helm", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rendered(*values: str, version: str = VERSIONS[-1]) -> list[dict[str, Any]]:
    changed = [part for value in values for part in ("--set", value)]
    text = _helm("template", "ours", CHART, "--kube-version", version, *changed)
    return [one for one in yaml.safe_load_all(text) if one]


def deployments() -> dict[str, dict[str, Any]]:
    """角色 → 它的 Pod。"""
    found = (one for one in rendered() if one["kind"] == "Deployment")
    return {
        one["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]["spec"]
        for one in found
    }


def test_its_linter_is_content() -> None:
    _helm("lint", "--strict", CHART)


@pytest.mark.parametrize("values", [(), ALL_ON])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_object_is_one_kubernetes_knows(version: str, values: tuple[str, ...]) -> None:
    objects = rendered(*values, version=version)
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= {one["kind"] for one in objects}
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_each_role_but_all_is_a_deployment_that_drains_within_its_grace() -> None:
    pods = deployments()
    assert set(pods) == set(Role) - {Role.ALL}
    for role, pod in pods.items():
        (container,) = pod["containers"]
        assert container["args"] == ["serve", "--role", role]
        given = {one["name"]: one["value"] for one in container["env"]}
        window = float(given["MEETING_PUSH_DRAIN_WINDOW_S"])
        grace = float(given["MEETING_PUSH_SHUTDOWN_GRACE_S"])
        assert pod["terminationGracePeriodSeconds"] > window + 2 * grace


def test_each_setting_it_gives_exists() -> None:
    known = {f"{PREFIX}{flat}".upper() for flat in FLAT}
    for pod in deployments().values():
        (container,) = pod["containers"]
        assert {one["name"] for one in container["env"]} <= known
