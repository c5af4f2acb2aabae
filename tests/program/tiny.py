"""Small programs on the CPU's kernels for tests: two layers of random weights, and rows to run them on."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import torch

from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import quantize
from specgrove.kernels.rows import PassRows, plain_rows
from specgrove.kernels.sampling import RowChoice
from specgrove.models.decoder.parameters import (
    AttentionWeights,
    EmbeddingWeights,
    HeadWeights,
    LayerWeights,
    LinearWeights,
    MlpWeights,
    ModelWeights,
    NormWeights,
    Weight,
)
from specgrove.models.decoder.rotary_spec import RotarySpec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.program.backend import KvCaches
from specgrove.program.build import build
from specgrove.program.program import Program
from specgrove.program.stores import MemoryWeights, WeightStore

HIDDEN, INNER, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, NUM_SLOTS, MAX_POSITIONS = 48, 80, 4, 2, 12, 20, 32
VOCAB_SIZE = 70
FORMS = (
    "pre_norm",
    "pre_norm, with norms of what is added",
    "post_norm",
    "parallel",
    "parallel, with two norms",
)
Kind = Literal["float32", "bfloat16", "float16", "int8", "int4"]


def weight(kind: Kind, values: torch.Tensor) -> Weight:
    """As checkpoints of this kind have it."""
    if kind in ("int8", "int4"):
        return quantize(values, 8 if kind == "int8" else 4, None if kind == "int8" else 16)
    return values.to(getattr(torch, kind))


def spec(form: str = "pre_norm", num_layers: int = 2, vocab_size: int = VOCAB_SIZE) -> DecoderSpec:
    """Of one of ``FORMS``."""
    residual = form.split(",")[0]
    assert residual in ("pre_norm", "post_norm", "parallel")
    return DecoderSpec(
        architecture="Tiny",
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_heads=NUM_HEADS,
        num_kv_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        layers=(LayerSpec(RotarySpec(theta=10000.0)),) * num_layers,
        norm="rms",
        norm_eps=1e-5,
        activation="silu",
        is_gated=True,
        residual=residual,  # type: ignore[arg-type]
        attention_scale=HEAD_DIM**-0.5,
        has_tied_head=False,
    )


def weights(
    form: str = "pre_norm",
    kind: Kind = "bfloat16",
    table: torch.Tensor | None = None,
    vocab: Weight | None = None,
    vocab_size: int = VOCAB_SIZE,
) -> ModelWeights:
    """Random, but every part is the same whenever it is read. ``table``: of the embedding; ``vocab``: of the head."""

    def linear(generator: torch.Generator, out_features: int, in_features: int) -> LinearWeights:
        return LinearWeights(weight(kind, torch.randn(out_features, in_features, generator=generator) * 0.1))

    def norm(generator: torch.Generator) -> NormWeights:
        return NormWeights(torch.rand(HIDDEN, generator=generator) + 0.5)

    def layer(index: int) -> LayerWeights:
        seeded = torch.Generator().manual_seed(index)
        qkv = linear(seeded, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM, HIDDEN)
        adds_norms = form == "pre_norm, with norms of what is added"
        return LayerWeights(
            attention_norm=norm(seeded),
            attention=AttentionWeights(qkv, linear(seeded, HIDDEN, NUM_HEADS * HEAD_DIM)),
            mlp=MlpWeights(linear(seeded, 2 * INNER, HIDDEN), linear(seeded, HIDDEN, INNER)),
            mlp_norm=None if form == "parallel" else norm(seeded),
            attention_out_norm=norm(seeded) if adds_norms else None,
            mlp_out_norm=norm(seeded) if adds_norms else None,
        )

    def embedding() -> EmbeddingWeights:
        seeded = torch.Generator().manual_seed(1000)
        return EmbeddingWeights(torch.randn(vocab_size, HIDDEN, generator=seeded) if table is None else table)

    def head() -> HeadWeights:
        seeded = torch.Generator().manual_seed(1001)
        own = torch.randn(vocab_size, HIDDEN, generator=seeded)
        return HeadWeights(weight(kind, own) if vocab is None else vocab, norm(seeded))

    return ModelWeights(embedding, layer, head)


def program(
    form: str = "pre_norm",
    kind: Kind = "bfloat16",
    num_layers: int = 2,
    *,
    table: torch.Tensor | None = None,
    vocab: Weight | None = None,
    store: WeightStore | None = None,
    shard: Shard | None = None,
    keep_hidden: Collection[int] = (),
) -> Program:
    """A model of one of ``FORMS``. Its head has the kind of ``vocab``, if one is given; other tables have float32."""
    vocab_size = VOCAB_SIZE
    if vocab is not None:
        vocab_size = vocab.shape[0] if isinstance(vocab, torch.Tensor) else vocab.codes.shape[0]
    elif table is not None:
        vocab_size = len(table)
    own = weights(form, kind, table, vocab, vocab_size)
    dtype = torch.float32 if kind in ("int8", "int4") else getattr(torch, kind)
    return build(spec(form, num_layers, vocab_size), own, dtype, store or MemoryWeights(), shard, keep_hidden)


def caches(num_layers: int = 2, num_slots: int = NUM_SLOTS, dtype: torch.dtype = torch.bfloat16) -> KvCaches:
    """Of zeros."""
    shape = (num_slots, NUM_KV_HEADS, HEAD_DIM)
    keys, values = (tuple(torch.zeros(shape, dtype=dtype) for _ in range(num_layers)) for _ in range(2))
    return KvCaches(keys, values)


def chain(token_ids: list[int], choices: list[RowChoice | None]) -> PassRows:
    """A sequence's rows, all of them asked."""
    count = len(token_ids)
    return replace(
        plain_rows(count), token_ids=array("q", token_ids), asked_rows=array("q", range(count)), choices=choices
    )


# A pass of three rows that programs of `program` take.
GOOD = chain([1, 2, 3], [None] * 3)


def linear(out_features: int, in_features: int) -> PackedLinear:
    """Of zeros."""
    return PackedLinear(torch.zeros(out_features, in_features))
