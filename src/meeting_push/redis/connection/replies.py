"""Redis 的错误回答 → 我们的错误树；``cause`` 是一个词的原因。"""

from __future__ import annotations

import re
from typing import Final

from ...errors import MeetingPushError, RedisCommandError, RedisUnavailableError


class ScriptMissingError(RedisCommandError):
    """NOSCRIPT：脚本缓存里没有（重启、切换、SCRIPT FLUSH）；``Script`` 自己会重发。"""


class DemotedError(RedisUnavailableError):
    """READONLY：连着的已不是主节点；要重新连接才能找到新的。"""


class ForbiddenByAclError(RedisUnavailableError):
    """NOPERM：这个 Redis 用户少一项权限，``message`` 说是哪一项；补上权限就好，所以是暂时的。"""


#: 稍后可能成功的回答 → 原因。UNBLOCKED：阻塞着读的流被删了（清空、切换），再读就是了。
#: MISCONF：写不了磁盘（AOF、快照），于是拒绝一切写入。
_TEMPORARY: Final = {
    "LOADING": "loading",
    "BUSY": "busy",
    "OOM": "oom",
    "MISCONF": "disk_full",
    "MASTERDOWN": "master_down",
    "CLUSTERDOWN": "cluster_down",
    "TRYAGAIN": "cluster_down",
    "NOREPLICAS": "no_replicas",
    "UNBLOCKED": "unblocked",
    "NOAUTH": "noauth",
    "WRONGPASS": "noauth",
}
#: Redis 6.2 把脚本里的错误包成 “ERR Error running script … : -OOM …”，真正的代号在里面。
_INSIDE_SCRIPT: Final = re.compile(r": -([A-Z]+) ")
#: 没有代号的拒绝。脚本里没有权限，Redis 7.0 只说 “ERR The user executing the script can't …”。
_WITHOUT_CODE: Final = (
    ("ERR The user executing the script can't ", "NOPERM"),
    ("ERR max number of clients reached", "MAXCLIENTS"),
)
#: “ERR unknown command …, with args beginning with: …” 会回显参数（可能是消息正文）。
_ECHO: Final = ", with args beginning with"


def error_from_reply(text: str) -> MeetingPushError:
    """hiredis 的 ``replyError``；``message`` 保留代号（调用者据此认出 BUSYGROUP、NOGROUP）。"""
    message = text.partition(_ECHO)[0]
    code = _code(message)
    if code == "NOSCRIPT":
        return ScriptMissingError(message)
    if code == "READONLY":
        return DemotedError(message, cause="readonly")
    if code == "NOPERM":
        return ForbiddenByAclError(message, cause="noperm")
    if code == "MAXCLIENTS":
        return RedisUnavailableError(message, cause="too_many_clients")
    if code in _TEMPORARY:
        return RedisUnavailableError(message, cause=_TEMPORARY[code])
    return RedisCommandError(message)


def _code(message: str) -> str:
    inside = _INSIDE_SCRIPT.search(message)
    if inside:
        return inside[1]
    for beginning, code in _WITHOUT_CODE:
        if message.startswith(beginning):
            return code
    return message.partition(" ")[0]
