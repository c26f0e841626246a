"""签名由别人的库验。"""

from __future__ import annotations

import time

import pytest
from standardwebhooks import WebhookVerificationError

from meeting_push.events.signature import key_of, signature
from tests.support.event_receivers import SECRET, verified

OTHER = "whsec_" + "QUJD" * 8


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_both_of_two_secrets_verify(secret: str) -> None:

    now = int(time.time())
    body = '{"type": "字"}'.encode()
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature([key_of(SECRET), key_of(OTHER)], "evt_1", now, body),
    }
    assert verified(body, headers, secret) == [{"type": "字"}]


def test_a_secret_without_padding_is_the_same() -> None:
    assert key_of("whsec_" + "QUJD" * 8 + "QQ") == key_of("whsec_" + "QUJD" * 8 + "QQ==")


@pytest.mark.parametrize("off_s", [-301, 301])
def test_a_clock_more_than_five_minutes_off_is_not_verified(off_s: int) -> None:
    """收的一方的库按 ``webhook-timestamp`` 防重放：每次重来都以此刻签。"""
    at, body = int(time.time()) + off_s, b'{"type":"t"}'
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signature([key_of(SECRET)], "evt_1", at, body),
    }
    with pytest.raises(WebhookVerificationError):
        verified(body, headers)
