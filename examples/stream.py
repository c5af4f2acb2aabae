"""Streams an answer from a running suite with the plain generated gRPC stubs. First: specgrove serve"""

import sys

import grpc

from specgrove.v1 import router_pb2, router_pb2_grpc, token_tree_pb2

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
question = router_pb2.ChatMessage(role="user", content="Why is the sky blue?")
request = router_pb2.GenerateRequest(
    chat=router_pb2.Chat(messages=[question]),
    sampling=token_tree_pb2.SamplingParams(temperature=0.7, seed=1),
    max_tokens=100,
)
with grpc.insecure_channel(address) as channel:
    for response in router_pb2_grpc.RouterServiceStub(channel).Generate(request):
        print(response.text, end="", flush=True)
print()
