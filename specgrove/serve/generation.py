"""What ``generate`` takes and gives: how to choose tokens, one request, and its result. Frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from specgrove.client.output import OutputToken, PromptToken, Usage
from specgrove.errors import SpecGroveError
from specgrove.loop.request import SpeculationOptions
from specgrove.ranges import LOGIT_BIASES, MAX_NUM_STOP_TEXTS, MAX_STOP_TEXT_LEN, SAMPLING_RANGES
from specgrove.serve.errors import ConfigurationError, told_as_configuration

if TYPE_CHECKING:
    from specgrove.client.arguments import Prompt
    from specgrove.client.output import Completion
    from specgrove.client.wire import GenerateParams
    from specgrove.v1.token_tree_pb2 import StructuredOutput

_RANGES = {
    "temperature": "temperature",
    "topp": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How tokens are chosen. Wrong values raise ``ConfigurationError`` at once.

    Without ``do_sample`` each token is the most probable one, and ``temperature``, ``topp``, ``topk``, ``min_p`` and ``seed`` are not
    used. ``topk`` 0 keeps all tokens; 1 keeps one, which is greedy again. Without ``seed`` one is drawn, and told in the result.
    ``stop`` are texts that end an output, ``min_new_tokens`` how many tokens come before it may end. What an output must look like says
    one of ``json_schema`` (a dictionary, a JSON text or a pydantic model), ``json_object``, ``regex``, ``choice`` (one of these texts) and
    ``grammar`` (Lark or GBNF).
    """

    do_sample: bool = False
    temperature: float = 0.9
    topp: float = 0.8
    topk: int = 0
    seed: int | None = None
    stop: str | Iterable[str] | None = None
    stop_token_ids: int | Iterable[int] | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    min_new_tokens: int = 0
    ignore_eos: bool = False
    num_log_probs: int | None = None
    num_prompt_log_probs: int | None = None
    json_schema: Mapping[str, Any] | str | type | None = None
    json_object: bool = False
    regex: str | None = None
    choice: Iterable[str] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "stop_token_ids", "choice"):
            object.__setattr__(self, name, _kept(getattr(self, name)))
        for name, known_as in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__float__"):
                raise ConfigurationError(f"{name} must be a number, got {value!r}")
            try:
                problem = SAMPLING_RANGES[known_as].problem(float(value))
            except (OverflowError, TypeError, ValueError) as error:  # a number of very many digits, an array of several
                raise ConfigurationError(f"{name} must be a number: {error}") from error
            if problem is not None:
                raise ConfigurationError(f"{name} {problem}")
        with told_as_configuration():
            self._check_form()

    def params(self) -> GenerateParams:
        """As ``specgrove.client`` takes them."""
        params: GenerateParams = {
            "temperature": self.temperature if self.do_sample else 0.0,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias,
            "stop": self.stop,
            "stop_token_ids": self.stop_token_ids,
            "min_tokens": self.min_new_tokens,
            "ignore_eos": self.ignore_eos,
            "num_log_probs": self.num_log_probs,
            "num_prompt_log_probs": self.num_prompt_log_probs,
            "json_schema": self.json_schema,
            "json_object": self.json_object,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
        }
        if self.do_sample:
            params |= {"top_p": self.topp, "top_k": self.topk, "min_p": self.min_p, "seed": self.seed}
        return params

    def _check_form(self) -> None:
        from specgrove.client.wire import request_to_proto

        if not isinstance(self.do_sample, bool):
            raise ConfigurationError(f"do_sample must be True or False, got {self.do_sample!r}")
        # What is not used is checked all the same: a wrong seed is no less wrong without do_sample.
        request = request_to_proto("", **self.params() | {"top_k": self.topk, "seed": self.seed})
        if request.sampling.HasField("structured_output"):
            _check_structure(request.sampling.structured_output)
        if len(request.stop) > MAX_NUM_STOP_TEXTS:
            raise ConfigurationError(f"stop has {len(request.stop)} texts; at most {MAX_NUM_STOP_TEXTS}")
        for text in request.stop:
            if not 1 <= len(text) <= MAX_STOP_TEXT_LEN:
                raise ConfigurationError(f"stop: a text must have 1 to {MAX_STOP_TEXT_LEN} characters, got {text!r}")
        for token_id, bias in request.sampling.logit_bias.items():
            if (problem := LOGIT_BIASES.problem(bias)) is not None:
                raise ConfigurationError(f"logit_bias of token {token_id} {problem}")


def _check_structure(proto: StructuredOutput) -> None:
    """As far as it can be without a model's vocabulary."""
    from specgrove.structures.grammars import check_text
    from specgrove.wire.structures import structured_output_from_proto

    structure = structured_output_from_proto(proto)
    try:
        check_text(structure)
    except ValueError as error:
        raise ConfigurationError(f"{structure.kind.value} {error}") from error


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt with settings of its own. ``None`` is what the call of ``generate``, or else ``compile``, said.

    ``prompt``: a text, which is continued as it is; a conversation, by the model's chat template; or token ids.
    ``max_new_tokens`` bounds the output (0: the prompt is read, for its log-probabilities), ``max_length`` prompt and output together.
    ``speculation`` chooses among the SSMs for this request, and may switch them off; it changes no token.
    """

    prompt: Prompt
    max_new_tokens: int | None = None
    max_length: int | None = None
    generation_config: GenerationConfig | None = None
    speculation: SpeculationOptions | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        """Raises ``ConfigurationError``."""
        from specgrove.client.arguments import timeout_of
        from specgrove.client.wire import request_to_proto
        from specgrove.serve.configuration import whole_number

        object.__setattr__(self, "prompt", _kept(self.prompt))
        for name, least in (("max_new_tokens", 0), ("max_length", 1)):
            if (value := getattr(self, name)) is not None:
                whole_number(name, value, least)
        checked_config(self.generation_config)
        with told_as_configuration():
            timeout_of(self.timeout_s)
            request_to_proto(self.prompt, speculation=self.speculation, chat_template_kwargs=self.chat_template_kwargs)


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What came of one request. Of one that failed in a list, ``error`` says why, and the rest is empty.

    ``statistics`` has among others ``acceptance_histogram``, ``num_verify_steps``, ``first_token_ms``, ``tokens_per_s``,
    ``mean_acceptance_len`` and ``seed``. ``tokens`` says of each token which SSMs drafted it. ``stop_reason`` is the text or
    the token id that ended the output, if one did. ``prompt_tokens`` are the prompt's, with ``num_prompt_log_probs``.
    """

    output_text: str
    output_tokens: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "error"] = "error"
    statistics: Usage | None = None
    tokens: tuple[OutputToken, ...] = field(default=(), repr=False)
    stop_reason: str | int | None = None
    error: SpecGroveError | None = None
    prompt_tokens: tuple[PromptToken, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, outcome: Completion | SpecGroveError) -> GenerationResult:
        """Of a client's answer."""
        if isinstance(outcome, SpecGroveError):
            return cls("", error=outcome)
        return cls(
            output_text=outcome.text,
            output_tokens=list(outcome.token_ids),
            finish_reason=outcome.finish_reason.value,
            statistics=outcome.usage,
            tokens=outcome.tokens,
            stop_reason=outcome.stop_reason,
            prompt_tokens=outcome.prompt_tokens,
        )


def checked_config(config: object) -> GenerationConfig | None:
    """Raises ``ConfigurationError`` for what is none."""
    if config is not None and not isinstance(config, GenerationConfig):
        raise ConfigurationError(f"generation_config must be a GenerationConfig, got a {type(config).__name__}")
    return config


def _kept(value: Any) -> Any:
    """What can be read once only, as a list."""
    return list(value) if isinstance(value, Iterator) else value
