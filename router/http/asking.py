"""Bodies of HTTP requests to ``GenerateRequest``s, one for each output. Used by ``app``; the other direction is ``outputs``.

Plain values are converted by ``specgrove.client.wire``, as those of Python's clients are, so that both are told the same of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from router.http.bodies import ChatBody, CompletionBody, Speculation, TokenizeBody
from router.http.errors import SentNames
from router.http.structures import Structure, chat_structure_of, structure_of
from router.prompts import MAX_NUM_MESSAGES
from specgrove.client import wire
from specgrove.client.arguments import texts_of
from specgrove.client.wire import ChatParams, GenerateParams
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SpeculationOptions
from specgrove.ranges import MAX_NUM_OUTPUTS
from specgrove.v1 import router_pb2

DEFAULT_TEMPERATURE = 1.0
"""As in OpenAI's API."""
_NUM_SEEDS = 2**64
# JSON's numbers are exact up to 2^53 in most languages: a seed that is drawn can be sent again.
_NUM_DRAWN_BITS = 52


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A prompt with its parameters, and how the client has called them. ``requests`` are those of its outputs, in order."""

    requests: tuple[router_pb2.GenerateRequest, ...]
    names: SentNames

    @property
    def is_structured(self) -> bool:
        """Whether outputs must look like something."""
        return self.requests[0].sampling.HasField("structured_output")


def asked_completion(
    body: CompletionBody, *, recommended: Mapping[str, float] | None = None
) -> tuple[AskedPrompt, ...]:
    """A prompt or several. ``recommended`` are the sampling parameters that the model recommends, where those left out are to be such.

    Raises ``InvalidRequestError``.
    """
    prompts = _prompts_of(body.prompt)
    if len(prompts) * body.n > MAX_NUM_OUTPUTS:
        description = (
            f"{len(prompts)} prompts with n {body.n} are {len(prompts) * body.n} outputs; at most {MAX_NUM_OUTPUTS}"
        )
        raise InvalidRequestError.of("prompt", description)
    structure = structure_of(body)
    params = _params_of(body, body.max_tokens, body.logprobs, structure, recommended)
    if body.echo and body.max_tokens == 0:
        params["prompt_only"] = True
    if body.echo and body.logprobs is not None:
        _check_agree(body.logprobs, body.prompt_logprobs)
        params["num_prompt_log_probs"] = body.logprobs
    _check_outputs(params, "max_tokens", "echo or prompt_logprobs")
    names = SentNames(
        "prompt",
        has_one_stop=isinstance(body.stop, str),
        structure="" if structure is None else structure.name,
        num_prompt_log_probs="logprobs" if body.prompt_logprobs is None else "prompt_logprobs",
    )
    return tuple(_asked(prompt, params, replace(names, prompt=name), body) for name, prompt in prompts.items())


def asked_chat(
    body: ChatBody,
    *,
    recommended: Mapping[str, float] | None = None,
    keeps_special_tokens: bool = False,
    names: SentNames | None = None,
) -> AskedPrompt:
    """``recommended`` as for ``asked_completion``. ``keeps_special_tokens``: whatever the body says of them. ``names`` where the client has
    others than the body.

    Raises ``InvalidRequestError``.
    """
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError.of("top_logprobs", "needs logprobs: true")
    max_tokens = _agreed_max_tokens(body)
    names = names or SentNames(
        "messages",
        max_tokens="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        num_log_probs="top_logprobs",
        has_one_stop=isinstance(body.stop, str),
    )
    with names.renaming():
        structure = chat_structure_of(body)
    if structure is not None:
        names = replace(names, structure=structure.name)
    params: GenerateParams = {
        **_params_of(body, max_tokens, (body.top_logprobs or 0) if body.logprobs else None, structure, recommended),
        **_chat_params_of(body, _template_kwargs_of(body)),
    }
    if keeps_special_tokens:
        params["keep_special_tokens"] = True
    _check_outputs(params, names.max_tokens, "prompt_logprobs")
    return _asked(_messages_of(body.messages), params, names, body)


def asked_text(text: str, names: SentNames, *, max_tokens: int, temperature: float) -> AskedPrompt:
    """A text with hardly any parameters. Raises ``InvalidRequestError``."""
    with names.renaming():
        request = wire.request_to_proto(text, max_tokens=max_tokens, temperature=temperature)
    return AskedPrompt((request,), names)


def asked_tokenize(body: TokenizeBody) -> tuple[router_pb2.TokenizeRequest, SentNames]:
    """Raises ``InvalidRequestError``."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError.of("prompt", "give either prompt or messages")
    names = SentNames("messages" if body.prompt is None else "prompt")
    prompt = _messages_of(body.messages) if body.prompt is None else body.prompt
    params = _chat_params_of(body, _template_kwargs_of(body))
    with names.renaming():
        return wire.tokenize_request(prompt, params), names  # type: ignore[arg-type]


def num_completions_of(body: CompletionBody) -> int:
    """Outputs that it asks for. Raises ``InvalidRequestError``."""
    return body.n * len(_prompts_of(body.prompt))


def _prompts_of(value: object) -> dict[str, object]:
    """Prompts by the names that errors give them."""
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, list):
        raise InvalidRequestError.of("prompt", "must be a text, token ids, or a list of either")
    if not value:
        raise InvalidRequestError.of("prompt", "is empty; a prompt needs at least one token")
    if isinstance(value[0], (int, float)):
        return {"prompt": value}
    for index, prompt in enumerate(value):
        # A list of anything else would be taken for a conversation.
        is_ids = isinstance(prompt, list) and isinstance((prompt or [0])[0], (int, float))
        if not isinstance(prompt, str) and not is_ids:
            raise InvalidRequestError.of(f"prompt[{index}]", "must be a text or token ids")
    return {f"prompt[{index}]": prompt for index, prompt in enumerate(value)}


def _messages_of(value: object) -> list[object]:
    """As OpenAI's API has them; what one message must be is ``specgrove.client.wire``'s business."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise InvalidRequestError.of(
            "messages", 'must be a list of messages, e.g. [{"role": "user", "content": "Hello"}]'
        )
    if not value:
        raise InvalidRequestError.of("messages", "is empty; a conversation needs at least one message")
    if len(value) > MAX_NUM_MESSAGES:
        raise InvalidRequestError.of("messages", f"has {len(value)} messages; at most {MAX_NUM_MESSAGES}")
    return value


def _params_of(
    body: ChatBody | CompletionBody,
    max_tokens: int | None,
    num_log_probs: int | None,
    structure: Structure | None,
    recommended: Mapping[str, float] | None,
) -> GenerateParams:
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequestError.of("prompt_logprobs", "is not for streams; leave stream out")
    temperature = body.temperature
    if temperature is None and "temperature" not in (recommended or ()):
        temperature = DEFAULT_TEMPERATURE
    params = GenerateParams(
        model=body.model,
        max_tokens=max_tokens,
        prompt_only=max_tokens == 0 and body.prompt_logprobs is not None,
        num_prompt_log_probs=body.prompt_logprobs,
        recommended_sampling=recommended is not None,
        temperature=temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.logit_bias,
        min_tokens=body.min_tokens,
        stop=body.stop,
        stop_token_ids=body.stop_token_ids,
        ignore_eos=body.ignore_eos,
        num_log_probs=num_log_probs,
        speculation=_speculation_of(body.speculation),
        keep_special_tokens=not body.skip_special_tokens,
        cache_salt=body.cache_salt,
    )
    return params if structure is None else {**params, **structure.params}


def _check_agree(num_log_probs: int, num_prompt_log_probs: int | None) -> None:
    if num_prompt_log_probs not in (None, num_log_probs):
        description = (
            f"is {num_prompt_log_probs}, and logprobs with echo is {num_log_probs}: give the same, or one of them"
        )
        raise InvalidRequestError.of("prompt_logprobs", description)


def _check_outputs(params: GenerateParams, name: str, others: str) -> None:
    """0 means all that the context holds to the router, and nothing here."""
    if params["max_tokens"] == 0 and not params["prompt_only"]:
        raise InvalidRequestError.of(name, f"must be at least 1; 0 is for requests with {others}")


def _chat_params_of(body: ChatBody | TokenizeBody, template_kwargs: Mapping[str, object] | None) -> ChatParams:
    return ChatParams(
        chat_template_kwargs=template_kwargs,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        control_tokens=body.control_tokens,
    )


def _agreed_max_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError.of("max_tokens", f"is {old}, and max_completion_tokens is {new}: give one of them")
    return old if new is None else new


def _template_kwargs_of(body: ChatBody | TokenizeBody) -> Mapping[str, object] | None:
    """With the tools, which templates read as a variable."""
    others: Mapping[str, object] | None = body.chat_template_kwargs
    if not body.has_tools:
        return others
    if not isinstance(body.tools, list) or not all(isinstance(tool, dict) for tool in body.tools):
        raise InvalidRequestError.of("tools", "must be a list of objects")
    if others is not None and (not isinstance(others, dict) or "tools" in others):
        raise InvalidRequestError.of("chat_template_kwargs", "must be an object; tools have a field of their own")
    return {**(others or {}), "tools": body.tools}


def _speculation_of(options: Speculation | None) -> SpeculationOptions | None:
    if options is None:
        return None
    return SpeculationOptions(
        disabled=options.disabled,
        ssms=tuple(texts_of("speculation.ssms", options.ssms)),
        max_num_nodes=options.max_num_nodes,
        max_depth=options.max_depth,
        beam_width=options.beam_width,
    )


def _asked(prompt: object, params: GenerateParams, names: SentNames, body: ChatBody | CompletionBody) -> AskedPrompt:
    with names.renaming():
        first = wire.request_to_proto(prompt, **params)  # type: ignore[arg-type]
    seed = secrets.randbits(_NUM_DRAWN_BITS) if body.seed is None else body.seed
    requests = []
    for number in range(body.n):
        request = router_pb2.GenerateRequest()
        request.CopyFrom(first)
        # Negative ones, which OpenAI's API has, count from the end.
        request.sampling.seed = (seed + number) % _NUM_SEEDS
        requests.append(request)
    return AskedPrompt(tuple(requests), names)
