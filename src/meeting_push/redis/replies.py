"""Redis 的错误回答 → 我们的错误树。"""

from __future__ import annotations

import re
from typing import Final

from ..errors import MeetingPushError, RedisCommandError, RedisUnavailableError


class ScriptMissingError(RedisCommandError):
    """NOSCRIPT：脚本缓存里没有（重启、切换、SCRIPT FLUSH）；``Script`` 自己会重发。"""


class DemotedError(RedisUnavailableError):
    """READONLY：连着的已不是主节点；要重新连接才能找到新的。"""


#: 稍后可能成功的回答。UNBLOCKED：阻塞着读的流被删了（清空、切换），再读就是了。
_TEMPORARY: Final = frozenset(
    [
        "LOADING",
        "BUSY",
        "OOM",
        "MISCONF",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "NOREPLICAS",
        "UNBLOCKED",
    ]
)
#: Redis 6.2 把脚本里的错误包成 “ERR Error running script … : -OOM …”，真正的代号在里面。
_INSIDE_SCRIPT: Final = re.compile(r": -([A-Z]+) ")
#: “ERR unknown command …, with args beginning with: …” 会回显参数（可能是消息正文）。
_ECHO: Final = ", with args beginning with"


def error_from_reply(text: str) -> MeetingPushError:
    """hiredis 的 ``replyError``；``message`` 保留代号（调用者据此认出 BUSYGROUP、NOGROUP）。"""
    message = text.partition(_ECHO)[0]
    inside = _INSIDE_SCRIPT.search(message)
    code = inside[1] if inside else message.partition(" ")[0]
    if code == "NOSCRIPT":
        return ScriptMissingError(message)
    if code == "READONLY":
        return DemotedError(message)
    if code in _TEMPORARY:
        return RedisUnavailableError(message)
    return RedisCommandError(message)
