"""钉钉与企微的机器人怎样说不：HTTP 200，``errcode`` 不是 0。"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from ....errors import ChannelFailedError
from ..address import Address
from ..http_post import Answer

#: 嫌太快之后歇这么久：它们按一分钟算。
PAUSE_S = 60.0


class _Said(msgspec.Struct):
    errcode: int
    errmsg: str = ""


def check_robot(answer: Answer, address: Address, too_fast: Container[int]) -> None:
    """``too_fast``：哪些 ``errcode`` 是嫌太快。

    :raises ChannelFailedError: 没有收下，或答的不是它的格式
    """
    try:
        said = msgspec.json.decode(answer.body, type=_Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ChannelFailedError("HTTP 200, but not a robot's answer", temporary=False) from None
    if said.errcode == 0:
        return
    reason = f"errcode {said.errcode}: {address.scrub(said.errmsg)}"
    if said.errcode in too_fast:
        raise ChannelFailedError(reason, slow_down_s=PAUSE_S)
    # -1：系统繁忙，请稍后再试
    raise ChannelFailedError(reason, temporary=said.errcode == -1)
