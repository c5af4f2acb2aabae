"""The paper's tables from recordings of tiny models: what is recorded is what the models say; a draft that is the target is right."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.paper import __main__ as program
from benchmarks.paper.models import Nodes, Pair, Sequenced, load_pair
from benchmarks.paper.recordings import Recording, Settings, record
from benchmarks.paper.report import print_tables, rules_at_full_width, write_chart, write_json
from benchmarks.paper.tables import (
    MULTI_STEP,
    NAIVE,
    OURS_DRAWN,
    OURS_NOISED,
    OURS_RANKED,
    success_rates,
    tokens_per_step,
)
from benchmarks.paper.trees import DEPTH, NUM_INNER_NODES, NUM_NODES, PARENTS, nodes_of_width, parents_of_width
from specgrove.kernels.rows import PassRows
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder
from specgrove.tokenizer import Tokenizer
from ssm_service.draft_vocab import DraftVocab

SETTINGS = Settings(max_tokens=20, temperature=1.0, draft_weight=1.0, num_kept=40)
PROMPT_IDS = [5, 9, 17, 30, 8]


def _pair(llm: Path, ssm: Path, tmp_path: Path) -> Pair:
    return load_pair(str(llm), str(ssm), ("float32", "float32"), 64, 4 * NUM_NODES, tmp_path, lambda line: None)


@pytest.fixture
def itself(tiny_model: Path, tmp_path: Path) -> Pair:
    """A pair whose SSM is the LLM; its outputs don't end early."""
    pair = _pair(tiny_model, tiny_model, tmp_path)
    object.__setattr__(pair, "end_ids", frozenset())
    return pair


def _log_probs(folder: Path, token_ids: list[int]) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([token_ids])).logits[0].float().log_softmax(-1)


def test_the_trees_shape() -> None:
    assert NUM_NODES == 1 + 2 + 5 * 6
    depths = [0] * NUM_NODES
    for node in range(1, NUM_NODES):
        depths[node] = depths[PARENTS[node]] + 1
    assert [depths.count(depth) for depth in range(DEPTH + 1)] == [1, 1, 1, 5, 5, 5, 5, 5, 5]
    assert all(node not in PARENTS for node in range(NUM_INNER_NODES, NUM_NODES))
    assert parents_of_width(1) == list(range(-1, DEPTH))
    assert len(nodes_of_width(3)) == 1 + 2 + 3 * 6
    assert all(parent < node for node, parent in enumerate(parents_of_width(4)))


def test_what_is_recorded_is_what_the_model_says(itself: Pair, tiny_model: Path) -> None:
    """Greedy outputs, and the target's distribution at every node of some trees, against transformers."""
    found = record(itself, PROMPT_IDS, 3, SETTINGS, 4, is_sampled=True)
    for place, node in itertools.product((0, 7, 19), (0, 1, 2, 4, 20, NUM_INNER_NODES - 1)):
        path = []
        at = node
        while at > 0:
            path.insert(0, int(found.drawn[place, at]))
            at = PARENTS[at]
        expected = _log_probs(tiny_model, [*PROMPT_IDS, *found.output_ids[:place].tolist(), *path])[-1]
        kept = found.token_ids[place, node]
        np.testing.assert_allclose(found.target_log_probs[place, node], expected[kept.tolist()], rtol=2e-3, atol=2e-3)
        rest = 1 - expected[kept.tolist()].exp().sum().item()
        np.testing.assert_allclose(found.rest[place, node], [rest, rest], atol=1e-4)
        children = [child for child in range(NUM_NODES) if PARENTS[child] == node]
        assert set(found.drawn[place, children]) <= set(kept)
    greedy = record(itself, PROMPT_IDS, 3, SETTINGS, 4, is_sampled=False)
    assert greedy.drawn.size == 0
    token_ids = [*PROMPT_IDS, *greedy.output_ids.tolist()]
    assert _log_probs(tiny_model, token_ids).argmax(-1)[4:-1].tolist() == greedy.output_ids.tolist()


def test_a_draft_that_is_the_target_is_all_right(itself: Pair) -> None:
    """Ranked it is right of greedy output, with noise of sampled output, and multi-step sampling refuses nothing. Steps of nine tokens."""
    greedy = record(itself, PROMPT_IDS, 3, SETTINGS, 4, is_sampled=False)
    sampled = record(itself, PROMPT_IDS, 3, SETTINGS, 4, is_sampled=True)
    num_tokens = SETTINGS.max_tokens
    fewest_steps = math.ceil(num_tokens / (DEPTH + 1))
    (row,) = success_rates("set", "greedy", [greedy])
    assert row.values == (1.0,) * 5
    (row,) = tokens_per_step("set", "greedy", [greedy])
    assert row.values == (num_tokens / fewest_steps,) * 5
    rates = {row.rule: row.values for row in success_rates("set", "sampled", [sampled])}
    steps = {row.rule: row.values for row in tokens_per_step("set", "sampled", [sampled])}
    assert set(rates) == set(steps) == {OURS_RANKED, OURS_NOISED, OURS_DRAWN, MULTI_STEP, NAIVE}
    assert rates[OURS_NOISED] == pytest.approx([1.0] * 5)
    assert rates[MULTI_STEP] == pytest.approx([1.0] * 5)
    assert steps[OURS_NOISED] == pytest.approx([num_tokens / fewest_steps] * 5)
    assert steps[MULTI_STEP] == pytest.approx([num_tokens / fewest_steps] * 5)
    assert max(steps[NAIVE]) < num_tokens / fewest_steps


def test_another_draft_is_sometimes_wrong(tiny_model: Path, other_model: Path, tmp_path: Path) -> None:
    pair = _pair(tiny_model, other_model, tmp_path)
    object.__setattr__(pair, "end_ids", frozenset())
    recordings = [record(pair, PROMPT_IDS, seed, SETTINGS, 4, is_sampled=True) for seed in range(3)]
    for row in success_rates("set", "sampled", recordings):
        assert 0 < row.values[4] < 1
        assert all(narrow <= wide + 1e-9 for narrow, wide in itertools.pairwise(row.values))
    steps = {row.rule: row.values for row in tokens_per_step("set", "sampled", recordings)}
    assert all(1 <= value < DEPTH + 1 for values in steps.values() for value in values)
    assert steps[MULTI_STEP][0] >= steps[NAIVE][0]  # on a chain it accepts at least as often


@pytest.fixture(scope="module")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that agrees with ``tiny_model`` now and then: the same one, with noise on its weights."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("other") / "other"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(1)
    weights = load_file(folder / "model.safetensors")
    noisy = {
        name: tensor + 0.1 * tensor.std() * torch.randn_like(tensor)
        for name, tensor in weights.items()
        if tensor.ndim == 2
    }
    save_file(weights | noisy, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_recording_is_read_as_it_was_written(itself: Pair, tmp_path: Path) -> None:
    made = record(itself, PROMPT_IDS, 3, SETTINGS, 4, is_sampled=True)
    made.write(tmp_path / "one.npz")
    read = Recording.read(tmp_path / "one.npz")
    assert tokens_per_step("set", "sampled", [read]) == tokens_per_step("set", "sampled", [made])
    assert [path.name for path in tmp_path.glob("*.npz")] == ["one.npz"]


def test_a_run_goes_on_where_it_was(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toys.json").write_text(json.dumps(["one", "two", "three"]))
    words = [
        "program", "--prompts-dir", str(tmp_path), "--sets", "toys", "--llm", str(tiny_model), "--ssm", str(tiny_model), "--prompts", "2",
        "--max-tokens", "9", "--recordings", str(tmp_path / "made"), "--out", str(tmp_path / "out" / "t.json"), "--kept-tokens", "10",
    ]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    assert program.main() == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*.npz")}
    assert len(files) == 4
    lost = min(files)
    lost.unlink()
    first = json.loads((tmp_path / "out" / "t.json").read_text())
    assert program.main() == 0
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {lost}
    assert json.loads((tmp_path / "out" / "t.json").read_text()) == first
    assert (tmp_path / "out" / "t.png").exists()


def test_missing_prompt_sets_are_named_before_anything_slow(tmp_path: Path) -> None:
    (tmp_path / "alpaca.json").write_text('["one"]')
    with pytest.raises(ValueError, match=r"has no webqa.json: .*--prompts-dir"):
        program.read_sets(tmp_path, ("alpaca", "webqa"), 1)


@pytest.mark.parametrize(
    ("words", "told"), [(["--temperature", "0"], "above 0"), (["--kept-tokens", "9"], "10 at least")]
)
def test_settings_that_record_nothing_are_refused(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.parse_arguments(words)
    assert told in capsys.readouterr().err


def test_an_ssm_of_another_vocabulary_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another vocabulary"):
        _pair(tiny_model, Path("demo"), tmp_path)
    with pytest.raises(ValueError, match="has no distributions"):
        _pair(tiny_model, Path("lookup"), tmp_path)
    assert Tokenizer.from_folder(tiny_model).vocab_sha256


def test_tables_are_shown(tmp_path: Path) -> None:
    from benchmarks.paper.tables import Cell

    cells = [
        Cell("sampled", rule, "set", (1.0, 1.1, 1.2, 1.3, value)) for rule, value in ((NAIVE, 2.0), (MULTI_STEP, 3.0))
    ]
    tables = {"success_rates": cells, "tokens_per_step": cells}
    console = Console(record=True, width=200)
    print_tables(tables, console)
    assert "3.00 (1.50 x)" in console.export_text()
    assert rules_at_full_width(cells) == {NAIVE: {"set": 2.0}, MULTI_STEP: {"set": 3.0}}
    write_json(tables, {"cpu": "this one"}, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["rules_at_width_5"][MULTI_STEP] == {"set": 3.0}
    write_chart(tables, {}, tmp_path / "t.png", lambda line: None)
    assert (tmp_path / "t.png").exists()


def test_an_ssm_with_a_vocabulary_of_its_own_is_read_in_the_llms_ids(tiny_model: Path) -> None:
    runner = ModelRunner(load_decoder(tiny_model, torch.float32), 16)
    llm_ids = torch.full((runner.spec.vocab_size,), -1, dtype=torch.int32)
    llm_ids[1:4] = torch.tensor([30, 9, 17])
    sequenced = Sequenced(runner, 8, DraftVocab(llm_ids), 40)
    own = runner.forward(_chain([2, 0, 3]))[0]  # 9, one that it doesn't know, 17
    sequenced.read([9, 5, 17][:-1])
    sequenced.append([17])
    found = sequenced.below([2], [Nodes([17], [-1], 0, 4)])[0]
    expected = own[1:4].log_softmax(-1)
    assert torch.allclose(found[[30, 9, 17]], expected, atol=1e-4)
    assert found.isinf().sum() == 37


def _chain(token_ids: list[int]) -> PassRows:
    builder = PassBuilder()
    builder.add(range(len(token_ids)), token_ids, chunk_logits=True)
    return builder.build()
