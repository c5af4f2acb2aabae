"""What child processes import, and what becomes of what they print. None is started here; ``test_supervisor`` starts some."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from specgrove.suite.supervised import _import_own
from specgrove.suite.supervisor import ProcessSpec, Supervisor, _own_path


def test_children_look_for_modules_where_this_process_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = [place for place in sys.path if place]
    monkeypatch.setattr(sys, "path", elsewhere)
    assert _own_path() == {"PYTHONSAFEPATH": "1"}  # not where the user happens to be
    for here in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [here, *elsewhere])
        assert _own_path() == {}
    tmp_path.rmdir()
    monkeypatch.setattr(sys, "path", elsewhere)
    assert _own_path() == {"PYTHONSAFEPATH": "1"}


def test_our_packages_go_before_others_of_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, origin in ((tmp_path / "theirs", "theirs"), (tmp_path / "ours", "ours")):
        (folder / "routes_of_a_test").mkdir(parents=True)
        (folder / "routes_of_a_test/__init__.py").write_text("")
        (folder / "routes_of_a_test/app.py").write_text(f"origin = {origin!r}")
    monkeypatch.syspath_prepend(tmp_path / "theirs")
    before = dict(sys.modules)
    try:
        _import_own("routes_of_a_test", tmp_path / "ours")
        assert importlib.import_module("routes_of_a_test.app").origin == "ours"
        _import_own("no_package_of_ours", tmp_path / "ours")
        assert "no_package_of_ours" not in sys.modules
    finally:
        for name in sys.modules.keys() - before:
            del sys.modules[name]


def test_all_lines_of_a_child_are_read_whatever_becomes_of_them() -> None:
    """Else its pipe would fill up, and it would stand still."""

    def log_line(name: str, line: str) -> None:
        raise SystemExit(line)

    supervisor = Supervisor([ProcessSpec("service", "none", ())], log_line, drain_s=5)
    child = supervisor._children["service"]
    supervisor._pump(child, SimpleNamespace(stdout=io.StringIO("one\ntwo\n")))  # type: ignore[arg-type]
    assert list(child.lines) == ["one", "two"]
