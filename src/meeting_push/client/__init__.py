"""Python SDK：``PushClient`` 收，``RestClient`` 发与查，``TokenKeeper`` 管令牌。"""

from .errors import (
    ApiError,
    HandshakeRejectedError,
    NotConnectedError,
    PushRefusedError,
    ServerUnreachableError,
    TokenUnreadableError,
)
from .link import ClientState
from .options import ClientOptions, RestOptions
from .push_client import PushClient
from .received import ReceivedMessage
from .rest_client import RestClient
from .token_keeper import TokenKeeper

__all__ = [
    "ApiError",
    "ClientOptions",
    "ClientState",
    "HandshakeRejectedError",
    "NotConnectedError",
    "PushClient",
    "PushRefusedError",
    "ReceivedMessage",
    "RestClient",
    "RestOptions",
    "ServerUnreachableError",
    "TokenKeeper",
    "TokenUnreadableError",
]
