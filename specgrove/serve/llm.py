"""The large model of the Python API: it is compiled, its services are started, and it generates."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from specgrove.serve.batches import OnePrompt, SeveralPrompts, requests_of
from specgrove.serve.configuration import current_configuration
from specgrove.serve.errors import ConfigurationError
from specgrove.serve.generation import GenerationConfig, GenerationResult, Request, checked_config
from specgrove.serve.output_file import add_results, check_can_add
from specgrove.serve.plan import Plan, ssms_of, with_degrees
from specgrove.serve.progress import counted, status
from specgrove.serve.ssm import SSM, DataType, checked_model_name, checked_path, dtype_of

if TYPE_CHECKING:
    from specgrove.client.arguments import Prompt
    from specgrove.client.output import Chunk, Completion
    from specgrove.serve.services import Services
    from specgrove.suite.processes import SuiteConfig


class LLM:
    """A large model, and the services that run it.

    ``compile`` says how and with which SSMs; the services run from ``start_server``, or from the first ``generate``, until ``stop_server``,
    the end of a ``with`` block, or the end of the program, however that comes. Threads may share an object.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str],
        data_type: DataType | str | None = None,
        cache_path: str | os.PathLike[str] = "",
        refresh_cache: bool = False,
        output_file: str | os.PathLike[str] = "",
    ) -> None:
        """A model folder, a ``.gguf`` file, a hub id, or ``smollm2-135m-instruct``, which is made when it is first used.

        ``data_type``: bfloat16 unless given. ``cache_path``: where converted models are kept. ``output_file``: each result is added
        to it as a line of JSON. ``refresh_cache`` is FlexFlow's, and changes nothing: what is kept is found by what it was made from.
        Raises ``ConfigurationError``; the model itself is looked at by ``compile``.
        """
        self.model_name = checked_model_name("LLM", model_name)
        self._dtype = None if data_type is None else dtype_of(data_type)
        self._cache_path = checked_path("cache_path", cache_path)
        self._output_file = checked_path("output_file", output_file)
        self._configuration = current_configuration()
        self._lock = threading.RLock()  # of what follows
        self._generation_config = GenerationConfig()
        self._suite_config: SuiteConfig | None = None
        self._max_num_requests = 1
        self._services: Services | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def compile(
        self,
        generation_config: GenerationConfig | None = None,
        max_requests_per_batch: int | None = None,
        max_seq_length: int | None = None,
        max_tokens_per_batch: int | None = None,
        model_specific_data_parallelism_degree: int | None = None,
        model_specific_tensor_parallelism_degree: int | None = None,
        model_specific_pipeline_parallelism_degree: int | None = None,
        ssms: Sequence[SSM | str] | None = (),
    ) -> None:
        """Checks everything and fetches or converts what is needed; services that run are stopped.

        Without ``ssms`` decoding is incremental. ``max_requests_per_batch`` are the requests that are served at once (64),
        ``max_seq_length`` the longest prompt and output together (what the model allows), ``max_tokens_per_batch`` the prompts' tokens
        in one pass (256). ``generation_config`` counts for requests that have none of their own.
        Raises ``ConfigurationError``.
        """
        from specgrove.serve.preparation import suite_config  # brings what reads models

        config = checked_config(generation_config) or GenerationConfig()
        degrees = {
            "model_specific_data_parallelism_degree": model_specific_data_parallelism_degree,
            "model_specific_tensor_parallelism_degree": model_specific_tensor_parallelism_degree,
            "model_specific_pipeline_parallelism_degree": model_specific_pipeline_parallelism_degree,
        }
        plan = Plan(
            self.model_name,
            with_degrees(self._configuration, degrees),
            ssms_of(ssms),
            self._dtype,
            self._cache_path,
            max_requests_per_batch,
            max_seq_length,
            max_tokens_per_batch,
        )
        with status(f"looking for {self.model_name}") as say:
            prepared = suite_config(plan, say)
        with self._lock:
            self._stop()
            self._suite_config = prepared
            self._generation_config, self._max_num_requests = config, plan.settings["router", "max-requests"]

    def start_server(self) -> None:
        """Starts the services, unless they run. Raises ``StartError``."""
        self._running()

    def stop_server(self) -> None:
        """Stops the services, if they run. ``generate`` would start them again."""
        with self._lock:
            self._stop()

    @property
    def address(self) -> str:
        """Of the router, for further clients of this machine (``specgrove.client``). Starts the services, unless they run."""
        return self._running().address

    @overload
    def generate(
        self,
        requests_or_prompts: OnePrompt,
        max_length: int | None = ...,
        max_new_tokens: int | None = ...,
        *,
        generation_config: GenerationConfig | None = ...,
        show_progress: bool | None = ...,
    ) -> GenerationResult: ...

    @overload
    def generate(
        self,
        requests_or_prompts: SeveralPrompts,
        max_length: int | None = ...,
        max_new_tokens: int | None = ...,
        *,
        generation_config: GenerationConfig | None = ...,
        show_progress: bool | None = ...,
    ) -> list[GenerationResult]: ...

    def generate(
        self,
        requests_or_prompts: Any,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        show_progress: bool | None = None,
    ) -> GenerationResult | list[GenerationResult]:
        """The output of one prompt, or those of several in their order; thousands are fine.

        A prompt is a text, a conversation (messages with role and content), token ids, or a ``Request``; a list of prompts keeps the
        batch full, shows a bar on a terminal, and has an ``error`` in the result of each that fails. One that is alone raises it.
        Outputs have ``max_new_tokens`` at most (128), or end where prompt and output have ``max_length`` together.
        Raises ``ConfigurationError`` before anything is sent, and ``SpecGroveError``.
        """
        defaults = self._defaults(max_length, max_new_tokens, generation_config)
        requests, are_several = requests_of(requests_or_prompts, defaults)
        if not requests:
            return []
        if self._output_file is not None:
            check_can_add(self._output_file)
        services = self._running()
        if not are_several:
            result = GenerationResult.of(services.complete(requests[0]))
            self._write(requests, [result])
            return result
        num_at_once = min(self._max_num_requests, len(requests))
        with counted(len(requests), show_progress) as done:

            def on_done(outcome: Completion | Exception) -> None:
                has_failed = isinstance(outcome, Exception)
                done(0 if isinstance(outcome, Exception) else len(outcome.tokens), has_failed)

            outcomes = services.complete_all(requests, num_at_once, on_done)
        results = [GenerationResult.of(outcome) for outcome in outcomes]
        _warn_of_failures(results)
        self._write(requests, results)
        return results

    def generate_stream(
        self,
        request_or_prompt: Prompt | Request,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        *,
        generation_config: GenerationConfig | None = None,
    ) -> Generator[Chunk, None, None]:
        """The output of one prompt, piece by piece, as it is decided; the last has ``finish_reason`` and ``usage``.

        Leaving the loop early cancels the request. Raises as ``generate``.
        """
        defaults = self._defaults(max_length, max_new_tokens, generation_config)
        requests, are_several = requests_of(request_or_prompt, defaults)
        if are_several:
            raise ConfigurationError("generate_stream takes one prompt; generate takes several")
        return self._running().stream(requests[0])

    def __enter__(self) -> Self:
        self.start_server()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_server()

    def __repr__(self) -> str:
        return f"LLM({self.model_name!r})"

    def _defaults(
        self, max_length: int | None, max_new_tokens: int | None, generation_config: GenerationConfig | None
    ) -> Request:
        config = checked_config(generation_config) or self._generation_config
        return Request("", max_length=max_length, max_new_tokens=max_new_tokens, generation_config=config)

    def _running(self) -> Services:
        with self._lock:
            # In here, since it stops services that run: another thread's, perhaps.
            if self._suite_config is None:
                self.compile()
            if self._services is None:
                self._start()
            assert self._services is not None
            return self._services

    def _start(self) -> None:
        from specgrove.serve.services import Services  # brings gRPC

        assert self._suite_config is not None
        with status("starting the services") as say:
            self._services = Services(
                self._suite_config, lambda waiting: say(f"starting {', '.join(waiting) or 'the services'}")
            )
        # Runs when this object goes, and when the interpreter ends.
        self._finalizer = weakref.finalize(self, self._services.stop)

    def _stop(self) -> None:
        finalizer, self._finalizer, self._services = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    def _write(self, requests: Sequence[Request], results: Sequence[GenerationResult]) -> None:
        if self._output_file is None:
            return
        try:
            add_results(self._output_file, requests, results)
        except OSError as error:
            # They took long to make: the caller gets them all the same.
            warnings.warn(f"the results could not be written: {error}", stacklevel=3)


def _warn_of_failures(results: Sequence[GenerationResult]) -> None:
    if failed := [result.error for result in results if result.error is not None]:
        warnings.warn(
            f"{len(failed)} of {len(results)} requests failed, the first with: {failed[0]}; "
            "the others' results are there, and each result has its own error",
            stacklevel=3,
        )
