"""API 密钥：认得快，吊销得快，乱猜的打不到数据库上。"""

from __future__ import annotations

import asyncio

import pytest

from meeting_push.auth import api_keys
from meeting_push.auth.access_tokens import RevocableCredentials, RevocationList
from meeting_push.auth.api_keys import LOOKS_PER_S, ApiKeys
from meeting_push.errors import (
    BadKeyError,
    DatabaseUnavailableError,
    InvalidInputError,
    InvalidTokenError,
)
from meeting_push.model import KEY_PREFIX, KeyPrincipal, Principal
from meeting_push.storage.accounts import ApiKey, ApiKeyRepository
from meeting_push.storage.database import Database


class Counted(ApiKeyRepository):
    """数着读了几遍；``away`` 时读不到。"""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.reads = 0
        self.away = False

    async def live(self) -> list[ApiKey]:
        self.reads += 1
        if self.away:
            raise DatabaseUnavailableError("away", cause="timeout")
        return await super().live()


@pytest.fixture
def records(database: Database) -> Counted:
    return Counted(database)


@pytest.fixture
def keys(records: Counted) -> ApiKeys:
    return ApiKeys(records, clock=lambda: 1_000)


def unrecorded() -> ApiKeys:
    """检查在碰数据库之前。"""
    return ApiKeys(None)  # type: ignore[arg-type]


def other(key: str) -> str:
    """样子对，只差一个字符。"""
    return key[:-1] + ("A" if key[-1] != "A" else "B")


async def test_a_key_made_a_moment_ago_is_known(keys: ApiKeys) -> None:
    number, key = await keys.create("  billing ", ["send", "read"])
    found = await keys.verify(key)
    assert (found.user_id, found.key_id, found.name) == (-number, number, "billing")
    assert found.scopes == {"send", "read"}
    assert not found.is_admin
    assert found.sender.id is None
    assert found.sender.name == "billing"


async def test_only_a_hash_is_stored(keys: ApiKeys, records: Counted) -> None:
    _, key = await keys.create("billing", ["send"])
    (row,) = await records.all()
    assert key.startswith(KEY_PREFIX)
    assert key.removeprefix(KEY_PREFIX) not in repr(row)
    assert key.encode() not in row.digest


async def test_a_known_key_costs_no_sql(keys: ApiKeys, records: Counted) -> None:
    _, key = await keys.create("billing", ["send"])
    await keys.verify(key)
    before = records.reads
    for _ in range(100):
        await keys.verify(key)
    assert records.reads == before


async def test_a_revoked_key_is_refused_after_the_next_reading(keys: ApiKeys) -> None:
    number, key = await keys.create("billing", ["send"])
    await keys.verify(key)
    assert await keys.revoke(number)
    await keys.refresh()
    with pytest.raises(BadKeyError):
        await keys.verify(key)


KEY = KEY_PREFIX + "a" * 43


@pytest.mark.parametrize(
    "spoiled",
    [
        KEY[:-1],
        KEY + "A",
        KEY + "\n",
        f"{KEY} {KEY}",
        f"{KEY},{KEY}",
        KEY[:20] + "密" + KEY[21:],
        KEY[:20] + "\x00" + KEY[21:],
        KEY.upper(),
        KEY_PREFIX,
        KEY_PREFIX + "A" * 100_000,
        KEY_PREFIX + "\ud800" * 43,
    ],
    ids=range(11),
)
async def test_what_can_be_no_key_is_refused_without_looking(spoiled: str) -> None:
    with pytest.raises(BadKeyError):
        await unrecorded().verify(spoiled)


async def test_guesses_do_not_reach_the_database(keys: ApiKeys, records: Counted) -> None:
    _, key = await keys.create("billing", ["send"])
    for number in range(200):
        with pytest.raises(BadKeyError):
            await keys.verify(f"{KEY_PREFIX}{number:043d}")
    assert records.reads <= LOOKS_PER_S
    assert (await keys.verify(key)).name == "billing"  # 记得的照认
    with pytest.raises(BadKeyError):
        await keys.verify(other(key))


async def test_many_at_once_share_one_look(keys: ApiKeys, records: Counted) -> None:
    guesses = [keys.verify(f"{KEY_PREFIX}{number:043d}") for number in range(50)]
    refused = await asyncio.gather(*guesses, return_exceptions=True)
    assert all(isinstance(one, BadKeyError) for one in refused)
    assert records.reads == 1


async def test_while_the_record_is_away_known_keys_work_and_others_are_not_called_bad(
    keys: ApiKeys, records: Counted
) -> None:
    _, key = await keys.create("billing", ["send"])
    await keys.verify(key)
    records.away = True
    with pytest.raises(DatabaseUnavailableError):
        await keys.refresh()
    assert (await keys.verify(key)).name == "billing"
    for _ in range(2 * LOOKS_PER_S):
        with pytest.raises(DatabaseUnavailableError):
            await keys.verify(other(key))


async def test_one_who_goes_away_does_not_take_the_look_from_the_others(keys: ApiKeys) -> None:
    _, key = await keys.create("billing", ["send"])
    first, second = [asyncio.create_task(keys.verify(key)) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).name == "billing"


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb", "a\x1b[31m", "a\u202eb"])
async def test_a_name_is_short_and_printable(name: str) -> None:
    with pytest.raises(InvalidInputError):
        await unrecorded().create(name, ["send"])


@pytest.mark.parametrize("scopes", [[], [""], ["send", "root"], ["SEND"]])
async def test_scopes_are_those_there_are(scopes: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="send,broadcast,read,presence,admin"):
        await unrecorded().create("billing", scopes)


async def test_there_is_an_end_to_keys(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 1)
    await keys.create("one", ["send"])
    with pytest.raises(InvalidInputError, match="revoke"):
        await keys.create("two", ["send"])


def key_of(*scopes: object) -> KeyPrincipal:
    role = "admin" if "admin" in scopes else "key"
    return KeyPrincipal(-3, role, 0, 1, scopes=frozenset(scopes))  # type: ignore[arg-type]


def test_admin_may_everything_the_others_only_their_own() -> None:
    assert key_of("admin").may("send")
    assert key_of("admin").reads_all
    assert key_of("read").reads_all
    assert not key_of("send").reads_all
    assert not key_of("read").may("send", "broadcast")
    assert not key_of("send").may()
    assert key_of("admin").may()


class Never:
    """验证者；密钥不该到它手里。"""

    async def verify_access_token(self, token: str) -> Principal:
        raise AssertionError(f"a key was given to the verifier: {token[:4]}")


async def test_a_key_is_no_token_and_is_not_shown_to_the_verifier() -> None:
    """WebSocket、会议、票据、换令牌的帧：都问这里。"""
    credentials = RevocableCredentials(Never(), None, RevocationList())  # type: ignore[arg-type]
    with pytest.raises(InvalidTokenError):
        await credentials.verify_access_token(KEY_PREFIX + "A" * 43)
