"""Plans of the GPUs' tree attention: what is refused, and how much room they take."""

from __future__ import annotations

import random

import pytest
import torch

from specgrove.kernels.cuda.attention import AttentionPlan, write_plan
from specgrove.kernels.device_memory import AttentionHeads, PlanCapacity
from specgrove.runtime.pass_builder import PassBuilder
from tests.kernels.cuda.attention_cases import long_batch
from tests.kernels.test_attention import random_tree


def test_malformed_batches_are_refused() -> None:
    batch = long_batch(10, 3)
    batch.row_masks[2] = 1 << 7  # rows have one word
    with pytest.raises(ValueError, match="a node that its tree doesn't have"):
        AttentionPlan.of(batch, AttentionHeads(2, 1, 64), 3, torch.device("cpu"))
    with pytest.raises(ValueError, match="3 heads can't be shared out to 2 KV heads"):
        AttentionPlan.of(long_batch(10, 3), AttentionHeads(3, 2, 64), 3, torch.device("cpu"))


@pytest.mark.parametrize("heads", [AttentionHeads(4, 1, 64), AttentionHeads(2, 2, 64), AttentionHeads(71, 1, 64)])
@pytest.mark.parametrize("seed", range(20))
def test_a_plan_fits_into_its_capacity(heads: AttentionHeads, seed: int) -> None:
    """Also where limits are what the batch takes."""
    rng = random.Random(seed)
    slots = rng.sample(range(20_000), 20_000)
    builder, num_used, longest = PassBuilder(), 0, 0
    for _ in range(rng.choice([1, 3, 40])):
        context = [slots.pop() for _ in range(rng.choice([1, 70, 511, 2000]))]
        if rng.random() < 0.3:
            builder.add(context, [0] * rng.randint(1, len(context)))
        else:
            tree = random_tree(rng, rng.choice([1, 30, 200]), slots)
            builder.add(context, (), tree)
            num_used += len(tree.slots)
        num_used += len(context)
        longest = max(longest, len(context) + 200)
        if num_used > 9000:
            break
    batch = builder.build()
    capacity = PlanCapacity.of(heads, batch.num_rows, longest, num_used, 3)
    out = torch.empty(capacity.num_numbers, dtype=torch.int32)
    device = torch.device("cpu")
    num_numbers = write_plan(batch, heads, out, capacity.num_split_items, device)
    plan = AttentionPlan.of(batch, heads, batch.num_rows, device)
    assert torch.equal(out[:num_numbers], plan.numbers)
    num_items, num_tiles, splits_per_item, first_item, first_tile = out[:5].tolist()
    assert splits_per_item in (1, 8)
    items = out[first_item : first_item + 4 * num_items].view(num_items, 4)
    num_splits = out[first_tile : first_tile + 4 * num_tiles].view(num_tiles, 4)[:, 2]
    leaves_partials = num_splits[items[:, 0]] > 1
    num_split_items = int(leaves_partials.sum())
    assert leaves_partials[:num_split_items].all()
    assert num_split_items <= capacity.num_split_items
    with pytest.raises(ValueError, match="int32 numbers, and room for 9"):
        write_plan(batch, heads, out[:9], num_split_items, device)
    if num_split_items:
        with pytest.raises(
            ValueError, match=f"{num_split_items} items that leave partial results, and room for {num_split_items - 1}"
        ):
            write_plan(batch, heads, out, num_split_items - 1, device)
