"""The architectures of GGUF files that are served: whose models they are, and by what names they keep the weights.

Read by ``gguf_checkpoint`` and ``gguf_config``. What differs is data here: a row for an architecture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.formats.gguf_blocks import check_type
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.gguf_metadata import GgufMetadata

_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_NEEDED_NAMES = ("token_embd.weight", "output_norm.weight")
IGNORED_NAMES = ("rope_freqs.weight",)  # read by ``gguf_config``


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """One architecture. ``name`` is what its metadata keys begin with."""

    name: str
    architecture: str
    """In ``config.json``."""
    model_type: str
    layer_names: Mapping[str, str]
    """A layer's tensors, by llama.cpp's names, to Hugging Face's."""
    has_rotated_pairs: bool = False
    """Query and key rows stand in llama.cpp's order: the two of a rotation side by side."""
    biases: tuple[str, ...] = ()
    """That all of these models have; others may."""
    norm_offset: float = 0.0
    """What the file's norm scales have more than Hugging Face's."""

    def hugging_face_name(self, name: str) -> str | None:
        """None for a tensor that no model of this family has."""
        stem, _, suffix = name.rpartition(".")
        if stem in _TOP_NAMES:
            return f"{_TOP_NAMES[stem]}.{suffix}"
        parts = stem.split(".")
        if len(parts) == 3 and parts[0] == "blk" and parts[2] in self.layer_names:
            return f"model.layers.{parts[1]}.{self.layer_names[parts[2]]}.{suffix}"
        return None


_FAMILIES = (
    GgufFamily("llama", "LlamaForCausalLM", "llama", _LAYER_NAMES, has_rotated_pairs=True),
    GgufFamily(
        "qwen2", "Qwen2ForCausalLM", "qwen2", _LAYER_NAMES, biases=("attn_q.bias", "attn_k.bias", "attn_v.bias")
    ),
    GgufFamily("qwen3", "Qwen3ForCausalLM", "qwen3", _LAYER_NAMES | _HEAD_NORMS),
    GgufFamily("granite", "GraniteForCausalLM", "granite", _LAYER_NAMES, has_rotated_pairs=True),
    GgufFamily("gemma2", "Gemma2ForCausalLM", "gemma2", _LAYER_NAMES | _GEMMA_NORMS, norm_offset=1.0),
    GgufFamily(
        "gemma3", "Gemma3ForCausalLM", "gemma3_text", _LAYER_NAMES | _HEAD_NORMS | _GEMMA_NORMS, norm_offset=1.0
    ),
)


def family_of_gguf(file: GgufFile) -> GgufFamily:
    """Raises ``UnsupportedModelError`` for other architectures, and for files that are no model, by name."""
    if (kind := file.metadata.text("general.type", "model")) != "model":
        raise UnsupportedModelError(f"{file.path} holds no model: its general.type is {kind!r}")
    architecture = file.metadata.text("general.architecture", "")
    for family in _FAMILIES:
        if family.name == architecture:
            return family
    raise UnsupportedModelError(
        f"{file.path}: GGUF architecture {architecture!r} is not supported, only {', '.join(f.name for f in _FAMILIES)}: "
        "serve the model's own folder in Hugging Face layout if its family is (`specgrove models info`)"
    )


def values_of(file: GgufFile) -> GgufMetadata:
    """What the metadata says of the architecture, without its name in the keys."""
    return file.metadata.below(family_of_gguf(file).name)


def check_tensors(file: GgufFile) -> None:
    """Raises ``UnsupportedModelError`` with the names of the weights that are missing, of a type that isn't read, or of no use."""
    family = family_of_gguf(file)
    num_layers = values_of(file).size("block_count")
    parts = [*(f"{name}.weight" for name in family.layer_names), *family.biases]
    in_layers = [f"blk.{index}.{part}" for index in range(num_layers) for part in parts]
    missing = [name for name in (*_NEEDED_NAMES, *in_layers) if name not in file.tensors]
    if missing:
        others = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
        raise UnsupportedModelError(f"{file.path} lacks {', '.join(missing[:3])}{others}: is it a whole model?")
    for name, tensor in file.tensors.items():
        try:
            check_type(tensor.kind)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{file.path}: {name}: {error}") from error
        if name not in IGNORED_NAMES and family.hugging_face_name(name) is None:
            raise UnsupportedModelError(
                f"{file.path} has a tensor {name}, which no {family.name} has: it would be left out"
            )
    if beyond := [n for n in file.tensors if n.startswith("blk.") and int(n.split(".")[1]) >= num_layers]:
        raise UnsupportedModelError(f"{file.path} has {beyond[0]}, but by its metadata {num_layers} layers")


def main_type(file: GgufFile) -> str:
    """The type of most of the layers' bytes."""
    num_bytes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        if tensor.name.startswith("blk."):
            num_bytes[tensor.kind] += tensor.data.nbytes
    return num_bytes.most_common(1)[0][0] if num_bytes else "F32"
