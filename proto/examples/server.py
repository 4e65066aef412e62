"""A gRPC target of suki-relay in Python.

    pip install grpcio grpcio-tools
    python server.py 127.0.0.1:50051
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder that holds suki/relay/v1
messages, services = grpc.protos_and_services("suki/relay/v1/notification_sink.proto")


class NotificationSink(services.NotificationSinkServicer):
    def __init__(self):
        self.kept = {}

    def Deliver(self, request, context):
        # The same notification may come again, with the same id.
        if request.id in self.kept:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "kept before")
        # A real service writes it to its database here, and returns only then.
        self.kept[request.id] = request.body
        print(f"kept {request.id} from {request.source}: {len(request.body)} bytes", flush=True)
        return messages.DeliverResponse()


# By default no message above 4 MiB is taken; the relay's limits.body is 8 MiB.
server = grpc.server(ThreadPoolExecutor(), options=[("grpc.max_receive_message_length", 9 << 20)])
services.add_NotificationSinkServicer_to_server(NotificationSink(), server)
port = server.add_insecure_port(sys.argv[1])
server.start()
print(f"listening on port {port}", flush=True)
server.wait_for_termination()
