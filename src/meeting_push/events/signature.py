"""Standard Webhooks 的签名（standardwebhooks.com，``webhook-signature`` 一节）。"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 — 只是记号
#: 钥匙至少这么多字节（规矩说 24 到 64）。
LEAST_KEY_BYTES: Final = 16
MOST_KEY_BYTES: Final = 256


def key_of(secret: str) -> bytes:
    """:raises ValueError: 不是 ``whsec_`` 与 base64，或长短不对；话里没有它的值"""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"does not begin with {SECRET_PREFIX}")
    try:
        written = secret.removeprefix(SECRET_PREFIX)
        key = base64.b64decode(written + "=" * (-len(written) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"what follows {SECRET_PREFIX} is not base64") from None
    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise ValueError(f"holds {len(key)} bytes, not {LEAST_KEY_BYTES} to {MOST_KEY_BYTES}")
    return key


def signature(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """每把钥匙一个 ``v1,<base64>``，空格隔开：换钥匙时新旧都认。"""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join("v1," + _mac(key, signed) for key in keys)


def _mac(key: bytes, signed: bytes) -> str:
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
