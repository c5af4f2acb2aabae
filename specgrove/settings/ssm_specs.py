"""What ``--ssm`` says: which small model, and how it drafts. Read by the SSM service, and by commands that check it first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specgrove.config import MAX_BEAM_WIDTH, MAX_NOISE_WEIGHT
from specgrove.machine.folders import typed_path

# Drafters that come with the package.
_PRETRAINED = Path(__file__).parents[2] / "ssm_service" / "pretrained"
SHIPPED_DRAFTERS = {"demo": _PRETRAINED / "smollm2-135m-drafter", "demo-hidden": _PRETRAINED / "smollm2-135m-hidden"}
SSM_SYNTAX = (
    "lookup[,corpus=TOKENS][,store=FILE] | recycle[,store=FILE] | demo | demo-hidden | FOLDER, .gguf FILE OR HUB_ID, each with options: "
    ",mode=beam|expansion ,width=3 ,expansion=1-1-3-1-1 ,quantization=int8|int4 ,noise_weight=1.5 ,name=NAME"
)
_OPTIONS = ("mode", "width", "expansion", "quantization", "noise_weight", "corpus", "store", "name")
_WITHOUT_WEIGHTS = {"lookup": {"corpus", "store", "name"}, "recycle": {"store", "name"}}
MIN_NUM_CORPUS_TOKENS = 1000
MAX_NUM_CORPUS_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class SsmSpec:
    """One SSM of a pool. ``model`` is a folder, file or hub id; ``None`` for ``lookup`` and ``recycle``, which have no weights.

    ``mode`` is ``beam``, ``expansion``, ``lookup`` or ``recycle``; ``width`` and ``expansion`` are ``None`` where the mode's own are taken.
    ``noise_weight``: of its own scores against the verifier's noise, 0 to leave the noise out; ``None``: as it was made for.
    """

    name: str
    model: str | None
    mode: str
    width: int | None = None
    expansion: tuple[int, ...] | None = None
    quantization: str = "none"
    noise_weight: float | None = None
    corpus: int = 0
    """Tokens of earlier outputs that ``lookup`` keeps for all sessions; 0: each session is drafted from its own text."""
    store: Path | None = None
    """Where ``lookup``'s corpus or ``recycle``'s table is kept between two runs."""


def parse_ssm(text: str) -> SsmSpec:
    """Raises ``ValueError`` that names what is wrong and gives the syntax."""
    model, parts = _model_and_options(text)
    options = {}
    for part in parts:
        key, separator, value = part.partition("=")
        if not separator or key not in _OPTIONS or not value:
            raise ValueError(f"SSM {text!r}: {part!r} is no option; the syntax is {SSM_SYNTAX}")
        if key in options:
            raise ValueError(f"SSM {text!r}: {key} is given twice")
        options[key] = value
    if not model:
        raise ValueError(f"SSM {text!r} names no model; the syntax is {SSM_SYNTAX}")
    name = options.get("name", Path(model).name)
    if not name:
        raise ValueError(f"SSM {text!r}: {model!r} makes no name; give one with ,name=NAME")
    if model in _WITHOUT_WEIGHTS:
        return _without_weights(model, name, options, text)
    if foreign := options.keys() & {"corpus", "store"}:
        raise ValueError(f"SSM {text!r}: {', '.join(sorted(foreign))} is no option of an SSM with weights")
    mode = options.get("mode", "expansion" if "expansion" in options else "beam")
    if mode not in ("beam", "expansion"):
        raise ValueError(f"SSM {text!r}: mode must be beam or expansion, got {mode!r}")
    other = "expansion" if mode == "beam" else "width"
    if other in options:
        raise ValueError(f"SSM {text!r}: {other} is no option of mode {mode}")
    quantization = options.get("quantization", "none")
    if quantization not in ("none", "int8", "int4"):
        raise ValueError(f"SSM {text!r}: quantization must be int8 or int4, got {quantization!r}")
    width = _positive(options["width"], text) if "width" in options else None
    counts = options["expansion"].split("-") if "expansion" in options else []
    expansion = tuple(_positive(count, text) for count in counts) or None
    return SsmSpec(
        name,
        str(SHIPPED_DRAFTERS.get(model, model)),
        mode,
        width,
        expansion,
        quantization,
        _noise_weight(options, text),
    )


def _model_and_options(text: str) -> tuple[str, list[str]]:
    """What stands before the first comma, or, where the path of a folder or file has commas of its own, that path."""
    parts = text.split(",")
    for end in range(len(parts), 1, -1):
        path = ",".join(parts[:end])
        if os.path.lexists(os.path.expanduser(path)):  # noqa: PTH111, any text may come, also what can be no path
            return path, parts[end:]
    return parts[0], parts[1:]


def _without_weights(model: str, name: str, options: Mapping[str, str], text: str) -> SsmSpec:
    known = _WITHOUT_WEIGHTS[model]
    if options.keys() - known:
        raise ValueError(f"SSM {text!r}: {model} has no option but {', '.join(sorted(known))}")
    corpus = 0
    if (value := options.get("corpus")) is not None:
        if not value.isdigit() or not MIN_NUM_CORPUS_TOKENS <= int(value) <= MAX_NUM_CORPUS_TOKENS:
            raise ValueError(
                f"SSM {text!r}: corpus must be a number of tokens from {MIN_NUM_CORPUS_TOKENS} to {MAX_NUM_CORPUS_TOKENS}, got {value!r}"
            )
        corpus = int(value)
    store = typed_path(options["store"]) if "store" in options else None
    if model == "lookup" and store is not None and not corpus:
        raise ValueError(f"SSM {text!r}: lookup keeps nothing in a store without a corpus; add ,corpus=50000")
    return SsmSpec(name, None, model, corpus=corpus, store=store)


def _noise_weight(options: Mapping[str, str], text: str) -> float | None:
    value = options.get("noise_weight")
    if value is None:
        return None
    try:
        weight = float(value)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= MAX_NOISE_WEIGHT:
        raise ValueError(f"SSM {text!r}: noise_weight must be a number from 0 to {MAX_NOISE_WEIGHT:g}, got {value!r}")
    return weight


def _positive(value: str, text: str) -> int:
    if not value.isdigit() or not 1 <= int(value) <= MAX_BEAM_WIDTH:
        raise ValueError(f"SSM {text!r}: {value!r} must be a number from 1 to {MAX_BEAM_WIDTH}")
    return int(value)


def parse_ssms(texts: Sequence[str]) -> tuple[SsmSpec, ...]:
    """All of a pool. Raises ``ValueError``, also for two SSMs of one name, or with one store."""
    specs = tuple(parse_ssm(text) for text in texts)
    names = [spec.name for spec in specs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"two SSMs are named {', '.join(doubled)}: give one of them another name with ,name=NAME")
    stores = [os.path.realpath(spec.store) for spec in specs if spec.store is not None]
    if shared := sorted({store for store in stores if stores.count(store) > 1}):
        raise ValueError(
            f"two SSMs have the store {', '.join(shared)}: each writes its own file, give one of them another"
        )
    return specs


def asks_for_none(asked: Sequence[str], called: str = "--ssm") -> bool:
    """Whether ``none`` was given for no SSM at all. Raises ``ValueError`` where another was given too."""
    if "none" in asked and len(asked) > 1:
        raise ValueError(f"{called} none: no SSM at all, so it goes with no other {called}")
    return "none" in asked
