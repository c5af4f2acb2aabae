"""``--ssm`` specs: what they mean, and errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from specgrove.settings.ssm_specs import SsmSpec, parse_ssm, parse_ssms
from ssm_service.__main__ import parse_arguments
from ssm_service.config import rule_of
from ssm_service.draft_tree import Beam, Expansion


def test_specs() -> None:
    assert parse_ssm("lookup").mode == "lookup"
    assert rule_of(parse_ssm("demo")) == Beam()
    assert rule_of(parse_ssm("/models/small,width=5,name=tiny")) == Beam(5)
    assert parse_ssm("/models/small,width=5,name=tiny").name == "tiny"
    assert parse_ssm("owner/small").name == "small"
    assert rule_of(parse_ssm("demo,mode=expansion")) == Expansion()
    assert rule_of(parse_ssm("demo,expansion=2-2")) == Expansion((2, 2))
    assert parse_ssm("demo").quantization == "none"
    assert parse_ssm("demo").noise_weight is None
    assert parse_ssm("lookup").corpus == 0
    assert parse_ssm("lookup,corpus=5000,store=/a/b=c") == SsmSpec(
        "lookup", None, "lookup", corpus=5000, store=Path("/a/b=c")
    )
    assert rule_of(parse_ssm("recycle,store=table,name=seen")) is None
    assert parse_ssm("recycle").mode == "recycle"
    assert parse_ssm("demo,noise_weight=0").noise_weight == 0
    assert parse_ssm("demo,noise_weight=1.25").noise_weight == 1.25
    assert parse_ssm("small.gguf,quantization=int4,width=2").quantization == "int4"


def test_a_path_may_have_commas(tmp_path: Path) -> None:
    """Where there is such a folder or file; else the commas stand before options."""
    folder = tmp_path / "small,width=2"
    assert parse_ssm(f"{folder},name=tiny").width == 2
    folder.mkdir()
    spec = parse_ssm(f"{folder},name=tiny")
    assert (spec.model, spec.width, spec.name) == (str(folder), None, "tiny")
    assert parse_ssm(str(folder)).name == "small,width=2"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no model"),
        ("demo,speed=9", "'speed=9' is no option"),
        ("demo,mode=magic", "beam or expansion"),
        ("demo,width=0", "from 1 to 64"),
        ("demo,quantization=int2", "quantization must be int8 or int4, got 'int2'"),
        ("demo,expansion=1-x", "from 1 to 64"),
        ("demo,noise_weight=-1", "noise_weight must be a number from 0 to 100, got '-1'"),
        ("demo,noise_weight=nan", "noise_weight must be a number from 0 to 100, got 'nan'"),
        ("demo,noise_weight=much", "noise_weight must be a number from 0 to 100, got 'much'"),
        ("lookup,width=2", "lookup has no option but corpus, name, store"),
        ("lookup,corpus=10", "corpus must be a number of tokens from 1000 to 10000000, got '10'"),
        ("lookup,store=here", "keeps nothing in a store without a corpus"),
        ("recycle,corpus=5000", "recycle has no option but name, store"),
        ("demo,store=here", "store is no option of an SSM with weights"),
        ("demo,width=2,mode=expansion", "width is no option of mode expansion"),
        ("demo,mode=beam,expansion=1-1", "expansion is no option of mode beam"),
        ("demo,width=2,width=3", "width is given twice"),
        (".", "makes no name"),
    ],
)
def test_bad_specs_are_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_ssm(text)


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="two SSMs are named demo"):
        parse_ssms(["demo", "demo"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ssm", "demo,speed=9"], "is no option"),
        (["--ssm", "demo", "--ssm", "demo"], "two SSMs are named demo"),
        (
            ["--ssm", "lookup,corpus=5000,store=/tmp/one", "--ssm", "recycle,store=/tmp/../tmp/one"],
            "two SSMs have the store /tmp/one",
        ),
        (["--kv-slots", "0"], "--kv-slots: must be a whole number, 2 or more"),
        (["--session-ttl-s", "nan"], "--session-ttl-s: must be a number of seconds above 0"),
        (["--drain-timeout-s", "-1"], "--drain-timeout-s: must be a number of seconds, 0 or more"),
    ],
)
def test_bad_flags_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert complaint in capsys.readouterr().err


def test_the_pool_is_lookup_and_the_demo_drafter_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert [spec.name for spec in parse_arguments([]).ssms] == ["lookup", "demo"]
    assert [spec.name for spec in parse_arguments(["--ssm", "lookup"]).ssms] == ["lookup"]
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    assert "default: None" not in capsys.readouterr().out
