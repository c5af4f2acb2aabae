"""vLLM's engine messages to the router's: one ``GenerateRequest`` for each output. Used by ``vllm_engine``.

What is left out has vLLM's default, so that a gateway gets what it expects. What the router can't do is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from smg_grpc_proto import vllm_engine_pb2 as vllm

from specgrove.errors import InvalidRequestError
from specgrove.ranges import MAX_NUM_OUTPUTS
from specgrove.v1 import router_pb2, token_tree_pb2

_NUM_SEEDS = 2**64

FIELD_NAMES: Mapping[str, str] = {
    "token_ids": "tokenized",
    "token_ids.token_ids": "tokenized.input_ids",
    "sampling": "sampling_params",
    "max_tokens": "sampling_params.max_tokens",
    "stop": "sampling_params.stop",
    "num_prompt_log_probs": "sampling_params.prompt_logprobs",
}
"""How vLLM's messages call what the router's call otherwise."""

_NOT_SERVED = {
    "kv_transfer_params": "the router hands no KV caches over",
    "kv_transfer_params_json": "the router hands no KV caches over",
    "mm_inputs": "the model reads texts only",
    "media_refs": "the model reads texts only",
}


def generate_requests(request: vllm.GenerateRequest) -> list[router_pb2.GenerateRequest]:
    """Raises ``InvalidRequestError`` for what can't be served."""
    _check_is_served(request)
    params = request.sampling_params
    first = router_pb2.GenerateRequest(
        sampling=_sampling_of(params),
        max_tokens=params.max_tokens,
        stop=params.stop,
        ignore_eos=params.ignore_eos,
        keep_special_tokens=not params.skip_special_tokens,
    )
    if params.HasField("prompt_logprobs"):
        first.num_prompt_log_probs = _number_told("prompt_logprobs", params.prompt_logprobs)
    match request.WhichOneof("input"):
        case "tokenized":
            first.token_ids.token_ids.extend(request.tokenized.input_ids)
        case "text":
            first.text = request.text
        case _:
            raise InvalidRequestError.of("input", "is missing: give tokenized or text")
    return _outputs_of(first, params)


def _outputs_of(first: router_pb2.GenerateRequest, params: vllm.SamplingParams) -> list[router_pb2.GenerateRequest]:
    num_outputs = params.n or 1
    if num_outputs > MAX_NUM_OUTPUTS:
        raise InvalidRequestError.of("sampling_params.n", f"must be at most {MAX_NUM_OUTPUTS}, got {num_outputs}")
    requests = []
    for number in range(num_outputs):
        request = router_pb2.GenerateRequest()
        request.CopyFrom(first)
        if params.HasField("seed"):
            request.sampling.seed = (params.seed + number) % _NUM_SEEDS
        requests.append(request)
    return requests


def _sampling_of(params: vllm.SamplingParams) -> token_tree_pb2.SamplingParams:
    sampling = token_tree_pb2.SamplingParams(
        temperature=params.temperature if params.HasField("temperature") else 1.0,
        top_k=params.top_k,
        # Protobuf can't tell a 0 from what is left out here, and vLLM takes it for the latter.
        top_p=params.top_p or 1.0,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty or 1.0,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids,
    )
    if params.HasField("logprobs"):
        sampling.num_log_probs = _number_told("logprobs", params.logprobs)
    _set_structure(sampling, params)
    for token_id, bias in params.logit_bias.items():
        if token_id < 0:
            raise InvalidRequestError.of("sampling_params.logit_bias", f"{token_id} is no token id")
        sampling.logit_bias[token_id] = bias
    return sampling


def _set_structure(sampling: token_tree_pb2.SamplingParams, params: vllm.SamplingParams) -> None:
    match params.WhichOneof("constraint"):
        case None | "structural_tag":
            pass
        case "choice":
            sampling.structured_output.choice.texts.extend(params.choice.choices)
        case name:
            # Both protocols call the others the same.
            setattr(sampling.structured_output, name, getattr(params, name))


def _number_told(name: str, number: int) -> int:
    if number < 0:
        raise InvalidRequestError.of(f"sampling_params.{name}", "must be at least 0: not all can be told")
    return number


def _check_is_served(request: vllm.GenerateRequest) -> None:
    for name, reason in _NOT_SERVED.items():
        if request.HasField(name):
            raise InvalidRequestError.of(name, reason)
    if request.extra_mm_inputs:
        raise InvalidRequestError.of("extra_mm_inputs", _NOT_SERVED["mm_inputs"])
    if request.data_parallel_rank:
        raise InvalidRequestError.of("data_parallel_rank", "must be 0: the router chooses among its replicas itself")
    params = request.sampling_params
    if params.HasField("truncate_prompt_tokens"):
        raise InvalidRequestError.of("sampling_params.truncate_prompt_tokens", "is not supported")
    if params.HasField("structural_tag"):
        raise InvalidRequestError.of("sampling_params.structural_tag", "is not supported; give a grammar")
