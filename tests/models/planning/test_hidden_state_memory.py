"""What is planned for passes that hand hidden states out, against what they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llm_service.outbox import Outbox
from llm_service.session import PendingWork, Session
from specgrove.kernels.cuda.backend import num_processors
from specgrove.kernels.device_memory import PassLimits
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.loop.works import PromptProgress
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.planning.hidden_state_memory import gpu_apart_bytes, handed_out_bytes, told_bytes
from specgrove.models.planning.memory_plan import MemoryRequest, plan_memory
from specgrove.program.loading import load_decoder
from specgrove.program.pass_numbers import PassBuffers
from specgrove.program.pass_room import PassRoom
from specgrove.program.program import Program
from specgrove.runtime import hidden_values
from specgrove.runtime.hidden_values import PassValues
from specgrove.runtime.model_runner import ModelRunner
from tests.models.families import DEVICE_VARIANTS, VARIANTS, save_tiny
from tests.program.cuda_programs import TakingTurns, on_kernels
from tests.program.programs import NUM_SLOTS, PROMPT, prompt_rows

CPU = torch.device("cpu")
NUM_PROCESSORS = num_processors(CPU)


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self._made: list[torch.Tensor] = []  # kept, so that no address comes twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self._addresses(args):
            self.num_bytes += out.nbytes
            self._made.append(out)
        return out

    def _addresses(self, args: Any) -> set[int]:
        return {part.untyped_storage().data_ptr() for part in (*args, *self._made) if isinstance(part, torch.Tensor)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pass_on_a_cpu_hands_out_as_much_as_is_planned(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    spec, decoder = read_spec(tmp_path), load_decoder(tmp_path, torch.float32)
    layers = tuple(range(spec.num_layers + 1))
    rows = replace(prompt_rows(PROMPT), hidden_layers=layers)
    hidden = ModelRunner(decoder, NUM_SLOTS).run(rows).hidden
    taken = sum(states.nbytes for states in hidden)
    assert taken == handed_out_bytes(spec, Shard.whole(spec), len(PROMPT), len(layers))
    assert taken == handed_out_bytes(spec, Shard.whole(spec), len(PROMPT), len(layers) + 60)  # there are no more


def _room_apart(program: Program, limits: PassLimits, *, hands_on: bool) -> int:
    """Bytes on the device of a pass with room of its own, without the states that go on to the next stage."""
    room = PassRoom(program, limits.max_num_rows, limits.max_num_asked, CPU)
    handed_on = room.kept[-1].nbytes if hands_on else 0
    return room.nbytes - handed_on + PassBuffers(limits, program.heads, CPU).nbytes


@pytest.mark.parametrize("variant", ["llama", "opt-350m", "falcon-7b", "gemma3", "gpt-bigcode"])
def test_a_pass_on_a_gpu_beside_the_graphs_takes_as_much_as_is_planned(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    spec = read_spec(tmp_path)
    first_of_two = ParallelLayout(tensor_size=2).shard_of(0, spec)
    for shard in (Shard.whole(spec), Shard(0, 1, 0, 1, is_last_stage=False), first_of_two):
        layers = list(range(shard.first_layer, shard.end_layer + 1))
        program = on_kernels(tmp_path, CPU, shard, TakingTurns(0), keep_hidden=layers).program
        for num_rows, num_asked in ((200, 2), (5, 4)):
            limits = PassLimits(num_rows, num_asked, max_model_len=40, num_slots=NUM_SLOTS)
            steps = replace(limits, max_num_rows=num_asked)
            taken, of_steps = (_room_apart(program, each, hands_on=not shard.is_last_stage) for each in (limits, steps))
            planned = gpu_apart_bytes(spec, shard, limits, program.dtype.itemsize, NUM_PROCESSORS, len(layers))
            assert planned == (taken if num_rows == 200 else 2 * of_steps)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_telling_a_session_all_rows_of_a_pass_takes_no_more_than_is_planned(
    on_gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_gpu:
        monkeypatch.setattr(hidden_values, "_is_native", lambda part: False)
    save_tiny("llama", tmp_path)
    spec = read_spec(tmp_path)
    num_rows, layers = 4096, (0, 1, 2)
    hidden = [torch.zeros(num_rows, spec.hidden_size) for _ in layers]
    with _Allocated() as allocated:
        values = PassValues(hidden).of(range(num_rows), range(len(layers)))
    taken = allocated.num_bytes + len(values)
    outbox, session = Outbox(0.0, lambda: 0.0), Session("s", SamplingParams(), prompt_len=1, token_ids=[1])
    pending = PendingWork(0, session, TokenTree((1,), (-1,), (0.0,), (0,)), None)
    outbox.put_hidden_states(pending, HiddenStates(0, num_rows, layers, values))
    results = [result for _, result in outbox.take()]
    pieces = [result.hidden_states for result in results if isinstance(result, PromptProgress)]
    assert b"".join(piece.values for piece in pieces if piece) == values
    taken += 2 * len(values)  # what is left for messages, and all messages
    planned = told_bytes(spec, Shard.whole(spec), num_rows, len(layers), on_gpu=on_gpu)
    assert 0.9 * planned < taken <= planned


def _activation_bytes(spec: DecoderSpec, num_gpu_processors: int | None, num_layers: int) -> list[int]:
    layout = ParallelLayout(num_stages=2)
    request = MemoryRequest("bfloat16", None, layout, num_slots=100, max_num_rows=256, max_num_asked=64)
    request = replace(request, num_gpu_processors=num_gpu_processors, num_hidden_layers=num_layers)
    return [plan.activation_bytes for plan in plan_memory(spec, request)]


@pytest.mark.parametrize("num_gpu_processors", [None, 3])
def test_the_first_stage_alone_has_room_for_them_in_the_plan(num_gpu_processors: int | None, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    spec = read_spec(tmp_path)
    without, two = (_activation_bytes(spec, num_gpu_processors, num_layers) for num_layers in (0, 2))
    shard = ParallelLayout(num_stages=2).shard_of(0, spec)
    of_a_pass = handed_out_bytes(spec, shard, 256, 2) + told_bytes(
        spec, shard, 256, 2, on_gpu=num_gpu_processors is not None
    )
    assert two[0] - without[0] == of_a_pass > 0
    assert two[1] == without[1]
