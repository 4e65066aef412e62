"""What the chart promises, asserted on the objects that it renders."""

import json
import re
import tomllib

import jsonschema
import kubernetes_validate
import pytest
import yaml

import chart

POSTGRES = {"spool": {"postgres": {"url": {"file": "/etc/suki-relay/postgres/url"}}}}
SERVICE = {"targets": [{"name": "app", "http": {"url": "http://app:8080/in"}}]}
MODES = {
    "sidecar": {},
    "standalone": {"mode": "standalone", "config": SERVICE},
    "postgres": {"mode": "standalone", "config": SERVICE | POSTGRES},
}
each_mode = pytest.mark.parametrize("mode", MODES)


def rendered(mode="sidecar", more=None):
    return chart.objects(chart.merged(MODES[mode], more or {}))


def of_all_pods():
    for path in chart.MATRIX:
        objects = chart.objects(yaml.safe_load(path.read_text()))
        if path.stem != "templates":
            yield path.stem, chart.pod(objects)["spec"], objects
    objects = chart.objects({}, chart.whole_parent())
    yield "parent", chart.pod(objects)["spec"], objects


def test_versions_are_those_of_the_relay():
    cargo = tomllib.loads((chart.ROOT / "Cargo.toml").read_text())["package"]
    told = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (told["version"], told["appVersion"]) == (cargo["version"], cargo["version"])
    for place in (chart.CHART / "README.md", chart.CHART / "RUNBOOK.md", chart.ROOT / "Dockerfile"):
        named = re.findall(r"(?:suki-relay:|image\.tag=)(\d\S*)", place.read_text())
        assert named and set(named) == {cargo["version"]}, place
    parent = yaml.safe_load((chart.PARENT / "Chart.yaml").read_text())
    assert parent["dependencies"][0]["version"] == told["version"]


def test_by_default_the_relay_is_a_native_sidecar_beside_a_sink():
    objects = rendered()
    assert chart.workload(objects)["kind"] == "StatefulSet"
    assert chart.workload(objects)["spec"]["replicas"] == 1
    spec = chart.pod(objects)["spec"]
    assert [it["name"] for it in spec["initContainers"]] == ["suki-relay"]
    assert spec["initContainers"][0]["restartPolicy"] == "Always"
    app = chart.container(objects, "app")
    assert (app["image"], app["args"][0]) == (chart.container(objects)["image"], "sink")
    target = chart.config(objects)["targets"][0]["http"]["url"]
    assert f"http://{app['args'][2]}/" in target


def test_a_sidecar_has_no_hook_that_would_stop_it_before_the_container_it_serves():
    for name, spec, _ in of_all_pods():
        for it in spec.get("initContainers", []):
            assert "lifecycle" not in it, name


def test_only_the_pod_that_has_no_other_is_sent_to_while_a_container_of_it_is_not_ready():
    published = lambda *what: chart.one(rendered(*what), "Service", "relay-suki-relay")["spec"].get("publishNotReadyAddresses")
    assert published() is True
    assert published("sidecar", {"replicas": 2}) is None
    assert published("standalone", {"replicas": 1}) is None
    # Where the new pod comes before the old one goes, it would be sent to before it listens.
    assert published("sidecar", {"config": POSTGRES}) is None


def test_standalone_is_two_relays_and_nothing_else():
    spec = rendered("standalone")
    assert chart.workload(spec)["spec"]["replicas"] == 2
    assert [it["name"] for it in chart.pod(spec)["spec"]["containers"]] == ["suki-relay"]
    assert "restartPolicy" not in chart.container(spec)


def test_with_postgres_there_is_a_deployment_that_never_has_a_pod_less_and_no_volume():
    for objects in (rendered("postgres", {"replicas": 7}), rendered("sidecar", {"config": POSTGRES, "replicas": 7})):
        workload = chart.workload(objects)
        assert (workload["kind"], workload["spec"]["replicas"]) == ("Deployment", 7)
        assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert "volumeClaimTemplates" not in workload["spec"]
        assert "suki-relay-spool" not in [it["name"] for it in chart.container(objects)["volumeMounts"]]
        assert chart.config(objects)["spool"] == POSTGRES["spool"]


def test_with_a_fallback_on_disk_there_are_volumes_again():
    spool = {"spool": POSTGRES["spool"] | {"disk": {"fallback": True}}}
    objects = rendered("standalone", {"config": spool, "networkPolicy": {"enabled": True}})
    assert chart.workload(objects)["kind"] == "StatefulSet"
    disk = {"path": "/var/lib/suki-relay", "capacity": "4GiB", "fallback": True}
    assert chart.config(objects)["spool"] == {"disk": disk, "postgres": POSTGRES["spool"]["postgres"]}
    egress = chart.one(objects, "NetworkPolicy")["spec"]["egress"]
    assert 5432 in {port["port"] for rule in egress for port in rule["ports"]}


def test_templates_renders_nothing_of_a_pod():
    kinds = {it["kind"] for it in chart.objects(chart.values("templates"))}
    assert kinds == {"ConfigMap", "Service", "Secret", "PodMonitor", "Pod"}


def test_a_parent_chart_gets_the_same_container_volumes_and_claims():
    parent = chart.objects({}, chart.whole_parent())
    own = chart.objects({**chart.values("templates"), "mode": "sidecar"})
    assert chart.container(parent) == chart.container(own)
    assert chart.pod(parent)["spec"]["volumes"] == chart.pod(own)["spec"]["volumes"]
    claims = [it["spec"]["volumeClaimTemplates"] for it in map(chart.workload, (parent, own))]
    assert claims[0] == claims[1]
    selector = chart.one(parent, "Service", "relay-suki-relay")["spec"]["selector"]
    assert selector.items() <= chart.pod(parent)["metadata"]["labels"].items()
    assert chart.workload(parent)["spec"]["serviceName"] == "relay-suki-relay-pods"
    needed = chart.config(parent)["drain"]["deadline"]
    assert needed == "25s" and chart.pod(parent)["spec"]["terminationGracePeriodSeconds"] >= 30


def test_a_parent_may_have_globals_and_a_condition():
    with_globals = {"global": {"region": "eu"}, "suki-relay": {"global": {"x": 1}, "enabled": True}}
    parent = [chart.objects(values, chart.whole_parent()) for values in (with_globals, {})]
    assert chart.workload(parent[0]) == chart.workload(parent[1])
    assert chart.config(parent[0]) == chart.config(parent[1])


@each_mode
@pytest.mark.parametrize("more", [
    {"sources": [{"name": "other", "path": "/other", "secrets": [{"name": "a", "file": "/etc/suki-relay/secrets/a"}]}]},
    {"targets": [{"name": "app", "http": {"url": "http://other:1/"}}]},
    {"routes": [{"name": "none", "to": ["app"], "when": "false"}]},
])
def test_what_the_relay_follows_changes_the_config_and_no_pod(mode, more):
    before, after = rendered(mode), rendered(mode, {"config": more})
    assert chart.config(before) != chart.config(after)
    assert chart.workload(before) == chart.workload(after)


@each_mode
@pytest.mark.parametrize("more", [
    {"listen": {"limits": {"body": "1MiB"}}},
    {"admin": {"operator": {"address": "127.0.0.1:9000"}}},
    {"spool": {"keep_delivered": "100h"}},
    {"drain": {"delay": "1s"}},
])
def test_what_needs_a_restart_replaces_the_pods(mode, more):
    before, after = rendered(mode), rendered(mode, {"config": more})
    templates = [chart.pod(it)["metadata"]["annotations"] for it in (before, after)]
    assert templates[0] != templates[1]


def test_secrets_are_files_and_never_in_the_environment():
    seen = 0
    for name, spec, objects in of_all_pods():
        for it in spec.get("initContainers", []) + spec["containers"]:
            if it["name"].startswith("suki-relay"):
                assert all(set(entry) == {"name", "value"} for entry in it.get("env", [])), name
                assert "envFrom" not in it, name
                assert not [mount for mount in it["volumeMounts"] if "subPath" in mount or "subPathExpr" in mount], name
                seen += 1
        mounts = {mount["name"]: mount for mount in chart.container(objects)["volumeMounts"]}
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440, name
                assert mounts[volume["name"]]["readOnly"] is True, name
                others = [it for it in spec["containers"] if not it["name"].startswith("suki-relay")]
                named = [mount["name"] for it in others for mount in it.get("volumeMounts", [])]
                assert volume["name"] not in named, name
    assert seen > len(chart.MATRIX)


def test_every_pod_meets_the_restricted_standard():
    ours = ("suki-relay", "suki-relay-check", "send")
    seen = 0
    pods = [(name, spec) for name, spec, _ in of_all_pods()]
    pods.append(("test", chart.one(rendered(), "Pod")["spec"]))
    for name, spec in pods:
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")), name
        assert not [it for it in spec["volumes"] if "hostPath" in it], name
        for it in spec.get("initContainers", []) + spec["containers"]:
            if it["name"] in ours:
                assert it["securityContext"] == {
                    "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                }, name
                seen += 1
    assert seen > len(chart.MATRIX)


def test_no_pod_has_a_token_of_the_cluster_unless_asked_for():
    for name, spec, _ in of_all_pods():
        assert spec["automountServiceAccountToken"] is (name == "scheduling"), name
    assert chart.one(rendered(), "Pod")["spec"]["automountServiceAccountToken"] is False
    assert chart.one(rendered(), "ServiceAccount")["automountServiceAccountToken"] is False


def test_ports_are_numbers_those_of_the_config():
    objects = chart.objects(chart.values("scheduling"))
    relay = chart.container(objects)
    assert {it["name"]: it["containerPort"] for it in relay["ports"]} == {"https": 9443, "admin": 9999}
    for key, path in [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]:
        assert relay[key]["httpGet"] == {"path": path, "port": 9999}
    assert chart.one(objects, "Service", "inbox")["spec"]["ports"][0]["targetPort"] == 9443
    assert chart.one(objects, "Service", "inbox-pods")["spec"]["ports"][0]["targetPort"] == 9999
    monitor = chart.one(chart.objects(chart.values("monitoring")), "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["portNumber"] == 9740


def test_the_grace_period_holds_the_containers_stop_and_the_drain():
    grace = lambda mode, more=None: chart.pod(rendered(mode, more))["spec"]["terminationGracePeriodSeconds"]
    assert grace("sidecar") == 30 + 25 + 5
    assert grace("sidecar", {"app": {"stopSeconds": 0}}) == 25 + 5
    assert grace("standalone") == 25 + 5
    assert grace("standalone", {"config": {"drain": {"deadline": "1m30s"}}}) == 90 + 5
    assert grace("standalone", {"config": {"drain": {"deadline": "20500ms"}}}) == 21 + 5
    assert grace("standalone", {"terminationGracePeriodSeconds": 300}) == 300
    assert grace("standalone", {"terminationGracePeriodSeconds": 1_000_000}) == 1_000_000


def test_each_pod_claims_a_volume_of_its_own_that_nothing_deletes():
    for mode in ("sidecar", "standalone"):
        spec = chart.workload(rendered(mode))["spec"]
        claim = spec["volumeClaimTemplates"][0]
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
        assert claim["spec"]["resources"]["requests"]["storage"] == "8Gi"
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        mounts = {it["name"]: it["mountPath"] for it in spec_relay(spec)["volumeMounts"]}
        assert mounts[claim["metadata"]["name"]] == "/var/lib/suki-relay"
        assert claim["metadata"]["name"] not in [it["name"] for it in spec["template"]["spec"]["volumes"]]


def spec_relay(spec):
    pod = spec["template"]["spec"]
    return next(it for it in pod.get("initContainers", []) + pod["containers"] if it["name"] == "suki-relay")


def test_the_selectors_of_all_objects_find_the_pods():
    for name in ("locked-down", "standalone", "servicemonitor", "scheduling"):
        objects = chart.objects(chart.values(name))
        labels = chart.pod(objects)["metadata"]["labels"].items()
        assert chart.workload(objects)["spec"]["selector"]["matchLabels"].items() <= labels
        found = 0
        for it in objects:
            if it["kind"] == "Service" and not it["metadata"]["name"].endswith("-app"):
                assert it["spec"]["selector"].items() <= labels
                found += 1
            elif it["kind"] == "PodDisruptionBudget":
                assert it["spec"]["selector"]["matchLabels"].items() <= labels
            elif it["kind"] == "NetworkPolicy":
                assert it["spec"]["podSelector"]["matchLabels"].items() <= labels
            elif it["kind"] == "Pod":
                assert not chart.one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= (
                    it["metadata"]["labels"].items())
            elif it["kind"] == "ServiceMonitor":
                service = chart.one(objects, "Service", "relay-suki-relay-pods")
                assert it["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
                assert it["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
        assert found == 2, name


def test_a_policy_lets_in_notifications_and_out_what_the_config_names():
    policy = chart.one(chart.objects(chart.values("locked-down")), "NetworkPolicy")["spec"]
    ingress = {rule["ports"][0]["port"]: rule for rule in policy["ingress"]}
    assert set(ingress) == {8443, 9740, 8080, 9000}
    assert ingress[8443]["from"] == [{"ipBlock": {"cidr": "203.0.113.0/24"}}]
    assert [set(peer) for peer in ingress[9740]["from"]] == [{"namespaceSelector"}]
    egress = {port["port"]: rule.get("to") for rule in policy["egress"] for port in rule["ports"]}
    assert set(egress) == {53, 443, 50051, 4317}
    assert egress[443] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    policy = chart.one(chart.objects(chart.values("postgres")), "NetworkPolicy")["spec"]
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 8080, 5432}


def test_a_policy_lets_the_test_in_and_without_one_nobody_to_the_admin_port():
    def ingress(more):
        objects = chart.objects(chart.values("locked-down", more))
        rules = chart.one(objects, "NetworkPolicy")["spec"]["ingress"]
        return {rule["ports"][0]["port"]: rule["from"] for rule in rules if "from" in rule}, objects

    rules, objects = ingress({"test": {"enabled": True}, "networkPolicy": {"adminFrom": []}})
    labels = chart.one(objects, "Pod")["metadata"]["labels"].items()
    for port in (8443, 9740):
        assert rules[port][-1]["podSelector"]["matchLabels"].items() <= labels
    assert len(rules[9740]) == 1
    rules, objects = ingress({"networkPolicy": {"adminFrom": []}})
    assert 9740 not in rules


def test_an_operator_token_is_there_by_default():
    objects = rendered()
    assert chart.config(objects)["admin"]["operator"]["token"] == {"file": "/etc/suki-relay/operator/token"}
    assert chart.one(objects, "Secret", "relay-suki-relay-operator")["data"]["token"]
    off = chart.config(rendered("sidecar", {"operator": {"enabled": False}}))
    assert off["admin"]["operator"] is None


def test_certificates_come_from_a_secret_or_cert_manager_or_are_throw_away_ones():
    files = {"certificate": "/etc/suki-relay/tls/tls.crt", "private_key": "/etc/suki-relay/tls/tls.key"}
    assert chart.config(chart.objects(chart.values("sidecar")))["listen"]["tls"] == files
    objects = chart.objects(chart.values("certmanager"))
    certificate = chart.one(objects, "Certificate")["spec"]
    volumes = {it["name"]: it for it in chart.pod(objects)["spec"]["volumes"]}
    assert volumes["suki-relay-tls"]["secret"]["secretName"] == certificate["secretName"]
    # No public issuer signs a name of the cluster's inside.
    assert certificate["dnsNames"] == chart.values("certmanager")["tls"]["certManager"]["dnsNames"]
    unnamed = chart.objects(chart.values("certmanager", {"tls": {"certManager": {"dnsNames": []}}}))
    assert "relay-suki-relay.demo.svc" in chart.one(unnamed, "Certificate")["spec"]["dnsNames"]
    assert chart.config(objects)["listen"]["tls"].items() >= files.items()
    assert "relay-suki-relay.demo.svc" in chart.config(rendered())["listen"]["tls"]["self_signed"]


def test_the_shipped_alerts_and_dashboard_are_what_is_rendered():
    objects = chart.objects(chart.values("monitoring"))
    shipped = yaml.safe_load((chart.CHART / "files/alerts.yaml").read_text())["groups"]
    rendered = chart.one(objects, "PrometheusRule")["spec"]["groups"]
    alerts = [(it["alert"], it["expr"], it["annotations"]) for group in rendered for it in group["rules"]]
    assert alerts == [(it["alert"], it["expr"], it["annotations"]) for group in shipped for it in group["rules"]]
    assert len(alerts) >= 13
    assert {it["labels"]["team"] for group in rendered for it in group["rules"]} == {"clinical"}
    without = {"metrics": {"prometheusRule": {"without": [alerts[0][0]]}}}
    fewer = chart.one(chart.objects(chart.values("monitoring", without)), "PrometheusRule")["spec"]["groups"]
    assert [it["alert"] for group in fewer for it in group["rules"]] == [it[0] for it in alerts[1:]]
    url = "https://git.example.com/suki-relay/helm/RUNBOOK.md"
    at_a_place = chart.objects(chart.values("monitoring", {"metrics": {"prometheusRule": {"runbookUrl": url}}}))
    for group in chart.one(at_a_place, "PrometheusRule")["spec"]["groups"]:
        for it in group["rules"]:
            assert it["annotations"]["runbook_url"] == f"{url}#{it['alert'].lower()}"
    dashboard = chart.one(objects, "ConfigMap", "relay-suki-relay-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    shipped = json.loads((chart.CHART / "files/dashboard.json").read_text())
    assert json.loads(dashboard["data"]["suki-relay.json"]) == shipped and shipped["panels"]


def test_numbers_stay_numbers():
    objects = chart.objects(chart.values("scheduling"))
    assert chart.config(objects)["listen"]["limits"]["connections"] == 1_000_000
    assert "connections: 1000000" in chart.one(objects, "ConfigMap", "inbox")["data"]["config.yaml"]
    assert {it["name"]: it["value"] for it in chart.container(objects)["env"]} == {"ZONE": "eu", "RETRIES": "3"}
    env = {"MANY": 1_000_000, "MORE": 123_456_789, "HALF": 0.5, "YES": True, "VERSION": "1.10"}
    written = {it["name"]: it["value"] for it in chart.container(rendered("sidecar", {"env": env}))["env"]}
    assert written == {"MANY": "1000000", "MORE": "123456789", "HALF": "0.5", "YES": "true", "VERSION": "1.10"}


def test_names_that_look_like_numbers_stay_names():
    files = [{"path": "/a", "existingSecret": "5"}, {"path": "/b", "existingConfigMap": "6"}]
    more = {
        "nameOverride": "2024", "app": {"name": "1"}, "signing": {"existingSecret": "2"}, "tls": {"existingSecret": "3"},
        "operator": {"existingSecret": "4"}, "files": files, "serviceAccount": {"name": "7"}, "priorityClassName": "8",
        "persistence": {"size": "8000000000"}, "networkPolicy": {"enabled": True},
        "config": {"spool": {"disk": {"capacity": "1GiB"}}},
    }
    for it in rendered("sidecar", more):
        kubernetes_validate.validate(it, "1.33", strict=True)


def test_the_tests_pod_goes_where_the_others_may():
    objects = chart.objects(chart.values("scheduling", {"test": {"enabled": True}}))
    test, own = chart.one(objects, "Pod")["spec"], chart.pod(objects)["spec"]
    for key in ("nodeSelector", "tolerations"):
        assert own[key] and test.get(key) == own[key]


def test_pods_are_spread_and_a_budget_keeps_all_but_one():
    objects = rendered("standalone")
    constraints = chart.pod(objects)["spec"]["topologySpreadConstraints"]
    keys = [it["topologyKey"] for it in constraints]
    assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert chart.one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    for mode in ("sidecar", "postgres"):
        assert chart.one(rendered(mode), "PodDisruptionBudget")


def test_the_notes_tell_what_to_do_next():
    first = chart.notes({})
    for words in ("helm test -n demo relay", "the signing secret was made up", "throw-away", "`replicas: 2`"):
        assert words in first
    real = chart.notes(chart.values("sidecar"))
    assert "TO DO" not in real and "WARNING" not in real and "There is one pod" not in real
    assert "the spool is ephemeral" in chart.notes(chart.values("ephemeral"))
    assert "kubectl" not in chart.notes(chart.values("templates"))
    assert "helm test" not in chart.notes(chart.values("certmanager")), "there is no test pod, for want of a certificate"
    assert "--operator" not in first
    elsewhere = {"config": {"admin": {"operator": {"address": "127.0.0.1:9000"}}}}
    assert "spool status --operator http://127.0.0.1:9000 --token-file" in chart.notes(elsewhere)
    for path in chart.MATRIX:
        assert max(map(len, chart.notes(yaml.safe_load(path.read_text())).splitlines())) < 140, path


def test_defaults_and_every_value_file_render_configs_of_the_relays_schema():
    schema = json.loads((chart.ROOT / "src/config/schema.json").read_text())
    for path in chart.MATRIX:
        jsonschema.validate(chart.config(chart.objects(yaml.safe_load(path.read_text()))), schema)


def test_the_readmes_values_render():
    text = (chart.CHART / "README.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        values = yaml.safe_load(block.replace("…/", "").replace("sha256:…", "sha256:" + "0" * 64).replace("…", "x"))
        if "routes" not in values["config"]:
            values["config"]["routes"] = [{"name": "all", "to": [values["config"]["targets"][0]["name"]]}]
        assert chart.objects(values)


def test_the_readmes_parent_is_the_one_that_is_rehearsed():
    (shown,) = re.findall(r"```gotemplate\n(.*?)```", (chart.CHART / "README.md").read_text(), re.DOTALL)
    whole = (chart.PARENT / "templates/statefulset.yaml").read_text()
    assert shown == whole.partition("---\n")[0]
    assert "kind: StatefulSet" in shown


def test_every_template_that_the_readme_names_is_there():
    text = (chart.CHART / "README.md").read_text()
    templates = "".join(path.read_text() for path in (chart.CHART / "templates").glob("_*.tpl"))
    names = re.findall(r"`(suki-relay\.[A-Za-z]+)`", text)
    assert len(names) >= 8
    for name in names:
        assert f'define "{name}"' in templates, name
