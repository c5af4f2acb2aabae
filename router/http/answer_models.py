"""What endpoints answer, for the OpenAPI document; small answers are checked by it, too. Used by ``app``."""

from __future__ import annotations

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What is wrong. `param` is the field of the body."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every failure's answer."""

    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    """None is ever taken from a cache."""

    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    """Drafted tokens that were accepted, and those of the token trees that were not. Rejected ones are in no other count."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int
    reasoning_tokens: int


class UsageAnswer(BaseModel):
    """What a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class SpeculativeDecoding(BaseModel):
    """How drafting went, of the steps with a drafted tree; names as in vLLM."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int


class MetricsAnswer(BaseModel):
    """What the request's outputs took beside tokens."""

    speculative_decoding: SpeculativeDecoding


class _Choice(BaseModel):
    index: int
    finish_reason: str
    stop_reason: str | int | None
    seed: int


class _Answer(BaseModel):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    usage: UsageAnswer
    metrics: MetricsAnswer


class CompletionLogProbs(BaseModel):
    """Lists with an element for each token. A prompt's first token has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class RankedLogProb(BaseModel):
    """A log-probability, and its place among all, 1 = the most probable."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogProbs = list[dict[str, RankedLogProb] | None]


class CompletionChoice(_Choice):
    """One output. `prompt_logprobs` is there where it is asked for: by token id, for each token of the prompt but the first."""

    text: str
    logprobs: CompletionLogProbs | None
    prompt_logprobs: PromptLogProbs | None = None


class CompletionAnswer(_Answer):
    """All outputs of all prompts, those of the first prompt first."""

    choices: list[CompletionChoice]


class TokenLogProb(BaseModel):
    """A token, its bytes, and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogProb(TokenLogProb):
    """With the most probable ones at its place."""

    top_logprobs: list[TokenLogProb]


class ChatLogProbs(BaseModel):
    """An entry for each token."""

    content: list[ChatTokenLogProb]
    refusal: None


class CalledFunction(BaseModel):
    """`arguments` is JSON in a text."""

    name: str
    arguments: str


class ToolCallAnswer(BaseModel):
    """A call that the model asks for."""

    id: str
    type: str
    function: CalledFunction


class ChatMessageAnswer(BaseModel):
    """What the model says."""

    role: str
    content: str | None
    refusal: None
    tool_calls: list[ToolCallAnswer] = []


class ChatChoice(_Choice):
    """One output."""

    message: ChatMessageAnswer
    logprobs: ChatLogProbs | None


class ChatAnswer(_Answer):
    """All outputs. `prompt_logprobs` as in completions."""

    choices: list[ChatChoice]
    prompt_logprobs: PromptLogProbs | None = None


class Model(BaseModel):
    """The model that is served."""

    id: str
    object: str
    created: int
    owned_by: str
    max_model_len: int


class ModelList(BaseModel):
    """There is always one."""

    object: str
    data: list[Model]


class Tokens(BaseModel):
    """Token ids, and what each stands for where that was asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """A text."""

    prompt: str


class Health(BaseModel):
    """`serving` or `not serving`."""

    status: str


class Version(BaseModel):
    """SpecGrove's version."""

    version: str
