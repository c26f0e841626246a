"""边缘的测试在生产用的 uvloop 上跑；标了 ``also_on_asyncio`` 的类在 asyncio 上再跑一遍。"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    owner = item.getparent(pytest.Class)
    if owner is not None and getattr(owner.obj, "also_on_asyncio", False):
        loops["asyncio"] = asyncio.new_event_loop
    return loops
