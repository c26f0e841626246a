"""C12：真的事件不添出新的计数器：每一个从 0 开始就有。"""

from __future__ import annotations

from pathlib import Path

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from meeting_push.protocol.codes import CloseCode
from tests.support.people import Person, api_of, device, register, send
from tests.support.server_process import ServerProcess


async def families(server: ServerProcess) -> dict[str, Metric]:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        text = (await client.get("/metrics")).text
    return {family.name: family for family in text_string_to_metric_families(text)}


def series(found: dict[str, Metric]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in found.values()
        for sample in family.samples
        if family.type == "counter" and "_created" not in sample.name
    }


async def some_events(server: ServerProcess, alice: Person, bob: Person) -> None:
    """推送、确认、坏帧、拒绝、关闭、门口的拒绝各来一点。"""
    async with device(server.ws_url(bob.user_id), bob) as phone:
        await send(server.base_url, alice, [bob])
        await phone.ack((await phone.next_message())["message_id"])
        await phone.socket.send("not json")
        await phone.round_trip()
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as client:
        await client.get("/x", headers={"a": "b" * 70_000})
    async with api_of(server.base_url, bob) as api:
        await api.post(f"/users/{alice.user_id}/revoke")
        await api.post("/auth/logout")


async def test_c12_every_counter_is_there_before_its_first_event(tmp_path: Path) -> None:
    """C12: otherwise the first event is never an increase."""
    with ServerProcess(tmp_path) as server:
        before = await families(server)
        alice = await register(server.base_url, "alice")
        bob = await register(server.base_url, "bob")
        await some_events(server, alice, bob)
        after = await families(server)
    assert series(after) == series(before)
    codes = {sample.labels["code"] for sample in before["meeting_push_closes"].samples}
    assert codes == {str(int(code)) for code in CloseCode}
