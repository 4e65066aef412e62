"""A running relay with a certificate by an authority of its own, a target, and a sender that is not ours."""
import contextlib
import hashlib
import hmac
import http.client
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

CONFIG = """
listen:
  address: 127.0.0.1:0
  tls: { certificate: tls.crt, private_key: tls.key }
admin: { address: 127.0.0.1:0, operator: { address: 127.0.0.1:0 } }
spool: { disk: { path: spool } }
drain: { delay: 0s, deadline: 5s }
sources:
  - { name: suki, path: /webhooks/notification, secrets: [{ name: current, file: secret }] }
targets:
  - { name: ehr, http: { url: "http://127.0.0.1:9/" } }
routes:
  - { name: all, to: [ehr] }
"""

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


class Relay:
    def __init__(self, folder, listening):
        self.authority = str(folder / "ca.crt")
        self.port = int(listening["sender"].rsplit(":", 1)[1])
        self.admin = listening["admin"]
        self.operator = listening["operator"]
        self.tls = ssl.create_default_context(cafile=self.authority)

    def metric(self, series):
        page = urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=30).read().decode()
        values = [line.split()[1] for line in page.splitlines() if line.startswith(series + " ")]
        return float(values[0]) if values else 0.0

    def post(self, body):
        """On a connection of its own: the status, and how long it took, in seconds."""
        begun = time.monotonic()
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.tls, timeout=30)
        try:
            connection.request("POST", PATH, body, {"content-type": "application/json", **signature(body)})
            answer = connection.getresponse()
            answer.read()
            return answer.status, time.monotonic() - begun
        finally:
            connection.close()


def signature(body):
    at = str(time.time_ns() // 1_000_000)
    signed = hmac.new(SECRET, at.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {"x-api-key": signed, "generated-at": at}


@contextlib.contextmanager
def running():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run(["sh", "-euc", CERTIFICATES], cwd=folder, check=True, capture_output=True)
        (folder / "secret").write_bytes(SECRET)
        (folder / "config.yaml").write_text(CONFIG)
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
