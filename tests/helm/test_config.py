"""The config that the chart renders, judged by the relay itself."""

import base64
import pathlib
import re
import subprocess

import pytest
import yaml

import chart
import live

AT = "/etc/suki-relay/"
CONTENTS = {
    "current": "a-secret-that-is-long-enough", "next": "another-secret-that-is-long", "token": "a-token-of-some-length",
    "url": "postgres://relay@db.internal/relay", "keys": f"first {base64.b64encode(bytes(32)).decode()}",
}
# What a JSON Schema cannot see, each with where the relay finds it.
BEYOND_THE_SCHEMA = {
    'routes[0].when': {"routes": [{"name": "a", "when": "body.status = 'success'", "to": ["app"]}]},
    'routes[0].to[0]': {"routes": [{"name": "a", "to": ["nobody"]}]},
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
               folder / "key", "-out", folder / "crt", "-days", "2", "-subj", "/CN=relay"]
    subprocess.run(command, check=True, capture_output=True)
    return {suffix: (folder / suffix).read_text() for suffix in ("crt", "key")}


def checked(objects, folder, certificate):
    """`suki-relay check` of the config as it is rendered, but that the files it names lie in a folder."""
    maps = [it["data"]["config.yaml"] for it in objects if it["kind"] == "ConfigMap" and "config.yaml" in it["data"]]
    text = maps[0].replace(AT, f"{folder}/")
    for name in re.findall(rf"{re.escape(str(folder))}/(\S+)", text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(certificate.get(path.suffix[1:]) or CONTENTS[path.name])
    (folder / "config.yaml").write_text(text)
    env = {it["name"]: it["value"] for it in chart.container(objects).get("env", [])} if has_pod(objects) else {}
    command = [live.BINARY, "check", "--config", folder / "config.yaml"]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def has_pod(objects):
    return any(it["kind"] in ("StatefulSet", "Deployment") for it in objects)


@pytest.mark.parametrize("path", [None, *chart.MATRIX], ids=lambda path: pathlib.Path(path or "defaults").stem)
def test_the_relay_accepts_what_is_rendered(path, tmp_path, certificate):
    values = yaml.safe_load(path.read_text()) if path else {}
    done = checked(chart.objects(values), tmp_path, certificate)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


@pytest.mark.parametrize("key, more", BEYOND_THE_SCHEMA.items(), ids=BEYOND_THE_SCHEMA)
def test_what_no_schema_sees_renders_and_is_refused_by_its_place(key, more, tmp_path, certificate):
    done = checked(chart.objects({"config": more}), tmp_path, certificate)
    assert done.returncode == 78
    assert key in done.stderr
