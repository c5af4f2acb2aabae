"""``specgrove chat --web``: the chat page, for a suite that is started here or for one that runs already. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import webbrowser

from specgrove.addresses import is_unix
from specgrove.cli.connecting import connected
from specgrove.cli.generate import generate_params
from specgrove.cli.rendering import make_console
from specgrove.client.output import ModelInfo
from specgrove.serving.listening import check_can_listen
from specgrove.web.conversation import ChatOptions


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when Ctrl-C or a signal ended it."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("--web needs Gradio: pip install 'specgrove[web]'")
    check_can_listen(arguments.web)
    console = make_console(stderr=True, quiet=arguments.quiet)
    with connected(arguments) as client:
        info = client.model_info()
        from specgrove.web.server import serve_page  # takes seconds

        def on_listening(address: str) -> None:
            place = address if is_unix(address) else f"http://{address}"
            console.print(f"chat with {info.model} at {place}; Ctrl-C ends it", style="bold", markup=False)
            if not arguments.quiet and not is_unix(address):
                with contextlib.suppress(webbrowser.Error):
                    webbrowser.open(place)

        page_client = client.to_async()
        serve_page(lambda _: page_client, arguments.web, _options(arguments, info), on_listening)
    return 0


def _options(arguments: argparse.Namespace, info: ModelInfo) -> ChatOptions:
    params = generate_params(arguments)
    # The page shows what is recommended, so it is sent as what the visitor left there.
    recommended = info.recommended_sampling if arguments.recommended_sampling else {}
    speculation = params.pop("speculation", None)
    is_disabled = speculation is not None and speculation.disabled
    return ChatOptions(
        temperature=_chosen(arguments.temperature, recommended.get("temperature"), 0.0),
        top_p=_chosen(arguments.top_p, recommended.get("top_p"), 1.0),
        top_k=int(_chosen(arguments.top_k, recommended.get("top_k"), 0)),
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        system=arguments.system or "",
        ssms=() if is_disabled else (speculation.ssms if speculation is not None else ()) or None,
        further=params,
    )


def _chosen(*values: float | None) -> float:
    """The first that there is."""
    return next(value for value in values if value is not None)
