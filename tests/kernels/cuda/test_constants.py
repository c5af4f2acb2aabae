"""Sizes that Python plans and packs with: those of the compiled kernels."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from specgrove.kernels import device_memory, rows
from specgrove.kernels.cuda import linear
from specgrove.kernels.cuda.backend import kernels_for

NAMES = {
    device_memory: (
        "_BLOCK_KEYS", "_SPLIT_KEYS", "_SPAN_SPLITS", "_TILE_QUERIES", "_MAX_SPLIT_TURNS", "_HEADER", "_ITEM", "_TILE", "_PASS",
        "LINEAR_BLOCK", "LINEAR_MAX_ROWS", "LINEAR_MAX_TILES",
    ),
    linear: ("_CHUNK", "_WARPS"),
    rows: ("NOT_A_NUMBER", "ALL_BANNED"),
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES, ids=lambda module: module.__name__)
def test_copied_constants_are_those_of_the_kernels(module: ModuleType, device: torch.device) -> None:
    constants = kernels_for(device).CONSTANTS
    assert {name: constants[name.strip("_")] for name in NAMES[module]} == {
        name: getattr(module, name) for name in NAMES[module]
    }


def test_a_tile_has_room_for_the_largest_group(device: torch.device) -> None:
    assert kernels_for(device).CONSTANTS["TILE_QUERIES"] == device_memory.MAX_GROUP_SIZE


def test_no_constant_is_left_out(device: torch.device) -> None:
    held = {name.strip("_") for names in NAMES.values() for name in names}
    assert set(kernels_for(device).CONSTANTS) == held
