"""A hidden-state SSM's drafts by the torch module alone, node by node, and toy hidden states of an LLM."""

from __future__ import annotations

import torch

from specgrove.kernels.sampling import gumbel_noise
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates
from specgrove.loop.works import TreeShape
from specgrove.models.hidden_state.attention import CachedAttention, window_mask
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.program_weights import ModelEnds, program_spec_of, program_weights_of
from specgrove.program.hidden_state import HiddenStateModel
from specgrove.runtime.hidden_state_runner import HiddenStateRunner
from specgrove.tokenizer.ssm_vocabulary import Vocabulary
from ssm_service.draft_tree import ROOT, Beam, DraftTree
from ssm_service.hidden_state import HiddenStateSsm


def toy_hidden_states(num_tokens: int, num_layers: int = 3, size: int = 64, seed: int = 0) -> torch.Tensor:
    """bfloat16 ``[num_tokens, num_layers, size]``."""
    return torch.randn(num_tokens, num_layers, size, generator=torch.Generator().manual_seed(seed)).bfloat16()


def message(states: torch.Tensor, first: int, end: int, layers: tuple[int, ...] = (1, 2, 3)) -> HiddenStates:
    """Rows ``first`` to ``end`` - 1 of all that there are."""
    values = states[first:end].contiguous().view(torch.uint8).numpy().tobytes()
    return HiddenStates(first, end - first, layers, values)


def toy_ends(vocab_size: int = 120, size: int = 64) -> ModelEnds:
    embedding = torch.randn(vocab_size, size, generator=torch.Generator().manual_seed(7))
    return ModelEnds(embedding, embedding)


def make_ssm(
    module: HiddenStateModule,
    ends: ModelEnds,
    *,
    num_slots: int = 256,
    quantization: str = "none",
    dtype: torch.dtype = torch.float32,
    max_num_chunk_tokens: int = 256,
) -> HiddenStateSsm:
    spec = module.spec
    weights = program_weights_of(spec, module.state_dict(), ends, quantization)
    runner = HiddenStateRunner(HiddenStateModel(program_spec_of(spec, ends), weights, dtype), num_slots)
    return HiddenStateSsm(
        "hidden", spec, runner, Beam(3), vocabulary=Vocabulary(), max_num_chunk_tokens=max_num_chunk_tokens
    )


class TwinDrafter:
    """The same trees, computed by ``HiddenStateModule`` with each node's path on its own."""

    def __init__(self, module: HiddenStateModule, ends: ModelEnds) -> None:
        self._module, self._ends = module, ends

    @torch.no_grad()
    def tree(
        self,
        token_ids: list[int],
        hidden_states: torch.Tensor,
        first: int,
        shape: TreeShape,
        sampling: DraftSampling | None = None,
    ) -> TokenTree:
        """``hidden_states`` are those of tokens ``first`` to the last but one, ``[num, layers, size]``."""
        module, last = self._module, len(token_ids) - 1
        positions = torch.arange(first, last)
        given = module.of_hidden_states(
            hidden_states.float().flatten(1), self._ends.embedding[torch.tensor(token_ids[first + 1 :])]
        )
        attention = CachedAttention()
        attention.mask = window_mask(len(positions), len(positions))
        states = {ROOT: module(given, positions, attention)[-1:]}
        tree = DraftTree(shape, Beam(3))
        expanded = tree.grow([ROOT], [self._children(states[ROOT], len(token_ids), 1, sampling)])
        while expanded:
            children = []
            for node in expanded:
                path = [node]
                while tree.parents[path[0]] != ROOT:
                    path.insert(0, tree.parents[path[0]])
                for depth, place in enumerate(path):
                    attention.truncate(len(positions) + depth)
                    attention.mask = torch.ones(1, len(positions) + depth + 1, dtype=torch.bool)
                    embedding = self._ends.embedding[[tree.token_ids[place]]]
                    given = module.of_own_states(states[tree.parents[place]], embedding)
                    states[place] = module(given, torch.tensor([last + depth]), attention)
                children.append(self._children(states[node], len(token_ids) + len(path), len(path) + 1, sampling))
            expanded = tree.grow(expanded, children)
        return tree.best(token_ids[-1])

    def _children(
        self, state: torch.Tensor, position: int, depth: int, sampling: DraftSampling | None
    ) -> list[tuple[int, float]]:
        """By the formulas; mass outside the candidates counts as by the candidate head."""
        module, spec = self._module, self._module.spec
        outputs = module.outputs(state)
        ids, scores = (found[0] for found in module.candidates(outputs, self._ends.head))
        approximate = module.candidate_head(outputs)[0] if spec.candidate_rank else outputs[0] @ self._ends.head.T
        logits = approximate.index_copy(0, ids, scores)
        scale = spec.calibration.scale(depth)
        rest = logits.index_fill(0, ids, -torch.inf).logsumexp(0)
        if sampling is not None:
            weight, temperature = spec.calibration.noise_weight, sampling.temperature
            rest = weight * (temperature * rest + (1 - temperature) * scores[-1]) + temperature * 0.57721566
            scores = weight * scores + temperature * gumbel_noise(sampling.seed, position, ids)
            scale *= weight
        log_probs = torch.cat([scores, rest[None]]).div(scale).log_softmax(0)[:-1]
        best, order = log_probs.sort(descending=True)
        return list(zip(ids[order][:3].tolist(), best[:3].tolist(), strict=True))
