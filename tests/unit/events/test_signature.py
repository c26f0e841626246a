"""签名由别人的库验。"""

from __future__ import annotations

import time

import pytest

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
