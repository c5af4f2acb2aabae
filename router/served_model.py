"""The model behind the router: its facts and its tokenizer, as the LLM service tells them. Immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specgrove.errors import InternalError
from specgrove.owned_folders import temporary_folder
from specgrove.tokenizer import TOKENIZER_FILE_NAMES, Tokenizer
from specgrove.v1 import llm_pb2, token_tree_pb2

if TYPE_CHECKING:
    from specgrove.v1.llm_pb2_grpc import LlmServiceAsyncStub

_FETCH_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """``context_len`` is the longest prompt + output in tokens. ``chat_end_token_ids`` end an answer in a conversation.

    ``tokenizer_files`` are those that the tokenizer was read from, by name.
    """

    name: str
    architecture: str
    vocab_size: int
    context_len: int
    dtype: str
    eos_token_ids: tuple[int, ...]
    max_num_tree_nodes: int
    tokenizer: Tokenizer
    chat_end_token_ids: tuple[int, ...] = ()
    numerics: tuple[str, ...] = ()
    tokenizer_files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    recommended_sampling: token_tree_pb2.SamplingParams = field(default_factory=token_tree_pb2.SamplingParams)
    """By the model's generation_config.json; what it doesn't name is unset."""


def served_model_of(
    info: llm_pb2.LlmServiceGetModelInfoResponse, tokenizer: Tokenizer, tokenizer_files: Mapping[str, bytes]
) -> ServedModel:
    """The facts that the router needs."""
    return ServedModel(
        name=info.model,
        architecture=info.architecture,
        vocab_size=info.vocab_size,
        context_len=info.max_model_len,
        dtype=info.dtype,
        eos_token_ids=tuple(info.eos_token_ids),
        max_num_tree_nodes=info.max_num_tree_nodes,
        numerics=tuple(info.numerics),
        tokenizer=tokenizer,
        tokenizer_files=tokenizer_files,
        chat_end_token_ids=tuple(info.chat_end_token_ids),
        recommended_sampling=info.recommended_sampling,
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
