"""进程自己：事件循环。"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from .metrics import Sample


def process_samples() -> Iterator[Sample]:
    """事件循环里的任务；只增不减就是有人忘了结束它。须在事件循环里调用。"""
    yield Sample("asyncio_tasks", "gauge", "tasks of the event loop", len(asyncio.all_tasks()))
