"""告警的 REST：一个真的节点，规则由真的事触发。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from ulid import ULID

from meeting_push import MeetingPush, load_settings
from meeting_push.app import create_app
from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.errors import ConfigurationError
from meeting_push.monitoring.alerts.desk import TAKEN_AT_ONCE
from meeting_push.monitoring.alerts.model import Alert
from meeting_push.router import alerts_manage, json_body
from meeting_push.storage.alerts import AlertRepository, AlertRow
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.running_node import Node, running_node
from tests.support.server_process import TEST_JWT_SECRET

RULES = """
rules:
  authentication_failures_high: {threshold: 1, window_s: 60}
"""
Items = list[dict[str, Any]]


@pytest.fixture
async def node(
    tmp_path: Path, embedded_redis_server: RedisServer, key_prefix: str
) -> AsyncIterator[Node]:
    rules = tmp_path / "alerts.yml"
    rules.write_text(RULES)
    settings: dict[str, Any] = {"alerts": rules, "alerts_interval_s": 0.05}
    async with running_node(tmp_path, embedded_redis_server.url, key_prefix, **settings) as running:
        yield running


@contextlib.asynccontextmanager
async def api_of(
    node: Node, role: str, name: str, user_id: int = 1
) -> AsyncIterator[httpx.AsyncClient]:
    token = AccessTokens(node.push.settings.auth, TEST_JWT_SECRET).issue(user_id, role, name, 600)
    transport = httpx.ASGITransport(app=create_app(node.push))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://node/api/v1",
        headers={"authorization": f"Bearer {token}"},
    ) as api:
        yield api


@pytest.fixture
async def api(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(node, "admin", "ann") as one:
        yield one


async def listed(api: httpx.AsyncClient, **query: str) -> Items:
    answer = await api.get("/alerts", params=query)
    assert answer.status_code == 200, answer.text
    items: Items = answer.json()["items"]
    return items


def sent(name: str, status: str = "firing", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": name, **labels},
        "annotations": {"summary": f"{name} is bad", "value": "12.5"},
        "startsAt": "2027-01-15T08:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "c0ffee",
    }


async def from_alertmanager(api: httpx.AsyncClient, *alerts: dict[str, Any]) -> httpx.Response:
    body = {"version": "4", "groupKey": "{}", "status": "firing", "alerts": list(alerts)}
    return await api.post("/alerts/alertmanager", json=body)


@pytest.fixture
async def alert(api: httpx.AsyncClient) -> dict[str, Any]:
    """一条在触发的。"""
    assert (await from_alertmanager(api, sent("DiskFull", severity="page"))).status_code == 200
    (one,) = await listed(api)
    return one


async def test_a_fault_fires_and_is_listed(api: httpx.AsyncClient) -> None:
    for _ in range(3):
        await api.get("/alerts", headers={"authorization": "Bearer nonsense"})

    async def fired() -> Items:
        return await listed(api, state="firing")

    (one,) = await eventually(fired)
    assert (one["rule"], one["state"], one["threshold"]) == (
        "authentication_failures_high",
        "firing",
        1,
    )
    assert one["value"] >= 2
    assert one["runbook"] == "runbook/authentication_failures_high.md"
    assert "failed authentications" in one["summary"]
    assert await listed(api, state="resolved") == []


async def test_the_summary_is_in_the_readers_language(
    api: httpx.AsyncClient, alert: dict[str, Any]
) -> None:
    chinese = await api.get("/alerts/rules", headers={"accept-language": "zh-CN,zh;q=0.9"})
    english = await api.get("/alerts/rules", headers={"accept-language": "en"})
    summaries = [answer.json()["items"][0]["summary"] for answer in (chinese, english)]
    assert "成功率" in summaries[0]
    assert "success" in summaries[1]


async def test_the_rules_in_force_are_listed(api: httpx.AsyncClient) -> None:
    items = (await api.get("/alerts/rules")).json()["items"]
    changed = {one["rule"]: one for one in items}["authentication_failures_high"]
    assert (changed["threshold"], changed["window_s"]) == (1, 60)
    assert changed["expression"].endswith("> 1")


async def test_who_acknowledged_is_written_down(
    api: httpx.AsyncClient, alert: dict[str, Any]
) -> None:
    path = f"/alerts/{alert['alert_id']}/acknowledge"
    answer = await api.post(path, json={"text": "on it"})
    assert answer.json()["acknowledged_by"] == "ann"
    assert [(n["by"], n["text"]) for n in answer.json()["notes"]] == [("ann", "on it")]
    again = await api.post(path, json={})
    assert again.json()["acknowledged_at"] == answer.json()["acknowledged_at"]
    assert (await listed(api))[0] == again.json()


async def test_a_silence_has_an_end(api: httpx.AsyncClient, alert: dict[str, Any]) -> None:
    path = f"/alerts/{alert['alert_id']}/silence"
    silenced = (await api.post(path, json={"for_s": 60})).json()["silenced_until"]
    ended = (await api.post(path, json={"for_s": 0})).json()["silenced_until"]
    assert 0 < silenced - ended <= 60_000


async def test_notes_are_kept_in_order(api: httpx.AsyncClient, alert: dict[str, Any]) -> None:
    path = f"/alerts/{alert['alert_id']}/notes"
    await api.post(path, json={"text": "第一条"})
    answer = await api.post(path, json={"text": "<b>second</b>"})
    assert {n["text"] for n in answer.json()["notes"]} == {"第一条", "<b>second</b>"}


async def test_what_alertmanager_sends_is_recorded(alert: dict[str, Any]) -> None:
    assert alert["rule"] == "DiskFull"
    assert alert["severity"] == "critical"
    assert alert["summary"] == "DiskFull is bad"
    assert alert["labels"] == {"source": "alertmanager"}
    assert alert["value"] == 12.5
    assert alert["started_at"] == 1_800_000_000_123


async def test_alertmanager_repeats_itself_without_harm(
    api: httpx.AsyncClient, alert: dict[str, Any]
) -> None:
    await from_alertmanager(api, sent("DiskFull", severity="page"), sent("DiskFull", disk="b"))
    assert len(await listed(api)) == 2


async def test_alertmanager_says_when_it_is_over(
    api: httpx.AsyncClient, alert: dict[str, Any]
) -> None:
    over = sent("DiskFull", "resolved", severity="page")
    assert (await from_alertmanager(api, over)).json() == {"firing": 0, "resolved": 1}
    (one,) = await listed(api, state="resolved")
    assert one["alert_id"] == alert["alert_id"]


async def test_the_evaluator_does_not_resolve_what_alertmanager_sent(
    api: httpx.AsyncClient, alert: dict[str, Any]
) -> None:
    for _ in range(3):
        await api.get("/alerts", headers={"authorization": "Bearer nonsense"})

    async def evaluated() -> bool:
        return len(await listed(api, state="firing")) == 2

    await eventually(evaluated)
    assert alert["alert_id"] in {one["alert_id"] for one in await listed(api, state="firing")}


async def test_a_test_notice_goes_to_a_channel_that_exists(api: httpx.AsyncClient) -> None:
    assert (await api.post("/alerts/test", json={"channel": "log"})).status_code == 204
    assert (await api.post("/alerts/test", json={"channel": "pager"})).status_code == 404


async def test_pages_meet(api: httpx.AsyncClient) -> None:
    await from_alertmanager(api, *(sent("DiskFull", disk=str(n)) for n in range(5)))
    found, cursor = list[str](), ""
    while True:
        page = (await api.get("/alerts?limit=2" + cursor)).json()
        found += [one["alert_id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(found) == len(set(found)) == 5
    assert found == sorted(found, reverse=True)


BAD: list[tuple[str, Any, int]] = [
    ("/alerts/{id}/acknowledge", {"text": ""}, 422),
    ("/alerts/{id}/acknowledge", {"who": "me"}, 422),
    ("/alerts/{id}/silence", {}, 422),
    ("/alerts/{id}/silence", {"for_s": -1}, 422),
    ("/alerts/{id}/silence", {"for_s": 10**9}, 422),
    ("/alerts/{id}/notes", {"text": "x" * 4_001}, 422),
    ("/alerts/nothing/notes", {"text": "x"}, 422),
    (f"/alerts/{ULID()}/notes", {"text": "x"}, 404),
    (f"/alerts/{ULID()}/acknowledge", {}, 404),
    (f"/alerts/{ULID()}/silence", {"for_s": 1}, 404),
    ("/alerts/alertmanager", {}, 422),
    ("/alerts/alertmanager", {"alerts": [{"status": "firing", "labels": {}}]}, 422),
    ("/alerts/alertmanager", {"alerts": [sent("x", "pending")]}, 422),
    ("/alerts/alertmanager", {"alerts": [{**sent("x"), "startsAt": "yesterday"}]}, 422),
    ("/alerts/alertmanager", {"alerts": [sent("x", a="b" * 5_000)]}, 422),
    ("/alerts/alertmanager", {"alerts": [sent("x")] * 1_001}, 422),
    ("/alerts/alertmanager", {"alerts": [sent("x", a="b" * 4_000)] * 300}, 413),
]


async def test_bad_input_is_refused(api: httpx.AsyncClient, alert: dict[str, Any]) -> None:
    answered = [
        (await api.post(path.replace("{id}", alert["alert_id"]), json=body)).status_code
        for path, body, _ in BAD
    ]
    assert answered == [status for *_, status in BAD]


async def test_a_bad_query_is_refused(api: httpx.AsyncClient) -> None:
    for query in ("state=broken", "cursor=1", "limit=0"):
        assert (await api.get(f"/alerts?{query}")).status_code == 422


async def test_a_thousand_alerts_at_once_are_recorded(api: httpx.AsyncClient) -> None:
    many = [sent("x", n=str(n)) for n in range(1_000)]
    assert (await from_alertmanager(api, *many)).json()["firing"] == 1_000
    page = (await api.get("/alerts?limit=200")).json()
    assert len(page["items"]) == 200


async def test_alerts_many_alerts_are_taken_in_piece_by_piece(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """一千条一个事务、一口气造出来，就是别人等着的几十毫秒。"""
    made, written, pieces = 0, 0, list[int]()
    record, make = AlertRepository.record, alerts_manage._alert_of

    def making(*given: Any) -> Alert:
        nonlocal made
        made += 1
        return make(*given)

    async def recording(self: AlertRepository, rows: Sequence[AlertRow]) -> None:
        nonlocal written
        pieces.append(made - written)
        written += len(rows)
        await record(self, rows)

    monkeypatch.setattr(alerts_manage, "_alert_of", making)
    monkeypatch.setattr(AlertRepository, "record", recording)
    await from_alertmanager(api, *(sent("x", n=str(n)) for n in range(2 * TAKEN_AT_ONCE + 1)))
    assert pieces == [TAKEN_AT_ONCE, TAKEN_AT_ONCE, 1]


async def test_alerts_one_administrators_alerts_are_bounded(
    node: Node, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """每一条都是库里的一行：攒着的用完了 429，别的管理员照常。"""
    monkeypatch.setattr(json_body, "now_ms", lambda: 0)
    many = [sent("x", n=str(n), a="b" * 4_000) for n in range(200)]
    answers = [await from_alertmanager(api, *many) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert "retry-after" in answers[-1].headers
    async with api_of(node, "admin", "eve", user_id=2) as another:
        assert (await from_alertmanager(another, sent("y"))).status_code == 200
        some = [sent("x", n=str(n), a="b" * 4_000) for n in range(15)]
        small = [await from_alertmanager(another, *some) for _ in range(36)]
    assert {one.status_code for one in small} == {200, 429}  # 许多小的也是许多


async def test_only_for_administrators(node: Node) -> None:
    one = ULID()
    asked = ["alertmanager", "test", *(f"{one}/{do}" for do in ("acknowledge", "silence", "notes"))]
    async with api_of(node, "user", "bob") as api:
        answers = [await api.get("/alerts"), await api.get("/alerts/rules")]
        answers += [await api.post(f"/alerts/{path}", json={}) for path in asked]
    assert [answer.status_code for answer in answers] == [403] * 7


def test_a_bad_file_is_said_before_anything_starts(tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yml"
    rules.write_text("rules: {sun_down: {}}")
    settings = load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1", alerts=rules)
    with pytest.raises(ConfigurationError, match="unknown rule sun_down"):
        MeetingPush(settings)


async def test_an_alert_tells_its_story(api: httpx.AsyncClient, alert: dict[str, Any]) -> None:
    """触发、认领、静音、备注、恢复：谁、何时、次序。"""
    path = f"/alerts/{alert['alert_id']}"
    await api.post(f"{path}/acknowledge", json={})
    silenced = (await api.post(f"{path}/silence", json={"for_s": 60})).json()
    await api.post(f"{path}/notes", json={"text": "looking"})
    await from_alertmanager(api, sent("DiskFull", "resolved", severity="page"))
    story = (await api.get(path)).json()
    assert story["alert_id"] == alert["alert_id"]
    timeline = [one for one in story["timeline"] if one["kind"] != "notice"]
    assert sorted(one["kind"] for one in timeline) == sorted(
        ["fired", "acknowledged", "silenced", "note", "resolved"]
    )
    assert [one["at"] for one in timeline] == sorted(one["at"] for one in timeline)
    by = {one["kind"]: one for one in timeline}
    assert {by[kind]["by"] for kind in ("acknowledged", "silenced", "note")} == {"ann"}
    assert by["silenced"]["until"] == silenced["silenced_until"]
    assert by["note"]["text"] == "looking"
    assert story["figures"] == []


async def test_a_notice_is_in_the_story_and_so_are_the_curves(api: httpx.AsyncClient) -> None:
    for _ in range(3):
        await api.get("/alerts", headers={"authorization": "Bearer nonsense"})

    async def told() -> dict[str, Any] | None:
        for one in await listed(api, state="firing"):
            found = (await api.get(f"/alerts/{one['alert_id']}")).json()
            if any(event["kind"] == "notice" for event in found["timeline"]):
                return dict(found)
        return None

    story = await eventually(told)
    assert story
    (notice,) = [one for one in story["timeline"] if one["kind"] == "notice"]
    assert (notice["channel"], notice["state"], notice["ok"]) == ("log", "firing", True)
    assert story["figures"] == ["auth_failures_per_s", "closes_per_s"]


async def test_there_is_no_story_of_what_never_was(api: httpx.AsyncClient) -> None:
    assert (await api.get(f"/alerts/{ULID()}")).status_code == 404
