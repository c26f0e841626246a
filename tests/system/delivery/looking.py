"""从外面看一条消息到哪了。"""

from __future__ import annotations

from typing import Any

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Device, Person, api_of, delivery
from tests.support.server_process import ServerProcess


async def state_of(server: ServerProcess, sender: Person, message_id: str) -> dict[str, Any]:
    """唯一的收件人的状态。"""
    [state] = (await delivery(server.base_url, sender, message_id))["recipients"]
    return dict(state)


async def until(
    server: ServerProcess, sender: Person, message_id: str, status: str, timeout: float = 20
) -> None:
    async def reached() -> bool:
        return bool((await state_of(server, sender, message_id))["status"] == status)

    await eventually(reached, timeout)


async def get(server: ServerProcess, viewer: Person, path: str, **query: Any) -> dict[str, Any]:
    async with api_of(server.base_url, viewer) as api:
        answer = await api.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def failures(server: ServerProcess, admin: Person, user: Person) -> list[dict[str, Any]]:
    """清单里这个用户的。"""
    page = await get(server, admin, "/deliveries/failures", limit=200)
    return [item for item in page["items"] if item["user_id"] == user.user_id]


async def read_attempts(phone: Device, count: int) -> list[tuple[int, int]]:
    """下面几帧的 (attempt, seq)。"""
    frames = [await phone.next_message(20) for _ in range(count)]
    return [(frame["attempt"], frame["seq"]) for frame in frames]


def mailbox_size(house: House, user: Person) -> int:
    return int(house.redis.zcard(house.keys.mailbox(user.user_id)))


def dead_letters(house: House, message_id: str) -> list[str]:
    """死信里属于这条消息的各封的 id。"""
    streams = {house.keys.dead_letter_queue, house.queue_keys.dead_letter}
    letters = [letter for stream in streams for letter in house.redis.xrange(stream)]
    return [str(i) for i, fields in letters if message_id in fields["entry"]]
