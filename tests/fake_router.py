"""A router that is made up: it streams ``PIECES``, and the prompt's text chooses what goes wrong.

In-process (``running_router``) for tests of clients, or as a process (``python -m tests.fake_router --address ADDRESS``) for
tests of the suite, where it stands for any of the three services.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc

from specgrove.errors import InvalidRequestError, ResourceExhaustedError, SpecGroveError
from specgrove.serving.health import Health
from specgrove.serving.server import run_server
from specgrove.serving.status import abort
from specgrove.v1 import router_pb2, router_pb2_grpc, token_tree_pb2
from tests.waiting import LIMIT_S

PIECES = [["The"], [" quick", " brown"], [" fox"]]


# " quick" was drafted and accepted, the first half of an accent was not.
_STEP_DETAILS = router_pb2.StepDetails(
    num_verify_steps=1,
    draft_ms=2,
    verify_ms=3,
    nodes=[
        router_pb2.VerifiedNode(token_id=7, token_bytes=b"The"),
        router_pb2.VerifiedNode(
            token_id=8, token_bytes=b" quick", parent=0, log_prob=-0.5, drafted_by=["lookup"], is_accepted=True
        ),
        router_pb2.VerifiedNode(token_id=9, token_bytes=b"\xc3", parent=0, log_prob=-1, drafted_by=["demo", "lookup"]),
    ],
)


class FakeRouter(router_pb2_grpc.RouterServiceServicer):
    """Remembers the requests it got, and whether one ended early.

    ``failures`` are of the next calls of ``Generate``, one each: after how many pieces, and with what. ``control_failures`` are of
    the next other calls. ``numerics`` stands for its model; an ``is_old`` one knows nothing of outputs that go on.
    """

    def __init__(self) -> None:
        self.requests: list[router_pb2.GenerateRequest] = []
        self.failures: list[tuple[int, SpecGroveError]] = []
        self.control_failures: list[SpecGroveError] = []
        self.pieces = PIECES
        self.is_endless = False
        self.numerics = "fake"
        self.is_old = False
        self.num_running = 0
        self.max_num_running = 0
        self.was_cancelled = threading.Event()

    async def Generate(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        self.requests.append(request)
        if request.text == "invalid":
            await abort(context, InvalidRequestError.of("sampling.top_p", "must be in (0, 1]"))
        if request.text == "full":
            await abort(context, ResourceExhaustedError("the queue is full", retry_delay_ms=250))
        if request.resume.numerics not in ("", self.numerics):
            await abort(context, InvalidRequestError.of("resume.numerics", "gives other outputs"))
        fails_at, failure = self.failures.pop(0) if self.failures else (-1, None)
        is_complete = False

        def on_done(context: object) -> None:
            self.num_running -= 1
            if not is_complete:
                self.was_cancelled.set()

        self.num_running += 1
        self.max_num_running = max(self.max_num_running, self.num_running)
        context.add_done_callback(on_done)
        while request.text == "one of four at once" and self.max_num_running < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if request.prompt_progress:
            yield router_pb2.GenerateResponse(num_prompt_tokens_read=3)
        if request.HasField("num_prompt_log_probs"):
            for text in ("h", "i"):
                token = router_pb2.PromptToken(token_id=ord(text), text=text)
                if text != "h":
                    token.log_probs.CopyFrom(token_tree_pb2.LogProbs(log_prob=-2.0, rank=7))
                yield router_pb2.GenerateResponse(prompt_tokens=[token])
        pieces = [["人工"]] if request.text == "chinese" else self.pieces
        num_resumed = 0 if self.is_old else len(request.resume.token_ids)
        num_left_out, is_first = num_resumed, True
        for index, all_words in enumerate([*pieces, []]):
            words = all_words[num_left_out:]
            num_left_out = max(num_left_out - len(all_words), 0)
            if all_words and not words:
                continue
            if failure is not None and index == fails_at:
                await abort(context, failure)
            if not words:
                break
            tokens = [
                router_pb2.GeneratedToken(
                    token_id=index,
                    text=word,
                    drafted_by=["lookup"] if index else [],
                    log_probs=token_tree_pb2.LogProbs(log_prob=-0.5, rank=1),
                )
                for word in words
            ]
            response = router_pb2.GenerateResponse(tokens=tokens, text="".join(words))
            if is_first and not self.is_old:
                response.numerics, response.num_resumed_tokens, is_first = self.numerics, num_resumed, False
            if request.step_details:
                response.step_details.CopyFrom(_STEP_DETAILS)
            yield response
        if request.text == "endless" or self.is_endless:
            await asyncio.Event().wait()
        if request.text != "truncated":
            usage = router_pb2.Usage(num_output_tokens=4, num_verify_steps=3, decode_ms=30, acceptance_histogram=[2, 1])
            stop = {"stop text": {"text": "fox"}, "stop token": {"token_id": 0}}.get(request.text)
            reason = router_pb2.FINISH_REASON_LENGTH if stop is None else router_pb2.FINISH_REASON_STOP
            last = router_pb2.GenerateResponse(finish_reason=reason, usage=usage, stop_reason=stop)
            last.num_resumed_tokens = num_resumed if is_first else 0
            yield last
        is_complete = True

    async def GetModelInfo(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        if self.control_failures:
            await abort(context, self.control_failures.pop(0))
        return router_pb2.GetModelInfoResponse(model="fake", vocab_size=100, max_model_len=200, ssms=["lookup", "demo"])

    async def Tokenize(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        length = len(request.text) if request.WhichOneof("input") == "text" else len(request.chat.messages)
        return router_pb2.TokenizeResponse(token_ids=range(length))

    async def Detokenize(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        return router_pb2.DetokenizeResponse(text=" ".join(map(str, request.token_ids)))


@contextlib.contextmanager
def running_router(folder: Path) -> Iterator[tuple[FakeRouter, str]]:
    """The fake and its address. It has a thread and an event loop of its own, as a router in another process would."""
    fake = FakeRouter()
    address = f"unix:{folder}/router.sock"
    is_up = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = grpc.aio.server()
        router_pb2_grpc.add_RouterServiceServicer_to_server(fake, server)
        server.add_insecure_port(address)
        await server.start()
        is_up.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert is_up.wait(LIMIT_S)
        yield fake, address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--fail", action="store_true", help="end at once, with an error")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    arguments = parser.parse_args()
    print(f"hello from {arguments.address}", flush=True)
    if arguments.fail:
        print("error: the model folder is empty", file=sys.stderr)
        return 3
    if arguments.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    fake = FakeRouter()
    asyncio.run(
        run_server(
            arguments.address,
            lambda server: router_pb2_grpc.add_RouterServiceServicer_to_server(fake, server),
            health=Health((router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name,)),
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
