"""The chart, rendered by the real Helm engine."""

import functools
import pathlib
import shutil
import tempfile

import helm_python
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
PARENT = ROOT / "tests/helm/parent"
MATRIX = sorted((CHART / "ci").glob("*.yaml"))
RELEASE, NAMESPACE = "relay", "demo"


class Strict(yaml.SafeLoader):
    """YAML 1.1 as the API server reads it, but for keys that occur twice: those are a defect of a template."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"line {node.start_mark.line + 1}: twice: {twice}"
        return super().construct_mapping(node, deep)


def merged(values, more):
    out = dict(values)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


def values(name, more=None):
    """A value file of ci/, with more on top."""
    return merged(yaml.safe_load((CHART / "ci" / f"{name}.yaml").read_text()), more or {})


@functools.cache
def loaded(path):
    return helm_python.Chart.load(path)


def texts(values, path=CHART):
    """What each template renders. Raises helm_python.HelmError, as `helm install` would fail."""
    loaded(path).validate_schema(values)
    return loaded(path).render(values, name=RELEASE, namespace=NAMESPACE)


def objects(values, path=CHART):
    """The objects that an install would make, tests included."""
    found = []
    for template, text in texts(values, path).items():
        if not template.endswith(".txt"):
            found += [document for document in yaml.load_all(text, Strict) if document]
    return found


def one(objects, kind, name=None):
    found = [it for it in objects if it["kind"] == kind and name in (None, it["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def notes(values):
    return texts(values)["suki-relay/templates/NOTES.txt"]


@functools.cache
def whole_parent():
    """The parent chart with this chart in its charts/, as `helm dependency update` would leave it."""
    folder = pathlib.Path(tempfile.mkdtemp()) / "receiver"
    shutil.copytree(PARENT, folder)
    shutil.copytree(CHART, folder / "charts/suki-relay")
    return folder


def workload(objects):
    return next(it for it in objects if it["kind"] in ("StatefulSet", "Deployment"))


def pod(objects):
    return workload(objects)["spec"]["template"]


def container(objects, name="suki-relay"):
    spec = pod(objects)["spec"]
    return next(it for it in spec.get("initContainers", []) + spec["containers"] if it["name"] == name)


def config(objects):
    maps = [it for it in objects if it["kind"] == "ConfigMap" and "config.yaml" in it["data"]]
    assert len(maps) == 1
    return yaml.load(maps[0]["data"]["config.yaml"], Strict)
