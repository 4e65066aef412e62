"""Makes what of the chart follows from other files, or with --check says what is not current.

    tests/python tests/helm/make.py [--check]

helm/values.schema.json: types from the defaults in values.yaml, with what `MORE` knows beyond them, and the JSON
Schema of the relay's own config. The values' part of helm/README.md: from the comments of values.yaml.
"""

import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
BEGIN, END = "<!-- values: made by tests/helm/make.py from values.yaml -->\n", "<!-- end of values -->\n"

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
FREE = {"type": "object"}
OBJECTS = {"type": "array", "items": {"type": "object"}}

# What a default does not tell of its value's type.
MORE = {
    "mode": {"enum": ["sidecar", "standalone", "templates"]},
    "replicas": {"type": ["integer", "null"], "minimum": 0},
    "image.repository": {"type": "string", "minLength": 1},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "app.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "commonLabels": TEXTS,
    "config": {"$ref": "#/$defs/config"},
    "tls.certManager.issuerRef": {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"type": "string"} for name in ("name", "kind", "group")},
    },
    "tls.certManager.dnsNames": {"type": "array", "items": {"type": "string", "minLength": 1}},
    "files": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["path"],
            "properties": {
                "path": {"type": "string", "pattern": "^/."},
                "existingSecret": {"type": "string"},
                "existingConfigMap": {"type": "string"},
            },
        },
    },
    "env": {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    },
    "persistence.size": {"type": "string", "pattern": "^[0-9]+([kMGT]|[KMGT]i)?$"},
    "persistence.accessMode": {"enum": ["ReadWriteOncePod", "ReadWriteOnce"]},
    "persistence.annotations": TEXTS,
    "app.command": {"type": "array", "items": {"type": "string"}},
    "app.args": {"type": "array", "items": {"type": "string"}},
    "app.securityContext": FREE,
    "app.stopSeconds": {"type": "integer", "minimum": 0},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "service.nodePort": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
    "service.annotations": TEXTS,
    "service.loadBalancerSourceRanges": {"type": "array", "items": {"type": "string"}},
    "service.externalTrafficPolicy": {"enum": ["", "Local", "Cluster"]},
    "serviceAccount.annotations": TEXTS,
    "resources": FREE,
    "securityContext": FREE,
    "podSecurityContext": FREE,
    "probes.startup": FREE,
    "probes.liveness": FREE,
    "probes.readiness": FREE,
    "terminationGracePeriodSeconds": {"type": ["integer", "null"], "minimum": 1},
    "podDisruptionBudget.enabled": {"enum": ["auto", True, False]},
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "podLabels": TEXTS,
    "podAnnotations": TEXTS,
    "nodeSelector": TEXTS,
    "topologySpreadConstraints": {"type": ["array", "null"], "items": {"type": "object"}},
    "networkPolicy.postgresPort": {"type": "integer", "minimum": 1, "maximum": 65535},
    "metrics.podMonitor.labels": TEXTS,
    "metrics.serviceMonitor.labels": TEXTS,
    "metrics.prometheusRule.labels": TEXTS,
    "metrics.prometheusRule.alertLabels": TEXTS,
    "metrics.prometheusRule.without": {"type": "array", "items": {"type": "string"}},
    "metrics.dashboard.labels": TEXTS,
    "metrics.dashboard.annotations": TEXTS,
    "test.example": {"enum": ["form-filling-success", "ambient-success", "failure", "timeout"]},
}


def documented():
    """The values with a comment, in order: (path, text), and the whole tree of defaults."""
    text = (CHART / "values.yaml").read_text()
    found, path, comment = {}, [], None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("# --"):
            comment = [stripped[4:].strip()]
        elif stripped.startswith("#") and comment is not None:
            comment.append(stripped[1:].strip())
        elif key := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(key[1]) // 2
            path = path[:depth] + [key[2]]
            if comment is not None:
                found[".".join(path)] = " ".join(comment)
            comment = None
        elif not stripped or stripped.startswith("#"):
            comment = None
        elif comment is not None:
            sys.exit(f"values.yaml:{number}: a comment of nothing")
    return found, yaml.safe_load(text)


def config_schema():
    """The relay's, but that the chart fills in where the certificate is; its definitions apart, renamed."""
    schema = json.loads((ROOT / "src/config/schema.json").read_text())
    definitions = schema.pop("$defs")
    for key in ("$schema", "$id"):
        del schema[key]
    listen = schema["properties"]["listen"]
    del listen["required"], listen["properties"]["tls"]["anyOf"]
    schema["required"].remove("listen")
    parts = {"config": schema} | {f"config-{name}": part for name, part in definitions.items()}
    return json.loads(json.dumps(parts).replace('"#/$defs/', '"#/$defs/config-'))


def typed(default, path, texts):
    if path in MORE:
        schema = dict(MORE[path])
    elif isinstance(default, bool):
        schema = {"type": "boolean"}
    elif isinstance(default, int):
        schema = {"type": "integer"}
    elif isinstance(default, str):
        schema = {"type": "string"}
    elif isinstance(default, list):
        schema = dict(OBJECTS)
    elif default == {}:
        schema = dict(FREE)
    elif isinstance(default, dict):
        parts = {key: typed(value, f"{path}.{key}".lstrip("."), texts) for key, value in default.items()}
        schema = {"type": "object", "additionalProperties": False, "properties": parts}
    else:
        sys.exit(f"values.yaml: {path}: say in MORE of tests/helm/make.py what else than null it may be")
    if path in texts:
        schema["description"] = texts[path]
    return schema


def values_schema():
    texts, values = documented()
    schema = typed(values, "", texts)
    # What Helm itself puts into the values of a subchart.
    schema["properties"] |= {"global": {"type": "object"}, "enabled": {"type": "boolean"}, "tags": {"type": "object"}}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Values of the chart suki-relay"}
    return json.dumps(head | schema | {"$defs": config_schema()}, indent=2, ensure_ascii=False) + "\n"


def at(tree, path):
    for key in path.split("."):
        tree = tree[key]
    return tree


def readme():
    texts, values = documented()
    rows = ["| value | default | says |", "|---|---|---|"]
    for path, text in texts.items():
        default = at(values, path)
        shown = json.dumps(default, ensure_ascii=False)
        if len(shown) > 40:
            shown = "see values.yaml"
        cell = text.replace("|", "\\|")
        rows.append(f"| `{path}` | {'`' + shown + '`' if shown[0] != 's' else shown} | {cell} |")
    head, _, rest = (CHART / "README.md").read_text().partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        sys.exit("helm/README.md: the marks between which the values stand are gone")
    return head + BEGIN + "\n".join(rows) + "\n" + END + tail


def undocumented():
    """Values that no comment describes, of themselves or above them."""
    texts, values = documented()

    def walk(tree, path):
        for key, value in tree.items():
            here = f"{path}.{key}".lstrip(".")
            if here in texts:
                continue
            if isinstance(value, dict) and value:
                yield from walk(value, here)
            else:
                yield here

    return list(walk(values, ""))


def made():
    return {CHART / "values.schema.json": values_schema, CHART / "README.md": readme}


def main():
    if missing := undocumented():
        sys.exit(f"values.yaml: no comment says what these are: {', '.join(missing)}")
    stale = [path for path, make in made().items() if not path.exists() or path.read_text() != make()]
    if "--check" in sys.argv:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            sys.exit(f"{names}: not current; run tests/python tests/helm/make.py")
        return
    for path in stale:
        path.write_text(made()[path]())


if __name__ == "__main__":
    main()
