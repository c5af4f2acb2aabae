"""Fields that other APIs have and this one has not: why, and the values at which they ask for nothing, which are taken.

Used by ``bodies`` and ``app``; docs/http.md lists them.
"""

from __future__ import annotations

_NO_AUDIO = "is not supported: the models read and write text"
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "best_of": ((1,), "is not supported: ask for n outputs, and choose"),
    "suffix": (("",), "is not supported: there is no text after the output"),
    "functions": (([],), "is not supported: send tools"),
    "function_call": (("none",), "is not supported: send tools"),
    "modalities": ((["text"],), _NO_AUDIO),
    "audio": ((), _NO_AUDIO),
    "prediction": ((), "is not supported: the SSMs predict"),
    "store": ((False,), "must be false: nothing is kept"),
    "previous_response_id": ((), "is not supported: nothing is kept; send the whole conversation as input"),
    "conversation": ((), "is not supported: nothing is kept; send the whole conversation as input"),
    "background": ((False,), "is not supported: read the stream"),
    "include": (
        ([],),
        "is not supported: ask /v1/chat/completions for log-probabilities; answers have all else that there is",
    ),
    "truncation": (("disabled",), 'must be "disabled": send an input that fits'),
    "reasoning": (
        (),
        "is not supported: give the model's chat template what it reads in chat_template_kwargs",
    ),
    "max_tool_calls": ((), "is not supported: nothing keeps the model from several calls"),
    "web_search_options": ((), "is not supported: there is no search"),
    "reasoning_effort": ((), "is not supported: give the model's chat template what it reads in chat_template_kwargs"),
    "verbosity": (
        ("medium",),
        "is not supported: give the model's chat template what it reads in chat_template_kwargs",
    ),
    "use_beam_search": ((False,), "is not supported: tokens are sampled, or the most probable"),
    "length_penalty": ((1, 1.0), "is not supported: it is for beam search"),
    "chat_template": ((), "is not supported: the model's own is used"),
    "documents": ((), "is not supported here: give them in chat_template_kwargs"),
    "truncate_prompt_tokens": ((-1,), "is not supported: send a prompt that fits"),
    "add_special_tokens": (
        (True,),
        "must be true: prompts are tokenised as the tokenizer's files say; send token ids for others",
    ),
}
"""Fields that other APIs have and this one has not: the values at which they change nothing, and why others are refused."""


# Of reasoning, searches and calls that no answer has here: asking for them asks for nothing.
_NEVER_INCLUDED = (
    "reasoning.encrypted_content",
    "web_search_call.results",
    "web_search_call.action.sources",
    "file_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
)
_SUMMARIES = ("summary", "generate_summary")


def changes_nothing(name: str, value: object) -> bool:
    """Whether a field that is not here asks for nothing."""
    if name == "include" and isinstance(value, list):
        return all(element in _NEVER_INCLUDED for element in value)
    if name == "reasoning" and isinstance(value, dict):
        return all(inner is None or key in _SUMMARIES for key, inner in value.items())
    return name in REFUSED and any(type(value) is type(usual) and value == usual for usual in REFUSED[name][0])


def refusals() -> dict[str, str]:
    """The reasons, by field."""
    return {name: reason for name, (_, reason) in REFUSED.items()}
