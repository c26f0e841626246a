"""抹掉一个人，人归应用时：id 是一段字的、只有整数的；令牌仍由应用签着也进不来。"""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import jwt
import pytest

from meeting_push import MeetingPush, load_settings
from tests.support.embedded import hosted
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer
from tests.support.server_process import TEST_JWT_SECRET

pytestmark = pytest.mark.timeout(300)


def bearer(person: object, role: str = "user") -> dict[str, str]:
    now = int(time.time())
    claims = {"sub": str(person), "role": role, "iat": now, "exp": now + 900}
    token = jwt.encode(claims, TEST_JWT_SECRET, algorithm="HS256")
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("person", ["ann@example.com", 4_321])
async def test_the_application_erases_one_of_its_people(
    tmp_path: Path, redis7_server: RedisServer, key_prefix: str, person: object
) -> None:
    given = {"redis_url": redis7_server.url, "key_prefix": key_prefix, "data_dir": tmp_path}
    push = MeetingPush(load_settings(**given, jwt_secret=TEST_JWT_SECRET))
    letter = {"recipient_ids": [person], "title": "t", "content": ""}
    async with (
        hosted(push) as address,
        httpx.AsyncClient(base_url=f"http://{address}/api/v1", trust_env=False) as api,
    ):
        sent = await api.post("/messages", json=letter, headers=bearer(7))
        assert sent.status_code == 202, sent.text
        root = bearer(1, "admin")
        assert (await api.delete("/users/never-seen", headers=root)).status_code == 404
        gone = await api.delete(f"/users/{person}", headers=root)
        assert gone.status_code == 204, gone.text

        async def refused() -> bool:
            theirs = await api.get("/messages", headers=bearer(person))
            return theirs.status_code == 401 and theirs.json()["error"]["code"] == "revoked"

        await eventually(refused, 30)
        again = await api.post("/messages", json=letter, headers=bearer(7))
        assert again.json()["error"]["code"] == "unknown_recipients", again.text
        assert (await api.delete(f"/users/{person}", headers=root)).status_code == 204
