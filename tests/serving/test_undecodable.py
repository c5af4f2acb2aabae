"""Bytes that are no message: the field whose text is not UTF-8 is named, whatever else is in the message."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from specgrove.serving.undecodable import invalid_text_field
from specgrove.v1 import router_pb2, token_tree_pb2

GOOD = router_pb2.GenerateRequest(
    chat=router_pb2.Chat(
        messages=[
            router_pb2.ChatMessage(role="system", content="Be brief."),
            router_pb2.ChatMessage(role="user", content="AAAA"),
        ]
    ),
    sampling=token_tree_pb2.SamplingParams(temperature=0.5, logit_bias={3: 1.5}, stop_token_ids=[1, 2], seed=2**60),
    max_tokens=7,
    stop=["BBBB", "CCCC"],
    speculation=router_pb2.SpeculationOptions(ssms=["DDDD"]),
).SerializeToString()
DESCRIPTOR = router_pb2.GenerateRequest.DESCRIPTOR


@pytest.mark.parametrize(
    ("text", "field"),
    [(b"AAAA", "chat.messages[1].content"), (b"CCCC", "stop[1]"), (b"DDDD", "speculation.ssms[0]")],
)
def test_the_field_is_named(text: bytes, field: str) -> None:
    content = GOOD.replace(text, b"\xff\xfe\x80\x80")
    with pytest.raises(DecodeError):
        router_pb2.GenerateRequest.FromString(content)
    assert invalid_text_field(DESCRIPTOR, content) == field
    assert invalid_text_field(DESCRIPTOR, GOOD) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(content: bytes) -> None:
    invalid_text_field(DESCRIPTOR, content)


def _field(number: int, content: bytes) -> bytes:
    size, length = b"", len(content)
    while length >= 128:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def test_no_message_holds_messages_of_its_own_kind() -> None:
    """The walk has no other bound on its depth."""

    def walk(descriptor: Descriptor, above: tuple[str, ...]) -> None:
        assert descriptor.full_name not in above
        for field in descriptor.fields:
            if field.message_type is not None:
                walk(field.message_type, (*above, descriptor.full_name))

    for descriptor in router_pb2.DESCRIPTOR.message_types_by_name.values():
        walk(descriptor, ())


def test_the_search_gives_up_after_many_fields() -> None:
    bad = _field(7, b"\xff")
    assert invalid_text_field(DESCRIPTOR, _field(7, b"x") * 2000 + bad) == "stop[2000]"
    assert invalid_text_field(DESCRIPTOR, _field(7, b"x") * 2048 + bad) is None
