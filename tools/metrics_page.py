"""由一个跑着的节点说出的指标写出 ``docs/metrics.md``（``make figures``）。"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meeting_push import MeetingPush, load_settings
from meeting_push.events.receiver import SenderFigures
from meeting_push.http.doorway import DoorLimits, Doorway
from meeting_push.limits.rate import TrustedProxies
from meeting_push.monitoring.delivery_samples import event_samples
from meeting_push.monitoring.edge_samples import door_samples
from meeting_push.monitoring.snapshots import Family

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "metrics.md"
_HEAD: Final = """\
# 指标

由 `make figures` 从 `src/meeting_push/monitoring/` 生成，别在这里改。抓任何一个进程的 `/metrics`，
都是同一个 `serve` 的全部进程（[决定 0013](adr/0013-one-scrape-one-serve.md)）；值得告警的、怎样看见
[运维](operations.md#统计)。

合：**相加**是各进程之和，计数连同死了的；**各进程**带标签 `process`（它的位置，从 0 数）；**共有**
是大家看着的同一样东西，听最新的。直方图另有 `_bucket`、`_count`、`_sum`。一个角色只有它自己做的
事的；Redis 不在时没有要问它的（`redis_memory_…`、`queue_…`），`redis_up` 照有。

没有便宜的真数，所以没有的两样：

- **全部信箱里一共几条**：每人一只，数一遍要问每个人。有 `mailbox_entries`（人来时信箱里有几条），
  `GET /mailboxes`（最满的几只），`GET /stats` 里等着的收件人（投递的减去有了结局的）。
- **未读的有多老**：已读只在 SQL 里，按人建索引，问全体就是扫全表。推了没有确认的有
  `unacked_oldest_age_seconds`。

| 指标 | 种类 | 合 | 标签 | 含义 |
|---|---|---|---|---|
"""
_KINDS: Final = {"counter": "计数器", "gauge": "量", "histogram": "直方图"}


async def page(push: MeetingPush) -> str:
    """``push`` 兼任全部角色，已启动。"""
    observation = push._observation
    observation.requests.unknown.durations.record(0)  # 直方图有了第一次才有
    doorway = Doorway(DoorLimits.of(0, 100), TrustedProxies(()), push.manager.admission.pace)
    push.metrics.add(lambda: door_samples(doorway))
    push.metrics.add(lambda: event_samples({"hooks.example/1a2b3c": SenderFigures()}, 0))
    await observation.health.check_now()  # 没有检查过的不说好不好
    await observation.surroundings.look()
    await observation.activity.step()
    families = sorted(push.metrics.families(), key=lambda each: each.name)
    return _HEAD + "\n".join(_rows(families)) + "\n"


def _rows(families: list[Family]) -> Iterator[str]:
    for each in families:
        labels = list(dict.fromkeys(name for point in each.points for name, _ in point.labels))
        scope = "共有" if each.shared else "各进程" if "process" in labels else "相加"
        shown = "、".join(f"`{name}`" for name in labels if name not in ("process", "le"))
        name = each.name + ("_total" if each.kind == "counter" else "")
        cells = (f"`{name}`", _KINDS[each.kind], scope, shown or "—", each.help)
        yield f"| {' | '.join(cells)} |"


async def _write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        push = MeetingPush(load_settings(data_dir=Path(folder), _env_file=None))
        await push.start()
        try:
            PAGE.write_text(await page(push))
        finally:
            await push.drain()
            await push.stop()


if __name__ == "__main__":
    asyncio.run(_write())
