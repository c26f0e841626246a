"""应用的名册说人怎样称呼、谁看得见谁：收件箱显示名字，按名字写给人；看不见的只有 id。"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import httpx
import jwt
import pytest

from meeting_push import MeetingPush, RestClient, load_settings
from tests.support.embedded import hosted
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET
from tests.system.web.browser import Browser, Page
from tests.system.web.steps import FIRST_ROW, LIVE, photograph

pytestmark = pytest.mark.timeout(240)

PEOPLE: Final = {1: "Ann Lee", 2: "Ben Ray", 3: "Carl Foe", 4: "Ben Ray"}
ANN, BEN, CARL, OTHER_BEN = PEOPLE
HIDDEN: Final = CARL
ROWS: Final = "[...document.querySelectorAll('#delivery-rows tr')]"


@dataclass
class Directory:
    """谁也看不见 ``HIDDEN``；``asked``：问了它什么。"""

    asked: list[str] = field(default_factory=list)

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return set(user_ids) & set(PEOPLE)

    async def names(self, user_ids: Sequence[int]) -> Mapping[int, str]:
        self.asked.append("names")
        return {one: PEOPLE[one] for one in user_ids}

    async def names_seen_by(self, viewer: int, user_ids: Sequence[int]) -> Mapping[int, str]:
        self.asked.append("seen")
        return {one: PEOPLE[one] for one in user_ids if one != HIDDEN}

    async def find_people(self, viewer: int, text: str, limit: int) -> Mapping[int, str]:
        sought = text.lower()
        seen = await self.names_seen_by(viewer, list(PEOPLE))
        return {one: name for one, name in seen.items() if name.lower().startswith(sought)}


class Broken(Directory):
    async def names(self, user_ids: Sequence[int]) -> Mapping[int, str]:
        raise RuntimeError("the database of the application is away")

    names_seen_by = find_people = names  # type: ignore[assignment]


@pytest.fixture
def directory() -> Directory:
    return Directory()


def token(user_id: int, **claims: object) -> str:
    given = {"sub": str(user_id), "iat": 1, "exp": 4_000_000_000, **claims}
    return jwt.encode(given, TEST_JWT_SECRET, "HS256")


@contextlib.asynccontextmanager
async def hosting(
    directory: Directory, redis: RedisServer, prefix: str, folder: Path
) -> AsyncIterator[str]:
    settings = load_settings(
        redis_url=redis.url, key_prefix=prefix, data_dir=folder, jwt_secret=TEST_JWT_SECRET
    )
    async with hosted(MeetingPush(settings, directory=directory)) as address:
        yield f"http://{address}"


@pytest.fixture
async def address(
    directory: Directory, redis7_server: RedisServer, key_prefix: str, tmp_path: Path
) -> AsyncIterator[str]:
    async with hosting(directory, redis7_server, key_prefix, tmp_path) as found:
        yield found


@contextlib.asynccontextmanager
async def api_of(address: str, user_id: int, **claims: object) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {token(user_id, **claims)}"}
    async with httpx.AsyncClient(
        base_url=f"{address}/api/v1", headers=headers, trust_env=False
    ) as api:
        yield api


async def send(api: httpx.AsyncClient, *to: int, title: str = "t") -> str:
    draft = {"recipient_ids": list(to), "title": title, "content": "c"}
    answer = await api.post("/messages", json=draft)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["message_id"])


async def open_as(browser: Browser, address: str, user_id: int, language: str = "en-US") -> Page:
    page = await browser.page(language)
    await page.open(f"{address}/inbox#{urlencode({'token': token(user_id), 'user': user_id})}")
    await page.wait_for(LIVE, 60)
    await page.wait_for("document.querySelector('#list-loading').hidden", 60)
    return page


async def test_senders_and_recipients_have_their_names(
    address: str, directory: Directory, browser: Browser
) -> None:
    async with api_of(address, BEN) as ben, api_of(address, CARL) as carl:
        for number in range(12):
            await send(ben, ANN, title=f"no. {number}")
        page = await open_as(browser, address, ANN)
        await page.wait_for_text(f"{FIRST_ROW} .row-sender", "Ben Ray")
        # 打开时至多看几页（列表、角标、补上的）
        assert directory.asked.count("names") < 6, "one question for a page, not one for a row"
        await send(carl, ANN, title="pushed")
        await page.wait_for_text(f"{FIRST_ROW} .row-title", "pushed")
        await page.wait_for_text(f"{FIRST_ROW} .row-sender", "Carl Foe")
    await page.click("#compose")
    await page.fill("#compose-recipients", "4, Ben R")
    await page.wait_for(
        "document.querySelector('#known-people [value=\"4, Ben Ray (2)\"]') !== null"
    )
    await page.fill("#compose-recipients", "ben ray (2)，ann lee; 4")
    await page.fill("#compose-subject", "To all of you")
    await page.click("#compose-send")
    await page.wait_for(f"{ROWS}.length === 3")
    named = f"{ROWS}.map((row) => row.querySelector('th').textContent)"
    await page.wait_for(f"{named}.join() === 'Ann Lee (you),Ben Ray,Ben Ray'")
    await page.evaluate("globalThis.before = true; location.reload()")
    await page.wait_for("globalThis.before !== true && document.readyState === 'complete'", 60)
    await page.wait_for(LIVE, 60)
    await page.click("#compose")
    await page.wait_for("document.querySelector('#known-people [value=\"Ann Lee\"]') !== null")
    assert page.problems == []


SENT: Final = "[...document.querySelectorAll('#messages .row-sender')]"


async def sent_to(page: Page) -> list[str]:
    """已发送的各行说发给谁，新的在前。"""
    await page.click("[data-view=sent]")
    await page.wait_for("document.querySelectorAll('#messages > li').length === 4")
    said = await page.evaluate(f"{SENT}.map((one) => one.innerText.replace(/\\s+/g, ' '))")
    return list(said)


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
async def test_what_was_sent_says_to_whom(
    address: str, browser: Browser, tmp_path: Path, language: str
) -> None:
    """看得见的人是名字，看不见的是 id；人多的说两个和还有几个。"""
    async with api_of(address, BEN) as ben:
        await send(ben, ANN)
        await send(ben, ANN, OTHER_BEN, CARL)
        await send(ben, *PEOPLE)
        await send(ben, CARL)
    page = await open_as(browser, address, BEN, language)
    shown = {
        "en-US": [
            "To User 3",
            "To Ann Lee, Ben Ray and 2 more",
            "To Ann Lee, User 3, and Ben Ray",
            "To Ann Lee",
        ],
        "zh-CN": [
            "发给 用户 3",
            "发给 Ann Lee、Ben Ray 等 4 人",
            "发给 Ann Lee、用户 3和Ben Ray",
            "发给 Ann Lee",
        ],
    }
    assert await sent_to(page) == shown[language]
    await photograph(page, tmp_path / f"sent-{language}.png")
    assert page.problems == []


async def test_a17_the_sent_list_names_only_whom_the_sender_may_see(
    address: str, directory: Directory
) -> None:
    async with api_of(address, ANN) as ann, api_of(address, 9, role="admin") as admin:
        await send(ann, ANN, BEN, CARL)
        await send(ann, CARL)
        directory.asked.clear()
        items = (await ann.get("/messages/sent")).json()["items"]
        carl = {"user_id": CARL, "name": None}
        known = [{"user_id": one, "name": PEOPLE[one]} for one in (ANN, BEN)]
        assert [one["recipients"] for one in items] == [[carl], [*known, carl]]
        assert directory.asked == ["seen"], "one question for a page"
        assert (await admin.get("/messages/sent")).json()["items"] == []


async def test_a17_sending_to_somebody_does_not_tell_his_name(
    address: str, directory: Directory
) -> None:
    async with api_of(address, ANN) as ann, api_of(address, 9, role="admin") as admin:
        message = await send(ann, ANN, BEN, CARL)
        directory.asked.clear()
        state = (await ann.get(f"/messages/{message}/delivery")).json()
        assert [one["name"] for one in state["recipients"]] == ["Ann Lee", "Ben Ray", None]
        assert directory.asked == ["seen"]
        async with RestClient(address, token(ANN)) as sdk:
            report = await sdk.delivery(message)
        assert [one.name for one in report.recipients] == ["Ann Lee", "Ben Ray", None]
        found = (await ann.get("/people", params={"q": ["ben", "carl"]})).json()["items"]
        assert found == [
            {"user_id": BEN, "name": "Ben Ray"},
            {"user_id": OTHER_BEN, "name": "Ben Ray"},
        ]
        state = (await admin.get(f"/messages/{message}/delivery")).json()
        assert [one["name"] for one in state["recipients"]] == ["Ann Lee", "Ben Ray", "Carl Foe"]


async def test_a17_searching_for_people_has_a_rate_and_a_grammar(address: str) -> None:
    async with api_of(address, ANN) as ann:
        refused = [
            (await ann.get("/people", params=params)).status_code
            for params in ({}, {"q": ""}, {"q": "x" * 65}, {"q": ["x"] * 21}, {"q": "\0"})
        ]
        assert refused == [422] * 5
        answers = [await ann.get("/people", params={"q": ["x"] * 20}) for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200, 429}
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert limited.json()["error"]["code"] == "rate_limited"
        assert "retry-after" in limited.headers
    async with httpx.AsyncClient(base_url=f"{address}/api/v1", trust_env=False) as nobody:
        assert (await nobody.get("/people", params={"q": "x"})).status_code == 401


async def test_a_directory_that_fails_leaves_the_ids(
    redis7_server: RedisServer, key_prefix: str, tmp_path: Path
) -> None:
    async with (
        hosting(Broken(), redis7_server, key_prefix, tmp_path) as address,
        api_of(address, ANN) as ann,
    ):
        message = await send(ann, ANN, BEN)
        page = (await ann.get("/messages")).json()
        assert page["items"][0]["sender"] == {"id": ANN, "name": ""}
        state = (await ann.get(f"/messages/{message}/delivery")).json()
        assert [one["name"] for one in state["recipients"]] == [None, None]
        [item] = (await ann.get("/messages/sent")).json()["items"]
        assert item["recipients"] == [{"user_id": one, "name": None} for one in (ANN, BEN)]
        assert (await ann.get("/people", params={"q": "ben"})).json() == {"items": []}
