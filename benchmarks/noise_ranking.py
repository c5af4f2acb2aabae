"""Whether a drafter's candidates are better ranked with the verifier's noise, and by how much: first choice right, and among four.

    python -m benchmarks.noise_ranking --temperatures 0.6 0.8 1.0 --num-prompts 60

The LLM answers held-out prompts with its own noise; the drafter then reads the answers, and at every place its candidates are ranked
plainly and with noise. For each way the scale with the best likelihood is fitted, and with it the calibration error (ECE, ten bins of the
candidates' probabilities). Places are those of the LLM's text: a decoding loop stands more often at hard ones.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.prompts import load_prompts
from specgrove.kernels.candidates import CandidateRow, best_candidates
from specgrove.kernels.sampling import ChoiceParams, RowChoice, top_k_log_probs
from specgrove.kernels.threads import set_num_threads
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.settings.ssm_specs import SHIPPED_DRAFTERS
from specgrove.tokenizer import Tokenizer
from ssm_service.draft_vocab import DraftVocab
from ssm_service.loading import read_draft_vocab

_BATCH = 16
_MAX_LEN = 384
_NUM_CANDIDATES = 128
_NUM_AMONG = 4
_TENSORS = ("token_ids", "log_probs", "chosen")
_SCALES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.7, 2.0, 2.4, 2.8)


@dataclass(frozen=True, slots=True)
class Places:
    """What the drafter proposed at each place of the LLM's answers at one temperature, and the token that came."""

    token_ids: torch.Tensor  # int64 [num_places, candidates]
    log_probs: torch.Tensor  # float32 [num_places, candidates]
    chosen: torch.Tensor  # int64 [num_places]
    seeds: list[int]
    positions: list[int]
    params: ChoiceParams


def write_places(all_places: Sequence[Places], path: Path) -> None:
    """A safetensors file: the tensors of each, and the rest as JSON."""
    tensors = {
        f"{index}.{name}": getattr(places, name).contiguous()
        for index, places in enumerate(all_places)
        for name in _TENSORS
    }
    rest = [
        {"seeds": places.seeds, "positions": places.positions, "params": _given(places.params)} for places in all_places
    ]
    save_file(tensors, path, {"places": json.dumps(rest)})


def _given(params: ChoiceParams) -> dict[str, Any]:
    return {field.name: getattr(params, field.name) for field in fields(params) if field.init}


def read_places(path: Path) -> list[Places]:
    """What ``write_places`` was given."""
    with safe_open(path, "pt") as file:
        rest = json.loads(file.metadata()["places"])
        return [
            Places(
                **{name: file.get_tensor(f"{index}.{name}") for name in _TENSORS},
                seeds=each["seeds"],
                positions=each["positions"],
                params=ChoiceParams(**each["params"]),
            )
            for index, each in enumerate(rest)
        ]


def answers(
    runner: ModelRunner, prompts: Sequence[list[int]], num_tokens: int, params: Sequence[ChoiceParams]
) -> list[list[int]]:
    """The LLM's continuations, each by its own seed, in one batch."""
    texts = [list(prompt) for prompt in prompts]
    slots = [list(range(i * _MAX_LEN, (i + 1) * _MAX_LEN)) for i in range(len(texts))]
    num_read = [0] * len(texts)
    for _ in range(num_tokens):
        builder = PassBuilder()
        for text, own, read, choice in zip(texts, slots, num_read, params, strict=True):
            builder.add(own[: len(text)], text[read:], chunk_logits=True, choices=[RowChoice(choice, len(text))])
        chosen = runner.run(builder.build()).choices
        num_read = [len(text) for text in texts]
        for text, token_id in zip(texts, chosen, strict=True):
            text.append(token_id)
    return texts


def places_of(
    llm: ModelRunner, drafter: ModelRunner, vocab: DraftVocab | None, prompts: Sequence[list[int]], num_tokens: int,
    params: ChoiceParams, end_ids: frozenset[int],
) -> Places:  # fmt: skip
    """Made anew: the LLM's answers, and the drafter's candidates for each of their tokens."""
    ids, values, chosen = [], [], []
    seeds: list[int] = []
    positions: list[int] = []
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        own = [ChoiceParams(params.temperature, params.top_k, params.top_p, seed=start + i) for i in range(len(batch))]
        for prompt, text, choice in zip(batch, answers(llm, batch, num_tokens, own), own, strict=True):
            end = next((i for i in range(len(prompt), len(text)) if text[i] in end_ids), len(text) - 1)
            fed = text[:end] if vocab is None else vocab.to_draft(text[:end])
            builder = PassBuilder()
            builder.add([], (), TreeRows(fed, range(-1, len(fed) - 1), range(len(fed))))
            found, found_ids = top_k_log_probs(drafter.forward(builder.build())[len(prompt) - 1 :], _NUM_CANDIDATES)
            ids.append(found_ids if vocab is None else vocab.to_llm(found_ids))
            values.append(found)
            chosen.append(torch.tensor(text[len(prompt) : end + 1]))
            seeds.extend([choice.seed] * len(found))
            positions.extend(range(len(prompt), end + 1))
        print(f"T {params.temperature}: {len(seeds)} places", file=sys.stderr, flush=True)
    return Places(torch.cat(ids), torch.cat(values), torch.cat(chosen), seeds, positions, params)


def ranked(
    places: Places, noise_weight: float, scale: float, num: int, *, cuts: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and hits, ``[num_places, 4]``, of ``num`` candidates at each place; ``cuts``: top-k and top-p are applied."""
    p = places.params
    rows = [
        CandidateRow(position, p.temperature, seed, p.top_k if cuts else 0, p.top_p if cuts else 1.0, scale)
        for seed, position in zip(places.seeds, places.positions, strict=True)
    ]
    found = best_candidates(
        places.token_ids[:, :num].contiguous(),
        places.log_probs[:, :num].contiguous(),
        torch.zeros(len(rows)),
        rows,
        _NUM_AMONG,
        noise_weight,
    )
    filled = [[*pairs, *[(-1, -math.inf)] * (_NUM_AMONG - len(pairs))] for pairs in found]
    ids, log_probs = (torch.tensor([[pair[part] for pair in pairs] for pairs in filled]) for part in (0, 1))
    return log_probs, ids == places.chosen[:, None]


def calibration_error(log_probs: torch.Tensor, hits: torch.Tensor) -> float:
    """Mean distance of probability and hit rate, over ten bins, weighted by their sizes."""
    probs, right = log_probs.exp().flatten(), hits.flatten().float()
    bins = (probs * 10).long().clamp(max=9)
    sums = torch.zeros(10).index_add(0, bins, probs - right)
    return (sums.abs().sum() / len(probs)).item()


def row_of(places: Places, noise_weight: float, num: int, *, cuts: bool) -> dict[str, float]:
    """First choice right, among four, and the best scale with its calibration error."""

    def loss(scale: float) -> float:
        log_probs, hits = ranked(places, noise_weight, scale, num, cuts=cuts)
        right = torch.where(hits, log_probs.clamp(min=-30), 0.0).sum(1)
        missed = torch.log1p(-log_probs.exp().sum(1).clamp(max=1 - 1e-6))
        return -torch.where(hits.any(1), right, missed).mean().item()

    scale = min(_SCALES, key=loss)
    log_probs, hits = ranked(places, noise_weight, scale, num, cuts=cuts)
    return {
        "first": round(hits[:, 0].float().mean().item(), 4),
        "among": round(hits.any(1).float().mean().item(), 4),
        "scale": scale,
        "loss": round(loss(scale), 4),
        "loss at 1": round(loss(1.0), 4),
        "ece": round(calibration_error(log_probs, hits), 4),
    }


def main() -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--drafter", type=Path, default=SHIPPED_DRAFTERS["demo"], help="a folder")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.6, 0.8, 1.0])
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 1.0, 1.5, 2.0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[32, 64, 128], help=f"at most {_NUM_CANDIDATES}")
    parser.add_argument("--num-prompts", type=int, default=60)
    parser.add_argument("--num-tokens", type=int, default=96)
    parser.add_argument("--sets", nargs="+", default=["chatgpt", "alpaca"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    parser.add_argument("--keep", type=Path, help="a file for the places: made where it is missing, else read")
    arguments = parser.parse_args()
    set_num_threads(arguments.threads)
    if arguments.keep is not None and arguments.keep.exists():
        all_places = read_places(arguments.keep)
    else:
        folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
        tokenizer = Tokenizer.from_folder(folder)
        prompts = [
            tokenizer.encode_chat([{"role": "user", "content": text}])
            for text in load_prompts(arguments.num_prompts, tuple(arguments.sets))
        ]
        longest = _MAX_LEN - arguments.num_tokens - 1
        prompts = [prompt for prompt in prompts if len(prompt) <= longest]
        llm = ModelRunner(load_decoder(folder, torch.bfloat16), _BATCH * _MAX_LEN)
        drafter = ModelRunner(load_decoder(arguments.drafter, torch.bfloat16), _MAX_LEN)
        end_ids = frozenset(tokenizer.answer_end_ids())
        vocab = read_draft_vocab(arguments.drafter)
        all_places = [
            places_of(
                llm, drafter, vocab, prompts, arguments.num_tokens, ChoiceParams(t, top_p=arguments.top_p), end_ids
            )
            for t in arguments.temperatures
        ]
        if arguments.keep is not None:
            write_places(all_places, arguments.keep)
    for places in all_places:
        for num in arguments.candidates:
            for weight in arguments.weights:
                for cuts in (False, True) if places.params.top_p < 1 else (False,):
                    found = row_of(places, weight, num, cuts=cuts)
                    settings = {"T": places.params.temperature, "candidates": num, "a": weight, "cuts": cuts}
                    print(json.dumps(settings | found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
