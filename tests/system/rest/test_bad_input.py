"""坏输入，从外面：每个字段的每种坏法都得到 contract 的码，什么都没有保存，进程活着。"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.accounts import resident
from tests.support.people import Person, api_of, delivery, device, register, send
from tests.support.server_process import TEST_JWT_SECRET, ServerProcess

GOOD: dict[str, Any] = {"title": "t", "content": "c"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("bad-input")) as process:
        yield process


@pytest.fixture(scope="module")
def alice(server: ServerProcess) -> Person:
    return asyncio.run(register(server.base_url, "alice"))  # 一次：注册有它的上限


@pytest.fixture
async def bob(server: ServerProcess) -> Person:
    return await resident(server.database_url, "bob")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"recipient_ids": []}, 422, "invalid_input"),
        ({"recipient_ids": ["01"]}, 422, "invalid_input"),
        ({"recipient_ids": [True]}, 422, "invalid_input"),
        ({"recipient_ids": [1.5]}, 422, "invalid_input"),
        ({"recipient_ids": [0]}, 422, "invalid_input"),
        ({"recipient_ids": [-1]}, 422, "invalid_input"),
        ({"recipient_ids": [2**63]}, 422, "invalid_input"),
        ({"recipient_ids": [10**12]}, 422, "unknown_recipients"),
        ({"recipient_ids": list(range(1, 10_002))}, 413, "payload_too_large"),
        ({"recipient_ids": None}, 422, "invalid_input"),
        ({"title": ""}, 422, "invalid_input"),
        ({"title": "   "}, 422, "invalid_input"),
        ({"title": 5}, 422, "invalid_input"),
        ({"title": "x" * 201}, 422, "invalid_input"),
        ({"title": "nul\x00"}, 422, "invalid_input"),
        ({"title": None}, 422, "invalid_input"),
        ({"content": "x" * (64 * 1024 + 1)}, 413, "payload_too_large"),
        ({"content": "字" * (64 * 1024 // 3 + 1)}, 413, "payload_too_large"),
        ({"content": ["c"]}, 422, "invalid_input"),
        ({"message_type": "shout"}, 422, "invalid_input"),
        ({"priority": 10}, 422, "invalid_input"),
        ({"priority": -1}, 422, "invalid_input"),
        ({"priority": "9"}, 422, "invalid_input"),
        ({"priority": 1.5}, 422, "invalid_input"),
        ({"priority": 10.0}, 422, "invalid_input"),
        ({"expires_in_s": 0}, 422, "invalid_input"),
        ({"expires_in_s": 10**12}, 422, "invalid_input"),
        ({"deliver_at": -1}, 422, "invalid_input"),
        ({"deliver_at": 10**18}, 422, "invalid_input"),
        ({"data": [1]}, 422, "invalid_input"),
        ({"data": {"x": "y" * 20_000}}, 413, "payload_too_large"),
        ({"data": {"x": "\x00"}}, 422, "invalid_input"),
        ({"receipt": "yes"}, 422, "invalid_input"),
        ({"surprise": 1}, 422, "invalid_input"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_bad_field_is_refused_and_nothing_is_stored(
    server: ServerProcess,
    alice: Person,
    bob: Person,
    change: dict[str, Any],
    status: int,
    code: str,
) -> None:
    body = {"recipient_ids": [bob.user_id], **GOOD, **change}
    async with api_of(server.base_url, bob) as api:
        before = (await api.get("/messages", params={"limit": 1})).json()
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages", json=body)
    async with api_of(server.base_url, bob) as api:
        after = (await api.get("/messages", params={"limit": 1})).json()
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert after == before


async def test_one_unknown_recipient_refuses_the_whole_message(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    body = {**GOOD, "title": "half", "recipient_ids": [bob.user_id, 777_777]}
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages", json=body)
    async with api_of(server.base_url, bob) as api:
        titles = [m["title"] for m in (await api.get("/messages")).json()["items"]]
    assert answer.json()["error"]["details"] == {"user_ids": [777_777]}
    assert "half" not in titles


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"title": "\xff"}',
        b'{"recipient_ids": [1], "title": "\\ud800", "content": ""}',
        b'{"recipient_ids": [1e400], "title": "t", "content": ""}',
        b'{"recipient_ids": [NaN], "title": "t", "content": ""}',
        b"[" * 100_000,
        b'{"recipient_ids": [' + b"9" * 5_000 + b'], "title": "t", "content": ""}',
    ],
    ids=lambda raw: repr(raw[:24]),
)
async def test_a_broken_body_is_a_client_error(
    server: ServerProcess, alice: Person, raw: bytes
) -> None:
    headers = {"content-type": "application/json"}
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages", content=raw, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["temporary"] is False


async def test_an_endless_body_is_cut_off(server: ServerProcess, alice: Person) -> None:
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages", content=b"x" * (9 * 1024 * 1024))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


async def test_a_bad_idempotency_key_is_refused(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    body = {**GOOD, "recipient_ids": [bob.user_id]}
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages", json=body, headers={"idempotency-key": "x" * 129})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/messages/01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "/messages/01ARZ3NDEKTSV4RRFFQ69G5FAV/delivery",
    ],
)
async def test_what_does_not_exist_is_not_found(
    server: ServerProcess, alice: Person, path: str
) -> None:
    async with api_of(server.base_url, alice) as api:
        answer = await api.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/messages/short",
        "/messages/" + "0" * 25 + "%00",
        "/messages?limit=0",
        "/messages?limit=201",
        "/messages?limit=x",
        "/messages?cursor=%00",
        "/messages?cursor=" + "x" * 65,
    ],
)
async def test_a_bad_query_is_a_client_error(
    server: ServerProcess, alice: Person, path: str
) -> None:
    async with api_of(server.base_url, alice) as api:
        answer = await api.get(path)
    assert 400 <= answer.status_code < 500
    assert "code" in answer.json()["error"]


async def test_sec_1_a_stranger_sees_neither_the_message_nor_its_delivery(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    mallory = await register(server.base_url, "mallory")
    message_id = await send(server.base_url, alice, [bob])
    async with api_of(server.base_url, mallory) as api:
        answers = [
            await api.get(f"/messages/{message_id}"),
            await api.get(f"/messages/{message_id}/delivery"),
        ]
    assert [answer.status_code for answer in answers] == [404, 404]


async def test_sec_1_a_recipient_does_not_see_the_delivery_to_others(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob])
    async with api_of(server.base_url, bob) as api:
        assert (await api.get(f"/messages/{message_id}")).status_code == 200
        assert (await api.get(f"/messages/{message_id}/delivery")).status_code == 404


async def test_sec_1_the_ack_of_a_stranger_changes_nothing(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    mallory = await register(server.base_url, "mallory")
    message_id = await send(server.base_url, alice, [bob])
    async with device(server.ws_url(mallory.user_id), mallory) as phone:
        await phone.ack(message_id)
        await phone.round_trip()
    async with device(server.ws_url(bob.user_id), bob) as phone:
        ids = [(await phone.next_message())["message_id"] for _ in range(phone.welcome["pending"])]
    assert message_id in ids
    assert (await delivery(server.base_url, alice, message_id))["delivered"] == 0


async def test_reading_the_message_of_another_changes_nothing(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message_id = await send(server.base_url, alice, [bob])
    async with api_of(server.base_url, bob) as api:
        before = (await api.get("/messages")).json()["unread_count"]
    async with api_of(server.base_url, alice) as api:
        answer = await api.post("/messages/read", json={"message_ids": [message_id]})
        assert answer.status_code == 200
    async with api_of(server.base_url, bob) as api:
        assert (await api.get("/messages")).json()["unread_count"] == before


def _claims(user_id: int, **changes: Any) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "sub": str(user_id),
        "role": "user",
        "aud": "meeting-push",
        "iat": 1_700_000_000,
        "exp": 4_000_000_000,
    }
    return {k: v for k, v in (claims | changes).items() if v is not None}


def _unsigned(user_id: int) -> str:
    return jwt.encode(_claims(user_id), "", algorithm="none")


def _signed_with_a_public_key(user_id: int) -> str:
    """算法混淆：把 RSA 公钥当成 HMAC 的密钥（PyJWT 自己拒签，所以手工拼）。"""
    import hashlib
    import hmac

    from jwt.utils import base64url_encode

    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    head = base64url_encode(b'{"alg":"HS256","typ":"JWT"}')
    payload = jwt.encode(_claims(user_id), "x" * 32).split(".")[1].encode()
    signature = hmac.new(pem, head + b"." + payload, hashlib.sha256).digest()
    return b".".join((head, payload, base64url_encode(signature))).decode()


@pytest.mark.parametrize(
    ("forge", "code"),
    [
        (lambda user_id: "x", "invalid_token"),
        (lambda user_id: "x.y.z", "invalid_token"),
        (lambda user_id: "é", "invalid_token"),
        (lambda user_id: "a" * 10_000, "invalid_token"),
        (_unsigned, "invalid_token"),
        (_signed_with_a_public_key, "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id), "w" * 32), "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id, aud="x"), TEST_JWT_SECRET), "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id, aud=None), TEST_JWT_SECRET), "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id, exp=None), TEST_JWT_SECRET), "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id, sub="x"), TEST_JWT_SECRET), "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id, sub="-1"), TEST_JWT_SECRET), "invalid_token"),
        (lambda user_id: jwt.encode(_claims(user_id, exp=1), TEST_JWT_SECRET), "token_expired"),
        (lambda user_id: jwt.encode(_claims(user_id, exp=1), "w" * 32), "invalid_token"),
    ],
)
async def test_a_forged_token_is_unauthorised(
    server: ServerProcess, alice: Person, forge: Any, code: str
) -> None:
    headers = {b"authorization": f"Bearer {forge(alice.user_id)}".encode()}
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as api:
        answer = await api.get("/api/v1/messages", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


async def test_sec_2_no_token_appears_in_the_log(server: ServerProcess, alice: Person) -> None:
    async with httpx.AsyncClient(base_url=server.base_url, trust_env=False) as api:
        await api.get(f"/ws/user/{alice.user_id}/messages?token={alice.token}")
        await api.get(f"/nowhere?token={alice.token}", headers=alice.headers)
    async with device(f"{server.ws_url(alice.user_id)}?token={alice.token}", alice):
        pass
    assert alice.token.split(".")[1] not in server.output
    assert alice.token.split(".")[2] not in server.output


def test_garbage_on_the_port_does_not_hurt_the_others(server: ServerProcess) -> None:
    for garbage in (
        b"\x00" * 64,
        b"GET /ws/user/1/messages HTTP/1.1\r\n" + b"a" * 100_000,
        b"\r\n",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
            raw.sendall(garbage)
    assert server.is_ready()


@pytest.mark.parametrize(
    "position",
    [
        {"epoch": "e", "last_seq": "1e3"},
        {"epoch": "e", "last_seq": "-1"},
        {"epoch": "e", "last_seq": "1.0"},
        {"epoch": "e"},
        {"last_seq": "7"},
        {"epoch": "\x00", "last_seq": "7"},
        {"epoch": "e" * 65, "last_seq": "7"},
        {"epoch": "e", "last_seq": "9" * 17},
    ],
    ids=str,
)
async def test_c7_a_malformed_position_gets_the_promised_resync(
    server: ServerProcess, bob: Person, position: dict[str, str]
) -> None:
    async with device(server.ws_url(bob.user_id, **position), bob) as phone:
        await phone.round_trip()
        [resync] = [frame for frame in phone.others if frame["type"] == "resync"]
    assert phone.welcome["resumed"] is False
    assert (resync["reason"], resync["epoch"]) == ("epoch_changed", phone.welcome["epoch"])


async def test_without_a_position_there_is_no_resync(server: ServerProcess, bob: Person) -> None:
    async with device(server.ws_url(bob.user_id, epoch="", last_seq=""), bob) as phone:
        await phone.round_trip()
        assert phone.others == []


async def test_c6_a_body_may_write_whole_numbers_as_floats(
    server: ServerProcess, alice: Person, bob: Person
) -> None:
    message = {**GOOD, "recipient_ids": [float(bob.user_id)], "priority": 1.0, "expires_in_s": 60.0}
    async with api_of(server.base_url, alice) as api:
        assert (await api.post("/messages", json=message)).status_code == 202
        batch = await api.post("/messages/batch", json={"messages": [message]})
        meeting = {"title": "t", "participant_ids": [float(bob.user_id)]}
        opened = await api.post("/meetings", json=meeting)
    assert (batch.status_code, opened.status_code) == (202, 201)
