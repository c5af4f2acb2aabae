"""The OpenAI-compatible HTTP API, in the router's process and on its event loop: it converts, and decides nothing.

``server`` listens (``protocol``), ``app`` has the endpoints. A request's JSON (``bodies``) becomes ``GenerateRequest``s (``asking``),
which go to the same servicer as gRPC's (``calls``); their outputs (``outputs``) become JSON again (``completions``, ``chat``,
``responses``), whole or as events (``answers``). ``errors`` has the forms and names in which clients are told what is wrong.

Invariant: what HTTP can say, gRPC can say too, and gets the same output. Nobody outside this package imports it but ``router.app``,
and only where it is asked for: it costs half a second of a start.
"""
