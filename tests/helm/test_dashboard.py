"""The dashboard: as Grafana wants it, and with data in each panel."""

import itertools
import json
import pathlib
import subprocess
import urllib.parse

import chart
import live
import pytest
from patience import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "helm/files/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ROWS = ["Overview", "Intake", "Spool", "Targets", "Config, certificate, process"]

# Where nothing is wrong there is nothing to show: each is only asked, and its panel has another query with data.
SILENT = {"suki_relay_tls_handshake_failures_total"}


def test_it_is_as_grafana_wants_it():
    assert DASHBOARD["uid"] == "suki-relay"
    assert DASHBOARD["schemaVersion"] >= 36
    assert "id" not in DASHBOARD, "Grafana gives it"
    kinds = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "job": "query", "instance": "query"}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS


def test_each_panel_is_complete():
    assert len(PANELS) > 25
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))
    for panel in PANELS:
        assert panel["type"] in ("stat", "timeseries")
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for part in [panel, *panel["targets"]]:
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references))
        for target in panel["targets"]:
            assert 'job=~"$job",instance=~"$instance"' in target["expr"], "it heeds the variables"


def test_no_two_panels_overlap():
    cells = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
        for x, y in itertools.product(range(at["w"]), range(at["h"])):
            place = at["x"] + x, at["y"] + y
            assert place not in cells, f"{panel['title']} lies over {cells[place]}"
            cells[place] = panel["title"]


def test_each_query_asks_for_what_a_relay_exports(relay):
    live.check_selectors([expression for _, expression in QUERIES], relay.metrics())


class Prometheus:
    def __init__(self, address):
        self.address = address

    def asked(self, expression):
        """The values of an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        status, text = live.get(f"http://{self.address}/api/v1/query?{query}")
        assert status == 200, text
        return [float(it["value"][1]) for it in json.loads(text)["data"]["result"]]


@pytest.fixture(scope="module")
def prometheus(relay, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    scraped = [{"job_name": "relay", "scrape_interval": "1s", "static_configs": [{"targets": [relay.admin]}]}]
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": scraped}))
    (port,) = live.free_ports(1)
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
               f"--web.listen-address=127.0.0.1:{port}"]
    with live.started(*command, cwd=folder):
        ready = f"http://127.0.0.1:{port}/-/ready"
        eventually("Prometheus is ready", lambda: live.get(ready)[0] == 200, 120)
        yield Prometheus(f"127.0.0.1:{port}")


def filled_in(expression):
    """As Grafana would, with All selected, and a window that a slow machine fills."""
    for name, value in {"$job": ".*", "$instance": ".*", "$__rate_interval": "5m"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


def test_each_panel_has_data(relay, prometheus):
    eventually("it is scraped", lambda: prometheus.asked("up == 1"), 120)
    wanted = [it for it in QUERIES if not any(name in it[1] for name in SILENT)]
    assert len(wanted) >= len(PANELS)

    def missing():
        relay.traffic()
        return [
            (title, expression) for title, expression in wanted
            if not any(value == value for value in prometheus.asked(filled_in(expression)))
        ]

    last = []

    def none_is_missing():
        last[:] = missing()
        return not last

    try:
        eventually("each panel has data", none_is_missing, 120)
    except AssertionError:
        raise AssertionError(f"no data: {last}") from None
    for _, expression in QUERIES:
        prometheus.asked(filled_in(expression))


# What a spool holds: each relay of a shared one shows all of it.
HELD = ["suki_relay_deliveries_pending", "suki_relay_dead_letters", "suki_relay_quarantine", "suki_relay_spool_notifications"]


def test_disks_add_up_and_a_shared_spool_counts_once(tmp_path):
    relays = [("disk", "a", 1000, 3), ("disk", "b", 1000, 4), ("shared", "c", 0, 5), ("shared", "d", 0, 5)]
    series = []
    for job, instance, capacity, held in relays:
        own = f'namespace="demo",job="{job}",instance="{instance}"'
        one_each = {"target": "app", "reason": "invalid", "state": "pending"}
        series.append({"series": "suki_relay_spool_capacity_bytes{" + own + "}", "values": f"{capacity}"})
        for name, label in zip(HELD, ["target", "target", "reason", "state"]):
            series.append({"series": f'{name}{{{own},{label}="{one_each[label]}"}}', "values": f"{held}"})
    expressions = [(title, it) for title, it in QUERIES if any(f"{name}{{" in it for name in HELD)]
    assert len(expressions) == 7
    tests = [
        {"expr": f"sum({filled_in(it.replace('$job', job))})", "eval_time": "0m", "exp_samples": [{"labels": "{}", "value": value}]}
        for _, it in expressions for job, value in (("disk", 7), ("shared", 5))
    ] + [
        {"expr": f"sum({filled_in(it)})", "eval_time": "0m", "exp_samples": [{"labels": "{}", "value": 12}]}
        for _, it in expressions
    ]
    path = tmp_path / "test.yaml"
    path.write_text(json.dumps({"rule_files": [], "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}]}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_brings_it_as_it_is():
    rendered = chart.one(chart.objects(chart.values("monitoring")), "ConfigMap", "relay-suki-relay-dashboard")
    assert json.loads(rendered["data"]["suki-relay.json"]) == DASHBOARD
