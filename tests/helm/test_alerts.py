"""The alerts: each fires, none does over a healthy relay, and each has its section of the runbook."""

import pathlib
import re
import shlex
import subprocess

import chart
import live
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALERTS = ROOT / "helm/files/alerts.yaml"
RUNBOOK = (ROOT / "helm/RUNBOOK.md").read_text()
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
CASES = yaml.safe_load((ROOT / "tests/helm/alert_cases.yaml").read_text())

OWN = {"namespace": "demo", "job": "relay", "instance": "10.0.0.1:9740"}


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def labels_of(fired):
    """With the relay's own; one that is named as empty is not there."""
    return {name: value for name, value in (OWN | fired).items() if value}


def selector(labels):
    return ", ".join(f'{name}="{value}"' for name, value in labels.items())


def written(series, minutes, step):
    own = selector(OWN)
    counts = {"{n}": str(minutes // step), "{s}": str(step * 60)}
    return [
        {"series": name.replace("{_", "{" + own), "values": re.sub(r"{\w}", lambda it: counts[it[0]], values)}
        for name, values in series.items()
    ]


def test_promtool_reads_them():
    assert len(RULES) > 15
    promtool("check", "rules", ALERTS)


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["why"])
def test_just_these_fire(case, tmp_path):
    hours = case.get("hours", 2)
    step = 10 if hours > 24 else 1
    series = CASES["healthy"] | case.get("series", {})
    fires = [
        {"labels": "ALERTS{" + selector(labels_of(fired) | {
            "alertstate": "firing", "severity": severity(fired["alertname"])
        }) + "}", "value": 1}
        for fired in case["fires"]
    ]
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": f"{step}m",
        "tests": [{
            "interval": f"{step}m",
            "input_series": written(series, hours * 60, step),
            "promql_expr_test": [{
                "expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{hours}h", "exp_samples": fires,
            }],
        }],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    promtool("test", "rules", path)


def severity(name):
    return next(rule["labels"]["severity"] for rule in RULES if rule["alert"] == name)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_is_complete(rule):
    name, said = rule["alert"], rule["annotations"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(said) == {"summary", "description", "runbook"}
    fired = [fired for case in CASES["cases"] for fired in case["fires"] if fired["alertname"] == name]
    assert fired, "no case makes it fire"
    named = set(re.findall(r"\$labels\.(\w+)", said["summary"] + said["description"]))
    for each in fired:
        assert named <= set(labels_of(each)), "it names labels that it does not have"
    anchors = [heading.lower() for heading in re.findall(r"^### (\w+)$", RUNBOOK, re.M)]
    assert said["runbook"].removeprefix("RUNBOOK.md#") in anchors


def test_the_runbook_names_no_other():
    alerts = {rule["alert"] for rule in RULES}
    sections = re.split(r"^### ", RUNBOOK, flags=re.M)[1:]
    anchors = {section.split("\n")[0].lower() for section in sections}
    assert anchors == {rule["annotations"]["runbook"].removeprefix("RUNBOOK.md#") for rule in RULES}
    assert set(re.findall(r"\bSukiRelay\w+", RUNBOOK)) == alerts
    for section in sections:
        for part in ["**Means.**", "**Look.**", "**Do.**"]:
            assert part in section, section.split("\n")[0]


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```", RUNBOOK, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    inline = re.findall(r"`(suki-relay [^`]+)`", RUNBOOK.replace("\n", " "))
    found = [line.split("#")[0] for line in lines] + inline
    return sorted({line[line.rindex("suki-relay "):] for line in found if "suki-relay " in line})


def test_it_has_commands():
    assert len(commands()) > 10


@pytest.mark.parametrize("command", commands())
def test_each_command_of_the_runbook_exists(command):
    # `--help` is the last word, so that all before it has been read and found right.
    arguments = shlex.split(re.split(r"[|>]", command)[0])[1:]
    done = subprocess.run([live.BINARY, *arguments, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_expression_asks_for_what_a_relay_exports(relay):
    live.check_selectors([rule["expr"] for rule in RULES], relay.metrics())




def test_the_chart_brings_them_as_they_are():
    rendered = chart.one(chart.objects(chart.values("monitoring")), "PrometheusRule")
    rules = [rule for group in rendered["spec"]["groups"] for rule in group["rules"]]
    without = chart.values("monitoring")["metrics"]["prometheusRule"].get("without", [])
    for ours, theirs in zip([rule for rule in RULES if rule["alert"] not in without], rules, strict=True):
        assert theirs["labels"].items() >= ours["labels"].items()
        assert theirs | {"labels": {}} == ours | {"labels": {}}
