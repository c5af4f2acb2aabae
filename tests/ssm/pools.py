"""A small pool of real tiny models, and how to run it without threads. Used by the tests of the pool."""

from __future__ import annotations

from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.runtime.model_runner import ModelRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam, Expansion
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool

SHAPE = TreeShape(max_num_nodes=7, max_depth=4)
PROMPT = (5, 1, 44, 90, 3, 3, 17, 60, 2, 8, 31)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make_pool(runners: list[ModelRunner], clock: Clock | None = None) -> DrafterPool:
    ssms = [
        NeuralSsm("beam", runners[0], Beam(3), None, max_num_chunk_tokens=4),
        NeuralSsm("expansion", runners[1], Expansion((2, 1, 2)), None),
        LookupSsm("lookup"),
    ]
    return DrafterPool(ssms, PoolConfig(), clock or Clock())


def run(pool: DrafterPool) -> dict[int, object]:
    results: dict[int, object] = {}
    while pool.has_work():
        results.update(pool.step())
    return results


def ask(pool: DrafterPool, work: DraftWork) -> Draft:
    pool.add(1, work)
    (result,) = run(pool).values()
    assert isinstance(result, Draft), result
    return result
