"""What clients send, checked against the model served: a ``GenerationRequest``, or every violation there is, by proto field.

Used by the servicer, in two steps: ``check_fields`` looks at sizes and values, costs next to nothing, and comes before the permit;
``checked_request`` tokenises. Invariant: what passes here can be run.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from router.prompts import check_prompt, check_token_ids, max_num_tokenized, prompt_token_ids
from router.served_model import NUMERICS_SEPARATOR, ServedModel
from router.structure_check import StructureCheck, check_structured_output
from router.text_work import TextWork
from router.violations import Violations, quoted
from specgrove.config import MAX_BEAM_WIDTH, MAX_NUM_SSMS, MAX_NUM_TREE_NODES, MAX_TREE_DEPTH
from specgrove.loop.request import NOT_TRACED, GenerationRequest, SamplingParams, SpeculationOptions, TraceContext
from specgrove.ranges import (
    LOGIT_BIASES,
    MAX_CACHE_SALT_LEN,
    MAX_NUM_LOG_PROBS,
    MAX_NUM_LOGIT_BIASES,
    MAX_NUM_STOP_TEXTS,
    MAX_STOP_TEXT_LEN,
    SAMPLING_RANGES,
)
from specgrove.v1 import router_pb2, token_tree_pb2
from specgrove.wire import works
from specgrove.wire.structures import STRUCTURED_OUTPUT, structured_output_from_proto

_MAX_NUM_STOP_TOKENS = 64
_SPECULATION_LIMITS = {
    "max_num_nodes": MAX_NUM_TREE_NODES - 1,  # the root is not counted
    "max_depth": MAX_TREE_DEPTH,
    "beam_width": MAX_BEAM_WIDTH,
}
_NUM_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that can be run, and what its text is made by: the texts that stop it, and whether special tokens have one.

    ``stop_text_of_token`` are those of them that are special tokens, which have no text in an output.
    """

    request: GenerationRequest
    stop_texts: tuple[str, ...]
    stop_text_of_token: Mapping[int, str]
    keep_special_tokens: bool = False
    wants_step_details: bool = False
    numerics: str = ""
    """``ServedModel.numerics_with``, which the output's first piece tells."""


def check_fields(proto: router_pb2.GenerateRequest, model: ServedModel, ssms: Sequence[str] | None) -> None:
    """Raises ``InvalidRequestError`` with all violations that show without tokenising."""
    found = Violations()
    if proto.model not in ("", model.name):
        found.add("model", f"{quoted(proto.model)} is not served here; this router serves {model.name!r}")
    _check_sampling(found, proto.sampling, model.vocab_size)
    _check_num_log_probs(found, "num_prompt_log_probs", proto.num_prompt_log_probs, model.vocab_size)
    _check_prompt_only(found, proto)
    _check_resume(found, proto, model)
    _check_stop_texts(found, proto.stop)
    if proto.ignore_eos and proto.sampling.HasField("structured_output"):
        found.add("ignore_eos", "must be false with structured outputs: they end where they are complete")
    _check_speculation(found, proto.speculation, ssms)
    if len(proto.cache_salt) > MAX_CACHE_SALT_LEN:
        found.add("cache_salt", f"must have at most {MAX_CACHE_SALT_LEN} characters, has {len(proto.cache_salt)}")
    check_prompt(found, proto, model)
    found.raise_any()


async def checked_request(
    proto: router_pb2.GenerateRequest,
    model: ServedModel,
    text_work: TextWork,
    structures: StructureCheck,
    *,
    session_id: str,
    deadline_s: float | None,
    trace_context: TraceContext = NOT_TRACED,
) -> CheckedRequest:
    """What ``check_fields`` let pass, tokenised. Raises ``InvalidRequestError`` where lengths don't fit, or a structure can't be."""
    found = Violations()
    if proto.sampling.HasField("structured_output"):
        structure = structured_output_from_proto(proto.sampling.structured_output)
        await structures.check(found, model.tokenizer, structure)
    prompt = await prompt_token_ids(found, proto, model, text_work)
    found.raise_any()
    max_tokens = _max_tokens(found, proto, len(prompt), model.max_model_len)
    resumed, numerics = tuple(proto.resume.token_ids), model.numerics_with(prompt)
    if proto.resume.numerics not in ("", numerics):
        problem = "this router makes other tokens of the prompt than the one that began this output, as by another chat template or day"
        found.add("resume.numerics", problem)
    if len(resumed) > max_tokens and not found:
        found.add("resume.token_ids", f"has {len(resumed)} tokens; the output has {max_tokens} at most")
    found.raise_any()
    stop_texts = tuple(dict.fromkeys(proto.stop))
    ids = {text: model.tokenizer.special_token_id(text) for text in stop_texts}
    # A tokenizer's files may name tokens that the model was not made for: it never gives them.
    stop_text_of_token = {
        token_id: text for text, token_id in ids.items() if token_id is not None and token_id < model.vocab_size
    }
    sampling = _sampling_of(proto, model, stop_text_of_token)
    if sampling.structured_output is not None and not sampling.stop_token_ids:
        description = "needs a token that ends the output, and this model names none: give stop_token_ids"
        found.add(STRUCTURED_OUTPUT, description)
    if resumed and sampling.temperature > 0 and not proto.sampling.HasField("seed"):
        found.add("sampling.seed", "must be set with resume: without the output's seed it can't go on")
    stops = set(sampling.stop_token_ids)
    if (end := next((i for i, token_id in enumerate(resumed[:-1], 1) if token_id in stops), None)) is not None:
        found.add("resume.token_ids", f"has {len(resumed)} tokens, but a stop token ends the output after {end}")
    found.raise_any()
    return CheckedRequest(
        GenerationRequest(
            session_id=session_id,
            prompt_token_ids=prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            speculation=_speculation_of(proto.speculation),
            deadline_s=deadline_s,
            wants_prompt_progress=proto.prompt_progress,
            trace_context=trace_context,
            # All of them came before the output's first token.
            num_prompt_log_probs=proto.num_prompt_log_probs
            if proto.HasField("num_prompt_log_probs") and not resumed
            else None,
            resumed_token_ids=resumed,
            cache_salt=proto.cache_salt,
        ),
        stop_texts,
        stop_text_of_token,
        keep_special_tokens=proto.keep_special_tokens,
        wants_step_details=proto.step_details,
        numerics=numerics,
    )


async def checked_tokenize(
    proto: router_pb2.TokenizeRequest, model: ServedModel, text_work: TextWork
) -> tuple[int, ...]:
    """The token ids of a ``TokenizeRequest``. Raises ``InvalidRequestError``."""
    found = Violations()
    await text_work.turn(proto.ByteSize())
    check_prompt(found, proto, model)
    found.raise_any()
    token_ids = await prompt_token_ids(found, proto, model, text_work)
    found.raise_any()
    return token_ids


def checked_detokenize(proto: router_pb2.DetokenizeRequest, model: ServedModel) -> list[int]:
    """The token ids of a ``DetokenizeRequest``. Raises ``InvalidRequestError``."""
    found = Violations()
    if found.check_count("token_ids", len(proto.token_ids), max_num_tokenized(model), "ids"):
        check_token_ids(found, "token_ids", proto.token_ids, model.vocab_size)
    found.raise_any()
    return list(proto.token_ids)


def _check_sampling(found: Violations, params: token_tree_pb2.SamplingParams, vocab_size: int) -> None:
    for name, allowed in SAMPLING_RANGES.items():
        # Unset is not 0 where presence is tracked.
        if not params.DESCRIPTOR.fields_by_name[name].has_presence or params.HasField(name):
            found.check_range(f"sampling.{name}", getattr(params, name), allowed)
    _check_logit_bias(found, params, vocab_size)
    if params.HasField("structured_output"):
        check_structured_output(found, params.structured_output)
    stops = params.stop_token_ids
    if found.check_count("sampling.stop_token_ids", len(stops), _MAX_NUM_STOP_TOKENS, "ids"):
        check_token_ids(found, "sampling.stop_token_ids", stops, vocab_size)
    _check_num_log_probs(found, "sampling.num_log_probs", params.num_log_probs, vocab_size)


def _check_num_log_probs(found: Violations, field: str, num_log_probs: int, vocab_size: int) -> None:
    max_num_log_probs = min(MAX_NUM_LOG_PROBS, vocab_size)
    if num_log_probs > max_num_log_probs:
        found.add(field, f"must be at most {max_num_log_probs}, got {num_log_probs}")


def _check_prompt_only(found: Violations, proto: router_pb2.GenerateRequest) -> None:
    if not proto.prompt_only:
        return
    for field, value in (("max_tokens", proto.max_tokens), ("sampling.min_tokens", proto.sampling.min_tokens)):
        if value:
            found.add(field, f"must be left out with prompt_only, which outputs nothing; got {value}")


def _check_resume(found: Violations, proto: router_pb2.GenerateRequest, model: ServedModel) -> None:
    resume = proto.resume
    if resume.numerics.partition(NUMERICS_SEPARATOR)[0] not in ("", model.numerics_digest):
        found.add(
            "resume.numerics", "this router's model or build gives other outputs than the one that began this output"
        )
    if proto.prompt_only and resume.token_ids:
        found.add("resume.token_ids", "must be left out with prompt_only, which outputs nothing")
    elif found.check_count("resume.token_ids", len(resume.token_ids), model.max_model_len, "tokens"):
        check_token_ids(found, "resume.token_ids", resume.token_ids, model.vocab_size)


def _check_logit_bias(found: Violations, params: token_tree_pb2.SamplingParams, vocab_size: int) -> None:
    if not found.check_count("sampling.logit_bias", len(params.logit_bias), MAX_NUM_LOGIT_BIASES, "entries"):
        return
    check_token_ids(found, "sampling.logit_bias", tuple(params.logit_bias), vocab_size)
    for token_id, bias in params.logit_bias.items():
        if (problem := LOGIT_BIASES.problem(bias)) is not None:
            found.add("sampling.logit_bias", f"of token {token_id} {problem}")


def _check_stop_texts(found: Violations, stop_texts: Sequence[str]) -> None:
    if not found.check_count("stop", len(stop_texts), MAX_NUM_STOP_TEXTS, "texts"):
        return
    for index, text in enumerate(stop_texts):
        if not 1 <= len(text) <= MAX_STOP_TEXT_LEN:
            found.add(f"stop[{index}]", f"must have 1 to {MAX_STOP_TEXT_LEN} characters, has {len(text)}")


def _check_speculation(found: Violations, options: router_pb2.SpeculationOptions, ssms: Sequence[str] | None) -> None:
    for field, limit in _SPECULATION_LIMITS.items():
        if (value := getattr(options, field)) > limit:
            found.add(f"speculation.{field}", f"must be at most {limit}, got {value}")
    if not found.check_count("speculation.ssms", len(options.ssms), MAX_NUM_SSMS, "names"):
        return
    for name in options.ssms:
        if ssms is not None and name not in ssms:
            found.add("speculation.ssms", f"unknown SSM {quoted(name)}; there are: {', '.join(ssms) or 'none'}")


def _max_tokens(found: Violations, proto: router_pb2.GenerateRequest, prompt_len: int, max_model_len: int) -> int:
    num_left = max_model_len - prompt_len
    if proto.prompt_only:
        if num_left < 0:
            found.add(
                proto.WhichOneof("prompt") or "prompt",
                f"has {prompt_len} tokens; the context is {max_model_len} tokens",
            )
        return 0
    if num_left < 1:
        found.add(
            proto.WhichOneof("prompt") or "prompt",
            f"has {prompt_len} tokens, which leaves no room for output: the context is {max_model_len} tokens",
        )
    elif proto.max_tokens > num_left:
        found.add(
            "max_tokens",
            f"must be at most {num_left} (context of {max_model_len} tokens, prompt of {prompt_len}), got {proto.max_tokens}",
        )
    max_tokens = proto.max_tokens or num_left
    if proto.sampling.min_tokens > max_tokens > 0:
        found.add("sampling.min_tokens", f"must be at most max_tokens ({max_tokens}), got {proto.sampling.min_tokens}")
    return max_tokens


def _sampling_of(proto: router_pb2.GenerateRequest, model: ServedModel, further_stops: Iterable[int]) -> SamplingParams:
    asked = proto.sampling
    if proto.recommended_sampling:
        asked = token_tree_pb2.SamplingParams()
        asked.CopyFrom(model.recommended_sampling)
        asked.MergeFrom(proto.sampling)
    params = works.sampling_from_proto(asked)
    by_kind = model.chat_end_token_ids if proto.HasField("chat") else model.eos_token_ids
    ends = () if proto.ignore_eos else by_kind
    # No mass at all is reached by the most probable token alone.
    keeps_one = params.top_p == 0
    return replace(
        params,
        top_k=1 if keeps_one else 0 if params.top_k >= model.vocab_size else params.top_k,
        top_p=1.0 if keeps_one else params.top_p,
        seed=params.seed if proto.sampling.HasField("seed") else secrets.randbits(_NUM_SEED_BITS),
        stop_token_ids=tuple(dict.fromkeys((*params.stop_token_ids, *further_stops, *ends))),
    )


def _speculation_of(proto: router_pb2.SpeculationOptions) -> SpeculationOptions:
    return SpeculationOptions(
        disabled=proto.disabled,
        ssms=tuple(dict.fromkeys(proto.ssms)),
        max_num_nodes=proto.max_num_nodes or None,
        max_depth=proto.max_depth or None,
        beam_width=proto.beam_width or None,
    )
