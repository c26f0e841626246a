"""通用的 webhook：按 Standard Webhooks 签的 JSON。"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from meeting_push.monitoring.notices.text import NoticeWriter
from meeting_push.monitoring.notices.webhook import Webhook
from tests.support.notice_receivers import Received, http_receiver
from tests.support.notices import alert, channel, notice, resolved

KEY = b"0123456789abcdef01234567"


def verified(got: Received, key: bytes) -> dict[str, Any]:
    """照规范重新算一遍。"""
    signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    body: dict[str, Any] = json.loads(got.body)
    return body


@pytest.mark.parametrize(
    ("secret", "key"),
    [("plain-secret", b"plain-secret"), (f"whsec_{base64.b64encode(KEY).decode()}", KEY)],
)
async def test_a_notice_is_signed_json(secret: str, key: bytes) -> None:
    async with http_receiver() as there:
        hook = Webhook(
            channel(f"webhook+http://{there.host}/hook?team=ops&secret={secret}"),
            NoticeWriter(site="https://push.example"),
            clock=lambda: 1_764_500_000_000,
        )
        await hook.send(notice(alert("a"), resolved("b", "node_lost")))
        (got,) = there.requests
    body = verified(got, key)
    assert got.target == "/hook?team=ops"
    assert got.headers["webhook-timestamp"] == "1764500000"
    assert body["type"] == "alert.firing"
    assert body["data"]["ops"] == "https://push.example/ops"
    first, second = body["data"]["alerts"]
    assert (first["rule"], first["state"], first["value"]) == ("redis_slow", "firing", 0.25)
    assert first["summary"] == {"zh": "Redis 往返慢", "en": "Redis is slow"}
    assert (second["rule"], second["state"]) == ("node_lost", "resolved")


async def test_a_retry_bears_the_same_id() -> None:
    async with http_receiver() as there:
        hook = Webhook(channel(f"webhook+http://{there.host}?secret=s"), NoticeWriter())
        for _ in range(2):
            await hook.send(notice(resolved()))
        ids = [got.headers["webhook-id"] for got in there.requests]
        body = json.loads(there.requests[0].body)
    assert ids == ["01NOTICE", "01NOTICE"]
    assert body["type"] == "alert.resolved"


async def test_without_a_secret_it_is_not_signed() -> None:
    async with http_receiver() as there:
        await Webhook(channel(f"webhook+http://{there.host}"), NoticeWriter()).send(notice())
        assert "webhook-signature" not in there.requests[0].headers
