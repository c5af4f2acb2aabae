"""Protobuf to frozen dataclasses and back: verifiers' works and verdicts, trees and sampling, as they travel between services.

Drafters' are in ``specgrove.wire.drafts``, errors in ``specgrove.wire.errors``. Clients'
messages are in ``specgrove.client.wire``; what a service says of itself is read where it is used (``router.served_model``).

What comes in is checked for form here (missing parts, lengths); what a value means is checked by who uses it.
"""

from __future__ import annotations

from collections.abc import Sized

from specgrove.errors import (
    InternalError,
    InvalidRequestError,
)
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs, PromptProgress, SessionParams, Verdict, VerifyWork
from specgrove.ranges import MAX_NUM_LOGIT_BIASES
from specgrove.v1 import llm_pb2, token_tree_pb2
from specgrove.wire.structures import structured_output_from_proto, structured_output_to_proto
from specgrove.wire.verifier_knowledge import (
    hidden_layers_from_proto,
    hidden_states_in,
    hidden_states_to_proto,
    hidden_window_from_proto,
    num_row_top_k_from_proto,
    row_top_k_from_proto,
    row_top_k_to_proto,
)

# What a service takes is less, and depends on it; a message with more than this is refused before its lists are copied.
MAX_NUM_TOKENS = 1 << 20
_MAX_NUM_TREE_NODES = 4096
_MAX_NUM_STOP_TOKENS = 1024

# To be raised with every field that a service must not ignore.
PROTOCOL_VERSION = 4


def check_protocol_version(version: int) -> None:
    """Raises ``InternalError`` for a service whose version isn't the router's."""
    if version != PROTOCOL_VERSION:
        raise InternalError(
            f"it speaks version {version} of the protocol, this router {PROTOCOL_VERSION}: run the same version of both"
        )


def tree_to_proto(tree: TokenTree) -> token_tree_pb2.TokenTree:
    """Sources are left out: a service's tree is one SSM's, and the verifier doesn't need them."""
    return token_tree_pb2.TokenTree(token_ids=tree.token_ids, parents=tree.parents, log_probs=tree.log_probs)


def tree_from_proto(proto: token_tree_pb2.TokenTree) -> TokenTree:
    """Not validated: call ``validated`` where the vocabulary's size is known."""
    token_ids = tuple(proto.token_ids[:])  # a slice is copied at once, and not number by number
    sources = tuple(proto.sources[:]) or (0,) * len(token_ids)
    return TokenTree(token_ids, tuple(proto.parents[:]), tuple(proto.log_probs[:]), sources)


def sampling_to_proto(params: SamplingParams) -> token_tree_pb2.SamplingParams:
    """All fields, the seed included."""
    return token_tree_pb2.SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        logit_bias=dict(params.logit_bias),
        seed=params.seed,
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids,
        num_log_probs=params.num_log_probs,
        structured_output=structured_output_to_proto(params.structured_output),
    )


def sampling_from_proto(proto: token_tree_pb2.SamplingParams) -> SamplingParams:
    """Unset fields get their defaults; an unset seed becomes 0."""
    return SamplingParams(
        temperature=proto.temperature,
        top_k=proto.top_k,
        top_p=proto.top_p if proto.HasField("top_p") else 1.0,
        min_p=proto.min_p,
        repetition_penalty=proto.repetition_penalty if proto.HasField("repetition_penalty") else 1.0,
        presence_penalty=proto.presence_penalty,
        frequency_penalty=proto.frequency_penalty,
        logit_bias=tuple(sorted(proto.logit_bias.items())),
        seed=proto.seed,
        min_tokens=proto.min_tokens,
        stop_token_ids=tuple(proto.stop_token_ids),
        num_log_probs=proto.num_log_probs if proto.HasField("num_log_probs") else None,
        structured_output=(
            structured_output_from_proto(proto.structured_output) if proto.HasField("structured_output") else None
        ),
    )


def verify_work_to_proto(work: VerifyWork, item_id: int) -> llm_pb2.VerifyItem:
    """One item of a ``VerifyRequest``."""
    session = None
    if work.session is not None:
        session = llm_pb2.SessionParams(
            sampling=sampling_to_proto(work.session.sampling),
            prompt_len=work.session.prompt_len,
            prompt_progress=work.session.wants_prompt_progress,
            trace_context=work.session.trace_context,
            num_prompt_log_probs=work.session.num_prompt_log_probs,
            prompt_log_probs_start=work.session.prompt_log_probs_start,
            hidden_layers=work.session.hidden_layers,
            hidden_window=work.session.hidden_window,
            num_row_top_k=work.session.num_row_top_k,
            cache_salt=work.session.cache_salt,
        )
    return llm_pb2.VerifyItem(
        session_id=work.session_id,
        item_id=item_id,
        base=work.base,
        new_token_ids=work.new_token_ids,
        tree=tree_to_proto(work.tree),
        session=session,
        timeout_ms=work.timeout_ms or 0,
        num_steps=work.num_steps,
        may_leave_out_nodes=work.may_leave_out_nodes,
        without_hidden_states=not work.tells_hidden_states,
    )


def verify_work_from_proto(item: llm_pb2.VerifyItem) -> VerifyWork:
    """Raises ``InvalidRequestError`` for what has too many elements, and for a session's parameters with a base, or none without."""
    sampling = item.session.sampling
    check_len("new_token_ids", item.new_token_ids, MAX_NUM_TOKENS)
    for name in ("token_ids", "parents", "log_probs", "sources"):
        check_len(f"tree.{name}", getattr(item.tree, name), _MAX_NUM_TREE_NODES)
    check_len("session.sampling.logit_bias", sampling.logit_bias, MAX_NUM_LOGIT_BIASES)
    check_len("session.sampling.stop_token_ids", sampling.stop_token_ids, _MAX_NUM_STOP_TOKENS)
    if (item.base == 0) != item.HasField("session"):
        raise InvalidRequestError.of("session", "must be sent with base 0, and only then")
    session = _session_from_proto(item.session) if item.HasField("session") else None
    return VerifyWork(
        session_id=item.session_id,
        base=item.base,
        new_token_ids=tuple(item.new_token_ids),
        tree=tree_from_proto(item.tree),
        session=session,
        timeout_ms=item.timeout_ms or None,
        num_steps=item.num_steps or 1,
        may_leave_out_nodes=item.may_leave_out_nodes,
        tells_hidden_states=not item.without_hidden_states,
    )


def _session_from_proto(proto: llm_pb2.SessionParams) -> SessionParams:
    return SessionParams(
        sampling_from_proto(proto.sampling),
        proto.prompt_len,
        proto.prompt_progress,
        dict(proto.trace_context),
        proto.num_prompt_log_probs if proto.HasField("num_prompt_log_probs") else None,
        proto.prompt_log_probs_start or 1,
        hidden_layers_from_proto("session.hidden_layers", proto.hidden_layers),
        hidden_window_from_proto("session.hidden_window", proto.hidden_window),
        num_row_top_k_from_proto("session.num_row_top_k", proto.num_row_top_k),
        proto.cache_salt,
    )


def check_len(field: str, values: Sized, max_len: int) -> None:
    if len(values) > max_len:
        raise InvalidRequestError.of(field, f"has {len(values)} elements; at most {max_len}")


def log_probs_to_proto(log_probs: LogProbs) -> token_tree_pb2.LogProbs:
    """The token's own, then the most probable."""
    top = [token_tree_pb2.TokenLogProb(token_id=token_id, log_prob=value) for token_id, value in log_probs.top]
    return token_tree_pb2.LogProbs(log_prob=log_probs.log_prob, rank=log_probs.rank, top=top)


def log_probs_from_proto(proto: token_tree_pb2.LogProbs) -> LogProbs:
    """The reverse of ``log_probs_to_proto``."""
    return LogProbs(proto.log_prob, proto.rank, tuple((entry.token_id, entry.log_prob) for entry in proto.top))


def progress_to_proto(progress: PromptProgress) -> llm_pb2.PromptProgress:
    """All fields."""
    return llm_pb2.PromptProgress(
        num_tokens=progress.num_tokens,
        log_probs_start=progress.log_probs_start,
        log_probs=[log_probs_to_proto(log_probs) for log_probs in progress.log_probs],
        hidden_states=hidden_states_to_proto(progress.hidden_states),
    )


def progress_from_proto(proto: llm_pb2.PromptProgress) -> PromptProgress:
    """The reverse of ``progress_to_proto``. Raises ``InvalidRequestError`` for hidden states that contradict themselves."""
    return PromptProgress(
        proto.num_tokens,
        proto.log_probs_start or 1,
        tuple(log_probs_from_proto(entry) for entry in proto.log_probs),
        hidden_states_in(proto),
    )


def verdict_to_proto(verdict: Verdict) -> llm_pb2.Verdict:
    """All fields."""
    return llm_pb2.Verdict(
        base=verdict.base,
        token_ids=verdict.token_ids,
        accepted_nodes=verdict.accepted_nodes,
        log_probs=[log_probs_to_proto(log_probs) for log_probs in verdict.log_probs],
        pass_ms=verdict.pass_ms,
        pass_num_rows=verdict.pass_num_rows,
        has_more=verdict.has_more,
        num_steps=verdict.num_steps,
        hidden_states=hidden_states_to_proto(verdict.hidden_states),
        row_top_k=row_top_k_to_proto(verdict.row_top_k),
        left_out_nodes=verdict.left_out_nodes,
        num_cached_tokens=verdict.num_cached_tokens,
    )


def verdict_from_proto(proto: llm_pb2.Verdict) -> Verdict:
    """The reverse of ``verdict_to_proto``. Raises ``InvalidRequestError`` as ``progress_from_proto``, and for too many rows' top-k."""
    return Verdict(
        base=proto.base,
        token_ids=tuple(proto.token_ids),
        accepted_nodes=tuple(proto.accepted_nodes),
        log_probs=tuple([log_probs_from_proto(log_probs) for log_probs in proto.log_probs]),
        pass_ms=proto.pass_ms,
        pass_num_rows=proto.pass_num_rows,
        has_more=proto.has_more,
        num_steps=proto.num_steps or 1,
        hidden_states=hidden_states_in(proto),
        row_top_k=row_top_k_from_proto(proto.row_top_k),
        left_out_nodes=tuple(proto.left_out_nodes),
        num_cached_tokens=proto.num_cached_tokens,
    )
