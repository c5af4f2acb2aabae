"""Reads an SSM that reads hidden states: its own tensors, and the LLM's embedding and head where it has none of its own.

Called by the SSM service. Strict: whatever the configuration asks for must be there in its shape, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.own_folder import check_tensors
from specgrove.models.hidden_state.program_weights import ModelEnds
from specgrove.models.hidden_state.published_tensors import EMBEDDING, HEAD, PublishedTensors, published_tensors
from specgrove.models.hidden_state.recognition import hidden_ssm_spec_of, is_own
from specgrove.models.hidden_state.spec import HiddenSsmSpec
from specgrove.models.weights.checkpoint import read_weights
from specgrove.models.weights.finite import check_finite
from specgrove.models.weights.opening import naming, open_checkpoint
from specgrove.models.weights.safetensors_files import weight_files_of


@dataclass(frozen=True, slots=True)
class HiddenSsm:
    """One that is read. ``tensors`` are just those that ``spec`` asks for, by the names of our own format."""

    spec: HiddenSsmSpec
    tensors: Mapping[str, torch.Tensor]
    ends: ModelEnds

    def module(self) -> HiddenStateModule:
        """In plain torch, in float32."""
        module = HiddenStateModule(self.spec)
        module.load_state_dict({name: tensor.float() for name, tensor in self.tensors.items()})
        return module.eval()


def read_hidden_ssm(folder: Path, llm_folder: Path) -> HiddenSsm:
    """Raises ``UnsupportedModelError`` and ``JsonFileError`` that name what is wrong."""
    spec = hidden_ssm_spec_of(folder, llm_folder)
    tensors: Mapping[str, torch.Tensor] = _stored(folder)
    published = PublishedTensors({}, None, None, None)
    if not is_own(folder):
        spec, published = published_tensors(spec, tensors, folder)
        tensors = published.layer
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in HiddenStateModule(spec).state_dict().items()}
    check_tensors(wanted, dict(tensors), str(folder))
    own = {HEAD: published.head, EMBEDDING: published.embedding}
    with naming(folder):
        for name, tensor in (*tensors.items(), *own.items()):
            if tensor is not None:
                _check_numbers(name, tensor)
    return HiddenSsm(spec, tensors, _ends_of(spec, published, llm_folder))


def _stored(folder: Path) -> dict[str, torch.Tensor]:
    """Each name from the one file that counts. Raises ``ValueError`` where nothing says which does."""
    files = weight_files_of(folder)
    in_files = {path.name: load_file(path) for path in files.paths}
    return {name: in_files[file][name] for name, file in files.located(in_files).items()}


def _check_numbers(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point():
        raise UnsupportedModelError(f"{name} holds {tensor.dtype}, and not floating-point numbers: is it quantised?")
    check_finite(name, tensor)


def _ends_of(spec: HiddenSsmSpec, published: PublishedTensors, llm_folder: Path) -> ModelEnds:
    llm = read_spec(llm_folder)
    embedding, head = published.embedding, published.head
    if embedding is None or head is None:
        own_embedding, own_head = _ends_of_llm(llm_folder, needs_head=head is None)
        embedding = own_embedding if embedding is None else embedding
        head = own_head if head is None else head
    if embedding.shape[1] != spec.hidden_size:
        raise UnsupportedModelError(
            f"the embedding of {llm_folder.name} has {embedding.shape[1]} numbers for a token, and the SSM's layer takes {spec.hidden_size}"
        )
    return ModelEnds(embedding, head, llm.embedding_scale, llm.logit_soft_cap, published.token_ids)


def _ends_of_llm(folder: Path, *, needs_head: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding and head, which may be one tensor."""
    (family, _), spec = family_of(folder), read_spec(folder)
    with naming(folder), ExitStack() as opened:
        weights = read_weights(family, opened.enter_context(open_checkpoint(folder)), spec, Shard.whole(spec))
        embedding = weights.embedding()
        if embedding.projection is not None:
            raise UnsupportedModelError(
                f"{folder.name} has a projection behind its embedding: no SSM of this kind reads it"
            )
        tokens = _plain(embedding.tokens)
        if not needs_head or spec.has_tied_head:
            return tokens, tokens
        return tokens, _plain(weights.head().vocab)


def _plain(weight: torch.Tensor | QuantizedWeight) -> torch.Tensor:
    """A copy of its own: files are closed afterwards."""
    return weight.dequantized() if isinstance(weight, QuantizedWeight) else weight.clone()
