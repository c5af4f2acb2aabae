"""Asking a verifier engine, step by step."""

from __future__ import annotations

import random
from dataclasses import replace

from llm_service.verifier import VerifierEngine
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs, PromptProgress, SessionParams, Verdict, VerifyWork
from tests.conftest import TINY_VOCAB_SIZE

GREEDY = SamplingParams()
PROMPT = [5, 1, 44, 90, 3, 3, 17, 60, 2, 8, 31]
SAMPLED = SamplingParams(
    temperature=0.9, top_p=0.95, seed=7, repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3, min_tokens=5,
    stop_token_ids=(2,), logit_bias=((4, 2.0),),
)  # fmt: skip


class Clock:
    """A clock that tests turn."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opening(session_id: str, token_ids: list[int], sampling: SamplingParams = GREEDY) -> VerifyWork:
    session = SessionParams(sampling, len(token_ids))
    return VerifyWork(session_id, 0, tuple(token_ids), TokenTree.of_root(token_ids[-1]), session)


def run(engine: VerifierEngine) -> dict[int, object]:
    results: dict[int, object] = {}
    while engine.has_work():
        results.update(engine.step())
    return results


def ask(engine: VerifierEngine, work: VerifyWork) -> Verdict:
    engine.add(1, work)
    (result,) = run(engine).values()
    assert isinstance(result, Verdict), result
    return result


def incremental(engine: VerifierEngine, prompt: list[int], num_tokens: int, sampling: SamplingParams) -> list[int]:
    """The output without speculation."""
    output: list[int] = []
    work = opening("incremental", prompt, sampling)
    while len(output) < num_tokens:
        output.extend(ask(engine, work).token_ids)
        base = len(prompt) + len(output)
        work = VerifyWork("incremental", base, (), TokenTree.of_root(output[-1]))
    engine.close_session("incremental")
    return output


def prompt_log_probs(engine: VerifierEngine, prompt: list[int], num_top: int) -> list[LogProbs]:
    """Those of a prompt's tokens from the second on, where nobody else is asking."""
    work = opening("prompt", prompt)
    assert work.session is not None
    engine.add(1, replace(work, session=replace(work.session, num_prompt_log_probs=num_top)))
    found: list[LogProbs] = []
    while engine.has_work():
        found += [e for _, result in engine.step() if isinstance(result, PromptProgress) for e in result.log_probs]
    engine.close_session("prompt")
    return found


def random_tree(rng: random.Random, root: int, likely: list[int]) -> TokenTree:
    """A tree that holds the likely path, up to some depth, among wrong branches."""
    token_ids, parents, trunk = [root], [-1], 0
    children: set[tuple[int, int]] = set()
    for token_id in likely[: rng.randrange(len(likely) + 1)]:
        for _ in range(rng.randrange(3)):
            wrong = (rng.randrange(len(token_ids)), rng.randrange(TINY_VOCAB_SIZE))
            if wrong not in children and wrong != (trunk, token_id):
                children.add(wrong)
                parents.append(wrong[0])
                token_ids.append(wrong[1])
        if (trunk, token_id) in children:
            break
        children.add((trunk, token_id))
        parents.append(trunk)
        token_ids.append(token_id)
        trunk = len(token_ids) - 1
    size = len(token_ids)
    return TokenTree(tuple(token_ids), tuple(parents), (0.0,) + (-1.0,) * (size - 1), (0,) * size)
