"""节点的名字：开始服务的那个进程的，不是造对象的那个进程的（LESSONS 32）。"""

from __future__ import annotations

import os

from ulid import ULID

#: 这个进程是第几代 fork 出来的：``os.getpid`` 是一次系统调用，每条连接要问两次。
_generation = 0


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


class NodeIdentity:
    """``gunicorn --preload`` 之类先造好应用、后 fork：同一个对象在每个进程里各有各的 ``id``。

    因此谁也不得在构造时取它。给了 ``name`` 就总是它。
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._made: tuple[int, str] = (-1, "")

    @property
    def id(self) -> str:
        if self._name is not None:
            return self._name
        if self._made[0] != _generation:
            self._made = (_generation, str(ULID()))
        return self._made[1]
