"""As much of a node as a pod of the chart can tell: kubelet, container runtime, endpoints and names.

Runs in a network and in mounts of its own (tests/helm/run), as root. Volumes are laid out as the kubelet's AtomicWriter
does, containers start and stop by the rules of KEP-753, probes come from the node to the pod's address.
What it does not have: cgroups, seccomp, a registry.
"""

import base64
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import chart
from patience import eventually

BINARY = chart.ROOT / "target/debug/suki-relay"
HERE = pathlib.Path(__file__).parent
SERVICE = "10.9.0.100"
UNSHARE = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def write_atomically(folder, files, mode, group):
    """A new folder behind `..data`, swapped by a rename; as pkg/volume/util/atomic_writer.go."""
    fresh = folder / f"..{time.time_ns()}"
    fresh.mkdir(mode=0o755)
    for name, content in files.items():
        path = fresh / name
        path.write_bytes(content)
        os.chown(path, 0, group)
        path.chmod(mode)
    old = os.readlink(folder / "..data") if (folder / "..data").is_symlink() else None
    (folder / "..data_tmp").symlink_to(fresh.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in files:
            link.unlink()
    if old:
        subprocess.run(["rm", "-r", folder / old], check=True)


class Cluster:
    """One node, its objects and its pods."""

    def __init__(self, folder):
        self.folder, self.files, self.claims = folder, {}, folder / "claims"
        self.hosts, self.pods, self.addresses = folder / "hosts", [], itertools.count(10)
        self.names, self.balancers = {"localhost": ["127.0.0.1"]}, []
        ip("link", "set", "lo", "up")
        ip("link", "add", "br0", "type", "bridge")
        for address in ("10.9.0.1", SERVICE):
            ip("address", "add", f"{address}/24", "dev", "br0")
        ip("link", "set", "br0", "up")
        self.write_hosts()

    def apply(self, objects):
        """ConfigMaps and Secrets: kept, and brought up to date in every pod that mounts them."""
        for it in objects:
            if it["kind"] == "ConfigMap":
                self.put(it["metadata"]["name"], {name: text.encode() for name, text in it["data"].items()})
            elif it["kind"] == "Secret":
                self.put(it["metadata"]["name"], {name: base64.b64decode(text) for name, text in it["data"].items()})

    def put(self, name, files):
        if self.files.get(name) != files:
            self.files[name] = files
            for pod in self.pods:
                pod.refresh(name)

    def name(self, name, address):
        self.names.setdefault(name, []).append(address)
        self.write_hosts()

    def write_hosts(self):
        lines = [f"{address} {name}\n" for name, addresses in self.names.items() for address in addresses]
        self.hosts.write_text("".join(lines))

    def start(self, name, template):
        pod = Pod(self, name, template["spec"])
        self.pods.append(pod)
        return pod

    def balance(self, service, pods):
        self.balancers.append(Balancer(service["spec"], pods))

    def end(self):
        for balancer in self.balancers:
            balancer.close()
        for pod in self.pods:
            pod.kill()
        ip("link", "delete", "br0")


class InitError(Exception):
    """An init container's name, exit code and log: nothing behind it is started."""


class Pod:
    """Containers, volumes and an address. `start` and `stop` may be repeated; what is claimed stays."""

    def __init__(self, cluster, name, spec):
        self.cluster, self.name, self.spec = cluster, name, spec
        self.address = f"10.9.0.{next(cluster.addresses)}"
        self.folder = cluster.folder / name
        self.group = spec.get("securityContext", {}).get("fsGroup", 0)
        self.volumes, self.running, self.ending = {}, {}, False
        # What keeps a pod's network while containers come and go.
        self.pause = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = os.readlink("/proc/self/ns/net")
        eventually("a network of its own", lambda: os.readlink(f"/proc/{self.pause.pid}/ns/net") != own)
        link = f"v{self.address.rsplit('.')[-1]}"
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.pause.pid))
        ip("link", "set", link, "master", "br0", "up")
        for words in (["address", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"]):
            subprocess.run([*self.net(), "ip", *words], check=True)
        self.lay_out()

    def net(self):
        return ["nsenter", f"--net=/proc/{self.pause.pid}/ns/net"]

    def lay_out(self):
        for volume in self.spec.get("volumes", []):
            if "emptyDir" in volume:
                self.volumes[volume["name"]] = self.writable(self.folder / volume["name"], 0o2777)
            else:
                folder = self.folder / volume["name"]
                folder.mkdir(parents=True)
                self.volumes[volume["name"]] = folder
                self.write(volume)

    def claim(self, name):
        self.volumes[name] = self.writable(self.cluster.claims / f"{name}-{self.name}", 0o2770)

    def writable(self, folder, mode):
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, 0, self.group)
        folder.chmod(mode)
        return folder

    def write(self, volume):
        if "secret" in volume:
            source, mode, group = volume["secret"]["secretName"], volume["secret"].get("defaultMode", 0o644), self.group
        else:
            source, mode, group = volume["configMap"]["name"], 0o644, self.group
        write_atomically(self.volumes[volume["name"]], self.cluster.files[source], mode, group)

    def refresh(self, name):
        for volume in self.spec.get("volumes", []):
            if name in (volume.get("secret", {}).get("secretName"), volume.get("configMap", {}).get("name")):
                self.write(volume)

    def start(self):
        """Init containers in order, each sidecar until its startup probe holds, then the containers."""
        self.ending = False
        for it in self.spec.get("initContainers", []):
            process = self.run(it)
            if it.get("restartPolicy") == "Always":
                self.until_started(it)
            else:
                code = process.wait(30)
                del self.running[it["name"]]
                if code != 0:
                    raise InitError(it["name"], code, self.log(it["name"]))
        for it in self.spec["containers"]:
            self.run(it)
        for it in self.spec["containers"]:
            self.until_started(it)
        eventually(f"{self.name} is ready", self.is_ready)

    def until_started(self, spec):
        def started():
            assert self.running[spec["name"]].poll() is None, self.log(spec["name"])
            return probe(self.address, spec["startupProbe"])

        if "startupProbe" in spec:
            eventually(f"{spec['name']} has started", started)

    def is_ready(self):
        """As the node would say now: every container that is to stay, sidecars among them, runs and is ready."""
        sidecars = [it for it in self.spec.get("initContainers", []) if it.get("restartPolicy") == "Always"]
        return not self.ending and all(
            it["name"] in self.running and self.running[it["name"]].poll() is None
            and ("readinessProbe" not in it or probe(self.address, it["readinessProbe"]))
            for it in [*sidecars, *self.spec["containers"]]
        )

    def alive(self):
        return all(probe(self.address, it["livenessProbe"]) for it in self.containers() if "livenessProbe" in it)

    def containers(self):
        return self.spec.get("initContainers", []) + self.spec["containers"]

    def run(self, spec):
        inside = self.inside(spec)
        file = self.folder / f"{spec['name']}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(inside))
        log = (self.folder / f"{spec['name']}.log").open("ab")
        self.running[spec["name"]] = Container([*self.net(), *UNSHARE, sys.executable, HERE / "container.py", file], log)
        return self.running[spec["name"]]

    def inside(self, spec):
        """What container.py makes of a container's spec and its pod's."""
        context = self.spec.get("securityContext", {}) | spec["securityContext"]
        user = context.get("runAsUser", 65532)
        assert user != 0 and context["runAsNonRoot"], "the image's user is not root"
        root = self.folder / f"{spec['name']}.root"
        root.mkdir(parents=True, exist_ok=True)
        mounts = [
            {"source": str(self.volumes[it["name"]]), "path": it["mountPath"], "read_only": it.get("readOnly", False)}
            for it in spec.get("volumeMounts", [])
        ]
        return {
            "root": str(root), "binary": str(BINARY), "hosts": str(self.cluster.hosts), "mounts": mounts,
            "command": spec.get("command", ["/usr/local/bin/suki-relay"]) + spec.get("args", []),
            "environment": {"HOSTNAME": self.name} | {it["name"]: it["value"] for it in spec.get("env", [])},
            "user": user, "group": context.get("runAsGroup", user), "groups": [self.group] if self.group else [],
            "read_only": context["readOnlyRootFilesystem"], "no_new_privileges": not context["allowPrivilegeEscalation"],
            "no_capabilities": context["capabilities"]["drop"] == ["ALL"],
        }

    def execute(self, name, *command):
        """As `kubectl exec`: the same namespaces, user and groups."""
        user = str(self.inside(next(it for it in self.containers() if it["name"] == name))["user"])
        pid = self.running[name].pid
        enter = ["nsenter", *(f"--{it}=/proc/{pid}/ns/{it}" for it in ("net", "pid")), f"--mount=/proc/{pid}/ns/mnt",
                 f"--root=/proc/{pid}/root"]
        command = [*enter, f"--setuid={user}", f"--setgid={user}", "/usr/local/bin/suki-relay", *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    def stop(self):
        """SIGTERM to the containers; to sidecars once those have ended; SIGKILL when the grace period is over."""
        self.ending = True
        until = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        sidecars = [it["name"] for it in self.spec.get("initContainers", []) if it["name"] in self.running]
        codes = {}
        running = [it["name"] for it in self.spec["containers"] if it["name"] in self.running]
        for group in (running, *[[name] for name in reversed(sidecars)]):
            for name in group:
                self.running[name].send_signal(signal.SIGTERM)
            for name in group:
                try:
                    codes[name] = self.running[name].wait(max(0.1, until - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self.running[name].kill()
                    codes[name] = self.running[name].wait()
        self.running = {}
        return codes

    def kill(self):
        for process in [*self.running.values(), self.pause]:
            process.kill()
            process.wait()
        self.running = {}

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()


class Container:
    """A process that is the first of its PID namespace, as a runtime starts it: no signal that it does not handle ends it."""

    def __init__(self, command, log):
        self.outer = subprocess.Popen(command, stdout=log, stderr=log, env={})
        self.poll, self.wait = self.outer.poll, self.outer.wait
        self.pid = eventually("a process of its own", lambda: self.child() or self.poll() is not None)

    def child(self):
        try:
            return int(pathlib.Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text() or 0)
        except FileNotFoundError:
            return 0

    def send_signal(self, signal):
        if self.poll() is None:
            os.kill(self.pid, signal)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def probe(address, probe):
    url = f"http://{address}:{probe['httpGet']['port']}{probe['httpGet']['path']}"
    try:
        with urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)) as answer:
            return 200 <= answer.status < 400
    except (urllib.error.URLError, OSError):
        return False


class Balancer:
    """A Service's address: each new connection to one of the pods that are ready, or published all the same, in turn."""

    def __init__(self, spec, pods):
        (port,) = spec["ports"]
        self.target_port, self.pods, self.turn = port["targetPort"], pods, itertools.count()
        self.publishes_all = spec.get("publishNotReadyAddresses", False)
        self.listener = socket.create_server((SERVICE, port["port"]))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            there = [pod for pod in self.pods if self.publishes_all or pod.is_ready()]
            if not there:
                client.close()
                continue
            pod = there[next(self.turn) % len(there)]
            try:
                server = socket.create_connection((pod.address, self.target_port), 5)
            except OSError:
                client.close()
                continue
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()

    def close(self):
        # Wakes the thread that accepts; a mere close would leave it there, and the address taken.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for it in (source, sink):
            it.close()
