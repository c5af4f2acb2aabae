from collections.abc import Sequence
from typing import TypeAlias

import torch

MAX_HEAD_DIM: int

class DType:
    float32: DType
    bfloat16: DType
    float16: DType

class AnyLinear: ...

class CountedLinear(AnyLinear):
    def __init__(self, linear: AnyLinear) -> None: ...
    @property
    def num_rows(self) -> int: ...

class PackedLinear(AnyLinear):
    def __init__(self, weight: int, dtype: DType, bias: int, out_features: int, in_features: int) -> None: ...
    @staticmethod
    def from_packed(packed: int, dtype: DType, bias: int, out_features: int, in_features: int) -> PackedLinear: ...
    @staticmethod
    def packed_nbytes(dtype: DType, out_features: int, in_features: int) -> int: ...
    def forward(self, x: int, num_rows: int, out: int) -> None: ...
    def copy_packed(self, out: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

class QuantizedShape:
    def __init__(
        self, bits: int, out_features: int, in_features: int, span_size: int, has_mins: bool, has_half_scales: bool
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...

class QuantizedLinear(AnyLinear):
    def __init__(self, shape: QuantizedShape, codes: int, scales: int, mins: int, bias: int) -> None: ...
    @staticmethod
    def from_packed(shape: QuantizedShape, packed: int, bias: int) -> QuantizedLinear: ...
    def forward(self, x: int, num_rows: int, out: int) -> None: ...
    def copy_packed(self, out: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

class AttentionPlan:
    def __init__(
        self,
        context_slots: int,
        num_context_slots: int,
        context_offsets: int,
        tree_slots: int,
        num_tree_slots: int,
        tree_offsets: int,
        num_seqs: int,
        row_seq: int,
        row_context_len: int,
        row_masks: int,
        num_rows: int,
        num_mask_words: int,
    ) -> None: ...

class Buffer:
    def __init__(self, place: int, width: int) -> None: ...

OpField: TypeAlias = torch.Tensor | Buffer | AnyLinear | int | float | str | Sequence[Buffer] | None

class KvCaches:
    def __init__(self, *, keys: Sequence[int], values: Sequence[int], dtype: DType, num_slots: int) -> None: ...

class Program:
    def __init__(
        self, widths: Sequence[int], *, vocab_size: int | None, num_positions: int | None, has_caches: bool
    ) -> None: ...
    def add(self, kind: str, **fields: OpField) -> None: ...
    def begin(
        self,
        *,
        num_rows: int,
        token_ids: int,
        positions: int,
        slots: int,
        plan: AttentionPlan,
        caches: KvCaches,
        hidden: int,
        kept: Sequence[int],
        shortlisted: Sequence[int],
        asked_rows: int,
        choices: Sequence[tuple[ChoiceParams, int] | None],
        logits: int,
        logits_width: int,
    ) -> None: ...
    def run(self, first: int, end: int) -> None: ...
    def draft_levels(
        self,
        *,
        context_slots: int,
        context_len: int,
        first_position: int,
        read: ReadRows | None,
        root_state: int,
        state_size: int,
        root_proposals: Sequence[tuple[int, float]],
        levels: Sequence[tuple[int, int, CandidateRow]],
        max_num_nodes: int,
        min_level_prob: float,
        num_kept: int,
        noise_weight: float,
        slots: Sequence[int],
        num_candidates: int,
        token_ids: int,
        vocab_size: int,
        caches: KvCaches,
        states: int,
    ) -> tuple[list[tuple[int, float]], list[tuple[int, int, float, list[tuple[int, float]]]]]: ...
    def choices(self) -> list[int]: ...
    def buffer(self, place: int, width: int) -> memoryview: ...
    @property
    def num_rows(self) -> int: ...

class ChoiceParams:
    def __init__(
        self,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        seed: int,
    ) -> None: ...

class ChoiceInput:
    def __init__(self, logits: int, vocab_size: int, *spans: int) -> None: ...

def set_num_threads(count: int) -> None: ...
def get_num_threads() -> int: ...

class MemoryReader:
    def __init__(self, num_bytes: int) -> None: ...
    def read(self, num_streams: int) -> int: ...

def set_isa(name: str) -> None: ...
def get_isa() -> str: ...
def amx_refusal() -> str: ...
def amx_refusal_of(*, is_in_processor: bool, is_enabled: bool, has_avx512: bool, request_error: int) -> str: ...
def build_info() -> str: ...
def tile_product_bf16(a: int, b: int, c: int, num_rows: int, num_words: int, num_outputs: int) -> None: ...
def tile_product_s8(a: int, b: int, c: int, num_rows: int, num_words: int, num_outputs: int) -> None: ...
def gumbel_noise(seed: int, position: int, token_ids: int, count: int, out: int) -> None: ...
def choose(input: ChoiceInput, params: ChoiceParams, position: int) -> int: ...
def num_sorted_tokens() -> int: ...
def processed_log_probs(input: ChoiceInput, params: ChoiceParams, out: int) -> None: ...
def greedy_choices(logits: int, num_rows: int, vocab_size: int, out: int) -> None: ...
def top_k_log_probs(logits: int, num_rows: int, vocab_size: int, k: int, values: int, token_ids: int) -> None: ...

class ReadRows:
    def __init__(
        self,
        *,
        program: Program,
        num_rows: int,
        token_ids: int,
        hidden: bytes,
        choice: CandidateRow,
        places: int,
        logits: int,
        log_sum_exp: int,
    ) -> None: ...

class CandidateRow:
    def __init__(
        self, position: int, seed: int, temperature: float, top_k: int, top_p: float, scale: float
    ) -> None: ...

def best_candidates(
    token_ids: int,
    are_short: bool,
    logits: int,
    num_candidates: int,
    log_sum_exp: int,
    rows: Sequence[CandidateRow],
    noise_weight: float,
    k: int,
) -> list[list[tuple[int, float]]]: ...
def bfloat16_rows(matrices: Sequence[int], width: int, rows: Sequence[int]) -> bytes: ...
def log_sum_exp(logits: int, vocab_size: int) -> float: ...
def merge_trees(
    trees: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float], Sequence[int]]], max_num_nodes: int
) -> tuple[list[int], list[int], list[float], list[int]]: ...
def ancestor_masks(parents: Sequence[int]) -> bytes: ...
def walk_tree(token_ids: Sequence[int], parents: Sequence[int], choices: Sequence[int]) -> list[int]: ...
def validate_tree(token_ids: Sequence[int], parents: Sequence[int], vocab_size: int, max_num_nodes: int) -> None: ...

class TurnWatch:
    def __init__(self, timeout_s: float, signal: int) -> None: ...
    def beat(self) -> None: ...
    def stop(self) -> None: ...
