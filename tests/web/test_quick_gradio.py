"""Gradio is imported without the part that writes type stubs: a made-up package of its name, and what the real one calls that part."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMPONENT_META = """
from pathlib import Path

def create_or_modify_pyi(component_class, class_name, events):
    Path(__file__).with_name("written").touch()

def component():
    create_or_modify_pyi(None, "", [])
    return "a component"
"""


def test_no_stubs_are_written_and_no_proxies_are_tried(tmp_path: Path) -> None:
    folder = tmp_path / "gradio"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import os\nfrom gradio.component_meta import component\n"
        "made = component() + ' and a proxy' * ('ALL_PROXY' in os.environ)\n"
    )
    (folder / "component_meta.py").write_text(COMPONENT_META)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "ALL_PROXY": "socks5://127.0.0.1:1",
    }

    def made_by(program: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout

    program = "import os; from specgrove.web.quick_gradio import gr; print(gr.made, os.environ['ALL_PROXY'])"
    assert made_by(program) == "a component socks5://127.0.0.1:1\n"
    assert not (folder / "written").exists()
    made_by("import gradio")
    assert (folder / "written").exists()


def test_it_has_the_name_that_is_left_out() -> None:
    found = importlib.util.find_spec("gradio")
    if found is None or found.origin is None:
        pytest.skip("the chat page needs Gradio")
    assert "\ndef create_or_modify_pyi(\n" in (Path(found.origin).parent / "component_meta.py").read_text()
