"""``webhook+https://…?secret=``：按 Standard Webhooks 的规矩签的 JSON。

``secret`` 以 ``whsec_`` 开头的，后面是 base64 的钥匙；别的就是钥匙本身的字节。
没有 ``secret`` 就不签。别的参数原样留在地址里。重试的用同一个 ``webhook-id``，收的一方凭它去重。
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ...clock import Clock, now_ms
from ...errors import ConfigurationError
from ..alerts.model import Alert, AlertState, Notice
from .channel import TIMEOUT_S, Address, Channel
from .http_post import HttpPost
from .text import NoticeWriter

_PREFIX: Final = "whsec_"
#: 里面那段给人看的字至多这么长。
_TEXT_BYTES: Final = 20_000


class Webhook:
    def __init__(
        self,
        channel: Channel,
        writer: NoticeWriter,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = now_ms,
    ) -> None:
        self._http = HttpPost(channel.address, timeout_s)
        self._key = _key(channel.address)
        self._url = channel.address.base(without=frozenset({"secret"}))
        self._language = channel.language
        self._writer = writer
        self._clock = clock

    async def send(self, notice: Notice) -> tuple[str, ...]:
        now = self._clock()
        body = msgspec.json.encode(self._body(notice, now))
        headers = {"Content-Type": "application/json", "webhook-id": notice.notice_id}
        headers |= self._signature(notice.notice_id, now // 1000, body)
        await self._http.post(self._url, headers, body)
        return ()

    def _signature(self, notice_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        headers = {"webhook-timestamp": str(timestamp)}
        if self._key is not None:
            headers["webhook-signature"] = sign(self._key, notice_id, timestamp, body)
        return headers

    def _body(self, notice: Notice, now: int) -> dict[str, Any]:
        firing = any(alert.state is AlertState.FIRING for alert in notice.alerts)
        return {
            "type": "alert.firing" if firing else "alert.resolved",
            "timestamp": self._writer.moment(now),
            "data": {
                "notice_id": notice.notice_id,
                "test": notice.is_test,
                "escalation": notice.is_escalation,
                "ops": self._writer.ops_url(),
                "text": self._writer.plain(notice, self._language, _TEXT_BYTES),
                "alerts": [_alert(alert, self._writer.show) for alert in notice.alerts],
            },
        }


def _alert(alert: Alert, show: Callable[[str, float], str]) -> dict[str, Any]:
    return {
        **msgspec.to_builtins(alert),
        "summary": alert.summary._asdict(),
        "value_text": show(alert.rule, alert.value),
        "threshold_text": show(alert.rule, alert.threshold),
    }


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """``v1,<base64 的 HMAC-SHA256("id.时刻.正文")>``。"""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _key(address: Address) -> bytes | None:
    secret = address.get("secret")
    if not secret:
        return None
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"{address}: what follows whsec_ is not base64") from None
