"""README.md and docs/: commands are ones that the command line takes, links and files are there, paragraphs are short."""

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


# The pages on how it works: one idea a paragraph. What is measured stands in docs/benchmarks.md.
HOW_IT_WORKS = ("architecture", "passes", "kv-cache", "gpu", "cpu-kernels", "ranks", "sampling")
_MAX_LINE_LEN, _MAX_NUM_WORDS, _MAX_NUM_WORDS_ELSEWHERE = 100, 60, 80
_NO_PROSE = re.compile(r"#|\||!\[|    |<!--")


def paragraphs(page: Path) -> Iterator[str]:
    """Of prose; an item of a list is one."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=(?:- |\d+\. ))", text):
        if block.strip() and not _NO_PROSE.match(block):
            yield block


@pytest.mark.parametrize("name", HOW_IT_WORKS)
def test_pages_on_how_it_works_have_short_lines_and_paragraphs(name: str) -> None:
    page = ROOT / "docs" / f"{name}.md"
    assert [line for line in page.read_text().splitlines() if len(line) > _MAX_LINE_LEN] == []
    assert [block for block in paragraphs(page) if len(block.split()) > _MAX_NUM_WORDS] == []


_IN_CODE = re.compile(r"`(?P<name>[\w./*-]+)(?:::\w+)?`")
_DEFINED_IN = re.compile(r"`(?P<path>[\w./-]+)::(?P<name>\w+)`")
_MODULE = re.compile(r"(specgrove|router|llm_service|ssm_service)(\.\w+)+")
_ENDS_OF_FILES = (".py", ".h", ".cpp", ".cu", ".cuh")


def named_files(line: str) -> Iterator[tuple[str, ...]]:
    """Files and folders that stand in code, each by the paths that it may have: it may lie beside, or in, what is named before it."""
    folder = Path()
    for found in _IN_CODE.finditer(line):
        name = found["name"]
        if _MODULE.fullmatch(name):
            path = name.replace(".", "/")
            yield path, f"{path}.py"
        elif "/" in name or (folder != Path() and name.endswith(_ENDS_OF_FILES)):
            yield name, str(folder / name)
            if folder == Path():
                folder = Path(name).parent if "." in name else Path(name)


@pytest.mark.parametrize("name", HOW_IT_WORKS)
def test_files_that_the_pages_name_are_there(name: str) -> None:
    named = {paths for line in (ROOT / "docs" / f"{name}.md").read_text().splitlines() for paths in named_files(line)}
    assert len(named) > 3
    assert [paths for paths in sorted(named) if not any(any(ROOT.glob(path)) for path in paths)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_the_pages_name_in_a_file_is_defined_there(page: Path) -> None:
    for found in _DEFINED_IN.finditer(page.read_text()):
        definition = rf"^(?:\s*(?:async )?def |class |[\w:]+ ){found['name']}\b"
        assert re.search(definition, (ROOT / found["path"]).read_text(), re.MULTILINE), found.group()


def test_some_names_in_files_are_looked_for() -> None:
    assert len(_DEFINED_IN.findall((ROOT / "docs" / "architecture.md").read_text())) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_has_a_wall_of_text(page: Path) -> None:
    assert [block for block in paragraphs(page) if len(block.split()) > _MAX_NUM_WORDS_ELSEWHERE] == []
