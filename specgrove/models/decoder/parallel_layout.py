"""Which rank does what when a model is spread over processes: ``tensor_size`` ranks in every pipeline stage.

Rank = stage * tensor_size + tensor rank, so that a stage's ranks, which talk most, are neighbours. Rank 0 serves gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass

from specgrove.models.decoder.sharding import Shard, stage_layers
from specgrove.models.decoder.spec import DecoderSpec


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """``stage_sizes`` are the numbers of layers of the stages; ``None`` divides them evenly over ``num_stages``."""

    tensor_size: int = 1
    num_stages: int = 1
    stage_sizes: tuple[int, ...] | None = None

    @property
    def num_ranks(self) -> int:
        """Processes in all."""
        return self.tensor_size * self.num_stages

    def stage_of(self, rank: int) -> int:
        """The pipeline stage of a rank."""
        return rank // self.tensor_size

    def ranks_of(self, stage: int) -> range:
        """The ranks of a stage."""
        return range(stage * self.tensor_size, (stage + 1) * self.tensor_size)

    def shard_of(self, rank: int, spec: DecoderSpec) -> Shard:
        """What a rank holds of a model. Raises ``ValueError`` where its layers can't be divided so."""
        stage = self.stage_of(rank)
        layers = stage_layers(spec.num_layers, self.stage_sizes or self.num_stages)[stage]
        return Shard(
            tensor_rank=rank % self.tensor_size,
            tensor_size=self.tensor_size,
            first_layer=layers.start,
            end_layer=layers.stop,
            is_first_stage=stage == 0,
            is_last_stage=stage == self.num_stages - 1,
        )

    def describe(self, rank: int) -> str:
        """For messages: "rank 3 (stage 1, tensor rank 1)"."""
        return f"rank {rank} (stage {self.stage_of(rank)}, tensor rank {rank % self.tensor_size})"
