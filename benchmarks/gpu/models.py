"""Models of known shapes with random weights: made on the device, layer by layer, or written as a folder for a service to load.

Used by the steps and the end-to-end part of ``benchmarks.gpu``. Times don't depend on what the weights are. Quantised weights are the work
of ``quantize``, once for every shape of linear: layers share values, not memory. As in our own quantised files the head has 8 bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch

from specgrove.kernels.quantized_linear import QuantizedWeight, quantize
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
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.weights.quantization import INT4_GROUP_SIZE
from specgrove.models.weights.safetensors_writer import SafetensorsWriter
from specgrove.program.decoder import Decoder
from specgrove.program.device_weights import DeviceWeights

PRECISIONS = {16: "float16", 8: "int8", 4: "int4"}
MAX_LEN = 2048
_THETA, _EPS, _SCALE = 10000.0, 1e-5, 0.02


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Of a Llama with as many KV heads as heads."""

    name: str
    num_layers: int
    hidden: int
    inner: int
    num_heads: int
    vocab_size: int = 32000

    @property
    def head_dim(self) -> int:
        """Of every head."""
        return self.hidden // self.num_heads

    def spec(self) -> DecoderSpec:
        """For the decoder."""
        return DecoderSpec(
            architecture="LlamaForCausalLM",
            vocab_size=self.vocab_size,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            max_position_embeddings=MAX_LEN,
            layers=(LayerSpec(RotarySpec(_THETA)),) * self.num_layers,
            norm="rms",
            norm_eps=_EPS,
            activation="silu",
            is_gated=True,
            residual="pre_norm",
            attention_scale=self.head_dim**-0.5,
            has_tied_head=False,
        )

    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """Of one layer: queries, keys and values; attention's output; gate and up; down."""
        hidden, inner = self.hidden, self.inner
        return (3 * hidden, hidden), (hidden, hidden), (2 * inner, hidden), (hidden, inner)


LLAMA_7B = ModelShape("7B", 32, 4096, 11008, 32)
LLAMA_68M = ModelShape("68M", 2, 768, 3072, 12)
LLAMA_160M = ModelShape("160M", 12, 768, 3072, 12)
TINY_LLM = ModelShape("tiny", 1, 128, 160, 2, vocab_size=96)
TINY_SSM = ModelShape("tiny SSM", 1, 64, 96, 1, vocab_size=96)
SHAPES = {shape.name: shape for shape in (LLAMA_7B, LLAMA_68M, LLAMA_160M, TINY_LLM, TINY_SSM)}


def decoder_of(
    shape: ModelShape,
    device: torch.device,
    bits: int = 16,
    progress: Callable[[int, int], None] = lambda done, all: None,
    *,
    dtype: torch.dtype = torch.float16,
) -> Decoder:
    """On the kernels for GPUs, with linears of so many bits. The same weights at every call."""
    maker = _Maker(device, bits)
    store = DeviceWeights(device, has_kernels=True)
    return Decoder(shape.spec(), maker.weights(shape), dtype, store=store, progress=progress)


def weight_bytes(decoder: Decoder) -> int:
    """What a step reads: linears and head, with scales."""
    return sum(linear.nbytes for linear in decoder.program.linears())


class _Maker:
    """Makes weights when they are called for."""

    def __init__(self, device: torch.device, bits: int) -> None:
        self._device = device
        self._bits = bits
        self._generator = torch.Generator(device).manual_seed(bits)
        self._quantized: dict[tuple[int, int, int], QuantizedWeight] = {}

    def weights(self, shape: ModelShape) -> ModelWeights:
        """Of a whole model."""
        norm = NormWeights(torch.ones(shape.hidden))

        def layer(index: int) -> LayerWeights:
            qkv, out, up, down = (LinearWeights(self._linear(sizes, self._bits)) for sizes in shape.linear_shapes())
            return LayerWeights(norm, AttentionWeights(qkv, out), MlpWeights(up, down), norm)

        sizes = shape.vocab_size, shape.hidden
        return ModelWeights(
            embedding=lambda: EmbeddingWeights(self._random(sizes)),
            layer=layer,
            head=lambda: HeadWeights(self._linear(sizes, max(self._bits, 8)), norm),
        )

    def _random(self, sizes: tuple[int, int]) -> torch.Tensor:
        values = torch.empty(sizes, dtype=torch.float16, device=self._device)
        return values.normal_(std=_SCALE, generator=self._generator)

    def _linear(self, sizes: tuple[int, int], bits: int) -> Weight:
        if bits == 16:
            return self._random(sizes)
        key = (*sizes, bits)
        if key not in self._quantized:
            made = quantize(self._random(sizes).cpu(), bits, INT4_GROUP_SIZE if bits == 4 else None)
            mins = None if made.mins is None else made.mins.to(self._device)
            codes, scales = made.codes.to(self._device), made.scales.to(self._device)
            self._quantized[key] = QuantizedWeight(codes, scales, mins, bits)
        return self._quantized[key]


def write_folder(shape: ModelShape, folder: Path, *, has_weights: bool) -> None:
    """config.json and a tokenizer of made-up words; with weights also what the SSM service loads."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": MAX_LEN,
        "rms_norm_eps": _EPS,
        "rope_theta": _THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    words = {f"w{number}": number for number in range(shape.vocab_size)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    if has_weights:
        _write_weights(shape, folder)


def _write_weights(shape: ModelShape, folder: Path) -> None:
    generator = torch.Generator().manual_seed(1)

    def random(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes).normal_(std=_SCALE, generator=generator).half()

    writer, hidden, inner = SafetensorsWriter(folder), shape.hidden, shape.inner
    for name in ("model.embed_tokens", "lm_head"):
        writer.add(f"{name}.weight", random(shape.vocab_size, hidden))
    writer.add("model.norm.weight", torch.ones(hidden).half())
    for index in range(shape.num_layers):
        prefix = f"model.layers.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            writer.add(f"{prefix}self_attn.{name}.weight", random(hidden, hidden))
        for name, sizes in (
            ("gate_proj", (inner, hidden)),
            ("up_proj", (inner, hidden)),
            ("down_proj", (hidden, inner)),
        ):
            writer.add(f"{prefix}mlp.{name}.weight", random(*sizes))
        for name in ("input_layernorm", "post_attention_layernorm"):
            writer.add(f"{prefix}{name}.weight", torch.ones(hidden).half())
    writer.finish()
