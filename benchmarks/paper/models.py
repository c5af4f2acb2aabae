"""A large and a small model in this process: the LLM's output token by token, and both models' distributions at nodes of trees below any
place of that output. Used by the recorder; the services' own decoders, kernels and noise, without their engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from specgrove.kernels.sampling import ChoiceParams, choose
from specgrove.models.decoder.ends import ends_of
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.model_files import name_of
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.models.folders.weights_digest import weights_digest
from specgrove.models.planning.ssm_fitting import found_ssm
from specgrove.program.decoder import DTYPES
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MemoryWeights
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.settings.ssm_specs import parse_ssm
from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.ssm_vocabulary import read_vocabulary
from ssm_service.draft_vocab import DraftVocab
from ssm_service.loading import read_draft_vocab

_CHUNK_LEN = 256


class Sequenced:
    """A model that has read one sequence. Slot ``i`` holds position ``i``; those after ``max_model_len`` are the trees'."""

    def __init__(self, runner: ModelRunner, max_model_len: int, vocab: DraftVocab | None, vocab_size: int) -> None:
        """``vocab_size`` is the LLM's: distributions are over its ids."""
        self._runner, self._max_model_len, self._vocab = runner, max_model_len, vocab
        self._vocab_size = vocab_size
        self._known_ids: torch.Tensor | None = None  # int64: places in the LLM's vocabulary of ``_draft_ids``
        if vocab is not None:
            llm_ids = vocab.to_llm(torch.arange(vocab.size))
            self._draft_ids = (llm_ids >= 0).nonzero().flatten()
            self._known_ids = llm_ids[self._draft_ids]
        self._len = 0

    def read(self, token_ids: Sequence[int]) -> None:
        """The whole sequence, in place of the one before."""
        self._len = 0
        for start in range(0, len(token_ids), _CHUNK_LEN):
            self.append(token_ids[start : start + _CHUNK_LEN])

    def append(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Reads on; the last token's logits, float32 ``[vocab_size]``."""
        self._len += len(token_ids)
        builder = PassBuilder()
        builder.add(range(self._len), self._fed(token_ids), chunk_logits=True)
        return self._runner.forward(builder.build())[0]

    def below(self, places: Sequence[int], trees: Sequence[Nodes]) -> torch.Tensor:
        """Log-probabilities after the new nodes of each tree, all in one pass: float32 ``[num_new_nodes, vocab_size]``.

        Tree ``i`` lies after the first ``places[i]`` tokens of the sequence, in room of its own. What isn't proposed has minus infinity.
        """
        builder = PassBuilder()
        room = self._max_model_len
        for place, tree in zip(places, trees, strict=True):
            slots = range(room, room + len(tree.token_ids))
            builder.add(range(place), (), TreeRows(self._fed(tree.token_ids), tree.parents, slots, tree.first_new))
            room += tree.max_num_nodes
        return self._of_llm(self._runner.forward(builder.build()))

    def _fed(self, token_ids: Sequence[int]) -> list[int]:
        if self._vocab is not None:
            return self._vocab.to_draft(list(token_ids))
        vocab_size = self._runner.spec.vocab_size
        return [token_id if token_id < vocab_size else 0 for token_id in token_ids]

    def _of_llm(self, logits: torch.Tensor) -> torch.Tensor:
        if self._known_ids is None and logits.shape[1] == self._vocab_size:
            return logits.log_softmax(-1)
        found = torch.full((logits.shape[0], self._vocab_size), -torch.inf)
        if self._known_ids is None:
            num_ids = min(logits.shape[1], self._vocab_size)
            found[:, :num_ids] = logits[:, :num_ids].log_softmax(-1)
        else:
            found[:, self._known_ids] = logits[:, self._draft_ids].log_softmax(-1)
        return found


@dataclass(frozen=True, slots=True)
class Nodes:
    """A tree that is read level by level: nodes before ``first_new`` were read already. Node 0 is the last committed token."""

    token_ids: Sequence[int]
    parents: Sequence[int]
    first_new: int
    max_num_nodes: int
    """Slots kept for it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both models, and what they were loaded from."""

    llm: Sequenced
    ssm: Sequenced
    tokenizer: Tokenizer
    end_ids: frozenset[int]
    vocab_size: int
    max_model_len: int
    names: tuple[str, str]
    digest: str
    """The same for the same weights of both."""

    def prompt_ids(self, prompt: str) -> list[int]:
        """As one question of a chat, or as it is where the LLM has no chat template."""
        if self.tokenizer.has_chat_template:
            return self.tokenizer.encode_chat([("user", prompt)])
        return self.tokenizer.encode(prompt)

    def output(self, prompt_ids: Sequence[int], params: ChoiceParams, max_tokens: int) -> list[int]:
        """What the LLM answers, as incremental decoding with this seed does. Both models have then read the prompt and the output."""
        self.llm.read(prompt_ids[:-1])
        output: list[int] = []
        last = prompt_ids[-1]
        while len(output) < max_tokens:
            logits = self.llm.append([last])
            last = choose(logits, params, len(prompt_ids) + len(output))
            output.append(last)
            if last in self.end_ids:
                break
        self.ssm.read([*prompt_ids, *output])
        return output


def load_pair(
    llm: str,
    ssm: str,
    precisions: tuple[str, str],
    max_model_len: int,
    num_tree_slots: int,
    cache_dir: Path,
    progress: Callable[[str], None],
) -> Pair:
    """``llm`` and ``ssm`` as for ``specgrove serve``; ``precisions`` of LLM and SSM are dtypes, or ``int8`` and ``int4``.

    Raises ``ValueError`` where the two don't fit each other or ``max_model_len``, ``OSError`` where files can't be read.
    """  # fmt: skip
    folder = resolve_model(llm, cache_dir=cache_dir, progress=progress)
    spec = parse_ssm(ssm)
    if spec.model is None:
        raise ValueError(f"SSM {ssm!r} has no distributions: name one with weights")
    ssm_folder = found_ssm(spec, cache_dir, progress).folder
    tokenizer = Tokenizer.from_folder(folder)
    own = read_draft_vocab(ssm_folder)
    told = read_vocabulary(ssm_folder).sha256
    if told and told != tokenizer.vocab_sha256:
        raise ValueError(f"{ssm_folder} has another vocabulary than {folder}: name an SSM made for this LLM")
    digest = "-".join((weights_digest(folder), weights_digest(ssm_folder)))
    runners = []
    for place, precision in zip((folder, ssm_folder), precisions, strict=True):
        is_quantized = precision in ("int8", "int4")
        found = ensure_quantized(place, precision, cache_dir, progress) if is_quantized else place
        progress(f"loading {name_of(place)} in {precision}")
        dtype = DTYPES["bfloat16" if is_quantized else precision]
        decoder = load_decoder(found, dtype, store=MemoryWeights())
        if decoder.spec.max_position_embeddings < max_model_len:
            raise ValueError(
                f"{place} takes {decoder.spec.max_position_embeddings} tokens, and prompt, output and tree may have "
                f"{max_model_len}: give smaller --max-tokens or --max-prompt-len"
            )
        runners.append(ModelRunner(decoder, max_model_len + num_tree_slots))
    vocab_size = runners[0].spec.vocab_size
    ends = frozenset(ends_of(folder, tokenizer, vocab_size).chat)
    sequenced = [
        Sequenced(runner, max_model_len, vocab, vocab_size) for runner, vocab in zip(runners, (None, own), strict=True)
    ]
    names = (name_of(folder), spec.name)
    return Pair(sequenced[0], sequenced[1], tokenizer, ends, vocab_size, max_model_len, names, digest)
