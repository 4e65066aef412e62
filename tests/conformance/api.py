"""The sender's address, signed and unsigned, and the operator API, asked by schemathesis what their documents allow and
what they do not: what a document allows is done, what it does not allow is refused, no answer is a 5xx, and each has a
status, a type, headers and a shape that the document names. Each operation is done at least once, each order to something.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from relay import KINDS, TARGETS, running

HERE = pathlib.Path(__file__).parent
CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "positive_data_acceptance", "negative_data_rejection", "unsupported_method",
    "nothing_where_the_document_has_nothing", "another_method_is_told_the_right_one",
]
EXAMPLES = "1000" if "--long" in sys.argv else "60"
POSTED = 3
ORDERS = ["replay", "replayDead", "discardDead", "discardQuarantined", "release"]
ASKED = ["status", "config", "reload", "setLogLevel", "list", "show", *ORDERS]


def ask(relay, document, url, accepts, refuses, *flags, signed=False, **filled):
    """What was answered, and how often. `accepts`: all that what the document allows may be answered; `refuses`: what it
    does not allow."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text = (HERE / document).read_text()
        for word, values in filled.items():
            text = text.replace(f"${word}", ", ".join(f'"{value}"' for value in values))
        (folder / document).write_text(text)
        (folder / "schemathesis.toml").write_text(
            f"[checks]\npositive_data_acceptance.expected-statuses = {accepts}\n"
            f"negative_data_rejection.expected-statuses = {refuses}\n"
        )
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(folder / document), "--url", url]
        command += ["--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES]
        command += ["--seed", "8", "--no-color", *flags]
        told = {"document": document, "url": url, "signed": signed, "port": relay.port, "authority": relay.authority}
        told = json.dumps({**told, "answered": str(folder / "answered")})
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "CONFORMANCE": told, "PYTHONPATH": str(HERE)}
        said = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=1800)
        assert said.returncode == 0, said.stdout + said.stderr
        answered = json.loads((folder / "answered").read_text())
    tested = [line.strip() for line in said.stdout.splitlines() if "generated, " in line]
    print(f"schemathesis, {document}{', signed' if signed else ''}: {'; '.join(tested)}")
    return answered


def all_of(answered, *wanted):
    missing = [word for word in wanted if not answered.get(word)]
    assert not missing, f"never: {missing}; there were {answered}"


def ids_of_each_kind(relay):
    for _ in range(POSTED):
        relay.post_each_kind()
    deadline = time.monotonic() + 30
    while relay.metric('suki_relay_dead_letters{target="ehr"}') < POSTED:
        assert time.monotonic() < deadline, "there are no dead letters"
        time.sleep(0.05)
    ids = [entry["id"] for entry in relay.ask("/v1/notifications?limit=1000")["notifications"]]
    assert len(ids) == POSTED * (len(KINDS) - 1), ids
    return [*ids, "0123456789abcdef0123456789abcdef"]


with running() as relay:
    sender = f"https://localhost:{relay.port}"
    trust = ["--tls-verify", relay.authority]
    answered = ask(relay, "sender.yaml", sender, [200], [400, 401], *trust, signed=True)
    all_of(answered, "notify 200", "notify 400", "notify 401", "notify 405")
    all_of(ask(relay, "sender.yaml", sender, [401], [401], *trust), "notify 401")
with running() as relay:
    filled = {"TARGETS": TARGETS, "IDS": ids_of_each_kind(relay)}
    # 404: the id that is not there; 409: a count that is not so.
    answered = ask(relay, "operator.yaml", f"http://{relay.operator}", [200, 404, 409], [400, 404], **filled)
    all_of(answered, *(f"{operation} 200" for operation in ASKED), *(f"{order} done" for order in ORDERS))
