"""A gRPC server that knows nothing of the relay: its clinic's own method, of `inbox.proto`.

    inbox.py ADDRESS DESCRIPTOR_SET

Writes the descriptor set by protoc, listens, and tells each message as a line of JSON.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc

address, descriptor_set = sys.argv[1:]
here = Path(__file__).parent
folders = f"-I{here}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"
options = f"--descriptor_set_out={descriptor_set}", "--include_imports"
if protoc.main(["protoc", *folders, *options, "inbox.proto"]) != 0:
    sys.exit("protoc failed")

pool = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(Path(descriptor_set).read_bytes()).file:
    pool.Add(file)
Entry, Receipt = (
    message_factory.GetMessageClass(pool.FindMessageTypeByName(f"clinic.inbox.v1.{name}")) for name in ("Entry", "Receipt")
)


def put(entry, context):
    print(json.dumps(MessageToDict(entry, preserving_proto_field_name=True)), flush=True)
    return Receipt()


server = grpc.server(ThreadPoolExecutor())
handler = grpc.unary_unary_rpc_method_handler(put, Entry.FromString, Receipt.SerializeToString)
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("clinic.inbox.v1.Inbox", {"Put": handler})])
port = server.add_insecure_port(address)
server.start()
print(f"listening on port {port}", flush=True)
server.wait_for_termination()
