"""Gradio, imported in half of its time: it writes no type stubs of its components. ``page`` and ``server`` take it from here.

For each component Gradio reads and parses that one's source, and writes a file for editors beside it, at every import
(https://github.com/gradio-app/gradio/blob/main/gradio/component_meta.py). A page has no use for them.

It also makes an HTTP client at its import, which fails where variables name a proxy that takes another package, such as a SOCKS one. The
page fetches nothing from other machines, so it is imported without proxies.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType


class _StublessLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]


class _StublessFinder(MetaPathFinder):
    """Finds the one module that writes them."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gradio.component_meta":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _StublessLoader(name, spec.origin)
        return spec


@contextlib.contextmanager
def _without_proxies() -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.lower().endswith("_proxy")}
    try:
        yield
    finally:
        os.environ.update(hidden)


if "gradio" not in sys.modules:
    sys.meta_path.insert(0, _StublessFinder())

with _without_proxies():
    import gradio as gr

__all__ = ["gr"]
