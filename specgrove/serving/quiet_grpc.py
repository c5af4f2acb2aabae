"""Imported for its effect, first of all, by the services and the ``specgrove`` command: gRPC's own core prints nothing.

What it would print comes before errors that we tell in words for people. The core reads the variable once, when ``grpc`` is imported.
Clients in other programs don't import this: what gRPC says there is theirs. Invariant: ``GRPC_VERBOSITY`` counts where it was set.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
