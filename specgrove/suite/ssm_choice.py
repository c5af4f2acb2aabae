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
from specgrove.settings.ssm_specs import SsmSpec, asks_for_none, parse_ssms
from specgrove.tokenizer import Tokenizer
from specgrove.tokenizer.ssm_vocabulary import read_vocabulary
from specgrove.tokenizer.vocabulary import compare_vocabularies


def default_ssms(device: str) -> tuple[str, ...]:
    """Of a suite that nobody asked for others. ``device`` is the LLM's: "auto", "cpu" or "cuda"."""
    is_on_gpu = device == "cuda" or (device == "auto" and may_have_gpu())
    return DEFAULT_SSMS if is_on_gpu else DEFAULT_SSMS_ON_CPU


def chosen_ssms(
    asked: Sequence[str] | None,
    llm_folder: Path,
    cache_dir: Path,
    say: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
    *,
    called: str = "--ssm",
    device: str = "auto",
) -> tuple[str, ...]:
    """SSMs as given to the SSM service; empty for ``none``. Raises ``ValueError`` with why one can't draft for the LLM.

    ``called`` is what the caller knows them by, ``device`` what the LLM computes on. ``warn``, or else ``say``, is told which defaults are left out.
    """
    if asks_for_none(asked or (), called):
        return ()
    texts = tuple(asked or default_ssms(device))
    tokenizer = Tokenizer.from_folder(llm_folder)
    chosen = []
    for text, spec in zip(texts, parse_ssms(texts), strict=True):
        try:
            problem = _problem(spec, llm_folder, tokenizer, cache_dir, say)
        except (ModelNotFoundError, UnsupportedModelError) as error:
            raise ValueError(f"{called} {text}: {error}") from error
        if problem is None:
            chosen.append(text)
        elif asked is not None:
            raise ValueError(f"{called} {text}: it can't draft for {llm_folder.name}: {problem}")
        else:
            (warn or say)(f"SSM {spec.name} is left out: it was made for another model")
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
