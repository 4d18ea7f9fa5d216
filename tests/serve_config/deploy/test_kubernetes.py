"""The manifests: read, since no cluster runs where this is built. Valid by the Kubernetes schemas, and by our rules."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serve_config.models.archives import listed_archives
from tests.serve_config.deploy.test_deployment import parses

FOLDER = Path(__file__).parents[3] / "serve_config/deploy/kubernetes"
TARGETS = ("overlays/cpu", "overlays/gpu", "kserve")
VERSION = "1.34"
NAMED_LISTS = ("containers", "initContainers", "volumes", "env")


def assemble(folder: Path) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of our folders, but for the hashes in names: it is not there everywhere."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: list[dict[str, Any]] = []
    for name in plan.get("resources", []):
        path = folder / name
        found += assemble(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for name in plan.get("components", []):
        component = yaml.safe_load((folder / name / "kustomization.yaml").read_text())
        for entry in component["configMapGenerator"]:
            data = {file: (folder / name / file).read_text() for file in entry["files"]}
            found.append(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": data}
            )
        tags = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in component["images"]}
        for spec in pod_specs(found):
            for container in spec["containers"] + spec.get("initContainers", []):
                container["image"] = tags[container["image"]]
    for entry in plan.get("patches", []):
        patch = yaml.safe_load((folder / entry["path"]).read_text())
        (target,) = [
            d
            for d in found
            if (d["kind"], d["metadata"]["name"]) == (patch["kind"], patch["metadata"]["name"])
        ]
        merge(target, patch)
    if "namespace" in plan:
        for document in found:
            if document["kind"] != "Namespace":
                document["metadata"]["namespace"] = plan["namespace"]
    return copy.deepcopy(found)  # YAML's anchors made parts of it one object


def merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """A strategic merge, as far as our patches need it: mappings merge, lists of named things merge by name."""
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        elif key in NAMED_LISTS and key in target:
            for item in value:
                merge(next(other for other in target[key] if other["name"] == item["name"]), item)
        else:
            target[key] = value


def pod_specs(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]["spec"]
        elif document["kind"] == "InferenceService":
            yield document["spec"]["predictor"]


@pytest.fixture(scope="module", params=TARGETS)
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return assemble(FOLDER / request.param)


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def containers(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {c["name"]: c for spec in pod_specs(documents) for c in spec["containers"]}


def test_kubernetes_takes_them(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        # its predictor is a pod's spec with a few keys of KServe's
        if document["kind"] == "InferenceService":
            spec = dict(document["spec"]["predictor"])
            labels = spec.pop("labels")
            assert 1 <= spec.pop("minReplicas") <= spec.pop("maxReplicas")
            metadata = {"name": document["metadata"]["name"], "labels": labels}
            document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_validator_finds_faults() -> None:
    deployment = one(assemble(FOLDER / "base"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSION, strict=True)


def test_rules(documents: list[dict[str, Any]]) -> None:
    for spec in pod_specs(documents):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) & {"emptyDir", "configMap"} for volume in spec["volumes"]), "no host paths"
        assert all(v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if "emptyDir" in v)
        for container in spec["containers"] + spec["initContainers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, container["name"]
            assert own["allowPrivilegeEscalation"] is False, container["name"]
            assert own["capabilities"] == {"drop": ["ALL"]}, container["name"]
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), container["name"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]
            tag = container["image"].rpartition(":")[2]
            assert any(character.isdigit() for character in tag), container["image"]
            assert "latest" not in tag
        for container in spec["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), container["name"]


def test_the_page_alone_has_a_port_and_torchserve_is_asked_with_its_key(
    documents: list[dict[str, Any]],
) -> None:
    found = containers(documents)
    ports = {name: container.get("ports") for name, container in found.items() if container.get("ports")}
    (page,) = ports
    assert page in ("web-client", "kserve-container")
    assert [port["containerPort"] for port in ports[page]] == [5000]
    probes = {"startupProbe": "status", "livenessProbe": "models", "readinessProbe": "models"}
    for probe, asked in probes.items():
        assert parses(found["torchserve"][probe]["exec"]["command"])
        assert found["torchserve"][probe]["exec"]["command"][3] == asked
    sleeps = {name: found[name]["lifecycle"]["preStop"]["sleep"]["seconds"] for name in ("torchserve", page)}
    assert sleeps["torchserve"] >= sleeps[page] + 10, "TorchServe goes when nobody asks the page any more"
    assert all(sleeps["torchserve"] < spec["terminationGracePeriodSeconds"] for spec in pod_specs(documents))
    assert parses(found["torchserve"]["command"])
    assert parses(found[page]["command"])
    assert "0.0.0.0" in found[page]["command"]
    state = {m["name"]: m.get("readOnly", False) for m in found[page]["volumeMounts"]}
    assert state["state"] is True, "the page reads the key file and does not write it"
    for spec in pod_specs(documents):
        (archives,) = spec["initContainers"]
        assert os.access(FOLDER.parents[2] / archives["command"][0], os.X_OK)


def test_selectors_meet_the_pods() -> None:
    found = assemble(FOLDER / "overlays/cpu")
    labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(found, "Service")["spec"]["selector"] == labels
    assert one(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    policy = one(found, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == ["http"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    scaler = one(found, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == one(found, "Deployment")["metadata"]["name"]
    assert one(found, "Deployment")["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_queue_metric_is_one_that_torchserve_exports() -> None:
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (metric,) = one(assemble(FOLDER / "base"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    exported = yaml.safe_load((FOLDER.parents[1] / "templates" / "metrics.yaml").read_text())["ts_metrics"][
        "counter"
    ]
    names = {entry["name"] for entry in exported}
    for name in ("ts_queue_latency_microseconds", "ts_inference_requests_total"):
        assert name in names
        assert name in rule["metricsQuery"]
    (job,) = yaml.safe_load((FOLDER / "config/prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8082"]}]


def test_kserve_runs_the_same_pod() -> None:
    deployment = next(pod_specs(assemble(FOLDER / "overlays/cpu")))
    predictor = next(pod_specs(assemble(FOLDER / "kserve")))
    for container in predictor["containers"]:
        if container["name"] == "kserve-container":
            container["name"] = "web-client"
    own = ("minReplicas", "maxReplicas", "labels")
    assert {key: value for key, value in predictor.items() if key not in own} == deployment


def test_gpu_overlay() -> None:
    limits = containers(assemble(FOLDER / "overlays/gpu"))["torchserve"]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert (
        "nvidia.com/gpu"
        not in containers(assemble(FOLDER / "overlays/cpu"))["torchserve"]["resources"]["limits"]
    )


def test_the_list_of_archives_is_one() -> None:
    assert listed_archives(FOLDER / "config/archives.txt") == ["maskrcnn_mobilenetv2_fpn.mar"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl")
@pytest.mark.parametrize("target", TARGETS)
def test_kubectl_assembles_the_same(target: str) -> None:
    run = subprocess.run(["kubectl", "kustomize", FOLDER / target], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs = list(yaml.safe_load_all(run.stdout))
    hashed = {d["metadata"]["name"] for d in theirs if d["kind"] == "ConfigMap"}
    text = run.stdout
    for name in hashed:
        assert text.count(f"name: {name}\n") == 2, "it is made and used"
        text = text.replace(name, name.rpartition("-")[0])
    assert len(hashed) == 2
    assert by_name(list(yaml.safe_load_all(text))) == by_name(assemble(FOLDER / target))


def by_name(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(d["kind"], d["metadata"]["name"]): d for d in documents}


# --- swap.sh, with a kubectl that plays three pods -----------------------------------------------------------------

KUBECTL = """#!/usr/bin/env bash
if [[ "$*" == *"get pods"* ]]; then printf 'pod/a\\npod/b\\npod/c\\n'; exit; fi
pod=$(grep -o 'pod/[abc]' <<<"$*"); all="$*"; call=${all##*-- }; call=${call#python -m serve_config }
[[ "$*" == *" -i "* ]] && call="$call < $(cat)"
if [[ "$call" == models ]]; then
    [[ "$pod" != "$SERVES_V2" ]] || echo 'v2  default  READY  balloon  maskrcnn_v2.mar'
    exit
fi
echo "$pod $call" >>"$CALLS"
[[ "$pod $call" != "$FAILS" ]]
"""


def swap(folder: Path, *arguments: str, fails: str = "", serves: str = "") -> tuple[int, list[str]]:
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls)}
    environment |= {"FAILS": fails, "SERVES_V2": serves}
    run = subprocess.run([FOLDER / "swap.sh", *arguments], env=environment, capture_output=True, text=True)
    return run.returncode, calls.read_text().splitlines()


def test_swap_in_every_pod(tmp_path: Path) -> None:
    assert swap(tmp_path, "v2") == (0, ["pod/a swap v2", "pod/b swap v2", "pod/c swap v2"])
    (tmp_path / "list").write_text("the list")
    status, calls = swap(tmp_path, "v2", str(tmp_path / "list"))
    assert status == 0
    script = "serve_config/deploy/kubernetes/fetch_archives.sh"
    assert calls[:2] == [f"pod/a {script} - /srv/model_store < the list", "pod/a swap v2"]
    assert parses(["python", "-m", "serve_config", *calls[1].split()[1:]])


def test_a_pod_that_fails_takes_the_others_back(tmp_path: Path) -> None:
    status, calls = swap(tmp_path, "v2", fails="pod/c swap v2")
    assert status == 1
    assert calls[3:] == ["pod/a rollback", "pod/b rollback"]
    status, calls = swap(tmp_path, "v2", fails="pod/a swap v2")
    assert (status, calls) == (1, ["pod/a swap v2"])


def test_a_pod_that_serves_the_version_already_is_left_as_it_is(tmp_path: Path) -> None:
    assert swap(tmp_path, "v2", serves="pod/a") == (0, ["pod/b swap v2", "pod/c swap v2"])
    status, calls = swap(tmp_path, "v2", serves="pod/a", fails="pod/c swap v2")
    assert (status, calls[2:]) == (1, ["pod/b rollback"])
