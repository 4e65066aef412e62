"""TLS, judged by sslyze: Mozilla's intermediate profile, and nothing old is spoken."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from relay import running

CHECKS = ["--certinfo", "--compression", "--early_data", "--fallback", "--heartbleed", "--openssl_ccs", "--reneg", "--robot"]

with running() as relay, tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "scan.json"
    command = [sys.executable, "-W", "ignore", "-m", "sslyze", "--mozilla_config=intermediate", "--json_out", str(out)]
    command += [f"--certinfo_ca_file={relay.authority}", *CHECKS, f"localhost:{relay.port}"]
    said = subprocess.run(command, text=True, capture_output=True, timeout=300)
    assert said.returncode == 0, said.stdout + said.stderr
    [scan] = json.loads(out.read_text())["server_scan_results"]
results = {name: part["result"] for name, part in scan["scan_result"].items()}
for check, key in [
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"),
    ("tls_compression", "supports_compression"),
    ("tls_1_3_early_data", "supports_early_data"),
    ("heartbleed", "is_vulnerable_to_heartbleed"),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"),
]:
    assert results[check][key] is False, f"{check}: {results[check]}"
spoken = {name for name in results if name.endswith("_cipher_suites") and results[name]["accepted_cipher_suites"]}
assert spoken == {"tls_1_2_cipher_suites", "tls_1_3_cipher_suites"}, spoken
print("sslyze: compliant with Mozilla's intermediate profile; no renegotiation, compression or early data")
