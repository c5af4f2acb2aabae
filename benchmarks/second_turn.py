"""The second turn of a conversation for an SSM, with its prefix cache and without: its first draft, and the steps that follow.

    python -m benchmarks.second_turn --ssm demo --num-tokens 500 --num-new 40

In this process, with the real pool. Both ways take turns with the same random tokens; a figure is the median of its turns, and the trees
must be equal. The first turn has all tokens but the new ones, and is over. For an SSM over hidden states, which keeps nothing, the hidden
states of its window are random numbers.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.host import conditions
from specgrove.config import MAX_NUM_THREADS
from specgrove.kernels.threads import set_num_threads
from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM
from specgrove.models.planning.ssm_fitting import SsmDemand
from specgrove.settings.ssm_specs import parse_ssms
from ssm_service.config import PoolConfig, SsmServiceConfig
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.loading import load_ssm
from ssm_service.pass_drafter import PassDrafter
from ssm_service.pool import DrafterPool

_SHAPE = TreeShape(max_num_nodes=8, max_depth=3)
_NUM_SLOTS = 32768
_MAX_TOKEN_ID = 20_000  # all vocabularies have so many


@dataclass
class Way:
    """A pool, and what it took in ms: (wall, processor) of each first draft, processor of each further step."""

    name: str
    pool: DrafterPool
    first: list[tuple[float, float]] = field(default_factory=list)
    step: list[float] = field(default_factory=list)

    def ask(self, work: DraftWork) -> Draft:
        """Its draft."""
        self.pool.add(1, work)
        results: list[object] = []
        while self.pool.has_work():
            results += [result for _, result in self.pool.step()]
        (draft,) = results
        assert isinstance(draft, Draft), draft
        return draft

    def turn(self, name: str, token_ids: Sequence[int], num_steps: int, states: HiddenStates | None) -> list[Draft]:
        """A request with so many steps after its first draft; each accepts a token of the SSM's and has one of the verifier's own."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        drafts = [self.ask(DraftWork(name, 0, tuple(token_ids), _SHAPE, cache_salt="", hidden_states=states))]
        self.first.append(((time.perf_counter() - wall_s) * 1e3, (time.process_time() - cpu_s) * 1e3))
        num_committed = len(token_ids)
        for number in range(num_steps):
            new = (*drafts[-1].trees[0].tree.token_ids[1:2], number + 5)
            cpu_s = time.process_time()
            drafts.append(self.ask(DraftWork(name, num_committed, new, _SHAPE)))
            self.step.append((time.process_time() - cpu_s) * 1e3)
            num_committed += len(new)
        self.pool.close_session(name)
        return drafts


def _pool_of(arguments: argparse.Namespace, *, has_prefix_cache: bool) -> DrafterPool:
    (spec,) = parse_ssms([arguments.ssm])
    config = SsmServiceConfig(
        address="127.0.0.1:0", ssms=(spec,), demand=SsmDemand(arguments.dtype, "cpu", "off", _NUM_SLOTS),
        cache_dir=default_cache_dir(), num_threads=arguments.threads, session_ttl_s=300.0, pass_timeout_s=120.0,
        drain_timeout_s=0.0, log_level="INFO", log_format="text", llm_model=DEMO_LLM, has_prefix_cache=has_prefix_cache,
    )  # fmt: skip
    ssm = load_ssm(spec, config, torch.device("cpu"))
    if not isinstance(ssm, PassDrafter):
        raise SystemExit(f"--ssm {arguments.ssm} has no weights, and keeps no slots")
    return DrafterPool([ssm], PoolConfig())


def _states_of(pool: DrafterPool, num_tokens: int) -> HiddenStates | None:
    (ssm,) = pool.ssms.neural.values()
    if not isinstance(ssm, HiddenStateSsm):
        return None
    spec = ssm.spec
    num_rows = min(spec.hidden_window, num_tokens - 1)
    values = torch.randn(num_rows, len(spec.hidden_layers), spec.target_hidden_size).bfloat16()
    return HiddenStates(
        num_tokens - 1 - num_rows, num_rows, spec.hidden_layers, values.view(torch.uint8).numpy().tobytes()
    )


def main() -> None:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ssm", default="demo")
    parser.add_argument("--num-tokens", type=int, default=500, help="of the second turn's prompt")
    parser.add_argument("--num-new", type=int, default=40, help="of these, tokens that the first turn did not have")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--num-steps", type=int, default=20, help="after the first draft of each second turn")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, choices=range(1, MAX_NUM_THREADS + 1), default=2, metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_num_threads(arguments.threads)
    ways = [Way(name, _pool_of(arguments, has_prefix_cache=on)) for name, on in (("without", False), ("with", True))]
    rng = random.Random(1)
    for number in range(arguments.turns):
        second = [rng.randrange(5, _MAX_TOKEN_ID) for _ in range(arguments.num_tokens)]
        first = second[: -arguments.num_new]
        states = _states_of(ways[0].pool, len(second))
        found = []
        for way in rng.sample(ways, len(ways)):
            way.ask(DraftWork(f"first {number}", 0, tuple(first), TreeShape(0, 0), cache_salt=""))
            way.pool.close_session(f"first {number}")
            drafts = way.turn(f"second {number}", second, arguments.num_steps if states is None else 0, states)
            found.append([draft.trees for draft in drafts])
        if found[0] != found[1]:
            raise SystemExit("drafts differ: this must not be")
    print(", ".join(conditions().values()))
    for way in ways:
        (ssm,) = way.pool.ssms.neural.values()
        wall_ms, cpu_ms = (statistics.median(times) for times in zip(*way.first, strict=True))
        steps = f"; {statistics.median(way.step):.2f} of a later one" if way.step else ""
        print(
            f"{way.name:8} first draft {wall_ms:.1f} ms, {cpu_ms:.1f} of processor time{steps}; tokens computed "
            f"{ssm.read_counts.num_computed_tokens}, found {ssm.read_counts.num_cached_tokens}"
        )


if __name__ == "__main__":
    main()
