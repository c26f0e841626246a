"""JWKS：取公钥、轮换、地址取不到。用真的 HTTP 服务器。"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm

from meeting_push.auth.access_tokens import AccessTokens
from meeting_push.auth.keys import COOLDOWN_S, LIFESPAN_S, RETRY_S, Jwks
from meeting_push.errors import InvalidTokenError, VerifierUnavailableError
from meeting_push.settings import load_settings
from tests.support.clocks import Monotonic, WallClock

NOW = 1_800_000_000
KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("a", "b")}


class JwksServer(ThreadingHTTPServer):
    """公布 ``body``；数着被问了几次。"""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = published("a")
        self.status = 200
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/jwks.json"


class _Handler(BaseHTTPRequestHandler):
    server: JwksServer

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        """不写 stderr。"""


def published(*names: str, **extra: Any) -> bytes:
    keys = [
        {**RSAAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True), "kid": name, "alg": "RS256"}
        for name in names
    ]
    return json.dumps({"keys": [*keys, *extra.get("more", [])]}).encode()


def signed(kid: str | None, key: Any = None, algorithm: str = "RS256") -> str:
    claims = {"sub": "42", "aud": "meeting-push", "iat": NOW, "exp": NOW + 60}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, key or KEYS[kid or "a"], algorithm, headers=headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JwksServer]:
    monkeypatch.setenv("no_proxy", "*")
    server = JwksServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clock() -> Monotonic:
    return Monotonic(1000.0)


@pytest.fixture
def jwks(server: JwksServer, clock: Monotonic) -> Jwks:
    return Jwks(server.url, ["RS256", "HS256"], clock=clock)


def tokens(server: JwksServer) -> AccessTokens:
    settings = load_settings(jwt_algorithms=("RS256", "HS256"), jwt_jwks_url=server.url).auth
    return AccessTokens(settings, "0123456789abcdef0123456789abcdef", lambda: NOW * 1000)


async def test_a_token_signed_with_a_published_key_is_accepted(server: JwksServer) -> None:
    assert (await tokens(server).verify_access_token(signed("a"))).user_id == 42


async def test_f7_an_address_of_keys_alone_is_enough(server: JwksServer) -> None:
    """F7: 不必再说算法。"""
    alone = AccessTokens(load_settings(jwt_jwks_url=server.url).auth, None, lambda: NOW * 1000)
    assert (await alone.verify_access_token(signed("a"))).user_id == 42


@pytest.mark.parametrize("kid", ["nobody", None])
async def test_a_token_of_an_unknown_key_is_invalid(server: JwksServer, kid: str | None) -> None:
    with pytest.raises(InvalidTokenError):
        await tokens(server).verify_access_token(signed(kid, KEYS["a"]))


async def test_a_token_that_borrows_the_name_of_a_key_is_invalid(server: JwksServer) -> None:
    with pytest.raises(InvalidTokenError):
        await tokens(server).verify_access_token(signed("a", KEYS["b"]))


async def test_our_own_tokens_are_accepted_beside_the_published_keys(server: JwksServer) -> None:
    both = tokens(server)
    assert (await both.verify_access_token(both.issue(7, "user", "", 60))).user_id == 7


async def test_the_keys_are_fetched_once(server: JwksServer, jwks: Jwks) -> None:
    for _ in range(5):
        await jwks.find("a")
    assert server.asked == 1


async def test_a_new_key_is_found_after_the_rotation(
    server: JwksServer, jwks: Jwks, clock: Monotonic
) -> None:
    await jwks.find("a")
    server.body = published("a", "b")
    clock.now += COOLDOWN_S
    assert (await jwks.find("b")).key_id == "b"


async def test_made_up_key_names_do_not_hammer_the_server(server: JwksServer, jwks: Jwks) -> None:
    for n in range(20):
        with pytest.raises(InvalidTokenError):
            await jwks.find(f"made-up-{n}")
    assert server.asked == 1


async def test_a_withdrawn_key_is_refused_when_the_cache_is_old(
    server: JwksServer, jwks: Jwks, clock: Monotonic
) -> None:
    await jwks.find("a")
    server.body = published("b")
    clock.now += LIFESPAN_S
    with pytest.raises(InvalidTokenError):
        await jwks.find("a")


async def test_a_verified_token_does_not_outlive_its_withdrawn_key(
    server: JwksServer, jwks: Jwks, clock: Monotonic
) -> None:
    """记着验过的，不让撤下的钥匙多用一刻。"""
    wall = WallClock(NOW * 1000)
    verifier = tokens(server)
    verifier._keys._jwks, verifier._clock = jwks, wall
    await jwks.find("a")
    clock.now += LIFESPAN_S - 1
    await verifier.verify_access_token(signed("a"))
    server.body = published("b")
    clock.now += 1
    wall.now += 1_000
    with pytest.raises(InvalidTokenError):
        await verifier.verify_access_token(signed("a"))


async def test_while_the_server_is_down_known_keys_still_work(
    server: JwksServer, jwks: Jwks, clock: Monotonic
) -> None:
    await jwks.find("a")
    server.status = 503
    clock.now += LIFESPAN_S
    assert (await jwks.find("a")).key_id == "a"
    with pytest.raises(VerifierUnavailableError):
        await jwks.find("b")


async def test_a_server_that_comes_up_late_is_asked_again_soon(
    server: JwksServer, jwks: Jwks, clock: Monotonic
) -> None:
    server.status = 503
    with pytest.raises(VerifierUnavailableError):
        await jwks.find("a")
    server.status = 200
    clock.now += RETRY_S
    assert (await jwks.find("a")).key_id == "a"


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"keys": 5}', b"\xff", b"{}"])
async def test_a_nonsense_answer_is_unavailable_not_a_crash(
    server: JwksServer, jwks: Jwks, body: bytes
) -> None:
    server.body = body
    with pytest.raises(VerifierUnavailableError):
        await jwks.find("a")


async def test_a_published_secret_is_never_used(server: JwksServer, jwks: Jwks) -> None:
    secret = {**HMACAlgorithm.to_jwk(b"x" * 32, as_dict=True), "kid": "oct", "alg": "HS256"}
    server.body = published("a", more=[secret])
    with pytest.raises(InvalidTokenError):
        await jwks.find("oct")
