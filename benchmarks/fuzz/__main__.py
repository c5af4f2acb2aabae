"""Throws malformed requests of every kind at the three services, as hypothesis makes them up.

    python -m benchmarks.fuzz --examples 10000

At each service: any protobuf of each of its calls, good ones with damaged fields, bytes that are no message, HTTP/2 frames; at the router
also bodies at the HTTP API. No service may end, and none may answer INTERNAL, UNKNOWN or 500. In the end a good request has the
output that it had in the beginning. What fails is shrunk by hypothesis and told.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure

from benchmarks.fuzz import connections
from benchmarks.fuzz.messages import any_message, damaged, no_message
from specgrove.addresses import grpc_target
from specgrove.client import Client
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.v1 import llm_pb2, router_pb2, ssm_pb2, token_tree_pb2
from tests.addresses import free_address

SERVICES: dict[str, ServiceDescriptor] = {
    "router": router_pb2.DESCRIPTOR.services_by_name["RouterService"],
    "llm_service": llm_pb2.DESCRIPTOR.services_by_name["LlmService"],
    "ssm_service": ssm_pb2.DESCRIPTOR.services_by_name["SsmService"],
}
_WRONG_CODES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
_TIMEOUT_S = 0.5
_PROMPT = list(range(40, 60))
# Measuring takes two seconds each time, and is no matter of what was sent.
_LEFT_OUT = {"Warmup"}
_LARGE = {"Generate", "Tokenize", "Verify", "Draft"}


def good_request(method: MethodDescriptor) -> Callable[[], Message]:
    """One that is served, of some calls; of the others an empty one."""
    root = token_tree_pb2.TokenTree(token_ids=[59], parents=[-1], log_probs=[0.0], sources=[0])
    match method.name:
        case "Generate":
            return lambda: router_pb2.GenerateRequest(
                token_ids=router_pb2.TokenIds(token_ids=_PROMPT), max_tokens=4, resume=router_pb2.Resume(token_ids=[65]),
                sampling=token_tree_pb2.SamplingParams(temperature=1.0, seed=1, num_log_probs=1),
            )  # fmt: skip
        case "Tokenize":
            return lambda: router_pb2.TokenizeRequest(text="hello")
        case "Detokenize":
            return lambda: router_pb2.DetokenizeRequest(token_ids=[65, 66])
        case "Verify":
            session = llm_pb2.SessionParams(sampling=token_tree_pb2.SamplingParams(seed=1), prompt_len=len(_PROMPT))
            item = llm_pb2.VerifyItem(
                session_id="fuzz", item_id=1, new_token_ids=_PROMPT, tree=root, session=session, num_steps=2
            )
            return lambda: llm_pb2.VerifyRequest(items=[item])
        case "Draft":
            item_of_ssm = ssm_pb2.DraftItem(
                session_id="fuzz", item_id=1, new_token_ids=_PROMPT, max_num_nodes=4, max_depth=2
            )
            return lambda: ssm_pb2.DraftRequest(items=[item_of_ssm])
        case _:
            return message_factory.GetMessageClass(method.input_type)


@dataclass
class Found:
    """``problems`` in words, ``counts`` of outcomes by service and call."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Fuzz:
    """Over a suite that runs."""

    def __init__(self, suite: Suite, http_address: str, num_examples: int, seed: int) -> None:
        self._suite = suite
        self._http = http_address
        self._num_examples = num_examples
        self._seed = seed
        self.found = Found()

    def run(self) -> Found:
        """All kinds at all services."""
        expected = self._output()
        pids = {name: self._suite.pid(name) for name in SERVICES}
        for name, service in SERVICES.items():
            methods = [method for method in service.methods if method.name not in _LEFT_OUT]
            num_small = sum(method.name not in _LARGE for method in methods)
            with grpc.insecure_channel(grpc_target(self._suite.address_of(name))) as channel:
                for method in methods:
                    # Most to those that take most.
                    is_large = method.name in _LARGE
                    num = (
                        self._num_examples
                        * (6 if is_large else 2)
                        // (10 * (len(methods) - num_small if is_large else num_small))
                    )
                    self._calls(name, channel, service, method, max(num, 1))
            self._connections(name, max(self._num_examples // 5, 1))
        self._bodies(max(self._num_examples // 5, 1))
        for name, pid in pids.items():
            if self._suite.pid(name) != pid or self._suite.num_restarts(name):
                self.found.problems.append(f"{name} ended {self._suite.num_restarts(name)} times")
        if self._output() != expected:
            self.found.problems.append("the output is another one now")
        return self.found

    def _output(self) -> tuple[int, ...]:
        with Client(self._suite.address) as client:
            return client.complete(_PROMPT, max_tokens=40, temperature=1.0, seed=3, ignore_eos=True).token_ids

    def _try(self, what: str, strategy: st.SearchStrategy[Any], num: int, check: Callable[[Any], None]) -> None:
        @settings(
            max_examples=num, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
        )  # fmt: skip
        @given(strategy)
        def every(example: Any) -> None:
            check(example)

        every._hypothesis_internal_use_seed = self._seed  # type: ignore[attr-defined]
        try:
            every()
        except (AssertionError, FlakyFailure) as error:
            # What does not happen again with the same request is told as it is: what it was depends on the moment.
            self.found.problems.append(f"{what}: {_first_of(error)}")

    def _calls(
        self, name: str, channel: grpc.Channel, service: ServiceDescriptor, method: MethodDescriptor, num: int
    ) -> None:
        path, good = f"/{service.full_name}/{method.name}", good_request(method)
        make = {
            (False, False): channel.unary_unary, (False, True): channel.unary_stream, (True, True): channel.stream_stream,
        }[method.client_streaming, method.server_streaming]  # fmt: skip
        call = make(path, request_serializer=None, response_deserializer=None)
        contents = st.one_of(
            damaged(good).map(lambda message: message.SerializeToString()),
            any_message(method.input_type).map(lambda message: message.SerializeToString()),
            no_message(good),
        )

        def check(sent: list[bytes]) -> None:
            code = self._code_of(call, method, sent)
            self.found.counts[f"{name} {method.name} {code.name}"] += 1
            assert code not in _WRONG_CODES, f"{code.name} for {[content.hex() for content in sent]}"
            assert self._suite.pid(name) is not None, f"ended by {[content.hex() for content in sent]}"

        self._try(f"{name} {method.name}", st.lists(contents, min_size=1, max_size=3), num, check)

    def _code_of(self, call: Any, method: MethodDescriptor, sent: list[bytes]) -> grpc.StatusCode:
        try:
            answers = call(iter(sent) if method.client_streaming else sent[0], timeout=_TIMEOUT_S)
            if method.server_streaming:
                for answer in answers:
                    if method.name == "Verify":
                        _check_results(llm_pb2.VerifyResponse.FromString(answer))
                    elif method.name == "Draft":
                        _check_results(ssm_pb2.DraftResponse.FromString(answer))
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def _connections(self, name: str, num: int) -> None:
        address = self._suite.address_of(name)

        def check(content: bytes) -> None:
            connections.throw(address, content)
            self.found.counts[f"{name} bytes"] += 1
            assert self._suite.pid(name) is not None, f"ended by {content.hex()}"

        self._try(f"{name} bytes", connections.byte_streams, num, check)

    def _bodies(self, num: int) -> None:
        def check(asked: tuple[str, str, bytes]) -> None:
            status = connections.http_status(self._http, *asked)
            self.found.counts[f"http {status}"] += 1
            assert status != 500, f"500 for {asked}"

        asked = st.tuples(
            st.sampled_from(["POST", "POST", "GET", "PUT"]), st.sampled_from(connections.PATHS), connections.bodies
        )
        self._try("http", asked, num, check)


def _first_of(error: BaseException) -> BaseException:
    return _first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _check_results(response: llm_pb2.VerifyResponse | ssm_pb2.DraftResponse) -> None:
    for result in response.results:
        if result.WhichOneof("outcome") == "error":
            code = token_tree_pb2.WorkErrorCode.Name(result.error.code)
            assert not code.endswith(("INTERNAL", "LOST", "UNSPECIFIED")), f"{code}: {result.error.message}"


def fuzz(model: Path, num_examples: int, seed: int, log: Callable[[str, str], None] = lambda name, line: None) -> Found:
    """One run over the byte model in a folder."""
    http_address = free_address()
    config = SuiteConfig(
        llm_folder=model,
        ssms=("lookup", f"{model},name=itself,mode=beam,width=2"),
        dtype="float32",
        address=free_address(),
        router_arguments=("--http-address", http_address, "--max-request-s", "5"),
    )
    with Suite(config, log) as suite:
        return Fuzz(suite, http_address, num_examples, seed).run()


def main() -> int:
    """The exit code."""
    from tests.conftest import save_byte_llama

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz", description="Malformed requests at all services."
    )
    parser.add_argument("--examples", type=int, default=10_000, help="at each service (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="file for the services' lines")
    given_arguments = parser.parse_args()
    file = None if given_arguments.log is None else given_arguments.log.open("a", buffering=1)
    with tempfile.TemporaryDirectory(prefix="specgrove-fuzz-") as folder:
        model = save_byte_llama(Path(folder))
        found = fuzz(
            model,
            given_arguments.examples,
            given_arguments.seed,
            lambda name, line: print(name, line, file=file) if file else None,
        )
    for name, count in sorted(found.counts.items()):
        print(f"{name}: {count}")
    for problem in found.problems:
        print(f"WRONG: {problem}")
    print(f"{sum(found.counts.values())} requests, {len(found.problems)} problems")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
