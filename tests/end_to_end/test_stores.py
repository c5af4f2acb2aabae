"""What SSMs keep between requests and runs changes no token: empty, full of the right outputs or of others, over real services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specgrove.client import Client
from specgrove.client.output import Completion
from specgrove.loop.request import SpeculationOptions
from specgrove.loop.verifier_knowledge import RowTopK
from specgrove.loop.works import TreeShape
from specgrove.suite.processes import Suite, SuiteConfig
from ssm_service.corpus import Corpus
from ssm_service.recycle import RecycleSsm
from tests.end_to_end.conftest import ALWAYS_DRAFT

PROMPTS = ("The bridge over the", "def main():", "Once upon a time there was a bridge")
SAMPLINGS: tuple[dict[str, float], ...] = ({}, {"temperature": 0.8}, {"temperature": 1.0, "top_p": 0.9})
MAX_TOKENS = 48
INCREMENTAL = SpeculationOptions(disabled=True)


def outputs(suite: Suite, speculation: SpeculationOptions | None = None) -> list[Completion]:
    with Client(suite.address) as client:
        return [
            client.complete(
                prompt, max_tokens=MAX_TOKENS, seed=seed, ignore_eos=True, speculation=speculation or SpeculationOptions(), **sampling
            )
            for sampling in SAMPLINGS
            for seed, prompt in enumerate(PROMPTS)
        ]  # fmt: skip


def started(model: Path, stores: Path) -> Suite:
    ssms = (f"lookup,corpus=20000,store={stores / 'corpus'}", f"recycle,store={stores / 'table'}")
    return Suite(
        SuiteConfig(llm_folder=model, ssms=ssms, dtype="float32", num_threads=1, router_arguments=ALWAYS_DRAFT)
    )


def fill(stores: Path, texts: Sequence[Sequence[int]]) -> None:
    """The stores that a service would have after these outputs."""
    corpus, table = Corpus(20_000, stores / "corpus"), RecycleSsm("recycle", stores / "table")
    for text in texts:
        corpus.add(text)
        rows = [
            RowTopK(place, token_id, ((text[place + 1], -0.1), (token_id, -3.0)))
            for place, token_id in enumerate(text[:-1])
        ]
        table.draft("s", list(text), TreeShape(0, 0), rows=rows)
    corpus.save()
    table.save()


def test_stores_change_no_output(tiny_model: Path, tmp_path: Path) -> None:
    with started(tiny_model, tmp_path) as suite:
        expected = [completion.token_ids for completion in outputs(suite, INCREMENTAL)]
        assert [completion.token_ids for completion in outputs(suite)] == expected
    assert Corpus(20_000, tmp_path / "corpus").num_tokens > MAX_TOKENS, "it is saved when the service ends"
    RecycleSsm("recycle", tmp_path / "table")
    backwards = [[*reversed(text)] for text in expected]
    for held in (expected, backwards):
        for path in tmp_path.iterdir():
            path.unlink()
        fill(tmp_path, held)
        with started(tiny_model, tmp_path) as suite:
            found = outputs(suite)
        assert [completion.token_ids for completion in found] == expected
        drafters = {name for completion in found for token in completion.tokens for name in token.drafted_by}
        assert held is backwards or drafters == {"lookup", "recycle"}
