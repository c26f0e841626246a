"""``sms-tencent+https://钥匙:密钥@sms.tencentcloudapi.com?app=140…&sign=…&template=…&to=…``：腾讯云短信。

``SendSms``（2021-01-11），正文是 JSON；签名 TC3-HMAC-SHA256。与 ``tencentcloud-sdk-python-common``
签的一字不差，测试里对过。
回答里每个号码各有成败：有一个成了就不算失败，不成的号码另说。
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Final

import msgspec

from ....clock import Clock, now_ms
from ....errors import ChannelFailedError, ConfigurationError
from ...alerts.model import Notice
from ..config import Channel
from ..http_post import Answer, HttpPost, base_of, host_header
from ..sender import TIMEOUT_S
from ..text import NoticeWriter
from .sms_target import sms_target

_ALGORITHM: Final = "TC3-HMAC-SHA256"
_CONTENT_TYPE: Final = "application/json"
_HERE: Final = "+86"


class _Error(msgspec.Struct, rename="pascal"):
    code: str
    message: str = ""


class _Status(msgspec.Struct, rename="pascal"):
    code: str
    phone_number: str = ""
    message: str = ""


class _Response(msgspec.Struct, rename="pascal"):
    error: _Error | None = None
    send_status_set: list[_Status] = []


class _Said(msgspec.Struct, rename="pascal"):
    response: _Response


class TencentSms:
    def __init__(
        self,
        channel: Channel,
        writer: NoticeWriter,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = now_ms,
    ) -> None:
        address = channel.address
        self._target = sms_target(address, frozenset({"app", "region"}))
        self._app = address.get("app")
        if not self._app:
            raise ConfigurationError(f"{address}: has no app=")
        self._region = address.get("region", "ap-guangzhou")
        self._url = base_of(address).partition("?")[0].rstrip("/") + "/"
        self._http = HttpPost(address, timeout_s)
        self._channel = channel
        self._writer = writer
        self._clock = clock

    async def send(self, notice: Notice) -> tuple[str, ...]:
        body = self._body(notice)
        return self._refused(await self._http.post(self._url, self._headers(body), body))

    def _body(self, notice: Notice) -> bytes:
        target = self._target
        values = target.filled(notice, self._channel, self._writer).values()
        numbers = [n if n.startswith("+") else _HERE + n for n in target.numbers]
        # 标准库的样子（ASCII，逗号后有空格），与他们的包一字不差
        return json.dumps(
            {
                "PhoneNumberSet": numbers,
                "SmsSdkAppId": self._app,
                "SignName": target.sign,
                "TemplateId": target.template,
                "TemplateParamSet": list(values),
            }
        ).encode()

    def _headers(self, body: bytes) -> dict[str, str]:
        host, timestamp = host_header(self._url), self._clock() // 1000
        authorization = tc3(self._target.key_id, self._target.key, host, timestamp, body)
        return {
            "Content-Type": _CONTENT_TYPE,
            "Host": host,
            "X-TC-Action": "SendSms",
            "X-TC-Timestamp": str(timestamp),
            "X-TC-Version": "2021-01-11",
            "X-TC-Region": self._region,
            "Authorization": authorization,
        }

    def _refused(self, answer: Answer) -> tuple[str, ...]:
        try:
            said = msgspec.json.decode(answer.body, type=_Said).response
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ChannelFailedError("not an answer of Tencent's", temporary=False) from None
        if said.error is not None:
            raise self._failed(said.error.code, said.error.message)
        bad = [status for status in said.send_status_set if status.code != "Ok"]
        if bad and len(bad) == len(said.send_status_set):
            raise self._failed(bad[0].code, bad[0].message)
        return tuple(f"{status.phone_number} ({status.code})" for status in bad)

    def _failed(self, code: str, message: str) -> ChannelFailedError:
        temporary = code.startswith(("RequestLimitExceeded", "InternalError"))
        reason = self._channel.address.scrub(f"{code}: {message}")
        return ChannelFailedError(reason, temporary=temporary)


def tc3(key_id: str, key: str, host: str, timestamp: int, body: bytes) -> str:
    """``Authorization`` 的值：POST ``/``，JSON，服务是 ``sms``。"""
    signed = "content-type;host"
    canonical = "\n".join(
        (
            "POST",
            "/",
            "",
            f"content-type:{_CONTENT_TYPE}\nhost:{host}\n",
            signed,
            hashlib.sha256(body).hexdigest(),
        )
    )
    date = f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d}"
    scope = f"{date}/sms/tc3_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}"
    signing = f"TC3{key}".encode()
    for part in (date, "sms", "tc3_request"):
        signing = _hmac(signing, part)
    signature = _hmac(signing, to_sign).hex()
    return (
        f"{_ALGORITHM} Credential={key_id}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
