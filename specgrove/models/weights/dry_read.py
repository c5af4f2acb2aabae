"""Lets a family read a checkpoint without its content: what it reads, whether all of it is there in its shape, and what nobody reads.

Called by ``specgrove.models.weights.opening`` before anything is loaded, by ``specgrove.models.folders.inventory`` instead, and by
quantisation, which asks for names. Opens headers only.
"""

from __future__ import annotations

import torch

from specgrove.models.decoder.family import Family
from specgrove.models.decoder.sharding import Shard
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.checkpoint import ALL, Checkpoint, read_weights
from specgrove.models.weights.tensor_names import check_all_read

_OURS = ("draft_token_ids",)  # of an SSM with a vocabulary of its own: read by the SSM service


class RecordingSource:
    """Gives tensors without content, and remembers which were read, and which of them as weights."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._given: list[tuple[torch.Tensor, str]] = []
        self._asked: set[str] = set()
        self.read: set[str] = set()
        """By the checkpoint's own names: a quantised weight is several."""

    def __contains__(self, name: str) -> bool:
        return name in self._checkpoint

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        return self._checkpoint.shape_of(name)

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """See ``TensorSource``."""
        return self._empty(name)[rows]

    def weight(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """See ``TensorSource``."""
        tensor = self._empty(name)[rows, columns]
        self._given.append((tensor, name))
        return tensor

    def taken(self) -> tuple[tuple[str, ...], list[torch.Tensor]]:
        """Names and tensors of the weights since the last call."""
        tensors, names = [tensor for tensor, _ in self._given], dict.fromkeys(name for _, name in self._given)
        self._given = []
        return tuple(names), tensors

    def asked(self) -> set[str]:
        """Names of all that was read since the last call."""
        asked, self._asked = self._asked, set()
        return asked

    def _empty(self, name: str) -> torch.Tensor:
        self._asked.add(name)
        shape = self._checkpoint.shape_of(name)
        self.read.update(self._checkpoint.parts_of(name))
        return torch.empty(shape, device="meta")


def check_checkpoint(family: Family, spec: DecoderSpec, checkpoint: Checkpoint) -> str | None:
    """Raises ``UnsupportedModelError`` for what is missing, of another shape, or left over; returns what to say of harmless leftovers."""
    source = RecordingSource(checkpoint)
    weights = read_weights(family, source, spec, Shard.whole(spec))
    weights.embedding()
    source.asked()
    in_layers = []
    for index in range(spec.num_layers):
        weights.layer(index)
        in_layers.append({name.replace(f".{index}.", ".*.", 1) for name in source.asked()})
    _check_alike(in_layers)
    weights.head()
    return check_all_read(checkpoint.names(), source.read.union(_OURS), spec.architecture)


def _check_alike(in_layers: list[set[str]]) -> None:
    """All layers have the same tensors: what some have and others lack, such as a bias, is missing there."""
    for index, names in enumerate(in_layers):
        if lacking := set.union(*in_layers) - names:
            name = min(lacking)
            owner = next(other for other, others in enumerate(in_layers) if name in others)
            raise UnsupportedModelError(
                f"there is no tensor {name.replace('*', str(index))}, though layer {owner} has one: is it a whole checkpoint?"
            )
