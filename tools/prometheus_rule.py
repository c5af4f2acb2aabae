"""Writes the rules of Prometheus as the Prometheus operator takes them: a PrometheusRule around the lines of rules.yml.

``make prometheus-rule`` writes, ``make check`` refuses a file that differs (``--check``).
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

FOLDER = Path("k8s/components/monitoring")
RULES, MANIFEST = FOLDER / "rules.yml", FOLDER / "prometheus-rule.yaml"
_HEAD = """\
# Made by `make prometheus-rule` of rules.yml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: specgrove
  labels: {app.kubernetes.io/name: specgrove}
spec:
"""


def manifest_of(rules: str) -> str:
    """The manifest of what Prometheus reads itself; both have the same ``groups``."""
    return _HEAD + textwrap.indent(rules, "  ")


def main() -> int:
    """Exit code 1 where ``--check`` finds a difference."""
    manifest = manifest_of(RULES.read_text(encoding="utf-8"))
    if "--check" in sys.argv[1:]:
        if MANIFEST.read_text(encoding="utf-8") != manifest:
            print(f"{MANIFEST} differs from {RULES}: run 'make prometheus-rule' and commit", file=sys.stderr)
            return 1
        return 0
    MANIFEST.write_text(manifest, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
