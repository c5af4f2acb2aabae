"""Addresses: whether a suite could listen there, and what a suite that runs says of itself."""

from __future__ import annotations

from collections.abc import Iterator

from specgrove.client import Client
from specgrove.doctor.findings import Finding, error, ok, warning
from specgrove.errors import DeadlineExceededError, SpecGroveError
from specgrove.models.folders.hub import ModelNotFoundError
from specgrove.settings import SuiteSettings
from specgrove.suite.readiness import is_serving
from specgrove.suite.start_checks import check_settings

_PROBE_TOKENS = 8
_PROBE_LIMIT_S = 30.0  # a router would wait for minutes for an LLM service that is away


def addresses(settings: SuiteSettings) -> Finding:
    """Whether the router's addresses are free. Settings that do not go together are told here, too."""
    address = settings["router", "address"]
    try:
        check_settings(settings, address)
    except ModelNotFoundError:
        pass  # the last thing that is checked; the findings of the models say it
    except (OSError, ValueError) as problem:
        if isinstance(problem, OSError) and is_serving(address):
            text = f"a router serves at {address} already: give another --grpc-address, or look at it by --address {address}"
            return error("addresses", text, address=address)
        return error("settings", str(problem), address=address)
    http = settings["router", "http-address"]
    places = f"gRPC at {address}" + (f", HTTP at {http}" if http is not None else "")
    return ok("addresses", f"free: {places}", address=address, http_address=http)


def running_suite(client: Client, address: str, own_version: str) -> Iterator[Finding]:
    """What it serves, and whether it does. The client's own failures are findings."""
    try:
        info = client.model_info()
        facts = {"model": info.model, "dtype": info.dtype, "ssms": list(info.ssms), "version": info.version}
        yield ok("suite", f"{address} serves {info.model} ({info.dtype}), context {info.max_model_len} tokens", **facts)
        if info.version != own_version:
            yield warning("suite", f"it is SpecGrove {info.version}, and this is {own_version}")
        if info.ssms:
            yield ok("SSMs", ", ".join(info.ssms))
        else:
            yield warning("SSMs", "there are none, or none is ready: decoding is incremental")
        usage = client.complete("Hello", max_tokens=_PROBE_TOKENS, ignore_eos=True, timeout_s=_PROBE_LIMIT_S).usage
    except DeadlineExceededError:
        why = "the LLM service is away, or has very much to do: `specgrove top` tells"
        yield error("answers", f"no {_PROBE_TOKENS} tokens within {_PROBE_LIMIT_S:g} s: {why}")
        return
    except SpecGroveError as problem:
        yield error("suite", f"{address}: {' '.join(str(problem).split())}")
        return
    text = f"{usage.num_output_tokens} tokens, the first after {usage.first_token_ms:.0f} ms, {usage.tokens_per_s:.0f} tokens/s"
    yield ok("answers", text, first_token_ms=usage.first_token_ms, tokens_per_s=usage.tokens_per_s)
