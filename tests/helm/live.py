"""A real relay with a config that has one of everything, and what it exports."""

import contextlib
import itertools
import json
import pathlib
import re
import socket
import subprocess
import urllib.error
import urllib.request

from patience import eventually

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/debug/suki-relay"
SECRET = "a secret of some length"

CONFIG = """
listen: {{ address: 127.0.0.1:{https}, tls: {{ self_signed: [localhost] }} }}
admin: {{ address: 127.0.0.1:{admin}, operator: {{ address: 127.0.0.1:{operator} }} }}
spool: {{ disk: {{ path: spool, capacity: 64MiB }} }}
sources:
  - {{ name: suki, path: /webhooks/notification, secrets: [{{ name: current, file: secret }}] }}
targets:
  - {{ name: app, http: {{ url: "http://127.0.0.1:{sink}/" }} }}
  - {{ name: down, http: {{ url: "http://127.0.0.1:{nobody}/" }}, retry: {{ initial: 10ms, max: 20ms, give_up_after: 1s }} }}
  - {{ name: slow, http: {{ url: "http://127.0.0.1:{nobody}/" }} }}
routes:
  - {{ name: everything, to: [app] }}
  - {{ name: failures, when: 'body.status == "failure"', to: [down, slow] }}
"""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [it.getsockname()[1] for it in sockets]


def get(url):
    """Status and text; nothing if nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None, ""


@contextlib.contextmanager
def started(*command, **options):
    """A process that ends with the block."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([str(word) for word in command], **(quiet | options))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Relay:
    def __init__(self, folder, https, admin):
        self.folder = folder
        self.url = f"https://127.0.0.1:{https}/webhooks/notification"
        self.admin = f"127.0.0.1:{admin}"

    def metrics(self):
        return get(f"http://{self.admin}/metrics")[1]

    def send(self, *what, secret="secret"):
        command = [BINARY, "send", "--insecure", "--url", self.url, "--secret-file", self.folder / secret, *what]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def traffic(self):
        """Something of each kind."""
        self.send("--example", "form-filling-success", "--count", "3")
        self.send("--example", "failure", "--count", "2")
        self.send("--body", self.folder / "invalid.json")
        self.send("--example", "ambient-success", secret="wrong")


@contextlib.contextmanager
def relay(folder):
    names = ["https", "admin", "operator", "sink", "nobody"]
    ports = dict(zip(names, free_ports(len(names))))
    (folder / "config.yaml").write_text(CONFIG.format(**ports))
    (folder / "secret").write_text(SECRET)
    (folder / "wrong").write_text("of nobody that the relay knows")
    (folder / "invalid.json").write_text(json.dumps({"status": 1}))
    here = Relay(folder, ports["https"], ports["admin"])
    with (
        started(BINARY, "sink", "--http", f"127.0.0.1:{ports['sink']}"),
        started(BINARY, "run", cwd=folder),
    ):
        eventually("the relay is ready", lambda: get(f"http://{here.admin}/readyz")[0] == 200, 120)
        yield here


def samples(page):
    """Name and labels of each sample of a page of metrics."""
    found = []
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
            found.append((name, dict(re.findall(r'(\w+)="([^"]*)"', labels or ""))))
    return found


# What Prometheus itself adds to each sample.
ADDED = {"job", "instance", "namespace", "pod"}
OPERATORS = {"=": lambda values: [values], "!=": lambda values: [values],
             "=~": lambda values: values.split("|"), "!~": lambda values: values.split("|")}


def check_selectors(expressions, page):
    """Each metric that the expressions name is exported, with each label, and with each value that they name."""
    exported = samples(page)
    names = {name for name, _ in exported} | {"up"}
    pattern = r"\b((?:suki_relay|process)_\w+|up)\b(?:\{([^}]*)\})?"
    selectors = set(itertools.chain.from_iterable(re.findall(pattern, it) for it in expressions))
    assert len(selectors) > 10
    for name, matchers in selectors:
        assert name in names, f"{name} is not exported"
        for label, operator, values in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label in ADDED:
                continue
            there = {labels.get(label) for exported_name, labels in exported if exported_name == name}
            for value in OPERATORS[operator](values):
                assert value in there, f'{name} has no {label}="{value}", but {there}'
