"""SSMs whose vocabulary is not quite the LLM's: what means something else is not drafted, the rest is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_output, toy_tokenizer_json
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import until


class RecordingLlm(ToyLlm):
    """Remembers the trees it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.drafted_ids: set[int] = set()

    async def _step(self, work: VerifyWork) -> Verdict:
        self.drafted_ids.update(work.tree.token_ids[1:])
        return await super()._step(work)


def _with(token_id: int) -> Callable[[TokenTree], TokenTree]:
    """Adds a node of this token below the root, and one below it."""

    def spoil(tree: TokenTree) -> TokenTree:
        size = tree.num_nodes
        return TokenTree(
            (*tree.token_ids, token_id, 65), (*tree.parents, 0, size), (*tree.log_probs, -0.1, -0.1), (0,) * (size + 2)
        )

    return spoil


async def _ssms_in_use(suite: ToySuite) -> list[str]:
    return list((await suite.stub.GetModelInfo(router_pb2.GetModelInfoRequest())).ssms)


async def test_an_ssm_service_of_another_version_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    llm, other = RecordingLlm(), ToySsm(hit_rate=1.0)
    async with toy_suite(llm) as suite:
        other.protocol_version = 0
        await suite.restart_ssm(other)
        await until(lambda: "it speaks version 0 of the protocol" in caplog.text)
        responses = await responses_to(suite, request_of(max_tokens=20))
    assert token_ids_of(responses) == toy_output(PROMPT, 20)
    assert not other.asked


@pytest.mark.parametrize("token_id", [VOCAB_SIZE, VOCAB_SIZE + 1000, 2**32 - 1])
async def test_padding_beyond_the_llms_vocabulary_costs_these_nodes_only(token_id: int) -> None:
    llm, ssm = RecordingLlm(), ToySsm(hit_rate=1.0)
    ssm.spoil = _with(token_id)
    async with toy_suite(llm, ssm) as suite:
        responses = await responses_to(suite, request_of(max_tokens=200))
    assert token_ids_of(responses) == toy_output(PROMPT, 200)
    assert max(llm.drafted_ids) < VOCAB_SIZE
    assert responses[-1].usage.num_verify_steps < 200  # what else it drafted is verified, and accepted


async def test_a_renamed_token_is_not_drafted_and_all_others_are() -> None:
    llm, ssm = RecordingLlm(), ToySsm(hit_rate=1.0)
    ssm.tokenizer = Tokenizer(toy_tokenizer_json().replace(b"<eos>", b"<end>"), {}, None)
    ssm.spoil = _with(EOS)
    async with toy_suite(llm, ssm) as suite:
        assert await _ssms_in_use(suite) == ["toy-a", "toy-b"]
        responses = await responses_to(suite, request_of(max_tokens=200))
    assert token_ids_of(responses) == toy_output(PROMPT, 200)
    assert llm.drafted_ids
    assert EOS not in llm.drafted_ids
    assert responses[-1].usage.num_verify_steps < 200


async def test_an_ssm_for_another_tokenizer_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    ssm = ToySsm()
    ssm.tokenizer = _shifted()
    async with toy_suite(ssm=ssm) as suite:
        assert token_ids_of(await responses_to(suite, request_of(max_tokens=20))) == toy_output(PROMPT, 20)
        assert not ssm.asked
        assert await _ssms_in_use(suite) == []
    assert "of the LLM's 257 tokens it has 0 under the same id, 90% are needed" in caplog.text


class UntoldSsm(ToySsm):
    """Has weights, and says nothing of its vocabulary."""

    async def GetModelInfo(self, request: object, context: object) -> object:  # type: ignore[override]  # noqa: N802
        response = await super().GetModelInfo(request, context)
        for ssm in response.ssms:
            ssm.vocab_sha256 = ""
        return response

    async def GetVocabulary(self, request: object, context: object) -> object:  # type: ignore[override]  # noqa: N802
        response = await super().GetVocabulary(request, context)
        response.token_checksums = b""
        return response


@pytest.mark.parametrize(("mode", "names"), [("beam", []), ("lookup", ["toy-a", "toy-b"])])
async def test_an_ssm_that_does_not_tell_its_vocabulary_is_not_taken_for_any_llm(mode: str, names: list[str]) -> None:
    ssm = UntoldSsm()
    ssm.mode = mode
    async with toy_suite(ssm=ssm) as suite:
        assert await _ssms_in_use(suite) == names


def _shifted() -> Tokenizer:
    """Every token has the id of another."""
    import json

    content = json.loads(toy_tokenizer_json())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {token: (token_id + 1) % 256 for token, token_id in vocab.items()}
    content["added_tokens"] = [entry | {"content": "<other>"} for entry in content["added_tokens"]]
    return Tokenizer(json.dumps(content).encode(), {}, None)
