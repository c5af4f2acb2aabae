"""A client on the generated stubs alone: a whole output, then one as it comes. Run: python client.py [HOST:PORT]

`specgrove.client.Client` does the same with plain values, and tries again what fails.
"""

import sys

import grpc

from specgrove.v1 import router_pb2, router_pb2_grpc, token_tree_pb2

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
try:
    with grpc.insecure_channel(address) as channel:
        router = router_pb2_grpc.RouterServiceStub(channel)

        # A text is continued. The answer comes in pieces, which are joined here.
        request = router_pb2.GenerateRequest(text="The capital of France is", max_tokens=16)
        print("".join(response.text for response in router.Generate(request)))

        # A conversation gets the model's chat template. With a seed the same answer comes each time.
        request = router_pb2.GenerateRequest(
            chat=router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="Name three primes.")]),
            sampling=token_tree_pb2.SamplingParams(temperature=0.7, seed=1),
            max_tokens=40,
        )
        for response in router.Generate(request):
            print(response.text, end="", flush=True)
        print()
except grpc.RpcError as error:
    sys.exit(f"{error.code().name}: {error.details()}")
