"""违反：哪条承诺、哪条消息、在历史的哪里看得出来。"""

from __future__ import annotations

from msgspec import Struct


class Violation(Struct, frozen=True, kw_only=True):
    """``rule`` 是规则的名字；``index`` 是看出它的那个事件的序号，终局里才看出的为 None。"""

    rule: str
    detail: str
    user_id: int | None = None
    message_id: str | None = None
    connection: int | None = None
    index: int | None = None
