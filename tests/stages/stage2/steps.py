"""阶段 2 的测试共用的几步。"""

from __future__ import annotations

from collections import defaultdict

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Frame, Person, delivery, send

QUEUE = "message_delivery_queue"
WORKERS = ("worker-1", "worker-2")


def url_of(house: House, person: Person, gateway: str = "gateway") -> str:
    return house[gateway].ws_url(person.user_id)


async def post(house: House, sender: Person, to: list[Person], **fields: object) -> str:
    return await send(house["api"].base_url, sender, to, **fields)


async def state_of(house: House, sender: Person, message_id: str) -> Frame:
    """唯一的收件人的那一行。"""
    found = await delivery(house["api"].base_url, sender, message_id)
    return dict(found["recipients"][0])


async def wait_status(house: House, sender: Person, message_id: str, status: str) -> Frame:
    async def reached() -> Frame | None:
        state = await state_of(house, sender, message_id)
        return state if state["status"] == status else None

    state = await eventually(reached, 15)
    assert state is not None
    return state


def add_entry(house: House, entry: str) -> None:
    house.redis.xadd(QUEUE, {"v": "1", "entry": entry})


async def metrics(house: House, part: str) -> dict[str, float]:
    """一个进程此刻的 Prometheus 指标；同名的（标签不同）加在一起。"""
    async with httpx.AsyncClient(base_url=house[part].base_url, trust_env=False) as api:
        text = (await api.get("/metrics")).text
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value
    return dict(found)


async def metric(house: House, part: str, name: str) -> float:
    return (await metrics(house, part))[f"meeting_push_{name}"]
