"""The sender's address, signed and unsigned, and the operator API, asked by schemathesis what their documents allow and
what they do not: no answer is a 5xx, and each has a status, a type and a shape that the document names.
"""
import os
import pathlib
import subprocess
import sys

from relay import running

HERE = pathlib.Path(__file__).parent
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES, SECONDS = ("2000", "600") if "--long" in sys.argv else ("20", "8")


def ask(document, url, *flags, signed=""):
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(HERE / document), "--url", url, "--checks", CHECKS]
    command += ["--phases", "coverage,fuzzing", "--max-examples", EXAMPLES, "--max-time", SECONDS]
    command += ["--seed", "8", "--no-color", *flags]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "SIGNED": signed, "PYTHONPATH": str(HERE)}
    said = subprocess.run(command, cwd=HERE, env=environment, text=True, capture_output=True, timeout=1800)
    assert said.returncode == 0, said.stdout + said.stderr
    tested = [line.strip() for line in said.stdout.splitlines() if "generated, " in line]
    print(f"schemathesis, {document}{', signed' if signed else ''}: {'; '.join(tested)}")


with running() as relay:
    sender = f"https://localhost:{relay.port}"
    for signed in ["yes", ""]:
        ask("sender.yaml", sender, "--tls-verify", relay.authority, signed=signed)
    ask("operator.yaml", f"http://{relay.operator}")
