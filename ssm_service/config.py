"""The SSM service's settings: frozen, made once in ``__main__``. ``parse_ssm`` reads one ``--ssm``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssm_service.draft_tree import Beam, Expansion

SHIPPED_DRAFTERS = {"demo": Path(__file__).parent / "pretrained" / "smollm2-135m-drafter"}
SSM_SYNTAX = (
    "lookup | demo | FOLDER, .gguf FILE OR HUB_ID, each with options: ,mode=beam|expansion ,width=3 ,expansion=1-1-3-1-1 "
    ",quantization=int8|int4 ,name=NAME"
)


@dataclass(frozen=True, slots=True)
class SsmSpec:
    """One SSM of the pool. ``model`` is None for ``lookup``, which has no weights and no rule."""

    name: str
    model: str | None
    rule: Beam | Expansion | None
    quantization: str = "none"

    @property
    def mode(self) -> str:
        """``beam``, ``expansion`` or ``lookup``."""
        if self.rule is None:
            return "lookup"
        return "beam" if isinstance(self.rule, Beam) else "expansion"


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What the engine needs."""

    session_ttl_s: float = 300.0
    max_num_nodes: int = 255
    max_depth: int = 32


@dataclass(frozen=True, slots=True)
class SsmServiceConfig:
    """All of it."""

    address: str
    ssms: tuple[SsmSpec, ...]
    dtype: str
    device: str
    gpu_kernels: str
    """``auto``, ``off`` or ``require``."""
    cache_dir: Path
    num_threads: int
    num_slots: int
    session_ttl_s: float
    drain_timeout_s: float
    log_level: str
    log_format: str


def parse_ssm(text: str) -> SsmSpec:
    """Raises ``ValueError`` that names what is wrong and gives the syntax."""
    model, *parts = text.split(",")
    options = {}
    for part in parts:
        key, separator, value = part.partition("=")
        if not separator or key not in ("mode", "width", "expansion", "quantization", "name") or not value:
            raise ValueError(f"SSM {text!r}: {part!r} is no option; the syntax is {SSM_SYNTAX}")
        if key in options:
            raise ValueError(f"SSM {text!r}: {key} is given twice")
        options[key] = value
    if not model:
        raise ValueError(f"SSM {text!r} names no model; the syntax is {SSM_SYNTAX}")
    name = options.get("name", Path(model).name)
    if not name:
        raise ValueError(f"SSM {text!r}: {model!r} makes no name; give one with ,name=NAME")
    if model == "lookup":
        if options.keys() - {"name"}:
            raise ValueError(f"SSM {text!r}: lookup has no option but name")
        return SsmSpec(name, None, None)
    mode = options.get("mode", "expansion" if "expansion" in options else "beam")
    if mode not in ("beam", "expansion"):
        raise ValueError(f"SSM {text!r}: mode must be beam or expansion, got {mode!r}")
    foreign = "expansion" if mode == "beam" else "width"
    if foreign in options:
        raise ValueError(f"SSM {text!r}: {foreign} is no option of mode {mode}")
    quantization = options.get("quantization", "none")
    if quantization not in ("none", "int8", "int4"):
        raise ValueError(f"SSM {text!r}: quantization must be int8 or int4, got {quantization!r}")
    rule: Beam | Expansion
    if mode == "beam":
        rule = Beam(_positive(options["width"], text)) if "width" in options else Beam()
    else:
        counts = options.get("expansion", "-".join(map(str, Expansion().counts)))
        rule = Expansion(tuple(_positive(count, text) for count in counts.split("-")))
    return SsmSpec(name, str(SHIPPED_DRAFTERS.get(model, model)), rule, quantization)


def _positive(value: str, text: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= 64:
        raise ValueError(f"SSM {text!r}: {value!r} must be a number from 1 to 64")
    return int(value)


def parse_ssms(texts: Sequence[str]) -> tuple[SsmSpec, ...]:
    """All of a pool. Raises ``ValueError``, also for two SSMs of one name."""
    specs = tuple(parse_ssm(text) for text in texts)
    names = [spec.name for spec in specs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"two SSMs are named {', '.join(doubled)}: give one of them another name with ,name=NAME")
    return specs
