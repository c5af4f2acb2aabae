"""Tree attention on a card: against the time to read all keys and values once, and against torch's attention by turns.

Contestants: ours, torch's SDPA with an explicit mask (with grouped heads, and with a group's queries as rows of one head: the faster one
counts), and FlexAttention, compiled for each shape, with a block mask of the tree. The note says how far their outputs are from ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.progress import track
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from benchmarks.gpu.card import Card
from benchmarks.gpu.rows import Row, Times, at_least, broken, by_turns, first_line, skipped
from specgrove.kernels.cuda.attention import AttentionPlan, tree_attention
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.torch_ops import tensor_of
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

PART = "tree attention"
HEADS = AttentionHeads(32, 8, 128)
TINY_HEADS = AttentionHeads(4, 2, 64)
BRANCHING = 3  # of the trees
CASES = tuple((b, p, n) for b in (1, 8, 32) for p in (2048, 8192, 32768) for n in (16, 64))
TINY_CASES = ((2, 40, 5),)
OURS, SDPA, SDPA_FOLDED, FLEX = "SpecGrove", "SDPA", "SDPA, groups as rows", "FlexAttention"
_OF_COPYING = "of copying"
_TOLERANCE = 0.05  # of outputs, relative to the largest: both are rounded to bfloat16 here and there
_SHARE, _BY_SDPA, _BY_FLEX = at_least(0.75), at_least(1.5), at_least(1.0)


def tree_parents(num_nodes: int) -> list[int]:
    """A tree in which every node has up to ``BRANCHING`` children, level by level."""
    return [-1, *((node - 1) // BRANCHING for node in range(1, num_nodes))]


@dataclass(frozen=True, slots=True)
class Case:
    """Trees of one shape after prefixes of one length. Contestants give ``[batch, num_heads, num_nodes, head_dim]``, heads perhaps in two
    dimensions.
    """

    contestants: dict[str, Callable[[], torch.Tensor]]
    num_bytes: int
    """Of all keys and values."""


def make_case(batch_size: int, prefix_len: int, num_nodes: int, heads: AttentionHeads, device: torch.device) -> Case:
    """With random numbers in bfloat16."""
    dtype, head_dim, group_size = torch.bfloat16, heads.head_dim, heads.group_size
    seq_len = prefix_len + num_nodes
    shape = (batch_size * seq_len, heads.num_kv_heads, head_dim)
    k_cache, v_cache = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
    queries = torch.randn(batch_size * num_nodes, heads.num_heads, head_dim, dtype=dtype, device=device)
    out = torch.empty(len(queries), heads.num_heads * head_dim, dtype=dtype, device=device)
    builder = PassBuilder()
    for sequence in range(batch_size):
        slots = range(sequence * seq_len, (sequence + 1) * seq_len)
        builder.add(slots[:prefix_len], (), TreeRows([0] * num_nodes, tree_parents(num_nodes), slots[prefix_len:]))
    batch = builder.build()
    plan = AttentionPlan.of(batch, heads, len(queries), device)
    scale = head_dim**-0.5

    def by_heads(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(batch_size, -1, tensor.shape[1], head_dim).transpose(1, 2)

    def ours() -> torch.Tensor:
        tree_attention(queries, k_cache, v_cache, plan, scale, out)
        return by_heads(out.view(queries.shape))

    # torch's attention gets what it is best at: keys and values of a sequence in one piece, and the mask ready-made.
    masks = tensor_of(batch.row_masks).view(batch.num_rows, -1)
    bits = masks[:num_nodes, :, None] >> torch.arange(64) & 1
    tree_mask = bits.flatten(1)[:, :num_nodes].bool().to(device)
    # Numbers to add: of booleans torch would make them in every call. Rows begin at multiples of 16 numbers.
    padded = torch.zeros(num_nodes, -(-seq_len // 16) * 16, dtype=dtype, device=device)
    padded[:, prefix_len:seq_len].masked_fill_(~tree_mask, -torch.inf)
    own, keys, values = by_heads(queries), by_heads(k_cache), by_heads(v_cache)
    folded = own.reshape(batch_size, heads.num_kv_heads, group_size * num_nodes, head_dim)
    folded_mask = padded.repeat(group_size, 1)

    def sdpa_folded() -> torch.Tensor:
        return functional.scaled_dot_product_attention(folded, keys, values, attn_mask=folded_mask[:, :seq_len])

    return Case(
        {
            OURS: ours,
            SDPA: lambda: functional.scaled_dot_product_attention(
                own, keys, values, attn_mask=padded[:, :seq_len], enable_gqa=True
            ),
            SDPA_FOLDED: sdpa_folded,
            FLEX: _Flex(own, keys, values, tree_mask, prefix_len),
        },
        k_cache.nbytes + v_cache.nbytes,
    )


class _Flex:
    """FlexAttention: compiled where there is a GPU, its mask made at the first call."""

    def __init__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tree_mask: torch.Tensor, prefix_len: int
    ) -> None:
        self._tensors = queries, keys, values
        self._tree_mask = tree_mask
        self._prefix_len = prefix_len
        self._attend: Callable[..., torch.Tensor] | None = None
        self._block_mask: BlockMask | None = None

    def _prepare(self) -> Callable[..., torch.Tensor]:
        tree_mask, prefix_len, num_nodes = self._tree_mask, self._prefix_len, len(self._tree_mask)

        def sees(batch: torch.Tensor, head: torch.Tensor, row: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (key < prefix_len) | tree_mask[row, (key - prefix_len).clamp(0, num_nodes - 1)]

        device = tree_mask.device
        self._block_mask = create_block_mask(sees, None, None, num_nodes, prefix_len + num_nodes, device=device.type)
        if device.type != "cuda":
            return flex_attention
        torch._dynamo.reset()  # each shape gets kernels of its own
        return torch.compile(flex_attention, dynamic=False)

    def __call__(self) -> torch.Tensor:
        if self._attend is None:
            try:
                self._attend = self._prepare()
            except Exception as error:  # whatever compilers raise
                raise RuntimeError(first_line(error)) from error
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # on a CPU
                return self._attend(*self._tensors, block_mask=self._block_mask, enable_gqa=True)
        except Exception as error:
            raise RuntimeError(first_line(error)) from error


def rows(card: Card) -> Iterator[Row]:
    """Three rows of every case."""
    heads, cases = (HEADS, CASES) if card.is_full else (TINY_HEADS, TINY_CASES)
    for number in track(range(len(cases)), "attention", transient=True):
        what = "batch {}, prefix {}, {} nodes".format(*cases[number])
        try:
            case = make_case(*cases[number], heads, card.device)
            yield from case_rows(what, case, card)
        except RuntimeError as error:
            yield broken(PART, what, _OF_COPYING, _SHARE, error)


def case_rows(what: str, case: Case, card: Card) -> list[Row]:
    """Our share of the copy bandwidth, and how many times faster we are than torch."""
    times = by_turns(case.contestants, card.clock, card.num_turns)
    own = times[OURS]
    if isinstance(own, str):
        return [skipped(PART, what, _OF_COPYING, _SHARE, own)]
    limit = own.median_ms / card.copy_ms(case.num_bytes)
    outputs = {name: case.contestants[name]().float() for name, found in times.items() if isinstance(found, Times)}
    differences = {
        name: (output.reshape(outputs[OURS].shape) - outputs[OURS]).abs().max().item()
        for name, output in outputs.items()
    }
    allowed = _TOLERANCE * outputs[OURS].abs().max().item()
    if not max(differences.values()) <= allowed:
        reason = f"outputs differ from ours by {differences}, where {allowed:.1g} is allowed: times mean nothing"
        return [skipped(PART, what, _OF_COPYING, _SHARE, reason)]
    result = [Row(PART, what, 1 / limit, _OF_COPYING, _SHARE, own.median_ms, own.spread_ms, limit)]
    sdpa = {name: found for name in (SDPA, SDPA_FOLDED) if isinstance(found := times[name], Times)}
    for peer, target in ((min(sdpa, key=lambda name: sdpa[name].median_ms, default=SDPA), _BY_SDPA), (FLEX, _BY_FLEX)):
        found = times[peer]
        unit = "x faster than SDPA" if peer != FLEX else "x faster than Flex"
        if isinstance(found, str):
            result.append(skipped(PART, what, unit, target, found))
            continue
        ratio = found.median_ms / own.median_ms
        note = f"{peer}{'' if card.device.type == 'cuda' or peer != FLEX else ', not compiled'}; outputs within {differences[peer]:.1g}"
        peer_limit = found.median_ms / card.copy_ms(case.num_bytes)
        result.append(Row(PART, what, ratio, unit, target, found.median_ms, found.spread_ms, peer_limit, note))
    return result
