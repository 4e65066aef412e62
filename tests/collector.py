"""A collector of traces: grpcio's server and OpenTelemetry's own messages. Prints a line for each span it takes.

collector.py ADDRESS [CERTIFICATE KEY]: listens there, says `{"port": PORT}`, then a JSON line a span.
"""

import json
import sys
from concurrent import futures
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as calls


def values(attributes):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


class Collector(calls.TraceServiceServicer):
    def Export(self, request, context):
        metadata = dict(context.invocation_metadata())
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    print(json.dumps(shown(resource, scope, span, metadata)), flush=True)
        return service.ExportTraceServiceResponse()


def shown(resource, scope, span, metadata):
    return {
        "resource": values(resource.resource.attributes),
        "scope": scope.scope.name,
        "authorization": metadata.get("authorization"),
        "name": span.name,
        "kind": span.kind,
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "began": span.start_time_unix_nano,
        "ended": span.end_time_unix_nano,
        "attributes": values(span.attributes),
        "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
        "status": span.status.code,
        "message": span.status.message,
        # All there is in it, for those who look for what should not be.
        "text": str(span),
    }


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
calls.add_TraceServiceServicer_to_server(Collector(), server)
if sys.argv[2:]:
    certificate, key = (Path(file).read_bytes() for file in sys.argv[2:])
    port = server.add_secure_port(sys.argv[1], grpc.ssl_server_credentials([(key, certificate)]))
else:
    port = server.add_insecure_port(sys.argv[1])
server.start()
print(json.dumps({"port": port}), flush=True)
server.wait_for_termination()
