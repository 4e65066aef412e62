"""A running relay with a certificate by an authority of its own, targets, and a sender that is not ours."""
import contextlib
import hashlib
import hmac
import http.client
import http.server
import itertools
import json
import os
import pathlib
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request

BINARY = os.environ["SUKI_RELAY"]
SECRET = b"secret-of-the-conformance-tests"
PATH = "/webhooks/notification"

TARGETS = ["ehr", "spare", "dead"]
CONFIG = """
listen:
  address: 127.0.0.1:0
  tls: { certificate: tls.crt, private_key: tls.key }
  limits: { %(limits)s }
admin: { address: 127.0.0.1:0, operator: { address: 127.0.0.1:0 } }
spool: { disk: { path: spool } }
drain: { delay: 0s, deadline: 5s }
sources:
  - { name: suki, path: /webhooks/notification, secrets: [{ name: current, file: secret }] }
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:%(inbox)d/ehr" } }
  - { name: spare, http: { url: "http://127.0.0.1:%(inbox)d/spare" } }
  - { name: dead, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: good, when: body.status == "success", to: [spare] }
  - { name: bad, when: body.status == "failure", to: [ehr, dead] }
  - { name: broken, when: body.status == "odd" && 1 / body.zero == 1, to: [spare] }
"""

DAY_MS = 24 * 60 * 60 * 1000
# What a post comes to be: what is in it, when it says it was made, and the answer.
KINDS = {
    "delivered": ({"status": "success"}, 0, 200),
    "dead_letter": ({"status": "failure"}, 0, 200),
    "unrouted": ({"status": "cancelled"}, 0, 200),
    "route_error": ({"status": "odd", "zero": 0}, 0, 200),
    "invalid": ({}, 0, 400),
    "stale": ({"status": "success"}, -30 * DAY_MS, 200),
    "future": ({"status": "success"}, DAY_MS, 200),
    "bad_timestamp": ({"status": "success"}, None, 200),
    "unverified": ({"status": "success"}, 0, 401),
}

CERTIFICATES = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj /CN=authority \\
    -addext keyUsage=critical,keyCertSign,cRLSign -keyout ca.key -out ca.crt
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \\
    -keyout tls.key -out tls.csr
printf '%s\\n' subjectAltName=DNS:localhost basicConstraints=critical,CA:FALSE keyUsage=critical,digitalSignature \\
    extendedKeyUsage=serverAuth authorityKeyIdentifier=keyid > extensions
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -extfile extensions -out leaf.crt
cat leaf.crt ca.crt > tls.crt
"""


class Sender:
    """Signs as Suki does, and posts on a connection of its own each time."""

    def __init__(self, port, authority):
        self.port = port
        self.authority = authority
        self.tls = ssl.create_default_context(cafile=authority)
        self.numbers = itertools.count()

    def post(self, body, at=None, secret=SECRET):
        """The status, and how long it took, in seconds."""
        begun = time.monotonic()
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.tls, timeout=30)
        try:
            connection.request("POST", PATH, body, {"content-type": "application/json", **signature(body, at, secret)})
            answer = connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - begun
        finally:
            connection.close()

    def post_each_kind(self):
        for kind, (says, away_ms, answer) in KINDS.items():
            if says:
                says = {**says, "session_id": f"{kind} {next(self.numbers)} of {os.getpid()}"}
            at = "garbage" if away_ms is None else str(now_ms() + away_ms)
            secret = b"another" if kind == "unverified" else SECRET
            status, _ = self.post(json.dumps(says).encode(), at, secret)
            assert status == answer, f"{kind} was answered {status}"


class Relay(Sender):
    def __init__(self, folder, listening):
        super().__init__(int(listening["sender"].rsplit(":", 1)[1]), str(folder / "ca.crt"))
        self.admin = listening["admin"]
        self.operator = listening["operator"]

    def metric(self, series):
        page = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=30).read().decode()
        values = [line.split()[1] for line in page.splitlines() if line.startswith(series + " ")]
        return float(values[0]) if values else 0.0

    def ask(self, path):
        return json.load(urllib.request.urlopen(f"http://{self.operator}{path}", timeout=30))


class Inbox(http.server.BaseHTTPRequestHandler):
    """`/spare` takes everything, `/ehr` only what an operator sends again."""

    protocol_version = "HTTP/1.1"

    def handle(self):
        # The relay is killed in the end, with connections open.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        takes = self.path == "/spare" or "suki-relay-replay" in self.headers
        self.send_response(200 if takes else 422)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def now_ms():
    return time.time_ns() // 1_000_000


def signature(body, at=None, secret=SECRET):
    at = at or str(now_ms())
    signed = hmac.new(secret, at.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {"x-api-key": signed, "generated-at": at}


@contextlib.contextmanager
def running(limits=""):
    with tempfile.TemporaryDirectory() as name, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inbox) as inbox:
        threading.Thread(target=inbox.serve_forever, daemon=True).start()
        folder = pathlib.Path(name)
        subprocess.run(["sh", "-euc", CERTIFICATES], cwd=folder, check=True, capture_output=True)
        (folder / "secret").write_bytes(SECRET)
        (folder / "config.yaml").write_text(CONFIG % {"limits": limits, "inbox": inbox.server_port})
        command = [BINARY, "run", "--log-format", "json", "--log-level", "warn,suki_relay=info"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            lines = map(json.loads, process.stdout)
            relay = Relay(folder, next(line for line in lines if line["message"] == "listening"))
            # A pipe that nobody reads costs log lines.
            threading.Thread(target=lambda: list(process.stdout), daemon=True).start()
            yield relay
            assert process.poll() is None, "the relay ended"
            status, _ = relay.post(b'{"status":"success","session_id":"the last"}')
            assert status == 200, f"a good one was answered {status}"
        finally:
            process.kill()
            process.wait()
            inbox.shutdown()
