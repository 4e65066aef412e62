"""The rehearsal: what the chart renders is started, fed, reconfigured, broken and stopped, in every mode; nothing is lost.

Needs root and a network of its own: tests/helm/run.
"""

import pathlib
import re
import signal
import subprocess
import threading
import urllib.request

import kubernetes_validate
import pytest
import yaml

import chart
from kubelet import BINARY, SERVICE, Cluster, InitError
from patience import eventually

URL = f"https://{SERVICE}/webhooks/notification"
POSTGRES = "10.9.0.1"
COMMON = {
    "signing": {"existingSecret": "suki-signing"},
    "checkConfig": {"enabled": True},
    "config": {"drain": {"delay": "1s", "deadline": "4s"}},
    "app": {"stopSeconds": 2},
}
TARGET = {"name": "app", "http": {
    "url": "http://app.demo.svc:8080/in", "bearer_token": {"file": "/etc/suki-relay/targets/token"},
}}
FILES = [{"path": "/etc/suki-relay/targets", "existingSecret": "app-credentials"}]
ALONE = {"mode": "standalone", "files": FILES, "config": {"targets": [TARGET]}}
SHARED = {"files": [*FILES, {"path": "/etc/suki-relay/postgres", "existingSecret": "suki-postgres"}],
          "config": {"spool": {"postgres": {"url": {"file": "/etc/suki-relay/postgres/url"}, "tls": None}}}}
RECEIVER = {"name": "receiver", "http": {"url": "http://127.0.0.1:8080/notifications"}}


@pytest.fixture
def cluster(tmp_path):
    tmp_path.chmod(0o755)
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()


@pytest.fixture
def postgres(tmp_path):
    folder = tmp_path / "postgres"
    binaries = max(pathlib.Path("/usr/lib/postgresql").iterdir(), key=lambda path: int(path.name)) / "bin"
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    for parent in tmp_path.parents:
        parent.chmod(parent.stat().st_mode | 0o011) if str(parent) != "/" else None
    folder.mkdir()
    subprocess.run(["chown", "postgres:", folder], check=True)
    initialise = [binaries / "initdb", "--auth=trust", "--username=relay", "--no-sync", folder / "data"]
    subprocess.run([*as_postgres, *initialise], check=True, stdout=subprocess.DEVNULL)
    (folder / "data/pg_hba.conf").write_text("host all all 10.9.0.0/24 trust\nlocal all all trust\n")
    options = ["-h", POSTGRES, "-k", folder, "-D", folder / "data"]
    log = (tmp_path / "postgres.log").open("wb")
    server = subprocess.Popen([*as_postgres, binaries / "postgres", *options], stdout=log, stderr=log)
    ready = [binaries / "pg_isready", "-h", POSTGRES, "-q"]
    eventually("the server is ready", lambda: subprocess.run(ready).returncode == 0)
    yield f"postgres://relay@{POSTGRES}/postgres"
    server.send_signal(signal.SIGINT)
    server.wait(30)


class Sink:
    """A pod of somebody else's that prints what it receives, behind a name."""

    def __init__(self, cluster, name):
        relay = chart.container(chart.objects({}), "app")
        container = {**relay, "name": "sink", "args": ["sink", "--http", "0.0.0.0:8080"]}
        spec = {"containers": [container], "terminationGracePeriodSeconds": 5}
        self.pod = cluster.start(name, {"spec": spec})
        cluster.name(f"{name}.demo.svc", self.pod.address)

    def start(self):
        self.pod.start()

    def crash(self):
        crash(self.pod, "sink")

    def received(self):
        return received(self.pod.log("sink"))


def crash(pod, name):
    process = pod.running.pop(name)
    process.kill()
    process.wait()


def received(log):
    """Ids of what a sink took."""
    return set(re.findall(r"id=([0-9a-f]{32}).*answered=200", log))


class Release:
    """What the values render, as pods behind a Service."""

    def __init__(self, cluster, values, path=chart.CHART, wrap=lambda values: values):
        self.cluster, self.values, self.path, self.wrap = cluster, values, path, wrap
        self.objects = chart.objects(wrap(values), path)
        self.workload = chart.workload(self.objects)
        cluster.apply(self.objects)
        template = self.workload["spec"]["template"]
        count = self.workload["spec"]["replicas"]
        self.pods = [cluster.start(f"relay-{number}", template) for number in range(count)]
        for pod in self.pods:
            for claim in self.workload["spec"].get("volumeClaimTemplates", []):
                pod.claim(claim["metadata"]["name"])
            cluster.name("relay-suki-relay-pods.demo.svc", pod.address)
        cluster.name("relay-suki-relay.demo.svc", SERVICE)
        cluster.balance(chart.one(self.objects, "Service", "relay-suki-relay"), self.pods)
        for pod in self.pods:
            pod.start()

    def upgrade(self, more):
        """A change of the config that must not touch a pod: only the ConfigMap is brought to it."""
        self.values = chart.merged(self.values, more)
        objects = chart.objects(self.wrap(self.values), self.path)
        assert chart.workload(objects) == self.workload
        before = self.metrics("suki_relay_config_last_reload_success_timestamp_seconds")
        self.cluster.apply(objects)
        eventually("each relay follows", lambda: all(
            now > then for now, then in zip(self.metrics(
                "suki_relay_config_last_reload_success_timestamp_seconds"), before)))
        assert self.metrics("suki_relay_config_last_reload_successful") == [1] * len(self.pods)

    def metrics(self, name):
        """The metric's sum at each pod."""
        found = []
        for pod in self.pods:
            with urllib.request.urlopen(f"http://{pod.address}:9740/metrics", timeout=5) as page:
                lines = page.read().decode().splitlines()
            found.append(sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line)))
        return found

    def helm_test(self):
        spec = chart.one(self.objects, "Pod")
        pod = self.cluster.start("test", spec)
        process = pod.run(spec["spec"]["containers"][0])
        assert process.wait(60) == 0, pod.log("send")
        assert "delivered" in pod.log("send")


class Suki:
    """The sender: posts each notification once, and remembers how many were answered 200."""

    def __init__(self, folder):
        self.secrets, self.accepted = folder, 0

    def send(self, count, key="current", rate=None):
        """How many of them were not answered 200."""
        command = [BINARY, "send", "--insecure", "--url", URL, "--secret-file", self.secrets / key, "--example",
                   "form-filling-success", "--count", str(count), *(["--rate", str(rate)] if rate else [])]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        answers = re.search(r"(\d+) × 200$", shown, re.MULTILINE)
        accepted = int(answers[1]) if answers else 0
        self.accepted += accepted
        return count - accepted


def secrets(cluster, folder):
    """As the user would have made them."""
    keys = {"current": b"a-secret-that-is-long-enough\n", "next": b"another-secret-that-is-long\n"}
    for name, text in keys.items():
        (folder / name).write_bytes(text)
    cluster.put("suki-signing", {"current": keys["current"]})
    cluster.put("app-credentials", {"token": b"token-of-the-target"})
    certificate, key = folder / "crt", folder / "key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
                    "-out", certificate, "-days", "2", "-subj", "/CN=relay"], check=True, capture_output=True)
    cluster.put("suki-tls", {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()})
    return keys


def rehearse(cluster, folder, release_of, targets, no_gap):
    """The plot, the same in every mode. `targets(release)`: those who receive from the first route."""
    keys = secrets(cluster, folder)
    suki, audit = Suki(folder), Sink(cluster, "audit")
    release = release_of()
    first = targets(release)
    for it in [*first, audit]:
        it.start()

    for pod in release.pods:
        is_confined(pod)
    is_operated_with_the_token_only(release.pods[0])
    release.helm_test()
    suki.accepted += 1
    assert suki.send(20) == 0

    # A target is gone: all the same, what comes is kept. Where it stands beside a relay, their pod is not ready, and the
    # Service passes that by, or publishes it all the same if it is the only one.
    first[0].crash()
    assert suki.send(20) == 0
    assert all(pod.alive() for pod in release.pods)
    assert all(pod.is_ready() is (pod is not first[0].pod) for pod in release.pods)

    # Where one stands beside each of several relays and all are gone, no pod is left that a Service would choose.
    for it in first[1:]:
        it.crash()
        assert suki.send(1) == 1
        it.start()
        eventually("its pod is ready", it.pod.is_ready)

    # The sender's next secret, a key more in its Secret; nothing restarts.
    assert suki.send(1, "next") == 1
    cluster.put("suki-signing", keys)
    eventually("the next secret counts", lambda: suki.send(1, "next") == 0)

    # One target more, by a swap of the ConfigMap.
    config = release.values["config"]
    route = {"name": "more", "to": ["audit"]}
    release.upgrade({"config": {
        "targets": [*config["targets"], {"name": "audit", "http": {"url": "http://audit.demo.svc:8080/"}}],
        "routes": [*config["routes"], route],
    }})
    before = suki.accepted
    assert suki.send(20) == 0
    eventually("the new target has them", lambda: len(audit.received()) == suki.accepted - before)

    # Every pod is replaced, one after another, under load.
    missed = []
    load = threading.Thread(target=lambda: missed.append(sum(suki.send(10, rate=20) for _ in range(12))))
    load.start()
    for pod in release.pods:
        ends_by_itself(pod)
        pod.start()
    load.join()
    if no_gap:
        assert missed == [0]

    # All that was answered 200 arrives, and the relays owe nothing more.
    for it in first:
        it.start()
    assert suki.accepted > 60
    everywhere = lambda: set().union(*(it.received() for it in first))
    eventually("every notification has arrived", lambda: len(everywhere()) >= suki.accepted, 60)
    assert len(audit.received()) >= suki.accepted - before
    eventually("nothing is pending", lambda: sum(release.metrics("suki_relay_deliveries_pending")) == 0)
    assert sum(release.metrics("suki_relay_ledger_imbalance")) == 0
    for pod in [*release.pods, audit.pod]:
        assert ends_by_itself(pod) >= {it["name"] for it in pod.spec["containers"]}


def ends_by_itself(pod):
    """Every container that runs, within the grace period."""
    codes = pod.stop()
    for name, code in codes.items():
        assert code == 0, f"{name}: {code}: {pod.log(name)[-2000:]}"
    return set(codes)


def is_confined(pod):
    """What the kernel says of the relay, not what the spec asks for."""
    pid = pod.running["suki-relay"].pid
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Gid"].split() == ["65532"] * 4
    assert status["NoNewPrivs"] == "1"
    assert {int(status[key], 16) for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    mounts = {line.split()[4]: line.split()[5] for line in pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}
    writable = [at for at, options in mounts.items() if "ro" not in options.split(",") and not at.startswith(("/proc", "/dev"))]
    inside = [at for at in writable if at in ("/", "/etc") or at.startswith(("/etc/", "/usr", "/var"))]
    assert set(inside) <= {"/var/lib/suki-relay"}, inside
    for name in ("config", "secrets"):
        assert "ro" in mounts[f"/etc/suki-relay/{name}"].split(",")


def is_operated_with_the_token_only(pod):
    assert "token" in pod.execute("suki-relay", "spool", "status").stderr
    told = pod.execute("suki-relay", "spool", "status", "--token-file", "/etc/suki-relay/operator/token")
    assert told.returncode == 0, told.stderr
    assert pod.execute("suki-relay", "check", "--config", "/etc/suki-relay/config/config.yaml").stdout == "ok\n"


class Beside:
    """The container beside the relay, of each pod."""

    def __init__(self, pod, name):
        self.pod, self.name = pod, name

    def start(self):
        if self.name not in self.pod.running:
            self.pod.run(next(it for it in self.pod.spec["containers"] if it["name"] == self.name))

    def crash(self):
        crash(self.pod, self.name)

    def received(self):
        return received(self.pod.log(self.name))


def beside(name):
    return lambda release: [Beside(pod, name) for pod in release.pods]


def with_routes(values):
    """So that an upgrade can add to what is there."""
    defaults = {"routes": [{"name": "everything", "to": [values["config"]["targets"][0]["name"]]}]}
    return chart.merged({"config": defaults}, values)


def test_a_sidecar(cluster, tmp_path):
    target = {"name": "app", "http": {"url": "http://127.0.0.1:8080/notifications"}}
    values = with_routes(chart.merged(COMMON, {"tls": {"existingSecret": "suki-tls"}, "config": {"targets": [target]}}))
    rehearse(cluster, tmp_path, lambda: Release(cluster, values), beside("app"), no_gap=False)


def test_a_spool_of_a_sidecar_that_is_scaled_to_none_is_audited(cluster, tmp_path):
    secrets(cluster, tmp_path)
    target = {"name": "app", "http": {"url": "http://127.0.0.1:8080/notifications"}}
    release = Release(cluster, chart.merged(COMMON, {"config": {"targets": [target]}}))
    assert Suki(tmp_path).send(3) == 0
    (pod,) = release.pods
    ends_by_itself(pod)
    (text,) = re.findall(r"```yaml\n(.*?)```", (chart.CHART / "RUNBOOK.md").read_text(), re.DOTALL)
    spec = yaml.safe_load(text)["spec"]
    kubernetes_validate.validate(yaml.safe_load(text), "1.33", strict=True)
    (volume,) = spec["volumes"]
    (claim,) = release.workload["spec"]["volumeClaimTemplates"]
    owner = f"{release.workload['metadata']['name']}-0"
    assert volume.pop("persistentVolumeClaim")["claimName"] == f"{claim['metadata']['name']}-{owner}"
    audit = cluster.start("audit", {"spec": spec | {"volumes": []}})
    audit.volumes[volume["name"]] = pod.volumes[claim["metadata"]["name"]]
    assert audit.run(spec["containers"][0]).wait(60) == 0, audit.log("audit")
    assert audit.log("audit").startswith("3 notifications, 3 deliveries, ")


def test_standalone(cluster, tmp_path):
    app = Sink(cluster, "app")
    values = with_routes(chart.merged(COMMON, ALONE))
    rehearse(cluster, tmp_path, lambda: Release(cluster, values), lambda _: [app], no_gap=True)


def test_standalone_on_postgres(cluster, postgres, tmp_path):
    app = Sink(cluster, "app")
    cluster.put("suki-postgres", {"url": postgres.encode()})
    values = with_routes(chart.merged(chart.merged(COMMON, ALONE), SHARED))
    rehearse(cluster, tmp_path, lambda: Release(cluster, values), lambda _: [app], no_gap=True)


def test_a_parent_chart(cluster, tmp_path):
    values = with_routes(chart.merged(COMMON, {"app": {}, "config": {"targets": [RECEIVER]}}))
    wrap = lambda values: {"suki-relay": values}
    release = lambda: Release(cluster, values, chart.whole_parent(), wrap)
    rehearse(cluster, tmp_path, release, beside("receiver"), no_gap=True)


def test_no_sidecar_starts_with_a_config_that_only_it_can_judge(cluster, tmp_path):
    secrets(cluster, tmp_path)
    routes = [{"name": "typo", "when": "body.status = 'success'", "to": ["app"]}, {"name": "nowhere", "to": ["nobody"]}]
    with pytest.raises(InitError) as refused:
        Release(cluster, chart.merged(COMMON, {"config": {"routes": routes}}))
    name, code, log = refused.value.args
    assert (name, code) == ("suki-relay-check", 78)
    assert "routes[0].when" in log and "routes[1].to[0]" in log
    (pod,) = cluster.pods
    assert pod.running == {}
    assert not (pod.folder / "suki-relay.log").exists(), "the relay was started"
