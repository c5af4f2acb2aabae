"""Which SSMs a suite is started with: those asked for must be able to draft for the LLM, defaults that can't are left out.

Called by commands and the Python API before anything is started. Reads tokenizers and configurations, no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from specgrove.config import DEFAULT_SSMS, DEFAULT_SSMS_ON_CPU
from specgrove.machine.gpus import may_have_gpu
from specgrove.models.decoder.architectures import family_name_of
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.hub import ModelNotFoundError, resolve_model
from specgrove.models.hidden_state.recognition import hidden_ssm_spec_of, reads_hidden_states
from specgrove.settings import SuiteSettings
from specgrove.settings.ssm_specs import SsmSpec, asks_for_none, parse_ssm, parse_ssms
from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.ssm_vocabulary import read_vocabulary
from specgrove.tokenizer.vocabulary import compare_vocabularies

_ONE_STAGE = (1,)


def default_ssms(settings: SuiteSettings) -> tuple[tuple[str, ...], ...]:
    """Of a suite that nobody asked for others: of each group the first one that fits the LLM.

    Pipeline stages after the first hand out no hidden states. With a quantised LLM trees seldom pay where that was measured
    (docs/benchmarks.md): it has the smaller one.
    """
    device = settings["llm", "device"]
    is_on_gpu = device == "cuda" or (device == "auto" and may_have_gpu())
    is_quantized = settings["llm", "quantization"] != "none"
    if is_on_gpu or is_quantized or settings["llm", "pipeline-parallel"] != _ONE_STAGE:
        return tuple((text,) for text in DEFAULT_SSMS)
    return tuple(tuple(dict.fromkeys(texts)) for texts in zip(DEFAULT_SSMS_ON_CPU, DEFAULT_SSMS, strict=True))


def chosen_ssms(
    asked: Sequence[str] | None,
    llm_folder: Path,
    cache_dir: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
    *,
    called: str = "--ssm",
    defaults: Sequence[Sequence[str]] = (),
) -> tuple[str, ...]:
    """SSMs as given to the SSM service; empty for ``none``. Raises ``ValueError`` with why one can't draft for the LLM.

    ``called`` is what the caller knows them by. ``defaults`` are those of ``default_ssms``; ``warn``, or else ``say``, is told which
    of them are left out.
    """
    if asks_for_none(asked or (), called):
        return ()
    if asked:
        parse_ssms(asked)
    tokenizer = Tokenizer.from_folder(llm_folder)
    chosen = []
    for texts in [(text,) for text in asked] if asked else defaults:
        problem = None
        for text in texts:
            try:
                problem = _problem(parse_ssm(text), llm_folder, tokenizer, cache_dir, say)
            except (ModelNotFoundError, UnsupportedModelError) as error:
                raise ValueError(f"{called} {text}: {error}") from error
            if problem is None:
                chosen.append(text)
                break
        if problem is not None and asked:
            raise ValueError(f"{called} {texts[-1]}: it can't draft for {llm_folder.name}: {problem}")
        if problem is not None:
            (warn or say)(f"SSM {parse_ssm(texts[-1]).name} is left out: it was made for another model")
    return tuple(chosen)


def _problem(
    spec: SsmSpec, llm_folder: Path, llm: Tokenizer, cache_dir: Path, say: Callable[[str], None]
) -> str | None:
    if spec.model is None:
        return None
    folder = resolve_model(spec.model, cache_dir=cache_dir, progress=say, needs_tokenizer=False)
    if reads_hidden_states(folder):
        try:
            hidden_ssm_spec_of(folder, llm_folder)
        except UnsupportedModelError as error:
            return str(error)
        return None
    family_name_of(folder)
    vocabulary = read_vocabulary(folder)
    if vocabulary.sha256 == llm.vocab_sha256:
        return None
    if not vocabulary.token_checksums:
        return "it was made for another model's tokenizer"
    match = compare_vocabularies(llm.token_checksums(), vocabulary.token_checksums)
    if match.is_close:
        return None
    return f"its tokenizer has {match.num_shared} of the LLM's {match.num_tokens} tokens"
