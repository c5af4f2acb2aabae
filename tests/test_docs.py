"""The commands in README.md and docs/ are ones that the command line takes, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.cli.arguments import parser
from tools.grpc_page import grpc_page

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Lines of code that are one of our commands; what stands before it is the shell's business.
_COMMAND = re.compile(r"^(?: {4}|\$ )?(?:\.venv/bin/)?specgrove (?P<words>.*)$")
_LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)#\s]+)?(?:#(?P<anchor>[^)]+))?\)")
# In place of what the reader has to put there.
_PLACEHOLDER = re.compile(r"\.\.\.|\bHOST\b|[<>|]")


def commands(page: Path) -> Iterator[str]:
    """Without comments; lines that are continued are joined."""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if (found := _COMMAND.match(line)) is not None:
            yield re.sub(r"\s+#.*$", "", found["words"])


ALL_COMMANDS = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in commands(page)]


def test_commands_are_found() -> None:
    assert len(ALL_COMMANDS) > 40


@pytest.mark.parametrize(("page", "words"), ALL_COMMANDS)
def test_the_command_line_takes_it(page: str, words: str) -> None:
    if _PLACEHOLDER.search(words) or words.startswith(("COMMAND", "--version")):
        pytest.skip("has a placeholder")
    parser().parse_args(shlex.split(words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.finditer(page.read_text()):
        target = link["target"] or page.name
        if "://" in target or target.startswith("mailto:") or target.endswith("grpc.md"):
            continue
        path = page.parent / target
        assert path.exists(), f"{page.name} links to {target}"
        if link["anchor"] and path.suffix == ".md":
            assert link["anchor"] in set(anchors(path)), f"{page.name} links to {target}#{link['anchor']}"


def anchors(page: Path) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_reference_of_grpc_tells_types_meanings_and_streams() -> None:
    page = grpc_page(ROOT / "protos")
    assert "**`Generate`**([GenerateRequest](#generaterequest)) → stream [GenerateResponse](#generateresponse)" in page
    for row in (
        "| `messages` | list of [ChatMessage](#chatmessage) | Oldest first, at least one, at most 4096. |",
        "| `add_generation_prompt` | optional bool |",
        "| `logit_bias` | map of uint32 to float |",
        "| `FINISH_REASON_STOP` | A stop token or a stop text. |",
    ):
        assert row in page
