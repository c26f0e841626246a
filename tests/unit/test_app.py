"""内嵌：应用带着自己的用户、自己的密钥与声明名，用一个普通的 FastAPI 应用承载我们。"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from openapi_spec_validator import validate

from meeting_push import MeetingPush, load_settings
from tests.support.embedded import hosted
from tests.support.eventually import eventually
from tests.support.people import Person, api_of, delivery, device, send

KEY = ec.generate_private_key(ec.SECP256R1())
PUBLIC = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


class Staff:
    """应用自己的用户表。"""

    async def existing_ids(self, user_ids: Sequence[int]) -> set[int]:
        return {user_id for user_id in user_ids if user_id in (7, 8)}


def employee(user_id: int, name: str) -> Person:
    claims = {"uid": user_id, "nick": name, "aud": "shop", "iat": 1, "exp": 4_000_000_000}
    return Person(user_id, name, jwt.encode(claims, KEY, algorithm="ES256"))


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    push = MeetingPush(
        load_settings(
            data_dir=tmp_path / "data",
            jwt_algorithms=["ES256"],
            jwt_public_key=PUBLIC.decode(),
            jwt_audience="shop",
            jwt_claim_user_id="uid",
            jwt_claim_name="nick",
        ),
        directory=Staff(),
    )
    app = FastAPI(lifespan=push.lifespan)

    @app.get("/shop")
    async def shop() -> str:
        return "open"

    async with hosted(push, app) as where:
        yield where


async def test_the_main_job_runs_inside_another_application(address: str) -> None:
    ann, ben = employee(7, "ann"), employee(8, "ben")
    async with device(f"ws://{address}/ws/user/8/messages", ben) as phone:
        message_id = await send(f"http://{address}", ann, [ben], title="hello")
        frame = await phone.next_message()
        assert (frame["message_id"], frame["sender"]) == (message_id, {"id": 7, "name": "ann"})
        await phone.ack(message_id)

        async def delivered() -> bool:
            return bool((await delivery(f"http://{address}", ann, message_id))["delivered"])

        await eventually(delivered)


async def test_the_applications_own_users_decide_who_exists(address: str) -> None:
    async with api_of(f"http://{address}", employee(7, "ann")) as api:
        answer = await api.post(
            "/messages", json={"recipient_ids": [8, 9], "title": "t", "content": ""}
        )
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "unknown_recipients",
        "message": "unknown recipients",
        "temporary": False,
        "details": {"user_ids": [9]},
    }


async def test_bad_input_has_the_contracts_shape_there_too(address: str) -> None:
    async with api_of(f"http://{address}", employee(7, "ann")) as api:
        answers = [
            await api.post("/messages", json={"recipient_ids": "x"}),
            await api.post("/messages", content=b"{", headers={"content-type": "application/json"}),
            await api.get("/messages", headers={"authorization": "Bearer nonsense"}),
        ]
    codes = [answer.json()["error"]["code"] for answer in answers]
    assert codes == ["invalid_input", "invalid_json", "invalid_token"]


async def test_the_host_application_is_left_alone(address: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as api:
        assert (await api.get(f"http://{address}/shop")).json() == "open"
        assert (await api.get(f"http://{address}/nowhere")).json() == {"detail": "Not Found"}


async def test_c4_methods_are_the_contracts_there_too(address: str) -> None:
    """C4: HEAD, a literal path, and all methods of a path."""
    async with api_of(f"http://{address}", employee(7, "ann")) as api:
        head = await api.head("/messages")
        literal = await api.get("/messages/batch")
        other = await api.put("/messages")
    assert (head.status_code, head.content) == (200, b"")
    assert (literal.status_code, literal.headers["allow"]) == (405, "POST")
    assert (other.status_code, other.headers["allow"]) == (405, "GET, HEAD, POST")
    assert other.json()["error"]["code"] == "method_not_allowed"


async def test_c10_the_hosts_own_openapi_tells_the_truth_about_us(address: str) -> None:
    """C10: nobody has to include anything but the router."""
    async with httpx.AsyncClient(trust_env=False) as api:
        document = (await api.get(f"http://{address}/openapi.json")).json()
    validate(document)
    send_one = document["paths"]["/api/v1/messages"]["post"]
    assert send_one["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert set(document["paths"]["/api/v1/messages"]) == {"get", "post"}


async def test_a17_private_json_is_not_stored_there_either(address: str) -> None:
    """A17"""
    async with api_of(f"http://{address}", employee(7, "ann")) as api:
        answer = await api.get("/messages")
    assert answer.headers["cache-control"] == "no-store"
