"""The chat page: a client of the router that shows in a browser what speculation does. Built with Gradio, an extra of this package.

``page`` lays it out and answers its events; ``conversation`` holds what one visitor has asked and got; ``answer_html``, ``step_chart``
and ``tree_view`` draw it. ``server`` serves it, for ``specgrove chat --web`` and, as a process of its own beside a router that speaks
HTTP, by ``python -m specgrove.web``. ``quick_gradio`` imports Gradio for both.

Invariant: it decides nothing, and knows the router by gRPC only, as any other client does.
"""
