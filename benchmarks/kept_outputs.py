"""Outputs of a long run, kept in a file as they come, so that a killed run goes on where it was. Used by ``benchmarks.equality``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specgrove.client.output import Completion


@dataclass(frozen=True, slots=True)
class Output:
    """What is compared and counted of one answer."""

    token_ids: tuple[int, ...]
    num_steps: int
    num_drafted: int
    num_replays: int

    @staticmethod
    def of(completion: Completion) -> Output:
        """Of the client's answer."""
        usage = completion.usage
        return Output(tuple(completion.token_ids), usage.num_verify_steps, usage.num_drafted_nodes, usage.num_replays)


class KeptOutputs:
    """By sampling, mode and number of the prompt; in memory alone where no file is given."""

    def __init__(self, path: Path | None, made_with: Mapping[str, Any]) -> None:
        """Raises ``ValueError`` where the file's outputs were made with anything else, or it is no such file."""
        self._path = path
        self._outputs: dict[tuple[str, str, int], Output] = {}
        told = json.dumps(made_with, sort_keys=True)
        if path is None:
            return
        if not path.exists() or not path.stat().st_size:
            path.write_text(told + "\n")
            return
        first, *lines = path.read_text().splitlines()
        if first != told:
            raise ValueError(
                f"{path} holds outputs that were made with {first}, not with {told}: name another file, or remove it"
            )
        for number, line in enumerate(lines):
            try:
                sampling, mode, index, values = json.loads(line)
            except ValueError as error:
                if number == len(lines) - 1:  # the run was killed while it wrote
                    path.write_text("\n".join([first, *lines[:-1]]) + "\n")
                    return
                raise ValueError(f"{path}, line {number + 2} is no output: remove the file") from error
            self._outputs[sampling, mode, index] = Output(**(values | {"token_ids": tuple(values["token_ids"])}))

    def get(self, sampling: str, mode: str, index: int) -> Output | None:
        """One that was made before."""
        return self._outputs.get((sampling, mode, index))

    def add(self, sampling: str, mode: str, index: int, output: Output) -> None:
        """Writes it at once."""
        self._outputs[sampling, mode, index] = output
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps([sampling, mode, index, asdict(output)]) + "\n")
