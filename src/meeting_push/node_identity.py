"""节点的名字：开始服务的那个进程的，不是造对象的那个进程的（LESSONS 32）。"""

from __future__ import annotations

import os

from ulid import ULID


class NodeIdentity:
    """``gunicorn --preload`` 之类先造好应用、后 fork：同一个对象在每个进程里各有各的 ``id``。

    因此谁也不得在构造时取它。给了 ``name`` 就总是它。
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._made: tuple[int, str] = (0, "")

    @property
    def id(self) -> str:
        if self._name is not None:
            return self._name
        process = os.getpid()
        if self._made[0] != process:
            self._made = (process, str(ULID()))
        return self._made[1]
