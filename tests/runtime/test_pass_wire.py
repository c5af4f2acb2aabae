"""Passes on their way to other ranks: what comes out is what went in."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.pass_wire import from_tensor, to_tensor


@given(
    contexts=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    chunk_len=st.integers(0, 5),
    num_nodes=st.integers(0, 70),
    has_choices=st.booleans(),
    hidden_layers=st.sampled_from([(), (0,), (1, 30)]),
)
def test_a_batch_arrives_as_it_was_sent(
    contexts: list[int], chunk_len: int, num_nodes: int, has_choices: bool, hidden_layers: tuple[int, ...]
) -> None:
    builder = PassBuilder()
    for number, context_len in enumerate(contexts):
        slots = [2**31 - 1 - number * 1000 - i for i in range(context_len)]
        choices = [RowChoice(ChoiceParams(), node) for node in range(num_nodes)] if has_choices else None
        tree = TreeRows(range(num_nodes), range(-1, num_nodes - 1), range(num_nodes)) if num_nodes else None
        builder.add(slots, range(min(chunk_len, context_len)), tree, choices=choices if tree else None)
    if not builder.num_rows:
        builder.add([], (), TreeRows([96], [-1], [0]))
    rows = replace(builder.build(), hidden_layers=hidden_layers)
    sent, received = rows, from_tensor(to_tensor(rows))
    received.check()
    for part in fields(sent):
        expected = [None] * len(sent.asked_rows) if part.name == "choices" else getattr(sent, part.name)
        assert getattr(received, part.name) == expected, part.name
