"""The settings of the chat page, ``python -m specgrove.web``, which routers start by themselves."""

from __future__ import annotations

from specgrove.config import DEFAULT_ADDRESS
from specgrove.settings.setting import Setting
from specgrove.settings.shared import LOGGING
from specgrove.settings.values import address

CHAT_PAGE = (
    Setting("address", "HOST:PORT or unix:/path to listen on", "127.0.0.1:7860", address, "ADDRESS"),
    Setting("router", "the router, by gRPC, without encryption and keys", DEFAULT_ADDRESS, address, "ADDRESS"),
    *LOGGING,
)
