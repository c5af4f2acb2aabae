"""Pages that stand where the chat page is not, or not yet. Used by ``page``."""

from __future__ import annotations

_STYLE = """
:root { color-scheme: light dark; }
body { display: grid; min-height: 90dvh; margin: 0 24px; place-content: center; font: 16px/1.6 system-ui, sans-serif; }
main { max-width: 60ch; } h1 { margin: 0 0 8px; font-size: 22px; } p { margin: 0 0 12px; }
code { padding: 2px 6px; border-radius: 5px; background: color-mix(in srgb, currentColor 10%, transparent); }
"""


def _page(words: str, *, reload_s: int | None = None) -> str:
    refresh = "" if reload_s is None else f'<meta http-equiv="refresh" content="{reload_s}">'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SpecGrove</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}<style>{_STYLE}</style></head>'
        f"<body><main><h1>SpecGrove</h1>{words}</main></body></html>"
    )


_INSTALL = "pip install 'specgrove[web]'"
WITHOUT_GRADIO = _page(
    "<p>This router is running. A page to chat with, which shows what speculation does, needs Gradio:</p>"
    f"<p><code>{_INSTALL}</code></p><p>Then start the router again.</p>"
    '<p>Programs use <a href="/docs">the API</a>; it is as OpenAI\'s.</p>'
)
WITHOUT_GRADIO_IN_WORDS = (
    f"This router is running. A page to chat with needs Gradio: {_INSTALL}, then start the router again.\n"
    "Programs use the API, which is as OpenAI's: see /docs\n"
)
"""For programs, such as curl."""
WITHOUT_LOCAL_ADDRESS = _page(
    "<p>This router is running. Its clients need TLS or a key; for the chat page it must have a second address for this machine, too: "
    "start it with <code>--local-address unix:/path</code>.</p>"
)
STARTING = _page('<p role="status">The chat page is starting. This takes a few seconds.</p>', reload_s=1)
FAILED = _page("<p>The chat page has ended by itself; the router's log says why. It is tried again in a while.</p>")
