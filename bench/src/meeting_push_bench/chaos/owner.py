"""一台设备：谁的，记得什么。"""

from __future__ import annotations

from dataclasses import dataclass, field

from .history import HistoryWriter
from .ledger import Ledger
from .position import Position
from .town import Town


@dataclass(frozen=True, slots=True)
class Owner:
    """``position`` 与 ``late`` 跨连接保存，像手机上的存储。

    ``late``：收到了而留到以后的连接上再确认的。
    """

    town: Town
    ledger: Ledger
    history: HistoryWriter
    user_id: int
    device: str
    position: Position = field(default_factory=Position)
    late: list[str] = field(default_factory=list)
