"""Every value file of helm/ci renders to what the API server takes and what a stranger's judge lets pass."""

import functools
import json
import subprocess
import sys

import helm_python
import kubernetes_validate
import pytest
import yaml

import chart

VERSIONS = ["1.29", "1.33", "1.37"]
# Kinds that Kubernetes does not bring itself.
FOREIGN = {"Certificate", "PodMonitor", "ServiceMonitor", "PrometheusRule"}

EVERYWHERE = {
    "CKV_K8S_15": "a tag with a version and a digest do not change; pulling at each start makes a registry a condition",
    "CKV_K8S_43": "the digest is of the user's own registry: image.digest",
    "CKV_K8S_11": "a limit of CPU throttles the answer to a sender that waits; the request keeps its share",
    "CKV_K8S_10": "of your container and the sink: `app.resources`",
    "CKV_K8S_12": "of your container and the sink: `app.resources`",
    "CKV_K8S_13": "of your container and the sink: `app.resources`",
    "CKV_K8S_8": "of your container and the sink: `app.livenessProbe`; the relay's own is asserted in test_properties.py",
    "CKV_K8S_9": "of your container and the sink: `app.readinessProbe`; the relay's own is asserted in test_properties.py",
    "CKV_K8S_22": "containers of the value files that stand for strangers'",
    "CKV_K8S_40": "the user of your container is yours; the relay's is 65532, asserted in test_properties.py",
    "CKV2_K8S_6": "networkPolicy is off by default: it would cut off your container too",
    "CKV_K8S_38": "the value of scheduling.yaml asks for the token",
    "CKV_K8S_20": "containers of the value files that stand for strangers'",
    "CKV_K8S_28": "containers of the value files that stand for strangers'",
    "CKV_K8S_37": "containers of the value files that stand for strangers'",
    "CKV_K8S_30": "containers of the value files that stand for strangers'",
}


def test_the_matrix_is_there():
    assert len(chart.MATRIX) >= 10
    found = [chart.objects(yaml.safe_load(path.read_text())) for path in chart.MATRIX]
    kinds = {it["kind"] for objects in found for it in objects}
    wanted = FOREIGN | {
        "ConfigMap", "Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "Secret", "Service", "ServiceAccount",
        "StatefulSet",
    }
    assert kinds == wanted


@pytest.mark.parametrize("path", chart.MATRIX, ids=lambda path: path.stem)
def test_helm_finds_nothing_wrong(path):
    report = helm_python.lint(chart.CHART, yaml.safe_load(path.read_text()), strict=True)
    told = [it["error"] for it in report["messages"] if it["error"] != "icon is recommended"]
    assert (report["errors"], told) == ([], [])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_takes_every_object(version):
    own = [it for it in everything() if it["kind"] not in FOREIGN]
    for it in own:
        try:
            kubernetes_validate.validate(it, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{it['kind']} {it['metadata']['name']}: {error.message}")
    assert len(own) > 80


@functools.cache
def everything():
    """What all value files render to, and the parent chart. For reading: all who ask are given the same."""
    found = [it for path in chart.MATRIX for it in chart.objects(yaml.safe_load(path.read_text()))]
    return found + chart.objects({}, chart.whole_parent())


def test_those_who_brought_the_other_kinds_take_every_object():
    told = judged_by_makers(found := [it for it in everything() if it["kind"] in FOREIGN])
    assert {it["kind"] for it in found} == FOREIGN
    wrong = [f"{it['kind']}: {error}" for it, error in zip(found, told, strict=True) if error]
    assert wrong == []


def test_a_wrong_object_of_another_kind_is_told():
    wrong = {
        "Certificate": {"secretName": "s", "issuerRef": {"name": "i"}, "privateKey": {"algorithm": "ROT13"}},
        "PodMonitor": {"selector": {}, "podMetricsEndpoints": [{"portNumber": "admin"}]},
        "PrometheusRule": {"groups": [{"name": "g", "rules": [{"alert": "a"}]}]},
        "ServiceMonitor": {"selector": {}, "endpoints": [{"interval": "soon"}]},
    }
    told = judged_by_makers([{"kind": kind, "metadata": {"name": "n"}, "spec": spec} for kind, spec in wrong.items()])
    words = ["privateKey/algorithm", "portNumber", "expr", "interval"]
    assert [word in error for word, error in zip(words, told, strict=True)] == [True] * 4, told


def judged_by_makers(objects):
    command = [chart.ROOT / "tests/node", chart.ROOT / "tests/helm/foreign/judge.js"]
    output = subprocess.run(command, input=json.dumps(objects), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(output.stdout)


def test_checkov_finds_nothing_but_what_is_accounted_for(tmp_path):
    for path in chart.MATRIX:
        objects = chart.objects(yaml.safe_load(path.read_text()))
        for it in objects:
            it["metadata"].setdefault("namespace", chart.NAMESPACE)
        (tmp_path / path.name).write_text(yaml.safe_dump_all(objects))
    command = [
        sys.executable, "-m", "checkov.main", "--directory", str(tmp_path), "--framework", "kubernetes", "--output", "json",
        "--compact", "--quiet", "--skip-download",
    ]
    output = subprocess.run(command, capture_output=True, text=True)
    report = json.loads(output.stdout)
    assert report["summary"]["passed"] > 500, output.stderr
    failed = [(it["check_id"], it["file_path"], it["resource"]) for it in report["results"]["failed_checks"]]
    assert [it for it in failed if it[0] not in EVERYWHERE] == []
    unused = set(EVERYWHERE) - {it[0] for it in failed}
    assert unused == set(), "excused, but nothing to excuse"
