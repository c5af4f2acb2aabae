"""Messages of very many fields: refused by name before anything is made of them, as is what can't be counted."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from specgrove.errors import InvalidRequestError
from specgrove.serving import call_guard, field_counts
from specgrove.serving.field_counts import MAX_NUM_FIELDS, check_num_fields
from specgrove.v1 import router_pb2

DESCRIPTOR = router_pb2.GenerateRequest.DESCRIPTOR
NUM_FIELDS = 500_000


def field(path: str, content: bytes) -> bytes:
    """A field of ``GenerateRequest``, or of a message in it, with its key and length."""
    name, _, rest = path.partition(".")
    message = DESCRIPTOR
    keys = []
    while name:
        found = message.fields_by_name[name]
        keys.append(found.number << 3 | 2)
        message, (name, _, rest) = found.message_type, rest.partition(".")
    for key in reversed(keys):
        content = bytes([key]) + varint(len(content)) + content
    return content


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


@pytest.mark.parametrize("path", ["stop", "chat.messages", "speculation.ssms", "sampling.logit_bias"])
def test_a_list_of_very_many_is_named_before_anything_is_parsed(path: str) -> None:
    outer, _, inner = path.rpartition(".")
    empty = field(path, b"")[-2:] * NUM_FIELDS
    content = field(outer, empty) if inner and outer else empty
    parsed: list[bytes] = []

    class Message:
        DESCRIPTOR = DESCRIPTOR

        @classmethod
        def FromString(cls, content: bytes) -> None:  # noqa: N802
            parsed.append(content)

    refused = call_guard._checked(Message.FromString)(content)
    assert isinstance(refused, call_guard._Undecodable)
    assert refused.error.violations[0].field == path
    assert str(MAX_NUM_FIELDS) in refused.error.violations[0].description
    assert parsed == []


def test_fields_nobody_knows_count_too() -> None:
    with pytest.raises(InvalidRequestError, match="request: "):
        check_num_fields(DESCRIPTOR, b"\x98\x7d\x01" * NUM_FIELDS)


def test_large_requests_of_few_fields_and_long_lists_of_numbers_go_on() -> None:
    chat = router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="why? " * 20)] * 4096)
    for request in (
        router_pb2.GenerateRequest(chat=chat),
        router_pb2.GenerateRequest(text="a" * 1_000_000),
        router_pb2.GenerateRequest(token_ids=router_pb2.TokenIds(token_ids=[1] * 1_000_000)),
    ):
        check_num_fields(DESCRIPTOR, request.SerializeToString())


GROUP = b"\xa3\x06\xa4\x06"  # which begins and ends; a parser skips those it doesn't know


@pytest.mark.parametrize("content", [b"\xff" * 100_000, b"\x3a\x7f" * 100_000, GROUP + b"\x3a\x00" * 100_000])
def test_what_cannot_be_counted_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"request: its bytes are no specgrove\.v1\.GenerateRequest message"):
        check_num_fields(DESCRIPTOR, content)


def keys(wire_type: int) -> st.SearchStrategy[bytes]:
    """Keys of fields, known and unknown, some written longer than they need be."""
    numbers = st.one_of(st.integers(1, 10), st.integers(1, 10), st.integers(1, 2**29 - 1))
    plain = numbers.map(lambda number: varint(number << 3 | wire_type))
    return plain | plain.filter(lambda key: len(key) < 5).map(lambda key: key[:-1] + bytes([key[-1] | 128, 0]))


def with_length(content: bytes) -> bytes:
    return varint(len(content)) + content


FIELDS = st.one_of(
    st.builds(bytes.__add__, keys(0), st.integers(0, 2**64 - 1).map(varint)),
    st.builds(bytes.__add__, keys(1), st.binary(min_size=8, max_size=8)),
    st.builds(bytes.__add__, keys(5), st.binary(min_size=4, max_size=4)),
    st.builds(bytes.__add__, keys(2), st.sampled_from([b"", b"", b"a", b"\xff"]).map(with_length)),
)
CONTENTS = st.recursive(
    st.lists(FIELDS, max_size=8).map(b"".join),
    lambda inner: st.lists(st.builds(lambda key, content: key + with_length(content), keys(2), inner) | FIELDS, max_size=8).map(b"".join),
    max_leaves=12,
)  # fmt: skip


@given(content=CONTENTS, cut=st.sampled_from([0, 0, 0, 1, 2]))
def test_what_the_parser_takes_is_counted_to_its_end(content: bytes, cut: int) -> None:
    """A guard that gave up where the parser goes on would let anything pass behind that place."""
    content = content[: len(content) - cut]
    try:
        message = router_pb2.GenerateRequest.FromString(content)
    except DecodeError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field_counts, "_MIN_BYTES", 0)
        check_num_fields(DESCRIPTOR, content)
        patch.setattr(field_counts, "MAX_NUM_FIELDS", num_least(message) - 1)
        if num_least(message) > 0:
            with pytest.raises(InvalidRequestError):
                check_num_fields(DESCRIPTOR, content)


def num_least(message: Message) -> int:
    """Of fields that must have been in the bytes of what was parsed."""
    num_fields = 0
    for found, value in message.ListFields():
        if not found.is_repeated:
            num_fields += 1 + (num_least(value) if found.message_type is not None else 0)
        else:
            num_fields += len(value) if found.type in (found.TYPE_STRING, found.TYPE_MESSAGE) else 1  # packed
    return num_fields
