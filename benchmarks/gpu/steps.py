"""Whole passes by a ``GraphRunner``: the verify step of a model of 7B's shape, what it costs outside of kernels, and levels of small SSMs.

Models of random weights, trees after a context whose keys and values are in place. Precisions and numbers of tree tokens take turns. Times
are the wall's, from ``start`` until the answers are on the host; ``TimedGraphs`` tells how long the device was at it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from rich.progress import Progress, track

from benchmarks.gpu.attention import tree_parents
from benchmarks.gpu.card import Card
from benchmarks.gpu.models import (
    LLAMA_7B,
    LLAMA_68M,
    LLAMA_160M,
    PRECISIONS,
    TINY_LLM,
    TINY_SSM,
    ModelShape,
    decoder_of,
    weight_bytes,
)
from benchmarks.gpu.rows import Row, Target, at_most, broken
from benchmarks.gpu.timed_graphs import TimedGraphs
from specgrove.kernels.device_memory import PassLimits
from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

VERIFY_PART, OVERHEAD_PART, SSM_PART = "verify step", "step overhead", "SSM level"
NUM_NODES, TINY_NUM_NODES = (1, 2, 4, 8, 16, 32, 64), (1, 4)
OVERHEAD_NODES = (1, 4, 16, 64)
VERIFY_TARGETS = {16: at_most(1.2), 8: at_most(1.3), 4: at_most(1.5)}
OVERHEAD_TARGET = at_most(150)
SSM_TARGETS = {LLAMA_68M: at_most(0.25), LLAMA_160M: at_most(0.5), TINY_SSM: at_most(0.25)}
SSM_ROWS, SSM_K = 8, 8
_GREEDY = RowChoice(ChoiceParams(), 0)
_BY_WEIGHTS = "x reading weights"


@dataclass(slots=True)
class PassTimes:
    """Of one pass, turn by turn."""

    wall_ms: list[float] = field(default_factory=list)
    device_ms: list[float] = field(default_factory=list)
    back_to_back_ms: list[float] = field(default_factory=list)
    """Of the replays alone."""

    @property
    def outside_us(self) -> float:
        """Wall less the replays' time where the device never waits for the host."""
        return 1e3 * statistics.median(w - d for w, d in zip(self.wall_ms, self.back_to_back_ms, strict=True))


class TimedModel:
    """A model with its runner, and a context in its caches."""

    def __init__(
        self, shape: ModelShape, bits: int, max_num_nodes: int, context_len: int, device: torch.device
    ) -> None:
        with Progress(transient=True) as progress:
            task = progress.add_task(f"{shape.name} {PRECISIONS[bits]}", total=None)

            def advance(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            decoder = decoder_of(shape, device, bits, advance)
            self.weight_bytes = weight_bytes(decoder)
            self.num_parameters = decoder.spec.num_parameters - shape.vocab_size * shape.hidden  # those multiplied with
            self._context_len = context_len
            self._graphs = TimedGraphs(device)
            num_slots = context_len + max_num_nodes
            limits = PassLimits(max_num_nodes, max_num_nodes, num_slots, num_slots)
            self._runner = GraphRunner(decoder, limits, self._graphs, advance)
        for start in range(0, context_len, max_num_nodes):
            end = min(start + max_num_nodes, context_len)
            builder = PassBuilder()
            builder.add(range(end), [token % shape.vocab_size for token in range(start, end)])
            self._runner.start(builder.build())
            self._runner.finish()

    def tree(self, num_nodes: int) -> PassRows:
        """Of a tree after the context: what a verifier asks for."""
        builder = PassBuilder()
        slots = range(self._context_len, self._context_len + num_nodes)
        tree = TreeRows(range(num_nodes), tree_parents(num_nodes), slots)
        builder.add(range(self._context_len), tree=tree, choices=[_GREEDY] * num_nodes)
        return builder.build()

    def verify(self, batch: PassRows, times: PassTimes) -> None:
        """From ``start`` to the verdict."""
        self._graphs.forget()
        started_s = time.perf_counter()
        self._runner.start(batch)
        self._runner.finish()
        self._add(times, started_s)

    def level(self, batch: PassRows, times: PassTimes) -> None:
        """From ``start_top_k`` to ``finish_top_k``."""
        self._graphs.forget()
        started_s = time.perf_counter()
        self._runner.start_top_k(batch, SSM_K)
        self._runner.finish_top_k(SSM_K)
        self._add(times, started_s)

    def _add(self, times: PassTimes, started_s: float) -> None:
        times.wall_ms.append((time.perf_counter() - started_s) * 1e3)
        times.device_ms.append(self._graphs.device_ms())
        times.back_to_back_ms.append(self._graphs.back_to_back_ms())


def verify_rows(card: Card) -> Iterator[Row]:
    """The verify step in every precision, then its overhead."""
    shape, context_len, nums_nodes = (LLAMA_7B, 512, NUM_NODES) if card.is_full else (TINY_LLM, 20, TINY_NUM_NODES)
    models: dict[int, TimedModel] = {}
    for bits, target in VERIFY_TARGETS.items():
        try:
            models[bits] = TimedModel(shape, bits, max(nums_nodes), context_len, card.device)
        except RuntimeError as error:  # a card with less memory
            yield broken(VERIFY_PART, PRECISIONS[bits], _BY_WEIGHTS, target, error)
    batches = {num_nodes: models[bits].tree(num_nodes) for bits in models for num_nodes in nums_nodes}
    times = {(bits, num_nodes): PassTimes() for bits in models for num_nodes in nums_nodes}
    for turn in track(range(-1, card.num_turns), "verify steps", transient=True):
        for (bits, num_nodes), own in tuple(times.items()):
            try:
                models[bits].verify(batches[num_nodes], own if turn >= 0 else PassTimes())
            except RuntimeError as error:
                del times[bits, num_nodes]
                what = f"{PRECISIONS[bits]}, {num_nodes} tree tokens"
                yield broken(VERIFY_PART, what, _BY_WEIGHTS, VERIFY_TARGETS[bits], error)
    for (bits, num_nodes), own in times.items():
        yield _verify_row(bits, num_nodes, models[bits], own, card)
    of_float16 = {num_nodes: own for (bits, num_nodes), own in times.items() if bits == 16}
    yield from (_overhead_row(num_nodes, own) for num_nodes, own in of_float16.items() if num_nodes in OVERHEAD_NODES)


def _verify_row(bits: int, num_nodes: int, model: TimedModel, times: PassTimes, card: Card) -> Row:
    limit_ms = card.copy_ms(model.weight_bytes)
    wall_ms, device_ms = statistics.median(times.wall_ms), statistics.median(times.back_to_back_ms)
    rate = 2 * model.num_parameters * num_nodes / wall_ms / card.flops_per_ms
    return Row(
        VERIFY_PART,
        f"{PRECISIONS[bits]}, {num_nodes} tree tokens",
        wall_ms / limit_ms,
        _BY_WEIGHTS,
        VERIFY_TARGETS[bits],
        wall_ms,
        (min(times.wall_ms), max(times.wall_ms)),
        wall_ms / limit_ms,
        f"{model.weight_bytes / 1e9:.2f} GB; device alone {device_ms / limit_ms:.2f}; {rate:.1%} of the matrix rate",
    )


def _overhead_row(num_nodes: int, times: PassTimes) -> Row:
    wall_ms, device_ms = statistics.median(times.wall_ms), statistics.median(times.device_ms)
    return Row(
        OVERHEAD_PART,
        f"float16, {num_nodes} tree tokens",
        times.outside_us,
        "us outside replays",
        OVERHEAD_TARGET,
        wall_ms,
        (min(times.wall_ms), max(times.wall_ms)),
        None,
        f"{times.outside_us / 10 / wall_ms:.1f} % of the step, less the same replays back to back; the choices' kernel counted; "
        f"from the first replay to the copy {device_ms:.3f} ms",
    )


def ssm_rows(card: Card) -> list[Row]:
    """A level of each SSM: 8 rows, and the most probable tokens after each."""
    shapes, context_len = ((LLAMA_68M, LLAMA_160M), 512) if card.is_full else ((TINY_SSM,), 20)
    models = {shape: TimedModel(shape, 16, 16, context_len, card.device) for shape in shapes}
    times = {shape: PassTimes() for shape in shapes}
    for turn in track(range(-1, 5 * card.num_turns), "SSM levels", transient=True):
        for shape, model in models.items():
            model.level(model.tree(SSM_ROWS), times[shape] if turn >= 0 else PassTimes())
    return [_ssm_row(shape, models[shape], times[shape], SSM_TARGETS[shape], card) for shape in shapes]


def _ssm_row(shape: ModelShape, model: TimedModel, times: PassTimes, target: Target, card: Card) -> Row:
    wall_ms, device_ms = statistics.median(times.wall_ms), statistics.median(times.back_to_back_ms)
    return Row(
        SSM_PART,
        f"{shape.name}, {SSM_ROWS} rows",
        wall_ms,
        "ms",
        target,
        wall_ms,
        (min(times.wall_ms), max(times.wall_ms)),
        wall_ms / card.copy_ms(model.weight_bytes),
        f"{model.weight_bytes / 1e6:.0f} MB; replays back to back {device_ms:.3f} ms, so {times.outside_us:.0f} us outside",
    )
