"""``python -m tests.k8s.crds.keep URL VERSION FILE``: keeps the schema of one version of a CustomResourceDefinition, read from ``FILE``.

``URL`` is where that file of a release lies; it is written down with the schema. Left out are descriptions, defaults, rules in CEL and the
status: they are long, and manifests are checked without them. All the projects have the Apache-2.0 licence.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

_LEFT_OUT = (
    "description", "default", "x-kubernetes-validations",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
)  # fmt: skip


def kept_of(crd: dict[str, Any], version: str, url: str) -> dict[str, Any]:
    """What is written into the file."""
    (served,) = (served for served in crd["spec"]["versions"] if served["name"] == version)
    schema = _compact(served["schema"]["openAPIV3Schema"])
    schema["properties"].pop("status", None)
    return {
        "source": url,
        "licence": "Apache-2.0",
        "apiVersion": f"{crd['spec']['group']}/{version}",
        "kind": crd["spec"]["names"]["kind"],
        "openAPIV3Schema": schema,
    }


def _compact(schema: dict[str, Any]) -> dict[str, Any]:
    """``properties`` holds names of fields, all else of a schema keywords."""
    compact = {key: value for key, value in schema.items() if key not in _LEFT_OUT}
    if "properties" in compact:
        compact["properties"] = {name: _compact(below) for name, below in compact["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(compact.get(key), dict):
            compact[key] = _compact(compact[key])
    return compact


def main() -> None:
    """Writes ``KIND.json`` beside this file."""
    url, version, path = sys.argv[1:]
    kept = kept_of(yaml.safe_load(Path(path).read_text()), version, url)
    text = json.dumps(kept, separators=(",", ":"))
    Path(__file__).with_name(f"{kept['kind'].lower()}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
