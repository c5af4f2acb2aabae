"""Log-probabilities in the forms of OpenAI's API."""

from __future__ import annotations

from router.http.log_probs import completion_log_probs, text_end
from specgrove.v1 import router_pb2


def test_special_tokens_that_a_prompt_writes_out_have_their_place_in_it() -> None:
    """Not those that the tokenizer adds, and no part of a character."""
    pieces = [("", b"<s>"), ("", b"<u>"), ("a", b"a"), ("", b"\xc3"), ("\u00e9", b"\xa9"), ("", b"<e>")]
    tokens = [router_pb2.PromptToken(text=text, token_bytes=token_bytes) for text, token_bytes in pieces]
    assert completion_log_probs(tokens, 0, "<u>a\u00e9<e>")["text_offset"] == [0, 0, 3, 4, 4, 5]
    assert text_end(tokens, 0, "<u>a\u00e9<e>") == 8
    assert completion_log_probs(tokens, 0)["text_offset"] == [0, 0, 0, 1, 1, 2]


def test_of_tokens_that_are_written_alike_the_most_probable_is_told() -> None:
    token = router_pb2.GeneratedToken(token_id=9, text="x", token_bytes=b"x")
    token.log_probs.log_prob = -3.0
    for token_id, token_bytes, log_prob in ((1, b"A", -0.5), (2, b"\xe6", -1.0), (3, b"A", -4.0)):
        token.log_probs.top.add(token_id=token_id, token_bytes=token_bytes, log_prob=log_prob)
    (top,) = completion_log_probs([token], 0)["top_logprobs"]
    assert isinstance(top, dict)
    assert list(top.items()) == [("A", -0.5), ("bytes:\\xe6", -1.0), ("x", -3.0)]
    token.token_id, token.token_bytes, token.log_probs.log_prob = 3, b"A", -4.0
    (own,) = completion_log_probs([token], 0)["top_logprobs"]
    assert own["A"] == -4.0  # as token_logprobs says
