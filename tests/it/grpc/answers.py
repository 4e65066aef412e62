"""A gRPC target that answers a notification's first attempt as its body asks, and takes any further one.

    answers.py ADDRESS [CERTIFICATE KEY [CLIENT_CA]]

The body's `answer` may have `code`, a status; `bytes`, how long a message comes before it (without: none, the status
comes with the head); and `late`: no answer until the caller has gone. Each call is told by a line.
"""

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc

sys.path.insert(0, str(Path(__file__).parents[3] / "proto"))
messages = grpc.protos("suki/relay/v1/notification_sink.proto")
CODES = {code.value[0]: code for code in grpc.StatusCode}


def deliver(request, context):
    body = json.loads(request.body)
    # In one piece: others write at the same time.
    os.write(1, f"{body['session_id']} attempt={request.attempt}\n".encode())
    answer = body.get("answer", {}) if request.attempt == 1 else {}
    if answer.get("late"):
        gone = Event()
        if context.add_callback(gone.set):
            gone.wait()
    code = CODES[answer.get("code", 0)]
    # Nobody's business: no output of the relay may have it.
    context.set_trailing_metadata([("x-canary-name", "canary-value")])
    if code is not grpc.StatusCode.OK and "bytes" not in answer:
        context.abort(code, "canary-details")
    context.set_code(code)
    context.set_details("canary-details")
    return bytes(answer.get("bytes", 0))


def listen(address, certificate=None, key=None, client_ca=None):
    if certificate is None:
        return server.add_insecure_port(address)
    pair = Path(key).read_bytes(), Path(certificate).read_bytes()
    ca = client_ca and Path(client_ca).read_bytes()
    return server.add_secure_port(address, grpc.ssl_server_credentials([pair], ca, require_client_auth=bool(ca)))


server = grpc.server(ThreadPoolExecutor())
handler = grpc.unary_unary_rpc_method_handler(deliver, messages.DeliverRequest.FromString)
server.add_generic_rpc_handlers(
    [grpc.method_handlers_generic_handler("suki.relay.v1.NotificationSink", {"Deliver": handler})]
)
port = listen(*sys.argv[1:])
server.start()
signal.signal(signal.SIGTERM, lambda *_: server.stop(None))
print(f"listening on port {port}", flush=True)
server.wait_for_termination()
