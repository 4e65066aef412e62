"""What schemathesis does beside what its documents say.

At the sender's address it signs, unless the headers are what is wrong. At the operator's it posts anew what orders use up,
and gives as `count`, half of the time, what a dry run told. What was answered is counted for api.py.
"""
import atexit
import collections
import json
import os
import pathlib
import random

import requests
import schemathesis

from relay import Sender, signature

TOLD = json.loads(os.environ["CONFORMANCE"])
# One of each kind is posted before every so many requests.
POST_EVERY = 20
chance = random.Random(8)
answered = collections.Counter()
sender = Sender(TOLD["port"], TOLD["authority"])


def sign(request):
    body = request.body or b""
    request.headers.update(signature(body.encode() if isinstance(body, str) else body))
    return request


@schemathesis.hook
def before_call(context, case, kwargs):
    wanted = {part.value: it.mode.is_positive for part, it in case.meta.components.items()}
    if TOLD["document"] == "sender.yaml":
        if TOLD["signed"] and wanted.get("header", True):
            kwargs["auth"] = sign
        return
    answered["all"] += 1
    if answered["all"] % POST_EVERY == 0:
        sender.post_each_kind()
    if not all(wanted.values()):
        return
    if case.query and case.query.get("state") == "unverified":
        # Nothing else is known of such a request, so that no other filter goes with it.
        case.query = {key: value for key, value in case.query.items() if key in ("state", "limit", "cursor", "body")}
    if isinstance(case.body, dict) and "count" in case.body:
        # To JSON Schema 3.0 is an integer; nobody counts so.
        case.body["count"] = int(case.body["count"])
        if not case.body.get("dry_run") and chance.random() < 0.5:
            tried = {**case.body, "dry_run": True}
            tried = requests.post(TOLD["url"] + case.formatted_path, json=tried, timeout=30)
            case.body["count"] = tried.json()["matched"]


@schemathesis.hook
def after_call(context, case, response):
    operation = case.operation.definition.raw["operationId"]
    answered[f"{operation} {response.status_code}"] += 1
    dry = isinstance(case.body, dict) and case.body.get("dry_run")
    if TOLD["document"] == "operator.yaml" and response.status_code == 200 and not dry:
        answered[f"{operation} done"] += response.json().get("done", 0)


@schemathesis.check
def nothing_where_the_document_has_nothing(context, response, case):
    answer = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    if "content" not in answer and "$ref" not in answer:
        assert not response.content, f"{len(response.content)} bytes of content"


@schemathesis.check
def another_method_is_told_the_right_one(context, response, case):
    """Schemathesis does not look at an answer to a method that the document does not have."""
    if response.status_code == 405:
        case.operation.validate_response(response, case=case)
        assert response.headers["allow"] == [case.operation.method.upper()], response.headers["allow"]


atexit.register(lambda: pathlib.Path(TOLD["answered"]).write_text(json.dumps(answered)))
