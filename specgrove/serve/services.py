"""The running services of one LLM, and how requests reach them: one, or a list of thousands that keeps the batch full.

Used by ``LLM``, which imports it when services start. Invariant: of a list all requests are answered, in their order, whatever becomes
of single ones; and whoever interrupts it leaves nothing under way.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
from collections.abc import Callable, Generator, Sequence

from specgrove.client import Client
from specgrove.client.output import Chunk, Completion
from specgrove.client.retries import RetryPolicy
from specgrove.client.wire import GenerateParams
from specgrove.errors import InvalidRequestError, SpecGroveError
from specgrove.serve.batches import config_of
from specgrove.serve.errors import StartError, in_python
from specgrove.serve.generation import Request
from specgrove.settings import in_suite_flags
from specgrove.suite.processes import NotReadyError, Suite, SuiteConfig, section_of
from specgrove.suite.supervisor import ProcessFailedError

DEFAULT_MAX_NEW_TOKENS = 128
# A router that died is started again, so it is worth waiting for: minutes, with all delays together.
_RETRIES = RetryPolicy(max_num_retries=10)
logger = logging.getLogger("specgrove.serve")


class Services:
    """From the start to ``stop``. Threads may share it."""

    def __init__(self, config: SuiteConfig, progress: Callable[[tuple[str, ...]], None]) -> None:
        """Returns when all services are ready. Raises ``StartError``, with nothing left running."""
        self._owner_pid = os.getpid()
        self._suite = Suite(config, log_line=_log_line, progress=progress)
        try:
            self._suite.start()
        except ProcessFailedError as error:
            raise StartError(in_python(in_suite_flags(str(error), section_of(error.name)))) from error
        except NotReadyError as error:
            raise StartError(in_python(str(error))) from error
        try:
            self._client = self._connected()
            self._max_model_len = self._client.model_info().max_model_len
        except BaseException:
            self._suite.stop()
            raise

    @property
    def address(self) -> str:
        """Where further clients of this machine reach the router."""
        return self._suite.local_address

    def stop(self) -> None:
        """Ends what is under way, and all services. Nothing happens in a process that was forked from the one that started them."""
        if os.getpid() != self._owner_pid:
            return
        self._client.close()
        self._suite.stop()

    def stream(self, request: Request) -> Generator[Chunk, None, None]:
        """The output as it is decided."""
        return self._client.generate(request.prompt, **self._params_of(self._client, request))

    def complete(self, request: Request) -> Completion:
        """One output. Raises ``SpecGroveError``."""
        return self._complete(self._client, request)

    def complete_all(
        self, requests: Sequence[Request], num_at_once: int, on_done: Callable[[Completion | SpecGroveError], None]
    ) -> list[Completion | SpecGroveError]:
        """All outputs, ``num_at_once`` under way at a time, and the error instead for each that fails."""
        # A connection of its own: closing it calls off all that is under way for this list, and nothing else.
        with self._connected() as client, concurrent.futures.ThreadPoolExecutor(num_at_once) as executor:
            futures = [executor.submit(self._outcome, client, request) for request in requests]
            try:
                for future in concurrent.futures.as_completed(futures):
                    on_done(future.result())
            except BaseException:
                client.close()
                executor.shutdown(cancel_futures=True)
                raise
            return [future.result() for future in futures]

    def _connected(self) -> Client:
        return Client(self.address, retry=_RETRIES)

    def _outcome(self, client: Client, request: Request) -> Completion | SpecGroveError:
        try:
            return self._complete(client, request)
        except SpecGroveError as error:
            return error

    def _complete(self, client: Client, request: Request) -> Completion:
        return client.complete(request.prompt, **self._params_of(client, request))

    def _params_of(self, client: Client, request: Request) -> GenerateParams:
        params = config_of(request).params()
        params["prompt_only"] = request.max_new_tokens == 0
        params["max_tokens"] = None if params["prompt_only"] else self._max_tokens_of(client, request)
        params["speculation"] = request.speculation
        params["timeout_s"] = request.timeout_s
        if request.chat_template_kwargs is not None:
            params["chat_template_kwargs"] = request.chat_template_kwargs
        return params

    def _max_tokens_of(self, client: Client, request: Request) -> int:
        """What the request says; else as many as usual, and no more than there is room for."""
        if request.max_new_tokens is not None and request.max_length is None:
            return request.max_new_tokens
        prompt_len = _prompt_len(client, request)
        max_length = request.max_length or self._max_model_len
        room = min(max_length, self._max_model_len) - prompt_len
        if request.max_length is not None and room < 1:
            raise InvalidRequestError.of("max_length", f"is {max_length}, and the prompt has {prompt_len} tokens")
        wanted = request.max_new_tokens
        if wanted is None:
            wanted = DEFAULT_MAX_NEW_TOKENS if request.max_length is None else max_length
        return max(min(wanted, room), 1)


def _prompt_len(client: Client, request: Request) -> int:
    from specgrove.client.wire import request_to_proto

    proto = request_to_proto(request.prompt)
    if proto.WhichOneof("prompt") == "token_ids":
        return len(proto.token_ids.token_ids)
    if proto.WhichOneof("prompt") == "text":
        return len(client.tokenize(proto.text))
    return len(client.tokenize(proto.chat.messages, chat_template_kwargs=request.chat_template_kwargs))


def _log_line(service: str, line: str) -> None:
    logger.info("%s: %s", service, line)
