"""Who takes part in serving benchmarks: SpecGrove over gRPC, transformers in this process, and peers in interpreters of their own.

A contestant answers a batch of prompts greedily and says how many tokens it put out. Prompts are token ids, the same for all; padding and
what follows an end-of-sequence token don't count.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import uuid
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.transformers_models import transformers_model
from specgrove.client import AsyncClient
from specgrove.client.output import Completion
from specgrove.loop.request import SpeculationOptions

PEERS = Path(__file__).parent / "peers"


class Contestant(Protocol):
    """One way to serve a model in one precision."""

    name: str
    precision: str
    speculation: str
    max_batch: int
    """Prompts that it takes at once."""

    def run(self, prompts: list[list[int]], max_tokens: int) -> int:
        """The number of tokens put out."""
        ...

    def steps(self) -> tuple[float | None, float | None]:
        """Of all runs not forgotten: mean time of a forward pass in ms, and one request's tokens a pass; ``None`` if unknown."""
        ...

    def forget_steps(self) -> None:
        """Of all runs so far."""
        ...


class OverGrpc:
    """One of ours: all prompts of a round at once, over the router."""

    max_batch = 64

    def __init__(
        self, client: AsyncClient, loop: asyncio.AbstractEventLoop, precision: str, *, is_speculative: bool
    ) -> None:
        self.precision = precision
        self.speculation = "trees" if is_speculative else "none"
        self.name = "specgrove speculative" if is_speculative else "specgrove incremental"
        self._client = client
        self._loop = loop
        self._options = SpeculationOptions(disabled=not is_speculative)
        self._completions: list[Completion] = []

    def run(self, prompts: list[list[int]], max_tokens: int) -> int:
        """See ``Contestant``."""
        completions = self._loop.run_until_complete(self._complete(prompts, max_tokens))
        self._completions.extend(completions)
        return sum(completion.usage.num_output_tokens for completion in completions)

    async def _complete(self, prompts: list[list[int]], max_tokens: int) -> list[Completion]:
        # Others don't keep what they have read of a prompt, and each run asks for the same.
        salt = uuid.uuid4().hex
        calls = [
            self._client.complete(prompt, max_tokens=max_tokens, speculation=self._options, cache_salt=salt)
            for prompt in prompts
        ]
        return list(await asyncio.gather(*calls))

    def steps(self) -> tuple[float | None, float | None]:
        """See ``Contestant``."""
        usages = [completion.usage for completion in self._completions]
        num_steps = sum(usage.num_verify_steps for usage in usages)
        if num_steps == 0:
            return None, None
        verify_ms, num_tokens = sum(u.verify_ms for u in usages), sum(u.num_output_tokens for u in usages)
        return verify_ms / num_steps, num_tokens / num_steps

    def drafted_share(self) -> float:
        """Of all steps of runs not forgotten those that verified a tree."""
        usages = [completion.usage for completion in self._completions]
        num_drafted = sum(usage.drafted_by_depth[0] for usage in usages if usage.drafted_by_depth)
        return num_drafted / max(sum(usage.num_verify_steps for usage in usages), 1)

    def forget_steps(self) -> None:
        """See ``Contestant``."""
        self._completions.clear()


class _Silent:
    """Tells nothing of its steps."""

    def steps(self) -> tuple[float | None, float | None]:
        """See ``Contestant``."""
        return None, None

    def forget_steps(self) -> None:
        """See ``Contestant``."""


class Transformers(_Silent):
    """``generate`` in bfloat16 in this process; a batch is padded on the left."""

    precision = "bfloat16"

    def __init__(self, folder: Path, *, draft_folder: Path | None = None, has_prompt_lookup: bool = False) -> None:
        """transformers' own assisted generation is for one prompt at a time: by a small model, or by n-grams of the prompt."""
        is_assisted = has_prompt_lookup or draft_folder is not None
        self.name = "transformers assisted" if is_assisted else "transformers generate"
        self.speculation = "draft model" if draft_folder is not None else "n-grams" if has_prompt_lookup else "none"
        self.max_batch = 1 if is_assisted else 64
        self._options: dict[str, Any] = {"prompt_lookup_num_tokens": 4} if has_prompt_lookup else {}
        if draft_folder is not None:
            self._options["assistant_model"] = transformers_model(draft_folder, torch.bfloat16)
        self._model = transformers_model(folder, torch.bfloat16)
        self._eos = self._model.generation_config.eos_token_id

    def run(self, prompts: list[list[int]], max_tokens: int) -> int:
        """See ``Contestant``."""
        length = max(map(len, prompts))
        eos = self._eos if isinstance(self._eos, list) else [self._eos]
        inputs = torch.tensor([[eos[0]] * (length - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in prompts])
        with torch.inference_mode():
            generated: Any = self._model.generate(
                inputs,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max_tokens,
                pad_token_id=eos[0],
                **self._options,
            )
        return sum(_num_tokens(row.tolist(), set(eos)) for row in generated[:, length:])


def _num_tokens(token_ids: list[int], eos: set[int]) -> int:
    """Up to the first end-of-sequence token, that one counted."""
    for index, token_id in enumerate(token_ids):
        if token_id in eos:
            return index + 1
    return len(token_ids)


class PeerError(RuntimeError):
    """A peer can't take part; the text says why."""


class Absent(_Silent):
    """Would take part, but could not be started: it fails whenever it is its turn."""

    def __init__(
        self, name: str, precision: str, max_batch: int, error: PeerError, *, speculation: str = "none"
    ) -> None:
        self.name, self.precision, self.max_batch, self.speculation = name, precision, max_batch, speculation
        self._error = error

    def run(self, prompts: list[list[int]], max_tokens: int) -> int:
        """See ``Contestant``. Raises ``PeerError``."""
        raise self._error


class PeerProcess(_Silent):
    """A program of ``benchmarks/peers``, run by an interpreter that has the peer installed: a line of JSON in, a line of JSON out.

    It is stopped while it is not its turn: threads of some peers spin for long after their work is done.
    """

    def __init__(
        self,
        python: str,
        program: str,
        arguments: list[str],
        *,
        name: str,
        precision: str,
        max_batch: int,
        speculation: str = "none",
    ) -> None:
        """Waits until the peer has loaded its model. Raises ``PeerError``."""
        self.name, self.precision, self.max_batch, self.speculation = name, precision, max_batch, speculation
        self._process = subprocess.Popen(
            [python, str(PEERS / program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._answer().get("ready") is not True:
            raise PeerError(f"{name} has not said that it is ready")
        self._signal(signal.SIGSTOP)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        others: deque[str] = deque(maxlen=40)
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # libraries print there too
                answer: dict[str, Any] = json.loads(line)
                return answer
            others.append(line)
        raise PeerError(f"{self.name} {_end_of(self._process.wait())}\n{''.join(others)}".rstrip())

    def run(self, prompts: list[list[int]], max_tokens: int) -> int:
        """See ``Contestant``. Raises ``PeerError`` where the process has ended."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading its answer says why
            self._process.stdin.write(json.dumps({"prompt_ids": prompts, "max_tokens": max_tokens}) + "\n")
            self._process.stdin.flush()
        num_tokens = int(self._answer()["num_tokens"])
        self._signal(signal.SIGSTOP)
        return num_tokens

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended: reading its answer says why
            os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is not None:
            return
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=30)


def _end_of(exit_code: int) -> str:
    if exit_code >= 0:
        return f"has ended with exit code {exit_code}"
    return f"was killed by {signal.Signals(-exit_code).name}"
