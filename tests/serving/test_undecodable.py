"""Bytes that are no message: the field whose text is not UTF-8 is named, whatever else is in the message."""

from __future__ import annotations

import pytest
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
