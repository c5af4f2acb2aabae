"""Hooks of mkdocs (mkdocs.yml): a page made from the protos, and links that lead out of docs/.

The pages are read in the repository too, where they link to sources. The site has no sources: there such a link becomes its text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from tools.grpc_page import grpc_page

ROOT = Path(__file__).parent.parent
_OUTWARD_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)#]+)(?:#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the reference of gRPC."""
    files.append(File.generated(config, "reference/grpc.md", content=grpc_page(ROOT / "protos")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replaces links to the repository's files by their texts. A file that is not there is an error."""
    folder = (Path(config["docs_dir"]) / page.file.src_uri).parent

    def text_of(link: re.Match[str]) -> str:
        target = (folder / link["target"]).resolve()
        if target.is_relative_to(config["docs_dir"]):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri} links to {link['target']}, which is not there")
        return link["text"]

    return _OUTWARD_LINK.sub(text_of, markdown)
