"""deploy/kubernetes: valid by Kubernetes' own schemas, and true of the image and the settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests

from orchestrator import __version__
from orchestrator.schemas import MAX_WAIT_S
from tests.deployed import (
    GRACEFUL_S,
    IMAGE,
    KUBERNETES,
    SECRET,
    SPARE_S,
    WORKER,
    assert_tells_signs,
    documents,
    known_settings,
)
from tests.dockerfile import stages
from tests.e2e.client import PATIENCE_S
from tests.proxied import CONF
from tests.served import Served

Manifest = dict[str, Any]

(KUSTOMIZATION,) = documents(KUBERNETES / "kustomization.yaml")
MANIFESTS: list[Manifest] = [
    manifest for name in KUSTOMIZATION["resources"] for manifest in documents(KUBERNETES / name)
]
VERSIONS = ("1.29", "1.33", "1.37")
OURS = ("orchestrator-web", "orchestrator-worker")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def named(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


ALL = {named(manifest): manifest for manifest in MANIFESTS}


def pod(name: str) -> Manifest:
    kind = "StatefulSet" if name.endswith("redis") else "Deployment"
    return dict(ALL[f"{kind}/{name}"]["spec"]["template"]["spec"])


def container(name: str) -> Manifest:
    (only,) = pod(name)["containers"]
    return dict(only)


def of_kind(kind: str) -> Iterator[Manifest]:
    return (manifest for manifest in MANIFESTS if manifest["kind"] == kind)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=named)
def test_every_manifest_is_valid_by_the_schema(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_does_not_exist_is_found_out() -> None:
    wrong = {**ALL["Service/orchestrator-web"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_is_applied_and_no_two_objects_share_a_name() -> None:
    files = {path.name for path in KUBERNETES.iterdir()} - {"kustomization.yaml"}
    assert sorted(KUSTOMIZATION["resources"]) == sorted(files)
    assert len(ALL) == len(MANIFESTS)


def test_web_and_worker_run_this_version_of_the_image() -> None:
    assert KUSTOMIZATION["images"] == [{"name": "llm-orchestrator", "newTag": __version__}]
    assert {container(name)["image"] for name in OURS} == {"llm-orchestrator"}


def test_the_worker_is_started_as_everywhere_and_web_as_the_image_does() -> None:
    assert container("orchestrator-worker")["args"] == WORKER
    assert not {"args", "command"} & set(container("orchestrator-web"))


@pytest.mark.parametrize("name", OURS)
def test_pods_run_as_the_images_user_and_write_nothing_but_to_tmp(name: str) -> None:
    user, group = map(int, stages()[-1].last("USER").split(":"))
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"]
    assert (context["runAsUser"], context["runAsGroup"]) == (user, group)
    assert [mount["mountPath"] for mount in container(name)["volumeMounts"]] == ["/tmp"]


@pytest.mark.parametrize("name", [*OURS, "orchestrator-redis"])
def test_pods_may_do_nothing_beside_their_work(name: str) -> None:
    assert pod(name)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False
    mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
    claims = ALL.get(f"StatefulSet/{name}", {"spec": {}})["spec"].get("volumeClaimTemplates", [])
    volumes = pod(name).get("volumes", [])
    assert mounted == {one["name"] for one in volumes} | {one["metadata"]["name"] for one in claims}


@pytest.mark.parametrize("name", [*OURS, "orchestrator-redis"])
def test_memory_has_a_limit_and_the_cpu_has_none(name: str) -> None:
    resources = container(name)["resources"]
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert set(resources["limits"]) == {"memory"}


def test_services_add_no_variables_that_look_like_settings() -> None:
    assert all(pod(name)["enableServiceLinks"] is False for name in OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_stop_waits_for_longer_than_the_drain_takes(name: str) -> None:
    hook = container(name).get("lifecycle", {}).get("preStop")
    before = float(hook["exec"]["command"][1]) if hook else 0
    assert pod(name)["terminationGracePeriodSeconds"] >= before + GRACEFUL_S + SPARE_S


def test_the_probes_ask_paths_that_there_are_on_the_port_that_web_listens_on(
    server: Served,
) -> None:
    (port,) = container("orchestrator-web")["ports"]
    assert str(port["containerPort"]) == IMAGE["PORT"]
    for probe in PROBES:
        asked = container("orchestrator-web")[probe]["httpGet"]
        assert asked["port"] == port["name"]
        assert requests.get(f"{server.url}{asked['path']}", timeout=PATIENCE_S).ok


def test_a_worker_lives_while_it_gives_a_sign(tmp_path: Path) -> None:
    worker = container("orchestrator-worker")
    assert set(PROBES) & set(worker) == {"livenessProbe"}
    (sign,) = (entry["value"] for entry in worker["env"])
    assert [entry["name"] for entry in worker["env"]] == ["ORCHESTRATOR_WORKER_SIGN"]
    assert_tells_signs(worker["livenessProbe"]["exec"]["command"], sign, tmp_path)


def test_an_outage_takes_no_pod_that_has_started_out_of_the_service() -> None:
    asked = {probe: container("orchestrator-web")[probe]["httpGet"]["path"] for probe in PROBES}
    # Of these only the last says that Redis or the workers are away.
    assert asked == {
        "livenessProbe": "/health/live",
        "readinessProbe": "/health",
        "startupProbe": "/health/ready",
    }


def test_every_variable_is_a_setting_and_none_is_a_secret() -> None:
    (config,) = of_kind("ConfigMap")
    assert set(config["data"]) <= known_settings()
    assert not any(SECRET.search(name) for name in config["data"])
    assert list(of_kind("Secret")) == []


@pytest.mark.parametrize("name", OURS)
def test_the_secret_is_named_may_be_missing_and_goes_before_the_config(name: str) -> None:
    # Where both have a variable, Kubernetes takes the last one's.
    assert container(name)["envFrom"] == [
        {"configMapRef": {"name": "orchestrator"}},
        {"secretRef": {"name": "orchestrator", "optional": True}},
    ]


def test_the_redis_url_leads_to_the_redis_of_the_trial() -> None:
    (config,) = of_kind("ConfigMap")
    host, port = re.findall(r"^redis://([\w-]+):(\d+)/0$", config["data"]["REDIS_URL"])[0]
    (listed,) = ALL[f"Service/{host}"]["spec"]["ports"]
    assert listed["port"] == int(port)


def test_selectors_find_the_pods_that_they_mean() -> None:
    for manifest in MANIFESTS:
        labels = manifest["metadata"]["labels"]
        match manifest["kind"]:
            case "Deployment" | "StatefulSet":
                assert manifest["spec"]["selector"]["matchLabels"] == labels
                assert manifest["spec"]["template"]["metadata"]["labels"] == labels
            case "Service":
                assert manifest["spec"]["selector"] == labels
            case "PodDisruptionBudget":
                assert manifest["spec"]["selector"]["matchLabels"] == labels
            case "NetworkPolicy":
                assert manifest["spec"]["podSelector"]["matchLabels"] == labels
            case _:
                continue
        name = manifest["metadata"]["name"]
        assert name == f"orchestrator-{labels['app.kubernetes.io/component']}"


def test_only_web_and_worker_may_call_redis() -> None:
    (rule,) = ALL["NetworkPolicy/orchestrator-redis"]["spec"]["ingress"]
    (peer,) = rule["from"]
    (expression,) = peer["podSelector"]["matchExpressions"]
    assert [f"orchestrator-{value}" for value in expression["values"]] == list(OURS)


@pytest.mark.parametrize("name", OURS)
def test_the_autoscaler_alone_decides_how_many(name: str) -> None:
    assert "replicas" not in ALL[f"Deployment/{name}"]["spec"]
    scaler = ALL[f"HorizontalPodAutoscaler/{name}"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == name
    assert scaler["minReplicas"] >= 2
    assert ALL[f"PodDisruptionBudget/{name}"]["spec"]["maxUnavailable"] < scaler["minReplicas"]


def test_the_ingress_leads_to_a_port_of_the_service() -> None:
    (rule,) = ALL["Ingress/orchestrator"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    ports = ALL[f"Service/{backend['name']}"]["spec"]["ports"]
    assert backend["port"]["name"] in [port["name"] for port in ports]


def test_the_ingress_holds_nothing_back_and_waits_as_long_as_nginx_does() -> None:
    annotations = ALL["Ingress/orchestrator"]["metadata"]["annotations"]
    ours, theirs = "nginx.ingress.kubernetes.io/", "nginx.org/"
    assert annotations[f"{ours}proxy-buffering"] == "off"
    assert annotations[f"{theirs}proxy-buffering"] == "False"
    assert f"Service/{annotations[f'{theirs}websocket-services']}" in ALL
    text = CONF.read_text(encoding="utf-8")
    for directive in ("proxy_read_timeout", "proxy_send_timeout", "proxy_connect_timeout"):
        (value,) = re.findall(rf"{directive} (\d+)s;", text)
        name = directive.replace("_", "-")
        assert annotations[f"{ours}{name}"] == value
        assert annotations[f"{theirs}{name}"] == f"{value}s"
    assert float(annotations[f"{ours}proxy-read-timeout"]) > MAX_WAIT_S
    (largest,) = re.findall(r"client_max_body_size (\w+);", text)
    assert annotations[f"{ours}proxy-body-size"] == largest
    assert annotations[f"{theirs}client-max-body-size"] == largest


def test_the_redis_of_the_trial_is_started_as_in_compose() -> None:
    (compose,) = documents(KUBERNETES.parent / "compose.yaml")
    redis = container("orchestrator-redis")
    assert redis["args"] == compose["services"]["redis"]["command"]
    assert redis["image"] == compose["services"]["redis"]["image"]
