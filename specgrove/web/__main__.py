"""``python -m specgrove.web``: the page as a process of its own, beside the router whose client it is.

The router starts it with a low priority, so that drawing takes no time from models on the same cores.
"""

from __future__ import annotations

import specgrove.serving.grpc_environment  # noqa: F401  before anything imports grpc

# isort: split
import argparse
import sys
from collections.abc import Mapping

from specgrove.client import AsyncClient
from specgrove.serving.api_keys import KEY_NAME_METADATA
from specgrove.settings import CHAT_PAGE, add_settings
from specgrove.telemetry.logs import set_up_logging
from specgrove.web.conversation import ChatOptions
from specgrove.web.server import serve_page


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m specgrove.web",
        description="The chat page: a client of a router, for browsers. It asks for no keys.",
    )
    add_settings(parser, CHAT_PAGE)
    given = parser.parse_args()
    set_up_logging("chat_page", given.log_level, given.log_format)
    try:
        client = AsyncClient(given.router)

        def client_of(headers: Mapping[str, str]) -> AsyncClient:
            """The router, before which nobody else reaches this process, says whose key a request came with."""
            name = headers.get(KEY_NAME_METADATA)
            return client if name is None else client.for_key(name)

        serve_page(client_of, given.address, ChatOptions())
    except (ValueError, OSError) as error:
        sys.exit(f"chat page: {error}")


if __name__ == "__main__":
    main()
