"""What a service computes on, as a message and back."""

from __future__ import annotations

from specgrove.machine.compute_place import ComputePlace
from specgrove.v1 import token_tree_pb2


def place_to_proto(place: ComputePlace) -> token_tree_pb2.ComputePlace:
    """All fields."""
    return token_tree_pb2.ComputePlace(
        machine=place.machine,
        accelerator=place.accelerator,
        cpu_ids=sorted(place.cpu_ids),
        num_threads=place.num_threads,
    )


def place_from_proto(proto: token_tree_pb2.ComputePlace) -> ComputePlace:
    """The reverse of ``place_to_proto``; of a service that tells none: not known."""
    return ComputePlace(proto.machine, proto.accelerator, frozenset(proto.cpu_ids), proto.num_threads)
