"""每种渠道怎样发；一个地址配哪一种，看它的方案。"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ....errors import ConfigurationError
from ..config import Channel
from ..sender import Sender
from ..text import NoticeWriter
from .aliyun_sms import AliyunSms
from .dingtalk import DingTalk
from .log import LogLines
from .mail import Mail
from .others import Others
from .tencent_sms import TencentSms
from .webhook import Webhook
from .wecom import WeCom

_OURS: Final[dict[str, Callable[[Channel, NoticeWriter], Sender]]] = {
    "log": LogLines,
    "webhook+http": Webhook,
    "webhook+https": Webhook,
    "dingtalk+http": DingTalk,
    "dingtalk+https": DingTalk,
    "wecom+http": WeCom,
    "wecom+https": WeCom,
    "sms-aliyun+http": AliyunSms,
    "sms-aliyun+https": AliyunSms,
    "sms-tencent+http": TencentSms,
    "sms-tencent+https": TencentSms,
    "mailto": Mail,
    "mailtos": Mail,
}


def sender_of(channel: Channel, writer: NoticeWriter) -> Sender:
    """:raises ConfigurationError: 地址缺了什么、多了什么，或没有谁认识它；一行话，没有密钥"""
    make = _OURS.get(channel.address.scheme, Others)
    try:
        return make(channel, writer)
    except ConfigurationError as error:
        raise ConfigurationError(f"channel {channel.name!r}: {error.message}") from error
