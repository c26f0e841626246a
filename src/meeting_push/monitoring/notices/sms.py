"""短信，两家：阿里云与腾讯云；签出来的与他们自己的包一字不差，测试里对过。

共有的：``//钥匙:密钥@主机?sign=签名&template=模板&to=138…,139…&params=state,rules``。
``params``：模板里的变量取通知的哪几样、按什么次序（腾讯的变量没有名字，只有次序）。运营商不许太长的
变量，所以各截到 35 个字。

``sms-aliyun+https://…@dysmsapi.aliyuncs.com``：RPC 风格的 ``SendSms``（2017-05-25），参数在查询串
里，没有正文；签名 ACS3-HMAC-SHA256，签全部的头。

``sms-tencent+https://…@sms.tencentcloudapi.com?app=140…``：``SendSms``（2021-01-11），正文是 JSON；
签名 TC3-HMAC-SHA256。回答里每个号码各有成败：有一个成了就不算失败，不成的号码另说。
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec

from ...clock import Clock, now_ms
from ...errors import ChannelFailedError, ConfigurationError
from ..alerts.model import Notice
from .channel import TIMEOUT_S, Address, Channel
from .text import NoticeWriter
from .webhook import Answer, HttpPost, base_of, host_header

#: 通知里可以放进模板的，见 ``NoticeWriter.facts``。
FACTS: Final = (*("state", "rules", "severity", "count", "summary", "value", "threshold", "since"),)
_DEFAULT: Final = ("state", "rules", "summary")
_MOST_CHARS: Final = 35
_NUMBER: Final = re.compile(r"\+?\d{5,20}\Z")
_ACS3: Final = "ACS3-HMAC-SHA256"
_TC3: Final = "TC3-HMAC-SHA256"
_CONTENT_TYPE: Final = "application/json"
_HERE: Final = "+86"


@dataclass(frozen=True, slots=True)
class SmsTarget:
    key_id: str
    key: str
    sign: str
    template: str
    numbers: tuple[str, ...]
    params: tuple[str, ...]

    def __repr__(self) -> str:
        return f"SmsTarget(template={self.template!r})"

    def filled(self, notice: Notice, channel: Channel, writer: NoticeWriter) -> dict[str, str]:
        """变量的名字 → 值，按 ``params`` 的次序。"""
        facts = writer.facts(notice, channel.language)
        if notice.is_test:
            facts["state"] = "测试 test" if channel.language == "zh" else "test"
        return {name: facts[name][:_MOST_CHARS] for name in self.params}


def sms_target(address: Address, also: frozenset[str] = frozenset()) -> SmsTarget:
    """``also``：这一家另有的参数。

    :raises ConfigurationError: 缺了什么、多了什么、号码不成号码
    """
    _check_names(address, also)
    params = tuple(address.items("params")) or _DEFAULT
    for name in params:
        if name not in FACTS:
            raise ConfigurationError(f"{address}: params= {name!r} is none of {', '.join(FACTS)}")
    numbers = tuple(address.items("to"))
    for number in numbers:
        if _NUMBER.match(number) is None:
            raise ConfigurationError(f"{address}: to= has something that is no phone number")
    return SmsTarget(
        address.user,
        address.password,
        address.get("sign"),
        address.get("template"),
        numbers,
        params,
    )


def _check_names(address: Address, also: frozenset[str]) -> None:
    if not address.user or not address.password:
        raise ConfigurationError(f"{address}: needs key-id:secret@ before the host")
    known = {"sign", "template", "to", "params"} | also
    for name in sorted(address.names - known):
        raise ConfigurationError(f"{address}: unknown parameter {name!r}")
    for name in ("sign", "template", "to"):
        if not address.items(name):
            raise ConfigurationError(f"{address}: has no {name}=")


class _AliyunSaid(msgspec.Struct, rename="pascal"):
    code: str
    message: str = ""


class AliyunSms:
    def __init__(
        self,
        channel: Channel,
        writer: NoticeWriter,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Clock = now_ms,
        nonce: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._target = sms_target(channel.address)
        self._base = base_of(channel.address).partition("?")[0].rstrip("/")
        self._http = HttpPost(channel.address, timeout_s)
        self._channel = channel
        self._writer = writer
        self._clock = clock
        self._nonce = nonce

    async def send(self, notice: Notice) -> tuple[str, ...]:
        query = self._query(notice)
        url = f"{self._base}/?{urlencode(query)}"
        self._check(await self._http.post(url, self._headers(query, url), b""))
        return ()

    def _query(self, notice: Notice) -> dict[str, str]:
        filled = self._target.filled(notice, self._channel, self._writer)
        return {
            "PhoneNumbers": ",".join(self._target.numbers),
            "SignName": self._target.sign,
            "TemplateCode": self._target.template,
            "TemplateParam": msgspec.json.encode(filled).decode(),
        }

    def _headers(self, query: Mapping[str, str], url: str) -> dict[str, str]:
        now = datetime.fromtimestamp(self._clock() // 1000, UTC)
        headers = {
            "host": host_header(url),
            "x-acs-version": "2017-05-25",
            "x-acs-action": "SendSms",
            "user-agent": "meeting-push",
            "x-acs-date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "x-acs-signature-nonce": self._nonce(),
            "accept": "application/json",
            "x-acs-credentials-provider": "static_ak",  # 他们的包也这样说
            "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
        }
        authorization = acs3(self._target.key_id, self._target.key, query, headers)
        return {**headers, "Authorization": authorization}

    def _check(self, answer: Answer) -> None:
        try:
            said = msgspec.json.decode(answer.body, type=_AliyunSaid)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ChannelFailedError("not an answer of Aliyun's", temporary=False) from None
        if said.code != "OK":
            reason = f"{said.code}: {said.message}"
            raise ChannelFailedError(
                self._channel.address.scrub(reason), temporary=said.code.startswith("Throttling")
            )


def acs3(key_id: str, key: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """``Authorization`` 的值：POST ``/``，``headers`` 的名字全小写，其中有正文的散列。"""
    names = sorted(headers)
    canonical = "\n".join(
        (
            "POST",
            "/",
            "&".join(f"{quote(n, safe='~')}={quote(query[n], safe='~')}" for n in sorted(query)),
            "".join(f"{name}:{headers[name].strip()}\n" for name in names),
            ";".join(names),
            headers["x-acs-content-sha256"],
        )
    )
    to_sign = f"{_ACS3}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(key.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    return f"{_ACS3} Credential={key_id},SignedHeaders={';'.join(names)},Signature={signature}"


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


class _TencentSaid(msgspec.Struct, rename="pascal"):
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
            said = msgspec.json.decode(answer.body, type=_TencentSaid).response
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
    to_sign = f"{_TC3}\n{timestamp}\n{scope}\n{digest}"
    signing = f"TC3{key}".encode()
    for part in (date, "sms", "tc3_request"):
        signing = _keyed(signing, part)
    signature = _keyed(signing, to_sign).hex()
    return f"{_TC3} Credential={key_id}/{scope}, SignedHeaders={signed}, Signature={signature}"


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
