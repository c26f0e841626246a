"""任务 1.2、2.1、3.1：进程与 Redis 死去；``test_stage2_integration.py`` 里最后跑：死了的不再起来。

成千上万条消息、几十次 ``kill -9``、每一步的证明：``meeting-push bench chaos``。
"""

from __future__ import annotations

import os
import signal
from collections import Counter

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.pair import closed
from tests.support.people import device

from .steps import QUEUE, WORKERS, post, url_of, wait_status


class Losses:
    async def test_1_2_a_worker_dies_and_nothing_is_lost(self, house: House) -> None:
        """任务 1.2：高可用和故障恢复机制（途中 ``kill -9`` 一个消费者进程：另一个接手）。"""
        alice, bob = await house.people(2)
        async with device(url_of(house, bob), bob) as phone:
            sent = []
            for number in range(30):
                sent.append(await post(house, alice, [bob]))
                if number == 10:
                    house["worker-1"].kill()
            got: Counter[str] = Counter()
            while got.keys() != set(sent):
                frame = await phone.next_message(20)
                got[frame["message_id"]] += 1
                await phone.ack(frame["message_id"])
        # 死在“发布了”与“了结”之间的会以同一个 id 再来（至少一次），至多是它手里的那一批
        assert got.total() - len(sent) <= 1

    async def test_2_1_what_is_queued_survives_redis_and_the_urgent_come_first(
        self, house: House
    ) -> None:
        """任务 2.1：消息持久化（没有工人时排在队里，Redis ``kill -9`` 后还在）；支持优先级队列。"""
        alice, bob, *crowd = await house.people(103)  # 收件人多的才走队列
        workers = [house[name].pid for name in WORKERS if house[name].running]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        # 正阻塞着的读到时之后，才不会再有条目交到它们手里
        await eventually(lambda: house.redis.info("clients")["blocked_clients"] == 0)
        async with device(url_of(house, bob), bob) as phone:
            to = [bob, *crowd]
            ids = [await post(house, alice, to, priority=priority) for priority in (0, 0, 9)]
            lengths = {QUEUE: 2, "priority_message_queue": 1}
            for queue, length in lengths.items():
                await eventually(lambda q=queue, n=length: house.redis.xlen(q) == n)  # type: ignore[misc]
            house.redis_server.restart()
            assert {queue: house.redis.xlen(queue) for queue in lengths} == lengths
            os.kill(workers[-1], signal.SIGCONT)  # 只要一个：两个会分着取，就没有先后了
            got = [(await phone.next_message(20))["message_id"] for _ in ids]
            assert got == [ids[2], ids[0], ids[1]]
            await phone.ack(*ids)
            await wait_status(house, alice, ids[0], "delivered")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)

    async def test_3_1_a_gateway_dies_and_its_users_go_elsewhere(self, house: House) -> None:
        """任务 3.1：系统可用性（一个网关 ``kill -9``：接受不中断，用户改连另一个，一条不少）。"""
        alice, bob = await house.people(2)
        async with device(url_of(house, bob), bob) as phone:
            house["gateway"].kill()
            assert await closed(phone) == 1006
        sent = [await post(house, alice, [bob]) for _ in range(5)]
        async with device(url_of(house, bob, "hasty-gateway"), bob) as again:
            got = {(await again.next_message())["message_id"] for _ in sent}
            await again.ack(*sent)
            assert got == set(sent)
            await wait_status(house, alice, sent[-1], "delivered")
