"""Our suite, asked over gRPC."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.load.asking import Asking
from specgrove.client import AsyncClient
from specgrove.client.output import Usage
from specgrove.loop.request import SpeculationOptions


class OverGrpc(Asking):
    """With speculation or without. ``usages`` are those of the requests since ``start``. Its name tells a precision that is given."""

    is_ours = True

    def __init__(
        self, client: AsyncClient, prompts: Sequence[list[int]], *, is_speculative: bool, precision: str | None = None
    ) -> None:
        super().__init__(prompts)
        self.name = ("speculative" if is_speculative else "incremental") + (f", {precision}" if precision else "")
        self.is_speculative = is_speculative
        self._client = client

    def start(self) -> None:
        """See ``Asking``."""
        super().start()
        self.usages: list[Usage] = []

    async def _token_times_s(self, prompt: list[int], num_tokens: int, salt: str) -> list[float]:
        times_s: list[float] = []
        stream = self._client.generate(
            prompt,
            max_tokens=num_tokens,
            ignore_eos=True,
            speculation=SpeculationOptions(disabled=not self.is_speculative),
            cache_salt=salt,
        )
        async for chunk in stream:
            times_s += [self._now_s()] * len(chunk.tokens)
            if chunk.usage is not None:
                self.usages.append(chunk.usage)
        return times_s
