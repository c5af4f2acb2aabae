"""What an item must be before the engine takes it in. The router checks its clients' values; this is between the two services."""

from __future__ import annotations

from llm_service.config import VerifierConfig
from specgrove.config import MAX_SESSION_ID_LEN
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SamplingParams
from specgrove.loop.works import VerifyWork
from specgrove.ranges import LOGIT_BIASES, MAX_CACHE_SALT_LEN, MAX_NUM_LOG_PROBS, SAMPLING_RANGES

_MAX_NUM_STEPS = 256


def check_work(
    work: VerifyWork, config: VerifierConfig, *, vocab_size: int, num_slots: int, hidden_layers: range
) -> None:
    """Raises ``InvalidRequestError`` that names the field."""
    if not 1 <= len(work.session_id) <= MAX_SESSION_ID_LEN:
        raise InvalidRequestError.of("session_id", f"must have 1 to {MAX_SESSION_ID_LEN} characters")
    if (work.base == 0) != (work.session is not None) or (work.base == 0 and not work.new_token_ids):
        raise InvalidRequestError.of("base", "base 0 must come with the session's parameters and all committed tokens")
    if work.session is not None and not 1 <= work.session.prompt_len <= len(work.new_token_ids):
        raise InvalidRequestError.of("session.prompt_len", "must be from 1 to the number of committed tokens")
    ids = work.new_token_ids
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):  # without a step of the interpreter for each
        raise InvalidRequestError.of("new_token_ids", f"ids must be below the vocabulary's size {vocab_size}")
    if work.session is not None:
        _check_sampling(work.session.sampling, vocab_size)
        if len(work.session.cache_salt) > MAX_CACHE_SALT_LEN:
            raise InvalidRequestError.of("session.cache_salt", f"must have at most {MAX_CACHE_SALT_LEN} characters")
        _check_num_log_probs("session.num_prompt_log_probs", work.session.num_prompt_log_probs, vocab_size)
        if work.session.prompt_log_probs_start < 1:
            raise InvalidRequestError.of("session.prompt_log_probs_start", "the first token, at place 0, has none")
        if strange := [layer for layer in work.session.hidden_layers if layer not in hidden_layers]:
            there = f"{hidden_layers.start} to {hidden_layers.stop - 1}"
            raise InvalidRequestError.of("session.hidden_layers", f"{strange} can't be given; those from {there} can")
    try:
        work.tree.validated(vocab_size=vocab_size, max_num_nodes=config.max_num_tree_nodes)
    except ValueError as error:
        raise InvalidRequestError.of("tree", str(error)) from error
    if not 1 <= work.num_steps <= _MAX_NUM_STEPS:
        raise InvalidRequestError.of("num_steps", f"must be from 1 to {_MAX_NUM_STEPS}")
    num_tokens = work.base + len(work.new_token_ids)
    reached_len = num_tokens + max(work.tree.depths()) + work.num_steps - 1
    if reached_len > config.max_model_len:
        raise InvalidRequestError.of(
            "tree",
            f"committed tokens, tree and steps after it reach {reached_len}, the context holds {config.max_model_len}",
        )
    # What is committed without a tree takes a slot each: so much fits where nobody else has any.
    num_rows = num_tokens + work.num_steps - 1
    if num_rows > num_slots:
        raise InvalidRequestError.of(
            "new_token_ids", f"{num_rows} tokens need as many KV slots; the service has {num_slots}"
        )


def _check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    for name, allowed in SAMPLING_RANGES.items():
        if (problem := allowed.problem(getattr(sampling, name))) is not None:
            raise InvalidRequestError.of(f"session.sampling.{name}", problem)
    for _, bias in sampling.logit_bias:
        if (problem := LOGIT_BIASES.problem(bias)) is not None:
            raise InvalidRequestError.of("session.sampling.logit_bias", problem)
    biased_ids = [token_id for token_id, _ in sampling.logit_bias]
    for name, token_ids in (("logit_bias", biased_ids), ("stop_token_ids", sampling.stop_token_ids)):
        if any(not 0 <= token_id < vocab_size for token_id in token_ids):
            raise InvalidRequestError.of(
                f"session.sampling.{name}", f"ids must be below the vocabulary's size {vocab_size}"
            )
    _check_num_log_probs("session.sampling.num_log_probs", sampling.num_log_probs, vocab_size)


def _check_num_log_probs(field: str, num_log_probs: int | None, vocab_size: int) -> None:
    max_num_log_probs = min(MAX_NUM_LOG_PROBS, vocab_size)
    if num_log_probs is not None and not 0 <= num_log_probs <= max_num_log_probs:
        raise InvalidRequestError.of(field, f"must be at most {max_num_log_probs}")
