"""Work streams of toys: each item is a task, which an async generator's results come from. The real services' are answered by an engine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from specgrove.serving.mailbox import Answer
from specgrove.serving.served_stream import StreamItem
from specgrove.serving.work_streams import WorkStreams

Item = StreamItem[Any, Any, Any]


class TaskStreams(WorkStreams[Any, Any, Any, Any]):
    """``generate`` makes an item's results as messages, and is cancelled when nobody waits for them any more."""

    def __init__(
        self,
        generate: Callable[[Any], AsyncGenerator[Any, None]],
        result_type: Callable[..., Any],
        response_type: Callable[..., Any],
        *,
        forget: Callable[[str], object],
        finish_early: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__(
            self._start,
            lambda message, result: result,
            result_type,
            response_type,
            forget=forget,
            finish_early=None if finish_early is None else lambda messages: [*map(finish_early, messages)],
            give_up=self._cancel,
        )
        self._generate = generate
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by their messages' identity

    def _start(self, item: Item) -> None:
        task = asyncio.create_task(self._run(item))
        self._tasks[id(item.message)] = task
        task.add_done_callback(lambda _: self._tasks.pop(id(item.message)))

    def _cancel(self, messages: Sequence[Any]) -> None:
        for message in messages:
            self._tasks[id(message)].cancel()

    async def _run(self, item: Item) -> None:
        try:
            async with contextlib.aclosing(self._generate(item.message)) as results:
                async for result in results:
                    item.stream.take([Answer(item, result, _is_last(result))])
        except Exception as error:
            item.stream.fail(item, error)


def _is_last(result: Any) -> bool:
    if "verdict" not in result.DESCRIPTOR.fields_by_name:
        return True
    return result.HasField("verdict") and not result.verdict.has_more
