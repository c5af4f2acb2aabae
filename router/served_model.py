"""The model behind the router: its facts and its tokenizer, as the LLM service tells them. Immutable."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specgrove.errors import InternalError
from specgrove.machine.owned_folders import temporary_folder
from specgrove.tokenizer import TOKENIZER_FILE_NAMES, Tokenizer
from specgrove.v1 import llm_pb2, token_tree_pb2

if TYPE_CHECKING:
    from specgrove.v1.llm_pb2_grpc import LlmServiceAsyncStub

_FETCH_TIMEOUT_S = 60.0
# A lost LLM service is waited for as long as it may take to load: of billions of parameters in half precision, from a slow disk.
_LEAST_REPLICA_WAIT_S = 300.0
_SLOWEST_LOAD_BYTES_PER_S = 1e8
_BYTES_PER_PARAMETER = 2
NUMERICS_SEPARATOR = "-"
"""Between what is of the model, and what is of the prompt."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """``max_model_len`` is the longest prompt + output in tokens. ``chat_end_token_ids`` end an answer in a conversation.

    ``tokenizer_files`` are those that the tokenizer was read from, by name.
    """

    name: str
    architecture: str
    vocab_size: int
    max_model_len: int
    dtype: str
    eos_token_ids: tuple[int, ...]
    max_num_tree_nodes: int
    tokenizer: Tokenizer
    chat_end_token_ids: tuple[int, ...] = ()
    numerics: tuple[str, ...] = ()
    tokenizer_files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    recommended_sampling: token_tree_pb2.SamplingParams = field(default_factory=token_tree_pb2.SamplingParams)
    """By the model's generation_config.json; what it doesn't name is unset."""
    hidden_layers: tuple[int, ...] = ()
    """Those whose hidden states the LLM service can give; none, where it is older."""
    hidden_size: int = 0
    max_num_row_top_k: int = 0
    """Most probable tokens of a verified row that it can tell."""
    num_parameters: int = 0

    @property
    def replica_wait_s(self) -> float:
        """How long a request waits for a lost LLM service, where no setting says it."""
        return max(_LEAST_REPLICA_WAIT_S, self.num_parameters * _BYTES_PER_PARAMETER / _SLOWEST_LOAD_BYTES_PER_S)

    @property
    def output_facts(self) -> tuple[object, ...]:
        """What outputs depend on besides their requests. Another dtype or end of sequence would change them in mid-stream."""
        return (
            self.name,
            self.architecture,
            self.vocab_size,
            self.dtype,
            self.eos_token_ids,
            self.chat_end_token_ids,
            self.tokenizer.vocab_sha256,
            _shown(self.recommended_sampling),
        )

    @property
    def numerics_digest(self) -> str:
        """One text for all of the model that decides an output's bits, and its length where the request leaves that to the model."""
        facts = (*self.output_facts, self.max_model_len, self.numerics)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]

    def numerics_with(self, prompt_token_ids: Sequence[int]) -> str:
        """The same, and the prompt by its tokens.

        Another router may have another chat template, and one that names the day makes other tokens of the same conversation tomorrow.
        """
        digest = hashlib.sha256(array("Q", prompt_token_ids).tobytes()).hexdigest()[:32]
        return f"{self.numerics_digest}{NUMERICS_SEPARATOR}{digest}"


def served_model_of(
    info: llm_pb2.LlmServiceGetModelInfoResponse, tokenizer: Tokenizer, tokenizer_files: Mapping[str, bytes]
) -> ServedModel:
    """The facts that the router needs."""
    return ServedModel(
        name=info.model,
        architecture=info.architecture,
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        dtype=info.dtype,
        eos_token_ids=tuple(info.eos_token_ids),
        max_num_tree_nodes=info.max_num_tree_nodes,
        numerics=tuple(info.numerics),
        tokenizer=tokenizer,
        tokenizer_files=tokenizer_files,
        chat_end_token_ids=tuple(info.chat_end_token_ids),
        recommended_sampling=info.recommended_sampling,
        hidden_layers=tuple(info.hidden_layers),
        hidden_size=info.hidden_size,
        max_num_row_top_k=info.max_num_row_top_k,
        num_parameters=info.num_parameters,
    )


async def fetch_tokenizer_files(stub: LlmServiceAsyncStub) -> dict[str, bytes]:
    """The LLM service's tokenizer files, by name. Others that it may send are left out."""
    contents: dict[str, bytearray] = {}
    async for piece in stub.GetTokenizer(llm_pb2.GetTokenizerRequest(), timeout=_FETCH_TIMEOUT_S):
        contents.setdefault(piece.file_name, bytearray()).extend(piece.content)
    return {name: bytes(contents[name]) for name in TOKENIZER_FILE_NAMES if name in contents}


def tokenizer_of(files: Mapping[str, bytes]) -> Tokenizer:
    """Raises ``InternalError`` when the files are unusable."""
    with temporary_folder("specgrove-tokenizer-") as folder:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        try:
            return Tokenizer.from_folder(folder)
        except (OSError, ValueError) as error:
            raise InternalError(f"the LLM service's tokenizer is unusable: {error}") from error


def check_serves(model: ServedModel, info: llm_pb2.LlmServiceGetModelInfoResponse) -> None:
    """Raises ``InternalError`` for a replica with another model, with other bits, or that takes less than the router promises."""
    ours = model.output_facts
    theirs = (
        info.model, info.architecture, info.vocab_size, info.dtype, tuple(info.eos_token_ids),
        tuple(info.chat_end_token_ids), info.vocab_sha256, _shown(info.recommended_sampling),
    )  # fmt: skip
    if ours != theirs:
        raise InternalError(f"it serves {theirs}, but this router serves {ours}; restart the router to change that")
    if model.numerics != tuple(info.numerics):
        theirs_only = [fact for fact in info.numerics if fact not in model.numerics]
        ours_only = [fact for fact in model.numerics if fact not in info.numerics]
        raise InternalError(
            f"its outputs may have other bits: it has {', '.join(theirs_only)}, this router serves {', '.join(ours_only)}; "
            "give it the same, or restart the router to change that"
        )
    if info.max_model_len < model.max_model_len:
        raise InternalError(
            f"its context is {info.max_model_len} tokens, this router promises {model.max_model_len}; give it a larger "
            "--max-model-len or restart the router"
        )


def _shown(sampling: token_tree_pb2.SamplingParams) -> dict[str, object]:
    return {field.name: value for field, value in sampling.ListFields()}
