"""Messages of very many fields: refused by name before anything is made of them; others go to the parser."""

from __future__ import annotations

import pytest

from specgrove.errors import InvalidRequestError
from specgrove.serving import call_guard
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


def test_what_is_no_message_is_left_to_the_parser() -> None:
    check_num_fields(DESCRIPTOR, b"\xff" * 100_000)
    check_num_fields(DESCRIPTOR, b"\x3a\x7f" * 100_000)
