"""Addresses, channel options and limits: what both ends of every connection agree on."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_MAX_OPTION = 2**31 - 1  # in ms this is 24 days

Option = tuple[str, int]

# Between services: a peer that was stopped or cut off is noticed after 5 s + 5 s. A killed one on the same network at once, by its closed
# socket. gRPC waits for the answer to a ping as long as ``ping_timeout_ms`` says, 60 s by default, whatever ``keepalive_timeout_ms`` is.
_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

# Towards clients, whose networks may be slow and whose laptops sleep: a request of one that is gone holds its permit for a minute at most.
_PUBLIC_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

# A server with gRPC's default policy closes a connection whose client pings more often than every 5 minutes, or without calls
# (https://github.com/grpc/grpc/blob/master/doc/keepalive.md). So does a proxy in front of a router.
_CLIENT_KEEPALIVE: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 360_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
)


def server_options(
    max_request_bytes: int = MAX_MESSAGE_BYTES,
    max_num_streams: int | None = None,
    *,
    max_connection_age_s: float | None = None,
    is_public: bool = False,
) -> list[Option]:
    """Options of every server. Two servers on one port are an error, not a silent split of the traffic.

    ``max_num_streams`` is the number of calls of one connection at once: a gRPC client keeps further ones back until one ends.
    After ``max_connection_age_s``, a tenth more or less, a client is asked to connect anew; its calls end where they are.
    With ``is_public`` its peers are clients, else services.
    """
    return [
        *(_PUBLIC_KEEPALIVE if is_public else _KEEPALIVE),
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_receive_message_length", max_request_bytes),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.so_reuseport", 0),
        *([] if max_num_streams is None else [("grpc.max_concurrent_streams", max_num_streams)]),
        *(
            []
            if max_connection_age_s is None
            else [("grpc.max_connection_age_ms", _milliseconds(max_connection_age_s))]
        ),
    ]


def _milliseconds(seconds: float) -> int:
    """As gRPC takes them: who waits for longer than the longest time waits for that."""
    return min(round(seconds * 1e3), _MAX_OPTION)


def channel_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[Option]:
    """Options of every channel between services: a peer that comes back is found within half a second."""
    return [
        *_KEEPALIVE,
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]


def client_channel_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[Option]:
    """Options of a client's channel to a router, or to a proxy in front of it: any gRPC server tolerates them."""
    return [
        *_CLIENT_KEEPALIVE,
        # gRPC's own ways lead to a pause of two minutes between two tries to connect.
        ("grpc.initial_reconnect_backoff_ms", 250),
        ("grpc.max_reconnect_backoff_ms", 4_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
