from collections.abc import Sequence
from typing import TypeAlias

MAX_HEAD_DIM: int

class DType:
    float32: DType
    bfloat16: DType
    float16: DType

class Activation:
    silu: Activation
    gelu: Activation
    gelu_tanh: Activation
    relu: Activation

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

OpField: TypeAlias = DType | Activation | AnyLinear | int | float | Sequence[int]

class KvCaches:
    def __init__(self, *, keys: Sequence[int], values: Sequence[int], dtype: DType, num_slots: int) -> None: ...

class Program:
    def __init__(self, widths: Sequence[int]) -> None: ...
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
        asked_rows: int,
        choices: Sequence[tuple[ChoiceParams, int] | None],
        logits: int,
        logits_width: int,
    ) -> None: ...
    def run(self, first: int, end: int) -> None: ...
    def choices(self) -> list[int]: ...
    def buffer(self, place: int, width: int) -> memoryview: ...
    @property
    def num_rows(self) -> int: ...
    def __len__(self) -> int: ...

class Residual:
    pre_norm: Residual
    post_norm: Residual
    parallel: Residual

class StepShape:
    def __init__(
        self,
        *,
        hidden_size: int,
        inner_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        is_rms: bool,
        norm_eps: float,
        activation: Activation,
        is_gated: bool,
        residual: Residual,
        attention_scale: float,
        qkv_clip: float | None,
        alibi_slopes: int,
    ) -> None: ...

class StepNorm:
    def __init__(self, scale: int, shift: int) -> None: ...

class StepLayer:
    def __init__(
        self,
        *,
        qkv: AnyLinear,
        out: AnyLinear,
        up: AnyLinear,
        down: AnyLinear,
        attention_norm: StepNorm,
        mlp_norm: StepNorm,
        attention_out_norm: StepNorm,
        mlp_out_norm: StepNorm,
        q_norm: int,
        k_norm: int,
        cos_sin: int,
        max_positions: int,
        window: int | None,
    ) -> None: ...

class DecoderStep:
    def __init__(self, shape: StepShape, layers: Sequence[StepLayer]) -> None: ...
    def run(
        self,
        hidden: int,
        num_rows: int,
        positions: int,
        slots: int,
        plan: AttentionPlan,
        caches: StepCaches,
    ) -> None: ...

class StepCaches:
    def __init__(self, keys: Sequence[int], values: Sequence[int], dtype: DType, num_slots: int) -> None: ...

class StepEmbedding:
    def __init__(
        self,
        *,
        table: int,
        positions: int,
        dtype: DType,
        vocab_size: int,
        size: int,
        num_positions: int,
        scale: float,
        projection: AnyLinear | None,
    ) -> None: ...

class StepHead:
    def __init__(self, *, norm: StepNorm, projection: AnyLinear | None, vocab: AnyLinear, size: int) -> None: ...

class ModelStep:
    def __init__(self, embedding: StepEmbedding, layers: DecoderStep, head: StepHead) -> None: ...
    def run(
        self,
        token_ids: int,
        num_rows: int,
        positions: int,
        slots: int,
        plan: AttentionPlan,
        caches: StepCaches,
        asked: int,
        choices: Sequence[tuple[ChoiceParams, int] | None],
        logits: int,
        vocab_size: int,
    ) -> list[int]: ...

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
def rms_norm(x: int, weight: int, eps: float, num_rows: int, size: int, out: int) -> None: ...
def add_rms_norm(residual: int, delta: int, weight: int, eps: float, num_rows: int, size: int, out: int) -> None: ...
def layer_norm(x: int, weight: int, bias: int, eps: float, num_rows: int, size: int, out: int) -> None: ...
def add_layer_norm(
    residual: int, delta: int, weight: int, bias: int, eps: float, num_rows: int, size: int, out: int
) -> None: ...
def add(residual: int, delta: int, num_rows: int, size: int) -> None: ...
def head_rms_norm(
    qkv: int, weight: int, eps: float, num_rows: int, width: int, first_head: int, num_heads: int, head_dim: int
) -> None: ...
def activate(x: int, activation: Activation, num_rows: int, size: int, out: int) -> None: ...
def gated(gate_up: int, activation: Activation, num_rows: int, size: int, out: int) -> None: ...
def embed(table: int, dtype: DType, vocab_size: int, token_ids: int, num_rows: int, size: int, out: int) -> None: ...
def rotate_and_store(
    qkv: int,
    positions: int,
    cos_sin: int,
    slots: int,
    k_cache: int,
    v_cache: int,
    dtype: DType,
    max_positions: int,
    num_slots: int,
    num_rows: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    queries: int,
) -> None: ...
def tree_attention(
    queries: int,
    k_cache: int,
    v_cache: int,
    dtype: DType,
    num_slots: int,
    num_kv_heads: int,
    head_dim: int,
    plan: AttentionPlan,
    num_heads: int,
    scale: float,
    alibi_slopes: int,
    window: int | None,
    out: int,
) -> None: ...
def gumbel_noise(seed: int, position: int, token_ids: int, count: int, out: int) -> None: ...
def choose(input: ChoiceInput, params: ChoiceParams, position: int) -> int: ...
def processed_log_probs(input: ChoiceInput, params: ChoiceParams, out: int) -> None: ...
def greedy_choices(logits: int, num_rows: int, vocab_size: int, out: int) -> None: ...
def top_k_log_probs(logits: int, num_rows: int, vocab_size: int, k: int, values: int, token_ids: int) -> None: ...
def log_sum_exp(logits: int, vocab_size: int) -> float: ...
def merge_trees(
    trees: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float], Sequence[int]]], max_num_nodes: int
) -> tuple[list[int], list[int], list[float], list[int]]: ...
def ancestor_masks(parents: Sequence[int]) -> bytes: ...
def walk_tree(token_ids: Sequence[int], parents: Sequence[int], choices: Sequence[int]) -> list[int]: ...
def validate_tree(token_ids: Sequence[int], parents: Sequence[int], vocab_size: int, max_num_nodes: int) -> None: ...
