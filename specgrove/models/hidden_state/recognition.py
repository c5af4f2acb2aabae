"""Which folders hold an SSM that reads an LLM's hidden states, and what their ``config.json`` says it is. Imports no torch.

Asked before a start, and at loading. Invariant: what is returned fits the LLM by its sizes, its layers and its vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from specgrove.files.json_files import read_json_object
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.spec import DecoderSpec, LayerSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.own_config import ARCHITECTURE, own_spec_of
from specgrove.models.hidden_state.published_config import flavour_of, published_spec_of
from specgrove.models.hidden_state.spec import HiddenSsmSpec
from specgrove.tokenizer import Tokenizer


def reads_hidden_states(folder: Path) -> bool:
    """Whether the folder's SSM does. Raises ``JsonFileError``."""
    config = read_json_object(folder / "config.json")
    return ARCHITECTURE in config.texts("architectures") or flavour_of(config) is not None


def is_own(folder: Path) -> bool:
    """Whether it is in our own format."""
    return ARCHITECTURE in read_json_object(folder / "config.json").texts("architectures")


def hidden_ssm_spec_of(folder: Path, llm_folder: Path | None) -> HiddenSsmSpec:
    """By its ``config.json`` alone; what only tensors tell is as if there were none of them.

    Raises ``UnsupportedModelError`` and ``JsonFileError`` with what is wrong, and with what doesn't fit the LLM.
    """
    if llm_folder is None:
        raise UnsupportedModelError(
            f"{folder} reads hidden states of an LLM, and has neither its embedding nor its head: say which LLM it is with "
            "--llm-model FOLDER_OR_ID"
        )
    llm, config = read_spec(llm_folder), read_json_object(folder / "config.json")
    spec = own_spec_of(config) if is_own(folder) else published_spec_of(config, llm)
    _check_heads(spec, folder)
    if not is_own(folder):
        return spec
    if problem := _misfit(spec, llm) or _foreign_vocabulary(spec, llm_folder):
        raise UnsupportedModelError(f"{folder} was not made for {llm_folder.name}: {problem}")
    return spec


def _check_heads(spec: HiddenSsmSpec, folder: Path) -> None:
    if spec.num_heads % spec.num_kv_heads:
        raise UnsupportedModelError(
            f"{folder}: {spec.num_heads} query heads are no multiple of {spec.num_kv_heads} key and value heads"
        )
    if spec.head_dim % 2:
        raise UnsupportedModelError(
            f"{folder}: head_dim is {spec.head_dim}, it should be even: rotary positions turn pairs of numbers"
        )


def _misfit(spec: HiddenSsmSpec, llm: DecoderSpec) -> str | None:
    if spec.target_hidden_size != llm.hidden_size or spec.hidden_size != llm.hidden_size:
        return f"it reads hidden states of {spec.target_hidden_size} numbers, and the LLM's have {llm.hidden_size}"
    if spec.vocab_size != llm.vocab_size:
        return f"it has {spec.vocab_size} token ids, and the LLM {llm.vocab_size}"
    if spec.hidden_layers[-1] > llm.num_layers:
        return f"it reads layer {spec.hidden_layers[-1]}, and the LLM has {llm.num_layers}"
    return None


def _foreign_vocabulary(spec: HiddenSsmSpec, llm_folder: Path) -> str | None:
    if not spec.vocab_sha256 or not (llm_folder / "tokenizer.json").is_file():
        return None
    is_same = Tokenizer.from_folder(llm_folder).vocab_sha256 == spec.vocab_sha256
    return None if is_same else "its token ids mean something else there"


def as_decoder(spec: HiddenSsmSpec, llm: DecoderSpec) -> DecoderSpec:
    """A decoder that takes as much memory: its MLP stands for all that the layer has beyond a usual one."""
    decoder = replace(
        llm,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        layers=(LayerSpec(spec.rotary),),
        residual="pre_norm",
        is_gated=True,
        alibi_slopes=None,
        embedding_size=None,
    )
    beyond = spec.num_parameters - (decoder.num_parameters - decoder.num_embedding_parameters)
    return replace(decoder, intermediate_size=spec.intermediate_size + max(0, beyond // (3 * spec.hidden_size)))
