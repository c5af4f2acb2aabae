"""What kernels for GPUs, and ops composed from torch's, take of a card's memory beside weights and caches: from shapes alone.

The modules of these kernels make their buffers of it, ``specgrove.models.planning.memory_plan`` plans with it. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_DIMS = (64, 80, 96, 128, 256)
MAX_GROUP_SIZE = 128  # query heads of a KV head
# As in csrc/cuda/attention_plan.{h,cpp}.
_BLOCK_KEYS, _SPLIT_KEYS, _SPAN_SPLITS, _TILE_QUERIES, _MAX_SPLIT_TURNS = 64, 256, 8, 128, 3
_HEADER, _ITEM, _TILE, _PASS = 9, 4, 4, 8  # int32 numbers of the structs there
_MAX_TREE_BLOCKS = 6  # of the blocks that a row's keys are in, those with tree nodes: trees have up to 256
# Of linears, as in csrc/cuda/{small_linear,linear_products}.{h,cuh}.
LINEAR_BLOCK, LINEAR_MAX_ROWS, LINEAR_MAX_TILES = 32, 64, 8
ENOUGH_LINEAR_BLOCKS = 200  # about what an H100's 132 processors run at once
MAX_TOP_K = 64  # most probable tokens of a row that passes by graphs are asked for
EXPANDED_AT_ONCE = 1 << 22  # weights of a quantised linear that torch's ops expand
EXPANSION_BYTES = 3 * 4 * EXPANDED_AT_ONCE
"""What expanding a quantised linear takes at most beside the linear's compressed and expanded form."""


def max_workspace_bytes() -> int:
    """Of what ``specgrove.kernels.cuda.linear.LinearWorkspace`` grows to, whatever the linears."""
    return 2 * ENOUGH_LINEAR_BLOCKS * LINEAR_MAX_TILES * (LINEAR_BLOCK * LINEAR_MAX_ROWS * 4 + 4)


@dataclass(frozen=True, slots=True)
class AttentionHeads:
    """Of one rank."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @property
    def group_size(self) -> int:
        """Query heads of a KV head. Raises ``ValueError`` where it isn't the same for all."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads can't be shared out to {self.num_kv_heads} KV heads")
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True)
class PassLimits:
    """What the passes that memory is kept for may have."""

    max_num_rows: int
    max_num_asked: int
    max_model_len: int
    """Keys that a row sees."""
    num_slots: int

    @property
    def number_bytes(self) -> int:
        """On the device: ids, places and choices of ``PassBuffers``, without the attention plan."""
        return 4 * (3 * self.max_num_rows + 6 * self.max_num_asked)

    @property
    def answer_bytes(self) -> int:
        """On the device: what passes choose, and the most probable tokens that a ``GraphRunner`` finds."""
        return 8 * self.max_num_asked * (1 + MAX_TOP_K)


@dataclass(frozen=True, slots=True)
class RoomSizes:
    """Numbers of every row in the buffers of a ``PassRoom``."""

    float_width: int
    """Of the float32 buffers together."""
    input_width: int
    """Of those made for linears and attention, in the model's dtype."""
    vocab_size: int
    """Logits of an asked row; 0 where another stage has the head."""

    def num_bytes(self, limits: PassLimits, dtype_bytes: int) -> int:
        """On the device, hidden states that are handed out aside."""
        num_rows = max(limits.max_num_rows, limits.max_num_asked)
        buffers = num_rows * (4 * self.float_width + dtype_bytes * self.input_width)
        return buffers + 4 * limits.max_num_asked * self.vocab_size


@dataclass(frozen=True, slots=True)
class PlanCapacity:
    """What the plans of all passes within limits need at most."""

    num_numbers: int
    """int32 numbers of the plan."""
    num_split_items: int
    """Pieces of work of tiles that have more than one split: they leave partial results."""

    def num_bytes(self, heads: AttentionHeads) -> int:
        """On the device: the plan, and room for partial results."""
        partials = self.num_split_items * _TILE_QUERIES * (heads.head_dim + 2)
        return 4 * (self.num_numbers + heads.num_kv_heads * (partials + self.num_split_items))

    @classmethod
    def within(cls, limits: PassLimits, heads: AttentionHeads, num_processors: int) -> PlanCapacity:
        """For passes within limits."""
        return cls.of(heads, limits.max_num_rows, limits.max_model_len, limits.num_slots, num_processors)

    @classmethod
    def of(
        cls, heads: AttentionHeads, max_num_rows: int, max_model_len: int, num_slots: int, num_processors: int
    ) -> PlanCapacity:
        """For passes of ``max_num_rows``, each of which sees ``max_model_len`` keys at most; sequences share none of ``num_slots``."""
        tile_rows = _TILE_QUERIES // heads.group_size
        # Every row may be a sequence of its own; a sequence has a tile for every tile_rows of its rows, and one that is not full.
        full_tiles = -(-max_num_rows // tile_rows)

        def num_pieces(num_keys: int) -> int:
            """Tiles times pieces of so many keys: of full tiles, and of each sequence's last one, but for one piece of each."""
            return full_tiles * -(-max_model_len // num_keys) + num_slots // num_keys

        # Only where there is more than one split is anything left: one piece more of each such sequence.
        num_long = num_slots // _SPLIT_KEYS
        splits = num_pieces(_SPLIT_KEYS) + num_long
        spans = num_pieces(_SPLIT_KEYS * _SPAN_SPLITS) + num_long
        few_splits = _MAX_SPLIT_TURNS * num_processors * _SPAN_SPLITS // heads.num_kv_heads
        own_passes = _MAX_TREE_BLOCKS * max_num_rows
        passes = num_pieces(_BLOCK_KEYS) + max_num_rows + own_passes
        numbers = _HEADER + _ITEM * (splits + max_num_rows) + (_TILE + 2) * max_num_rows + _PASS * passes
        return cls(
            num_numbers=numbers + num_slots + _BLOCK_KEYS * own_passes,
            num_split_items=max(spans, min(splits, few_splits)),
        )
