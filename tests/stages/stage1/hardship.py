"""任务 4.2：兼容性与异常场景；``test_stage1_integration.py`` 里跑，用那里的服务器。"""

from __future__ import annotations

import asyncio

from tests.support.crowd import crowd
from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Person, api_of, delivery, device, send
from tests.support.server_process import ServerProcess


class Compatibility:
    async def test_4_2_the_message_api_works_as_before(self, house: House) -> None:
        """任务 4.2 兼容性：现有消息API功能不受影响（收件箱、翻页、单条、未读、已读）。"""
        server = house["main"]
        alice, bob = await house.people(2)
        ids = [await send(server.base_url, alice, [bob], title=f"第 {n} 条") for n in range(3)]
        async with api_of(server.base_url, bob) as api:
            first = (await api.get("/messages", params={"limit": 2})).json()
            rest = (await api.get("/messages", params={"cursor": first["next_cursor"]})).json()
            got = [item["message_id"] for page in (first, rest) for item in page["items"]]
            assert (got, first["unread_count"]) == (ids[::-1], 3)
            assert (await api.get(f"/messages/{ids[0]}")).json()["title"] == "第 0 条"
            read = await api.post("/messages/read", json={"upto_message_id": ids[1]})
            assert read.json() == {"unread_count": 1}
            unread = (await api.get("/messages", params={"unread": True})).json()["items"]
            assert [item["message_id"] for item in unread] == [ids[2]]

    async def test_4_2_redis_and_the_database_agree(self, house: House) -> None:
        """任务 4.2 兼容性：Redis缓存和数据库一致性（一个确认了，一个没有：两边说的一样）。"""
        server = house["main"]
        alice, bob, carol = await house.people(3)
        message_id = await send(server.base_url, alice, [bob, carol])
        async with device(server.ws_url(bob.user_id), bob) as phone:
            await phone.next_message()
            await phone.ack(message_id)
            await eventually(lambda: not house.redis.exists(f"offline_messages:{{{bob.user_id}}}"))
        cached = dict(house.redis.hgetall(f"message_delivery_status:{message_id}"))
        recorded = await delivery(server.base_url, alice, message_id)
        states = {row["user_id"]: row for row in recorded["recipients"]}
        status, _, delivered_at = cached[f"u:{bob.user_id}"].split(":")
        assert (cached["total"], f"u:{carol.user_id}" in cached) == ("2", False)
        assert (status, int(delivered_at)) == ("delivered", states[bob.user_id]["delivered_at"])
        assert states[carol.user_id]["status"] == "pending"
        assert house.redis.zcard(f"offline_messages:{{{carol.user_id}}}") == 1


class Hardship:
    async def test_4_2_a_cut_line_resumes_where_it_was(self, house: House) -> None:
        """任务 4.2 异常：网络断开和重连（带着位置回来：其后的按序补上，之前的不再来）。"""
        server = house["main"]
        alice, bob = await house.people(2)
        async with device(server.ws_url(bob.user_id), bob) as phone:
            seen = await send(server.base_url, alice, [bob])
            position = await phone.next_message()
            await phone.ack(seen)
            await phone.round_trip()
            phone.socket.transport.abort()
        missed = [await send(server.base_url, alice, [bob]) for _ in range(3)]
        await eventually(lambda: house.redis.zcard(f"offline_messages:{{{bob.user_id}}}") == 3)
        epoch, last_seq = phone.welcome["epoch"], position["seq"]
        url = server.ws_url(bob.user_id, epoch=epoch, last_seq=last_seq)
        async with device(url, bob) as again:
            assert again.welcome["resumed"] is True
            got = [await again.next_message() for _ in missed]
            assert {frame["message_id"] for frame in got} == set(missed)
            assert [frame["seq"] for frame in got] == [last_seq + 1, last_seq + 2, last_seq + 3]
            await again.round_trip()
            assert not again.has_message()

    async def test_4_2_redis_dies_and_comes_back(self, house: House) -> None:
        """任务 4.2 异常：Redis服务异常和恢复（连接还在，照样接受，回来后送到，在线状态恢复）。"""
        server = house["main"]
        alice, bob = await house.people(2)
        async with device(server.ws_url(bob.user_id), bob) as phone:
            await eventually(lambda: house.redis.exists(f"online_users:{{{bob.user_id}}}"))
            house.redis_server.kill()
            message_id = await send(server.base_url, alice, [bob])
            await phone.round_trip()
            house.redis_server.start()
            frame = await phone.next_message(20)
            assert frame["message_id"] == message_id
            await phone.ack(message_id)

            async def delivered() -> bool:
                return bool((await delivery(server.base_url, alice, message_id))["delivered"] == 1)

            await eventually(delivered, 20)
            async with api_of(server.base_url, bob) as api:
                assert (await api.get(f"/presence/users/{bob.user_id}")).json()["online"] is True

    async def test_4_2_many_send_at_once(self, house: House) -> None:
        """任务 4.2 异常：高并发消息推送（10 人同时各发 10 条给 20 人：不重不漏，按序）。"""
        server = house["main"]
        senders, recipients = await house.people(10), await house.people(20)
        async with crowd((server, person) for person in recipients) as devices:
            bursts = await asyncio.gather(*(_burst(server, each, recipients) for each in senders))
            sent = {message_id for burst in bursts for message_id in burst}
            for one in devices:
                frames = [await one.next_message(20) for _ in sent]
                assert {frame["message_id"] for frame in frames} == sent
                assert [frame["seq"] for frame in frames] == list(range(1, len(sent) + 1))
                await one.ack(*sent)
            await asyncio.gather(*(one.round_trip() for one in devices))
            assert not any(one.has_message() for one in devices)

    async def test_4_2_permissions_are_checked(self, house: House) -> None:
        """任务 4.2 异常：认证失败和权限验证（REST：没有令牌、不是管理员、别人的消息与信箱）。"""
        server = house["main"]
        alice, bob, eve = await house.people(3)
        message_id = await send(server.base_url, alice, [bob])
        nobody = Person(0, "", "nonsense")
        expected = [
            (nobody, "/messages", 401),
            (eve, f"/messages/{message_id}", 404),
            (bob, f"/messages/{message_id}/delivery", 404),
            (eve, f"/users/{bob.user_id}/offline-messages", 403),
            (eve, "/presence/online", 403),
            (eve, "/stats", 403),
            (alice, f"/messages/{message_id}/delivery", 200),
        ]
        for person, path, status in expected:
            async with api_of(server.base_url, person) as api:
                assert ((await api.get(path)).status_code, path) == (status, path)

    async def test_2_2_what_a_killed_node_held_is_cleaned_up(self, house: House) -> None:
        """任务 2.2：自动清理任务正常运行（节点 ``kill -9``：租约一到期，它的连接从 Redis 里消失）。

        最后一个：``impatient`` 从此不在。默认的时限与 2,000 条连接：``make test-full-size``。
        """
        [bob] = await house.people(1)
        async with device(house["impatient"].ws_url(bob.user_id), bob):
            await eventually(lambda: house.redis.exists(f"online_users:{{{bob.user_id}}}"))
            house["impatient"].kill()
        await eventually(lambda: not house.redis.exists(f"online_users:{{{bob.user_id}}}"), 10)
        assert house.redis.zscore("online_users_set", str(bob.user_id)) is None


async def _burst(server: ServerProcess, sender: Person, to: list[Person]) -> list[str]:
    body = {"recipient_ids": [one.user_id for one in to], "title": "t", "content": "c"}
    async with api_of(server.base_url, sender) as api:
        answers = [await api.post("/messages", json=body) for _ in range(10)]
    return [str(answer.json()["message_id"]) for answer in answers]
