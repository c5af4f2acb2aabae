"""An LLM whose services are made up: what it sends, and what it makes of answers and failures."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import specgrove.serve as sg
from specgrove.errors import InternalError, ResourceExhaustedError
from specgrove.serve import preparation
from specgrove.serve.output_file import add_results
from specgrove.suite.processes import SuiteConfig
from specgrove.v1 import router_pb2
from tests.fake_router import FakeRouter
from tests.serve.conftest import RunningSuite
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
ANSWER = "The quick brown fox"
CHAT = [{"role": "user", "content": "hi"}]
DEFECT = InternalError("a defect")


def test_importing_it_brings_neither_torch_nor_grpc() -> None:
    program = "import specgrove.serve, sys; print({'torch', 'grpc', 'transformers'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


def test_a_result_has_text_tokens_the_reason_and_statistics(llm: sg.LLM) -> None:
    result = llm.generate("hi")
    assert (result.output_text, result.output_tokens, result.finish_reason) == (ANSWER, [0, 1, 1, 2], "length")
    assert result.error is None
    assert result.statistics is not None
    assert result.statistics.acceptance_histogram == (2, 1)
    assert result.statistics.num_verify_steps == 3
    assert result.statistics.tokens_per_s == pytest.approx(100)
    assert [token.drafted_by for token in result.tokens] == [(), ("lookup",), ("lookup",), ("lookup",)]


def test_a_prompts_log_probabilities_alone(fake: FakeRouter, llm: sg.LLM) -> None:
    config = sg.GenerationConfig(num_prompt_log_probs=0)
    result = llm.generate("hi", max_new_tokens=0, generation_config=config)
    assert [(token.text, token.log_probs and token.log_probs.rank) for token in result.prompt_tokens] == [
        ("h", None),
        ("i", 7),
    ]
    assert fake.requests[-1].prompt_only
    assert fake.requests[-1].max_tokens == 0
    llm.generate("hi", generation_config=config)
    assert not fake.requests[-1].prompt_only


def test_settings_of_the_request_come_before_those_of_the_call_and_of_compile(fake: FakeRouter, llm: sg.LLM) -> None:
    llm.compile(sg.GenerationConfig(do_sample=True, temperature=0.25, seed=1))
    llm.generate(CHAT)
    llm.generate("hi", max_new_tokens=3, generation_config=sg.GenerationConfig(do_sample=True, temperature=0.5, seed=2))
    own = sg.GenerationConfig(do_sample=True, temperature=0.75, seed=3, stop=["\n"])
    without = sg.SpeculationOptions(disabled=True)
    llm.generate(sg.Request([1, 2], max_new_tokens=4, generation_config=own, speculation=without), max_new_tokens=3)
    assert [(r.sampling.temperature, r.sampling.seed) for r in fake.requests] == [(0.25, 1), (0.5, 2), (0.75, 3)]
    assert [request.max_tokens for request in fake.requests[1:]] == [3, 4]
    assert fake.requests[0].chat.messages[0].content == "hi"
    assert list(fake.requests[2].token_ids.token_ids) == [1, 2]
    assert list(fake.requests[2].stop) == ["\n"]
    assert fake.requests[2].speculation.disabled


@pytest.mark.parametrize(
    ("prompt", "lengths", "max_tokens"),
    [
        ("x" * 10, {}, 128),
        ("x" * 150, {}, 50),  # what the context of 200 holds
        ("x" * 150, {"max_new_tokens": 128}, 128),  # asked for: the router says that it is too much
        ("x" * 10, {"max_length": 60}, 50),
        ("x" * 10, {"max_length": 60, "max_new_tokens": 5}, 5),
        ("x" * 10, {"max_length": 500}, 190),
        ([1] * 10, {"max_length": 60}, 50),
        ([("user", "hi")], {"max_length": 60}, 59),  # the fake has a token for each message
    ],
)
def test_how_long_an_output_may_be(
    fake: FakeRouter, llm: sg.LLM, prompt: Any, lengths: dict[str, int], max_tokens: int
) -> None:
    llm.generate(prompt, **lengths)
    assert fake.requests[-1].max_tokens == max_tokens


def test_a_prompt_that_fills_max_length_is_told(llm: sg.LLM) -> None:
    with pytest.raises(sg.InvalidRequestError, match="max_length: is 5, and the prompt has 10 tokens"):
        llm.generate("x" * 10, 5)


def test_a_list_comes_back_in_order_and_one_failure_loses_no_other(fake: FakeRouter, llm: sg.LLM) -> None:
    prompts = ["a", "invalid", "stop text", *["b"] * 30]
    with pytest.warns(UserWarning, match=r"1 of 33 requests failed, the first with: sampling\.top_p"):
        results = llm.generate(prompts)
    assert [result.finish_reason for result in results] == ["length", "error", "stop", *["length"] * 30]
    assert isinstance(results[1].error, sg.InvalidRequestError)
    assert (results[1].output_text, results[1].output_tokens, results[1].statistics) == ("", [], None)
    assert results[2].stop_reason == "fox"
    assert sorted(request.text for request in fake.requests) == sorted(prompts)
    assert llm.generate([]) == []
    with pytest.raises(sg.InvalidRequestError, match="top_p"):
        llm.generate("invalid")


def test_the_batch_is_kept_full_and_no_fuller(fake: FakeRouter, llm: sg.LLM) -> None:
    llm.generate(["one of four at once"] * 40)
    assert len(fake.requests) == 40
    assert fake.max_num_running == 4


def test_wrong_requests_are_told_before_services_start(fake: FakeRouter, model_folder: Path) -> None:
    llm = sg.LLM(model_folder)
    llm.compile()
    for wrong in (lambda: llm.generate(["good", 5]), lambda: llm.generate("hi", max_length=0)):  # type: ignore[list-item]
        with pytest.raises(sg.ConfigurationError):
            wrong()
    with pytest.raises(sg.ConfigurationError, match="generate_stream takes one prompt"):
        llm.generate_stream(["a", "b"])  # type: ignore[list-item]
    assert RunningSuite.log == []
    assert fake.requests == []


def test_a_stream_comes_in_pieces_and_is_cancelled_by_leaving_it(fake: FakeRouter, llm: sg.LLM) -> None:
    chunks = list(llm.generate_stream(CHAT, max_new_tokens=5))
    assert [chunk.text for chunk in chunks] == ["The", " quick brown", " fox", ""]
    assert chunks[-1].usage is not None
    stream = llm.generate_stream("endless")
    assert next(stream).text == "The"
    stream.close()
    assert fake.was_cancelled.wait(LIMIT_S)


def test_it_works_where_an_event_loop_runs(llm: sg.LLM) -> None:
    async def cell() -> str:
        return llm.generate("hi").output_text + llm.generate(["hi", "ho"])[1].output_text

    assert asyncio.run(cell()) == ANSWER * 2


def test_an_interrupt_calls_off_the_whole_list_and_nothing_else(fake: FakeRouter, llm: sg.LLM) -> None:
    services = llm._running()
    requests = [sg.Request("hi", max_new_tokens=5), *[sg.Request("endless", max_new_tokens=5)] * 7]

    def interrupt(_: object) -> None:
        wait_until(lambda: fake.num_running >= 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        services.complete_all(requests, 4, interrupt)
    assert fake.was_cancelled.wait(LIMIT_S)
    assert llm.generate("hi").output_text == ANSWER


def test_results_are_added_to_the_output_file(fake: FakeRouter, model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with sg.LLM(model_folder, output_file=path) as llm:
        llm.generate("hi")
        with pytest.warns(UserWarning, match="1 of 3"):
            llm.generate(["invalid", CHAT, [1, 2]])
    first, failed, chat, ids = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["prompt"], first["output_text"], first["output_tokens"]) == ("hi", ANSWER, [0, 1, 1, 2])
    assert first["latency_ms"] == 30
    assert (failed["finish_reason"], failed["latency_ms"]) == ("error", None)
    assert "top_p" in failed["error"]
    assert (chat["prompt"], ids["prompt"]) == (CHAT, [1, 2])


def test_what_one_call_adds_to_the_output_file_is_written_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second thread, which writes wherever the first one lets it, comes between calls only: large results were written in parts."""
    path, num_writes = tmp_path / "results.jsonl", 0
    wanted = [sg.GenerationResult(letter * 30_000) for letter in "ab"]
    add_results(path, [sg.Request("first"), sg.Request("second")], wanted)
    expected = path.read_bytes()
    path.unlink()

    class Counted(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal num_writes
            num_writes += 1
            return super().write(data)

    def counted(self: Path, mode: str, buffering: int = -1, encoding: str | None = None) -> Any:
        raw = Counted(self, mode.replace("b", ""))
        if buffering == 0:
            return raw
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)

    monkeypatch.setattr(Path, "open", counted)
    add_results(path, [sg.Request("first"), sg.Request("second")], wanted)
    monkeypatch.undo()
    assert num_writes == 1
    assert path.read_bytes() == expected


def test_any_message_can_be_written_to_the_output_file(tmp_path: Path) -> None:
    message = router_pb2.ChatMessage(role="user", content="hi", attributes_json=r'{"name": "\ud83d"}')
    add_results(tmp_path / "results.jsonl", [sg.Request([message])], [sg.GenerationResult("ab")])
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert line["prompt"] == [{"role": "user", "content": "hi", "name": "\ud83d"}]


def test_an_output_file_that_cannot_be_written_is_told_before_anything_runs(
    fake: FakeRouter, model_folder: Path, tmp_path: Path
) -> None:
    llm = sg.LLM(model_folder, output_file=tmp_path / "absent" / "results.jsonl")
    with pytest.raises(sg.ConfigurationError, match=r"output_file: .*No such file"):
        llm.generate("hi")
    assert RunningSuite.log == []


def test_results_are_not_lost_with_their_file(
    fake: FakeRouter, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("specgrove.serve.llm.add_results", fail)
    with sg.LLM(model_folder, output_file=tmp_path / "results.jsonl") as llm:
        with pytest.warns(UserWarning, match="could not be written: No space left"):
            assert llm.generate("hi").output_text == ANSWER
        with pytest.warns(UserWarning, match="could not be written"):
            assert llm.generate(["hi"])[0].output_text == ANSWER


def test_no_ssms_may_be_said_in_any_way(model_folder: Path) -> None:
    for ssms in (None, (), []):
        llm = sg.LLM(model_folder)
        llm.compile(ssms=ssms)
        assert llm._suite_config is not None


def test_a_list_shows_how_far_it_is(llm: sg.LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"])
    assert capsys.readouterr() == ("", "")
    llm.generate(["a", "b"], show_progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2/2" in shown.err


def test_a_full_router_is_waited_for(fake: FakeRouter, llm: sg.LLM) -> None:
    fake.failures = [(0, ResourceExhaustedError("full", retry_delay_ms=1))] * 3
    assert [result.output_text for result in llm.generate(["a", "b"])] == [ANSWER] * 2


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_what_the_pages_show_runs(
    fake: FakeRouter, model_folder: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparation, "suite_config", lambda *_: SuiteConfig(llm_folder=model_folder))
    (program,) = re.findall(r"```python\n(import specgrove\.serve as sg\n.*?)```", (ROOT / page).read_text(), re.DOTALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(program, {})
    assert capsys.readouterr().out.startswith(ANSWER)
