"""Imported for its effect, first of all, by the services and the ``specgrove`` command: how gRPC's core behaves in them.

The core reads these variables once, when ``grpc`` is imported. Clients in other programs don't import this: what gRPC does there is theirs.
Invariant: a variable that was set counts.

The core prints nothing: what it would print comes before errors that we tell in words for people.

Since 1.80 a thread of the core's event engine reads each connection and wakes another one that waits for what was read. Without it the
second thread reads by itself, as it did before. A message then wakes a thread less, which is a fifth of its way between two services on
one machine. Releases that have no such choice any more pass over the names.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault(
    "GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener,-event_engine_for_all_other_endpoints"
)
