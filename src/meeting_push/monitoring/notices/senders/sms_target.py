"""两家短信的地址里共有的：钥匙、签名、模板、变量、号码。

``//钥匙:密钥@主机?sign=签名&template=模板&to=138…,139…&params=state,rules``

``params``：模板里的变量取通知的哪几样、按什么次序（腾讯的变量没有名字，只有次序）。运营商不许太长的变量，所以
各截到 35 个字。
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ....errors import ConfigurationError
from ...alerts.model import Notice
from ..address import Address
from ..config import Channel
from ..text import NoticeWriter

#: 通知里可以放进模板的，见 ``NoticeWriter.facts``。
FACTS: Final = (*("state", "rules", "severity", "count", "summary", "value", "threshold", "since"),)
_DEFAULT: Final = ("state", "rules", "summary")
_MOST_CHARS: Final = 35
_NUMBER: Final = re.compile(r"\+?\d{5,20}\Z")


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
