"""What a run leaves, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from specgrove.batch.answers_file import AnswersFile, BatchAnswer
from specgrove.batch.requests_file import BatchFileError
from tests.waiting import LIMIT_S

IDS = ("a", "b", "c", "d")


def ids_in(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def test_answers_are_there_as_they_come_and_get_the_order_of_the_requests(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS) as answers:
        for custom_id in ("c", "a", "d", "b"):
            answers.add(BatchAnswer(custom_id, 200, {"id": "cmpl-1"}))
            assert ids_in(path)[-1] == custom_id
        assert [answer.custom_id for answer in answers.put_in_order()] == list(IDS)
    assert ids_in(path) == list(IDS)
    line = json.loads(path.read_text().splitlines()[0])
    assert line["id"].startswith("batch_req_")
    assert (line["response"], line["error"]) == (
        {"status_code": 200, "request_id": "cmpl-1", "body": {"id": "cmpl-1"}},
        None,
    )


def test_a_run_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS) as answers:
        answers.add(BatchAnswer("b", 200, {}))
        answers.add(BatchAnswer("c", 429, {"error": {"message": "full"}}))
        answers.add(BatchAnswer("d", error="the connection was lost"))
        answers.add(BatchAnswer("a", 400, {"error": {"message": "wrong"}}))
    path.write_text(path.read_text() + '{"id": "batch_req_1", "custom_id": "c", "resp')
    with AnswersFile(path, IDS) as answers:
        # What had no room, no connection or only half a line is asked again; what was wrong stays wrong.
        assert sorted(answers.answered) == ["a", "b"]
        assert ids_in(path) == ["b", "a"]
        answers.add(BatchAnswer("c", 200, {}))
        answers.add(BatchAnswer("d", 200, {}))
        assert [answer.problem for answer in answers.put_in_order()] == ["wrong", None, None, None]


def test_what_was_refused_for_its_key_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS) as answers:
        answers.add(BatchAnswer("a", 401, {"error": {"message": "no such key"}}, request_id="3f0c9a51"))
        answers.add(BatchAnswer("b", 404, {"error": {"message": "no such model"}}))
    assert [json.loads(line)["response"]["request_id"] for line in path.read_text().splitlines()] == ["3f0c9a51", ""]
    with AnswersFile(path, IDS) as answers:
        assert list(answers.answered) == ["b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}\n', "line 1 is no answer of a batch: give another file for the answers"),
        ("my notes\n", "line 1 is not JSON"),
        ("my notes", "ends with what is no answer of a batch: give another file for the answers"),
        (
            '{"id": "batch_req_1", "custom_id": "a", "response": null, "error": null}\n[1, 2]',
            "ends with what is no answer",
        ),
        (
            '{"custom_id": "x", "response": null, "error": null}\n',
            "line 1 answers 'x', which is not asked: give another file for the answers",
        ),
        *(
            (json.dumps(line) + "\n", "line 1 is no answer of a batch")
            for line in (
                {"custom_id": ["a"], "response": None, "error": None},
                {"custom_id": "a", "response": "text", "error": None},
                {"custom_id": "a", "response": None, "error": "text"},
                {"custom_id": "a", "response": {"body": {}}, "error": None},
                {"custom_id": "a", "response": {"status_code": "200", "body": {}}, "error": None},
                {"custom_id": "a", "response": {"status_code": 200, "body": "text"}, "error": None},
            )
        ),
    ],
)
def test_another_file_is_left_as_it_is(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(BatchFileError, match=said):
        AnswersFile(path, IDS)
    assert path.read_text() == content


def test_two_runs_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with AnswersFile(path, IDS) as answers:
        for _ in range(2):  # before and after the file is put in order, which makes another of it
            answers.add(BatchAnswer("b", 200, {}))
            before = path.read_text()
            with pytest.raises(
                BatchFileError, match=r"out\.jsonl is being written by another `specgrove batch`: wait for its end"
            ):
                AnswersFile(path, IDS)
            assert path.read_text() == before
            answers.put_in_order()
    with AnswersFile(path, IDS) as answers:
        assert list(answers.answered) == ["b"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_killed_run_leaves_nothing_that_blocks(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    program = (
        "import os, sys; from pathlib import Path; from specgrove.batch.answers_file import AnswersFile, BatchAnswer; "
        "answers = AnswersFile(Path(sys.argv[1]), ['a', 'b']); answers.add(BatchAnswer('a', 200, {})); "
        "Path(sys.argv[1]).with_name('.out.jsonl.partial').touch(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], timeout=LIMIT_S, check=False).returncode == -9
    with AnswersFile(path, ["a", "b"]) as answers:
        assert list(answers.answered) == ["a"]
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    for name in ("there", "not there yet"):
        target, link = tmp_path / name, tmp_path / f"link to {name}"
        link.symlink_to(target)
        if name == "there":
            target.touch()
        for _ in range(2):  # the second run goes on with the first one's file
            with AnswersFile(link, IDS[:1]) as answers:
                if not answers.answered:
                    answers.add(BatchAnswer("a", 200, {}))
                answers.put_in_order()
        assert link.is_symlink()
        assert ids_in(target) == ["a"]


def test_what_is_no_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """An administrator's run replaced /dev/null by a file."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # else who opens it to write would wait
    (circle := tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        AnswersFile(circle, IDS)
    for path in (pipe, link, tmp_path):
        with pytest.raises(BatchFileError, match="is no file that can hold answers"):
            AnswersFile(path, IDS)
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
