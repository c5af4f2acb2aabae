"""Whether two services take the same cores or accelerator from each other."""

from __future__ import annotations

import pytest

from specgrove.machine.compute_place import ComputePlace
from specgrove.v1 import token_tree_pb2
from specgrove.wire.compute_place import place_from_proto, place_to_proto


def on_cpus(cpu_ids: range, num_threads: int, machine: str = "m") -> ComputePlace:
    return ComputePlace(machine, "", frozenset(cpu_ids), num_threads)


@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        (on_cpus(range(8), 8), on_cpus(range(8), 8), True),
        (on_cpus(range(8), 6), on_cpus(range(8), 2), False),  # cores to spare
        (on_cpus(range(8), 7), on_cpus(range(8), 2), True),
        (on_cpus(range(1), 1), on_cpus(range(1, 2), 1), False),
        (on_cpus(range(4), 4), on_cpus(range(3, 8), 5), True),
        (on_cpus(range(8), 8), on_cpus(range(8), 8, "other"), False),
        (ComputePlace("m", "gpu 0"), on_cpus(range(8), 8), False),
        (ComputePlace("m", "gpu 0"), ComputePlace("m", "gpu 0"), True),
        (ComputePlace("m", "gpu 0"), ComputePlace("m", "gpu 1"), False),
        (ComputePlace(), on_cpus(range(8), 8), True),  # of an older service
        (ComputePlace(), ComputePlace(), True),
    ],
)
def test_places_are_shared_where_one_takes_from_the_other(
    one: ComputePlace, other: ComputePlace, is_shared: bool
) -> None:
    assert one.is_shared_with(other) is is_shared
    assert other.is_shared_with(one) is is_shared


def test_a_process_knows_its_own_place_and_tells_it() -> None:
    here = ComputePlace.here("", 2)
    assert here.cpu_ids
    assert place_from_proto(place_to_proto(here)) == here
    assert place_from_proto(token_tree_pb2.ComputePlace()) == ComputePlace()
