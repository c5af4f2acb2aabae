"""Tokens per second over gRPC on one card: a model of 7B's shape, drafted for by one of 68M's, against the same service without trees.

Models of random weights never agree, so acceptance is replayed from a trace (``benchmarks.gpu.replay``); drafting, verifying, routing and
gRPC are real. Services run as processes of their own. Both ways of decoding take turns, with the same prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.progress import track

from benchmarks.gpu.card import Card
from benchmarks.gpu.models import LLAMA_7B, LLAMA_68M, TINY_LLM, TINY_SSM, ModelShape, write_folder
from benchmarks.gpu.rows import Row, at_least, broken, first_line, skipped
from benchmarks.gpu.trace import TRACE, TREE, Trace
from specgrove.errors import SpecGroveError
from specgrove.loop.request import SpeculationOptions

PART = "end to end over gRPC"
TARGET = at_least(1.8)
_UNIT = "x incremental"
_PACKAGES = (
    "grpc_health",
    "grpc_reflection",
    "grpc_status.rpc_status",
    "google.rpc.error_details_pb2",  # of googleapis-common-protos
    "specgrove.v1.llm_pb2_grpc",  # made for a version of gRPC and of protobuf
)
_RUN_TIMEOUT_S = 120.0
_TRACE_TOLERANCE = 0.05
_START_TIMEOUT_S = 240.0
_SSM_NAME = "random"
# So narrow that all levels fit in: to an SSM of random weights all tokens are about as probable, and wider trees would be shallow.
_REPLAYED_TREE = replace(TREE, beam_width=2)


@dataclass(frozen=True, slots=True)
class Setup:
    """What runs."""

    device: str
    llm: ModelShape
    ssm: ModelShape
    prompt_len: int
    max_tokens: int
    num_rounds: int
    batches: tuple[int, ...]
    llm_arguments: tuple[str, ...]

    @classmethod
    def of(cls, card: Card) -> Setup:
        """7B and 68M on a GPU; next to nothing in the emulator, which takes the verifier's passes only."""
        device = card.device.type
        if card.is_full:
            return cls("cuda", LLAMA_7B, LLAMA_68M, 128, 128, 5, (1, 8), ("--kv-slots", "8192"))
        few = ("--kv-slots", "512", "--max-chunk-tokens", "16", "--max-model-len", "128", "--max-graph-rows", "24")
        return cls(device, TINY_LLM, TINY_SSM, 8, 8, 1, (1, 2), few)


def missing_packages() -> list[str]:
    """Of gRPC, those that the services need and that can't be imported here, with the reason."""
    found = []
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # other versions raise what they like
            found.append(f"{name} ({first_line(error)})")
    return found


@contextlib.contextmanager
def services(setup: Setup, trace: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """The three services: the router's address, and how often any was started again.

    Raises ``RuntimeError`` where they don't start: on a GPU also where its kernels don't run.
    """
    from specgrove.suite.readiness import is_serving
    from specgrove.suite.supervisor import ProcessFailedError, ProcessSpec, Supervisor

    with tempfile.TemporaryDirectory(prefix="specgrove-gpu-") as name:
        folder = Path(name)
        write_folder(setup.llm, folder / "llm", has_weights=False)
        write_folder(setup.ssm, folder / "ssm", has_weights=True)
        addresses = {part: f"unix:{folder}/{part}.sock" for part in ("llm", "ssm", "router")}
        kernels = "require" if setup.device == "cuda" else "auto"
        common = ("--dtype", "float16", "--device", setup.device, "--gpu-kernels", kernels)
        llm = ("--shape", setup.llm.name, "--trace", str(trace), "--model", str(folder / "llm"), *common)
        ssm = ("--ssm", f"{folder / 'ssm'},name={_SSM_NAME}", "--kv-slots", "8192", *common)
        router = ("--llm", addresses["llm"], "--ssm", addresses["ssm"])
        modules = {
            "llm": ("benchmarks.gpu.replayed_llm_service", (*llm, *setup.llm_arguments)),
            "ssm": ("ssm_service", ssm),
            "router": ("router", router),
        }
        specs = [
            ProcessSpec(part, module, ("--address", addresses[part], *arguments))
            for part, (module, arguments) in modules.items()
        ]
        lines: list[str] = []
        supervisor = Supervisor(specs, lambda part, line: lines.append(f"{part}: {line}"), 10.0)
        supervisor.start()
        try:
            until_s = time.monotonic() + _START_TIMEOUT_S
            while not all(is_serving(address) for address in addresses.values()):
                supervisor.check()
                if time.monotonic() > until_s:
                    raise RuntimeError(f"services not ready after {_START_TIMEOUT_S:.0f} s")
                time.sleep(0.2)
            supervisor.expect_up()
            yield addresses["router"], lambda: sum(map(supervisor.num_restarts, modules))
        except (ProcessFailedError, SpecGroveError, RuntimeError, TimeoutError) as error:
            print("\n".join(lines[-50:]), file=sys.stderr)
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        finally:
            supervisor.stop()


@dataclass(frozen=True, slots=True)
class Run:
    """All prompts of a batch at once."""

    tokens_per_s: float
    num_tokens: int
    num_steps: int
    step_ms: float
    """Wall time over the steps of one request."""
    draft_ms: float
    verify_ms: float


async def run(address: str, prompts: Sequence[Sequence[int]], max_tokens: int, speculation: SpeculationOptions) -> Run:
    """Greedy outputs of just ``max_tokens`` each."""
    from specgrove.client import AsyncClient

    async with AsyncClient(address) as client:
        started_s, salt = time.perf_counter(), uuid.uuid4().hex
        calls = [
            client.complete(
                list(prompt), max_tokens=max_tokens, ignore_eos=True, speculation=speculation, cache_salt=salt
            )
            for prompt in prompts
        ]
        usages = [completion.usage for completion in await asyncio.gather(*calls)]
        seconds = time.perf_counter() - started_s
    num_tokens, num_steps = (
        sum(getattr(usage, name) for usage in usages) for name in ("num_output_tokens", "num_verify_steps")
    )
    draft_ms, verify_ms = (sum(getattr(usage, name) for usage in usages) for name in ("draft_ms", "verify_ms"))
    return Run(
        tokens_per_s=num_tokens / seconds,
        num_tokens=num_tokens,
        num_steps=num_steps,
        step_ms=seconds * 1e3 / (num_steps / len(prompts)),
        draft_ms=draft_ms / num_steps,
        verify_ms=verify_ms / num_steps,
    )


def rows(card: Card) -> Iterator[Row]:
    """A row for every batch size; the target is of one request at a time."""
    setup = Setup.of(card)
    targets = {batch: TARGET if batch == 1 else None for batch in setup.batches}
    whats = {batch: f"{setup.llm.name} + {setup.ssm.name}, {batch} at once" for batch in setup.batches}
    if missing := missing_packages():
        reason = f"can't be imported here: {', '.join(missing)}"
        yield from (skipped(PART, whats[batch], _UNIT, targets[batch], reason) for batch in setup.batches)
        return
    left = list(setup.batches)
    try:
        with services(setup, TRACE) as (address, num_restarts):
            while left:
                yield _measured(left[0], whats[left[0]], address, setup, card_is_full=card.is_full)
                if num_restarts() > 0:
                    raise RuntimeError(
                        "a service has died and was started again: what was measured until now counts it"
                    )
                left.pop(0)
    except RuntimeError as error:
        yield from (broken(PART, whats[batch], _UNIT, targets[batch], error) for batch in left)


def _measured(batch: int, what: str, address: str, setup: Setup, *, card_is_full: bool) -> Row:
    rng = random.Random(batch)
    ways = {"incremental": SpeculationOptions(disabled=True), "speculative": _REPLAYED_TREE}
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for number in track(range(-1, setup.num_rounds), f"end to end, {batch} at once", transient=True):
        prompts = [[rng.randrange(setup.llm.vocab_size) for _ in range(setup.prompt_len)] for _ in range(batch)]
        for way, speculation in ways.items():
            found = asyncio.run(asyncio.wait_for(run(address, prompts, setup.max_tokens, speculation), _RUN_TIMEOUT_S))
            if number >= 0:  # the round before the first warms up
                runs[way].append(found)
    pairs = list(zip(runs["speculative"], runs["incremental"], strict=True))
    ratio = statistics.median(ours.tokens_per_s / theirs.tokens_per_s for ours, theirs in pairs)
    step_ms = [ours.step_ms for ours, _ in pairs]
    rates = [statistics.median(found.tokens_per_s for found in runs[way]) for way in ("speculative", "incremental")]
    tokens = sum(ours.num_tokens for ours, _ in pairs) / sum(ours.num_steps for ours, _ in pairs)
    draft_ms, verify_ms = (
        statistics.median(getattr(ours, name) for ours, _ in pairs) for name in ("draft_ms", "verify_ms")
    )
    trace = Trace.read(TRACE)
    is_as_recorded = abs(tokens / trace.tokens_per_step - 1) <= _TRACE_TOLERANCE
    own_ms = statistics.median(theirs.step_ms for _, theirs in pairs)
    note = (
        f"ACCEPTANCE REPLAYED FROM A TRACE ({trace.tokens_per_step:.2f} tokens a step; here {tokens:.2f}); "
        f"{rates[0]:.1f} against {rates[1]:.1f} tokens/s; a step: draft {draft_ms:.2f} ms, verify {verify_ms:.2f} ms; "
        f"incremental {own_ms:.2f} ms"
    )
    if card_is_full and not is_as_recorded:
        return skipped(PART, what, _UNIT, TARGET if batch == 1 else None, f"trees too shallow for the trace; {note}")
    target = TARGET if batch == 1 else None
    spread = (min(step_ms), max(step_ms))
    return Row(PART, what, ratio, _UNIT, target, statistics.median(step_ms), spread, None, note)
