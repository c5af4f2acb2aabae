"""What ``generation_config.json`` recommends: values in their ranges; anything else is left out and told."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from specgrove.files.json_files import JsonFileError
from specgrove.models.folders.recommended_sampling import recommended_sampling_of


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # As of Qwen3.
        (
            {"do_sample": True, "eos_token_id": [1, 2], "temperature": 0.6, "top_k": 20, "top_p": 0.95},
            {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
        ),
        ({"temperature": 1, "min_p": 0.1, "top_k": 5.0}, {"temperature": 1.0, "min_p": 0.1, "top_k": 5}),
        ({"do_sample": False, "temperature": 0.9, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"temperature": None, "top_p": None, "do_sample": None}, {}),
        ({"eos_token_id": 2}, {}),
    ],
)
def test_what_is_recommended(content: dict[str, object], expected: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    assert recommended_sampling_of(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("temperature", -1, "in [0, 100]"),
        ("temperature", "hot", "a number"),
        ("top_p", 1.5, "in [0, 1]"),
        ("top_k", -3, "0 or more"),
        ("top_k", True, "a whole number"),
        ("repetition_penalty", 0, "in [0.01, 10]"),
    ],
)
def test_what_makes_no_sense_is_left_out_and_told(
    name: str, value: object, right: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({name: value, "min_p": 0.5}))
    with caplog.at_level(logging.WARNING):
        assert recommended_sampling_of(tmp_path) == {"min_p": 0.5}
    (record,) = caplog.records
    assert f"{name} is {json.dumps(value)}, it should be {right}; it is not recommended" in record.getMessage()


def test_a_folder_may_have_no_such_file_and_a_broken_one_is_told(tmp_path: Path) -> None:
    assert recommended_sampling_of(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(JsonFileError):
        recommended_sampling_of(tmp_path)
