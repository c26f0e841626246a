"""一个请求读到哪里了。"""

from __future__ import annotations

from enum import Enum, auto


class Phase(Enum):
    HEAD = auto()
    BODY = auto()
    #: 请求收完了：在回答，或等着下一个。
    DONE = auto()
