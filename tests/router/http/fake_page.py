"""A chat page that is made up: ``python -m tests.router.http.fake_page`` with the real one's options."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Tells what it was asked. ``/events`` has an end when nobody reads any more, of which the file ``/ended?FILE`` tells."""
    request = Request(scope, receive)
    if request.url.path == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.to_thread(Path(request.url.query).touch)
        return
    if request.url.path == "/end":
        os._exit(3)
    told = {
        "method": request.method,
        "target": f"{scope['raw_path'].decode()}?{request.url.query}",
        "headers": dict(request.headers),
        "body": (await request.body()).decode(),
        "router": ROUTER,
    }
    content = json.dumps(told).encode()
    headers = [
        (b"date", b"never"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"content-length", str(len(content)).encode()),
    ]
    await send({"type": "http.response.start", "status": 203, "headers": headers})
    await send({"type": "http.response.body", "body": content})


ROUTER = ""

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--router", required=True)
    given = parser.parse_args()
    ROUTER = given.router
    uvicorn.run(app, uds=given.address.removeprefix("unix:"), log_level="critical")
