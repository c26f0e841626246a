"""A5：一个用户的令牌能发多少（docs/contract.md“上限”）。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.clock import now_ms
from meeting_push.errors import SendLimitError, TooExpensiveError
from meeting_push.limits.send_limits import Cost, SendLimits, cost_of, least_cost_of
from meeting_push.model import Draft
from tests.support.accounts import sign
from tests.support.people import Person, api_of, register
from tests.support.server_process import ServerProcess

BURST = 100
#: 补得极慢：测试期间等于不补。
SETTINGS = {"sends_per_user_per_s": 0.001, "sends_per_user_burst": BURST}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("limits"), settings=SETTINGS) as process:
        yield process


@pytest.fixture
async def alice(server: ServerProcess, request: pytest.FixtureRequest) -> Person:
    """每个测试一个新人：满的桶。"""
    return await register(server.base_url, f"alice-{abs(hash(request.node.name)) % 10**9}")


@pytest.fixture
async def api(server: ServerProcess, alice: Person) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(server.base_url, alice) as client:
        yield client


def message(alice: Person, **fields: Any) -> dict[str, Any]:
    return {"recipient_ids": [alice.user_id], "title": "t", "content": "c", **fields}


def batch(alice: Person, count: int, **fields: Any) -> dict[str, Any]:
    return {"messages": [message(alice, **fields)] * count}


async def inbox_size(api: httpx.AsyncClient) -> int:
    return int((await api.get("/messages")).json()["unread_count"])


async def test_a5_over_the_limit_is_429_with_retry_after(
    api: httpx.AsyncClient, alice: Person
) -> None:
    assert (await api.post("/messages/batch", json=batch(alice, BURST))).status_code == 202
    answer = await api.post("/messages", json=message(alice))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["temporary"]) == (429, "rate_limited", True)
    assert int(answer.headers["retry-after"]) >= 1


async def test_a5_a_request_is_taken_whole_or_not_at_all(
    api: httpx.AsyncClient, alice: Person
) -> None:
    assert (await api.post("/messages/batch", json=batch(alice, 60))).status_code == 202
    assert (await api.post("/messages/batch", json=batch(alice, 60))).status_code == 429
    assert await inbox_size(api) == 60
    assert (await api.post("/messages/batch", json=batch(alice, 40))).status_code == 202


async def test_a5_dearer_than_the_burst_is_413(api: httpx.AsyncClient, alice: Person) -> None:
    answer = await api.post("/messages/batch", json=batch(alice, BURST + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_expensive")
    assert (await api.post("/messages/batch", json=batch(alice, BURST))).status_code == 202


async def test_a5_each_full_kb_costs_one_more(api: httpx.AsyncClient, alice: Person) -> None:
    dear = message(alice, content="x" * 50 * 1024)  # 1 + 50
    assert (await api.post("/messages", json=dear)).status_code == 202
    assert (await api.post("/messages", json=dear)).status_code == 429


async def test_a5_urgent_messages_have_a_tenth(api: httpx.AsyncClient, alice: Person) -> None:
    for priority in (5, 9):
        urgent = batch(alice, BURST // 20, priority=priority)
        assert (await api.post("/messages/batch", json=urgent)).status_code == 202
    answer = await api.post("/messages", json=message(alice, priority=5))
    assert answer.status_code == 429
    assert answer.json()["error"]["details"]["limit"] == "priority"
    assert (await api.post("/messages", json=message(alice, priority=4))).status_code == 202


async def test_a5_more_urgent_at_once_than_a_tenth_of_the_burst_is_told_so(
    api: httpx.AsyncClient, alice: Person
) -> None:
    answer = await api.post("/messages/batch", json=batch(alice, BURST // 10 + 1, priority=9))
    error = answer.json()["error"]
    assert (answer.status_code, error["details"]["limit"]) == (429, "priority")
    assert error["temporary"] is False


async def test_a5_scheduled_messages_count_too(api: httpx.AsyncClient, alice: Person) -> None:
    tomorrow = now_ms() + 86_400_000
    later = batch(alice, BURST, deliver_at=tomorrow)
    assert (await api.post("/messages/batch", json=later)).status_code == 202
    answer = await api.post("/messages", json=message(alice, deliver_at=tomorrow))
    assert answer.status_code == 429


async def test_a5_asking_people_into_a_meeting_counts_too(
    api: httpx.AsyncClient, alice: Person
) -> None:
    assert (await api.post("/messages/batch", json=batch(alice, BURST))).status_code == 202
    meeting = {"title": "m", "participant_ids": [alice.user_id]}
    assert (await api.post("/meetings", json=meeting)).status_code == 429


async def test_a5_what_is_refused_as_invalid_costs_nothing(
    api: httpx.AsyncClient, alice: Person
) -> None:
    wrong = batch(alice, BURST, title=" ")
    assert (await api.post("/messages/batch", json=wrong)).status_code == 422
    assert (await api.post("/messages/batch", json=batch(alice, BURST))).status_code == 202


async def test_a5_one_senders_limit_is_not_anothers(server: ServerProcess, alice: Person) -> None:
    async with api_of(server.base_url, alice) as api:
        assert (await api.post("/messages/batch", json=batch(alice, BURST))).status_code == 202
    bob = await register(server.base_url, "bob-of-another-limit")
    async with api_of(server.base_url, bob) as api:
        assert (await api.post("/messages", json=message(alice))).status_code == 202


async def test_a5_administrators_are_not_counted(server: ServerProcess, alice: Person) -> None:
    admin = Person(alice.user_id, alice.name, sign(alice.user_id, role="admin"))
    async with api_of(server.base_url, admin) as api:
        answer = await api.post("/messages/batch", json=batch(alice, BURST + 1))
    assert answer.status_code == 202


async def test_a5_zero_is_no_limit(tmp_path: Path) -> None:
    off = {"sends_per_user_per_s": 0, "sends_per_user_burst": 1}
    with ServerProcess(tmp_path, settings=off) as server:
        alice = await register(server.base_url, "alice")
        async with api_of(server.base_url, alice) as api:
            answer = await api.post("/messages/batch", json=batch(alice, 20, priority=9))
    assert answer.status_code == 202


@pytest.mark.parametrize(("size", "units"), [(1, 3), (1023, 3), (1024, 4), (10 * 1024, 13)])
def test_a5_title_content_and_data_are_one_size(size: int, units: int) -> None:
    half = size // 2
    whole = Draft(recipient_ids=(1, 2, 3), title="x" * half, content="y" * (size - half))
    assert cost_of([whole]) == Cost(units, 0)


def test_a5_data_counts_as_its_json() -> None:
    one = Draft(recipient_ids=(1,), title="t", content="", data={"k": "x" * 1015})
    assert cost_of([one]) == Cost(2, 0)  # 1 + len('{"k":"…"}') = 1024


@given(
    recipients=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    title=st.text(min_size=1, max_size=2_000),
    priority=st.integers(0, 9),
)
def test_a5_what_is_known_at_a_glance_is_never_dearer(
    recipients: list[int], title: str, priority: int
) -> None:
    """检查之前凭它拒绝：比真的价钱贵，就会拒绝付得起的人。"""
    given_ids = Draft(recipient_ids=tuple(recipients), title=title, content="c", priority=priority)
    checked = Draft(
        recipient_ids=tuple(dict.fromkeys(recipients)), title=title, content="c", priority=priority
    )
    least, true = least_cost_of([given_ids]), cost_of([checked])
    assert least.units <= true.units
    assert least.urgent <= true.urgent


async def test_a5_what_can_not_be_paid_is_not_checked(
    api: httpx.AsyncClient, alice: Person
) -> None:
    """先问价，再逐条检查：洪水里的一批有几十万个收件人。"""
    wrong = batch(alice, BURST + 1, title=" ")
    assert (await api.post("/messages/batch", json=wrong)).status_code == 413


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 5_000), st.integers(1, 60), st.booleans()), max_size=40
    )
)
def test_a5_never_more_than_the_burst_and_the_rate_whatever_is_asked(
    requests: list[tuple[int, int, bool]],
) -> None:
    per_s, burst = 10, 50
    limits, now, units, urgent = SendLimits(per_s, burst), 0, 0, 0
    for after_ms, amount, is_urgent in requests:
        now += after_ms
        try:
            limits.take(1, Cost(amount, amount if is_urgent else 0), now)
        except TooExpensiveError:
            assert amount > burst
        except SendLimitError:
            continue
        else:
            units += amount
            urgent += amount if is_urgent else 0
        assert units <= burst + per_s * now / 1000 + 1e-6
        assert urgent <= (burst + per_s * now / 1000) / 10 + 1e-6
