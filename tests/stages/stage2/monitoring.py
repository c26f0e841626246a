"""任务 3.2：监控；``test_stage2_integration.py`` 里跑，用那里的服务器。"""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.house import House
from tests.support.people import Frame, api_of, device, register, send

from .steps import metrics


class Monitoring:
    @pytest.mark.parametrize(
        ("part", "names"),
        [
            ("gateway", "connections connections_opened_total push_latency_seconds_count"),
            (
                "gateway",
                "frames_pushed_total bytes_pushed_total acks_total ack_latency_seconds_count",
            ),
            ("gateway", "connected_users heartbeats_total auth_failures_total bad_frames_total"),
            ("gateway", "canary_round_trip_seconds canary_missed_total presence_pending seats"),
            ("gateway", "retries_total retry_claims_dropped_total no_acks_total"),
            (
                "worker-1",
                "entries_taken_total delivered_total reached_total consumer_failures_total",
            ),
            ("worker-1", "claimed_total entries_poisoned_total recipients_ended_total"),
            ("api", "meetings meeting_connections meeting_frames_pushed_total"),
        ],
    )
    async def test_3_2_prometheus_has_the_core_and_business_figures(
        self, house: House, part: str, names: str
    ) -> None:
        """任务 3.2：系统监控指标全面覆盖（推送、连接、Redis、队列、业务）；Prometheus端点。"""
        found = await metrics(house, part)
        resources = {
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
        }
        assert resources | {f"meeting_push_{name}" for name in names.split()} <= found.keys()

    @pytest.mark.parametrize(
        ("part", "names"),
        [
            ("api", "http_requests_total http_request_duration_seconds_count"),
            ("api", "messages_accepted_total recipients_ended_total recipients_acked_total"),
            ("gateway", "disconnects_total abnormal_disconnects_total live_pushes_total"),
            ("gateway", "live_acks_in_time_total due_pushes_total unacked_oldest_age_seconds"),
            ("worker-1", "recipients_delivered_total delivery_failures_total dead_letters"),
            ("worker-1", "queue_length queue_oldest_age_seconds queue_fill_ratio online_users"),
            ("worker-1", "redis_up redis_round_trip_seconds_count redis_pool_connections"),
            ("worker-1", "redis_memory_used_bytes redis_aof_enabled redis_replication_lag_bytes"),
            ("worker-1", "database_up database_round_trip_seconds_count database_wait_seconds_sum"),
            (
                "worker-1",
                "resource_usage_ratio event_loop_lag_seconds_count gc_pause_seconds_sum",
            ),
            ("worker-1", "part_failing loop_restarts_total build_info processes"),
        ],
    )
    async def test_3_2_the_figures_of_all_parts_are_told(
        self, house: House, part: str, names: str
    ) -> None:
        """任务 3.2：系统监控指标全面覆盖（REST、断开、Redis、SQL、主机、队列、结局）。"""
        wanted = {f"meeting_push_{name}" for name in names.split()}

        async def told() -> bool:
            found = await metrics(house, part)
            return wanted <= {name.partition("{")[0] for name in found}

        await eventually(told, 15)

    async def test_3_2_user_activity_is_told(self, house: House) -> None:
        """任务 3.2：业务监控指标（用户活跃度：各窗口里来过的人，每小时发了多少、收到多少）。"""
        admin = await house.admin()
        ann, bob = [await register(house["api"].base_url, name) for name in ("ann", "bob")]
        async with device(house["gateway"].ws_url(bob.user_id), bob) as phone:
            await send(house["api"].base_url, ann, [bob])
            await phone.ack((await phone.next_message())["message_id"])

            async def told() -> bool:
                async with api_of(house["api"].base_url, admin) as api:
                    activity = (await api.get("/stats")).json()["activity"]
                active, now = activity["active_users"], activity["hours"][-1]
                return bool(min(active.values()) and now["sent"] and now["received"])

            await eventually(told, 20)

    async def test_3_2_a_part_without_redis_is_unready_and_recovers_alone(
        self, house: House
    ) -> None:
        """任务 3.2：自动恢复（Redis 不在：要靠它的部分不就绪，都说出原因；回来后自己好）。

        ``api`` 仍就绪：SQL 收得下它接受的，Redis 写在 ``degraded`` 里。
        """

        async def report(part: str) -> httpx.Response:
            async with httpx.AsyncClient(base_url=house[part].base_url, trust_env=False) as api:
                return await api.get("/readyz", timeout=10)

        house.redis_server.kill()
        try:
            for part in house.servers:

                async def unready(part: str = part) -> bool:
                    answer = await report(part)
                    status, where = (200, "degraded") if part == "api" else (503, "failing")
                    return answer.status_code == status and "redis" in answer.json()[where]

                await eventually(unready, 10)
        finally:
            house.redis_server.start()
        for part in house.servers:

            async def ready(part: str = part) -> bool:
                answer = await report(part)
                return answer.status_code == 200 and not answer.json()["degraded"]

            await eventually(ready, 20)

    async def test_3_2_one_question_shows_the_whole_cluster(self, house: House) -> None:
        """任务 3.2：监控仪表板的数据（``GET /stats``：每个进程、在线用户、速率、延迟、队列）。"""
        admin = await house.admin()

        async def everybody() -> Frame | None:
            async with api_of(house["api"].base_url, admin) as api:
                seen = (await api.get("/stats")).json()
            roles = Counter(node["role"] for node in seen["nodes"])
            return dict(seen) if roles >= Counter(gateway=2, worker=2, api=1) else None

        seen = await eventually(everybody, 10)
        assert seen is not None
        assert seen.keys() >= {
            "online_users",
            "connections",
            "per_s",
            "latency_ms",
            "queues",
            "drops",
        }
