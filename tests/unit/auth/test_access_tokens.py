"""访问令牌：签发、验证，以及各种伪造。"""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import hmac
import json
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from meeting_push.auth import access_tokens
from meeting_push.auth.access_tokens import AccessTokens, RevocableCredentials, RevocationList
from meeting_push.auth.tickets import WsTickets
from meeting_push.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidTokenError,
    TokenExpiredError,
    TokenNotYetValidError,
    TokenRevokedError,
)
from meeting_push.model import Principal, Revocation
from meeting_push.settings import load_settings
from tests.support.clocks import WallClock
from tests.support.garbage import left_behind

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000_000
NOW_S = NOW // 1000
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

CLAIMS: dict[str, Any] = {
    "sub": "42",
    "role": "user",
    "name": "alice",
    "aud": "meeting-push",
    "iat": NOW_S,
    "exp": NOW_S + 60,
}


@pytest.fixture
def clock() -> WallClock:
    return WallClock(NOW)


def verifier(clock: Callable[[], int] = lambda: NOW, **options: Any) -> AccessTokens:
    settings = load_settings(jwt_secret=SecretStr(SECRET), **options).auth
    return AccessTokens(settings, SECRET, clock)


def signed(key: Any = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims = {k: v for k, v in (CLAIMS | changes).items() if v is not ...}
    return jwt.encode(claims, key, algorithm)


def segment(value: object) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def handmade(header: object, payload: object, key: bytes = SECRET.encode()) -> str:
    """自己拼、自己签：PyJWT 不肯造的那些也造得出来。"""
    signing_input = segment(header) + b"." + segment(payload)
    signature = hmac.new(key, signing_input, hashlib.sha256).digest()
    return (signing_input + b"." + segment(signature)).decode()


async def test_an_issued_token_says_who_it_is() -> None:
    tokens = verifier()
    token = tokens.issue(42, "admin", "alice", 60, "family")
    principal = await tokens.verify_access_token(token)
    assert principal.token_id
    assert principal == Principal(
        user_id=42,
        role="admin",
        issued_at=NOW,
        expires_at=NOW + 60_000,
        session_id="family",
        token_id=principal.token_id,
        name="alice",
    )


async def test_the_time_of_issue_keeps_its_milliseconds(clock: WallClock) -> None:
    clock.now = NOW + 123
    tokens = verifier(clock)
    token = tokens.issue(42, "user", "", 60)
    assert (await tokens.verify_access_token(token)).issued_at == NOW + 123


@pytest.mark.parametrize("token", ["no.such.token", signed("x" * 32), signed(exp=...)])
async def test_a_bad_token_leaves_no_cycles(token: str) -> None:
    """环里的帧会拖着等它的那条连接，直到垃圾回收（3.12、3.13 上：gh-100964，2025-12 才修好）。"""
    tokens = verifier()
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(InvalidTokenError):
            await tokens.verify_access_token(token)
        assert left_behind((jwt.PyJWTError, InvalidTokenError, FrameType)) == {}
    finally:
        gc.enable()


@pytest.mark.parametrize("value", ["42", 42])
async def test_the_user_id_may_be_a_number_or_its_digits(value: object) -> None:
    token = handmade({"alg": "HS256"}, CLAIMS | {"sub": value})
    assert (await verifier().verify_access_token(token)).user_id == 42


async def test_claim_names_are_those_of_the_application() -> None:
    tokens = verifier(
        jwt_claim_user_id="uid",
        jwt_claim_role="grp",
        jwt_claim_name="nick",
        jwt_claim_session="s",
    )
    token = signed(sub=..., role=..., name=..., uid=7, grp="admin", nick="bob", s="x")
    principal = await tokens.verify_access_token(token)
    assert (principal.user_id, principal.role, principal.name) == (7, "admin", "bob")
    assert principal.session_id == "x"
    issued = await tokens.verify_access_token(tokens.issue(8, "user", "eve", 9, "y"))
    assert (issued.user_id, issued.session_id) == (8, "y")


@pytest.mark.parametrize(
    ("claim", "claims", "role"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["x", "admin"]}}, "admin"),
        ("realm_access.roles", {"realm_access": {"roles": ["recorder"]}}, "recorder"),
        ("realm_access.roles", {"realm_access": {"roles": ["x", {}, 5]}}, "user"),
        ("realm_access.roles", {"realm_access": {}}, "user"),
        ("realm_access.roles", {"realm_access": ["roles"]}, "user"),
        ("realm_access.role", {"realm_access": {"role": "admin"}}, "admin"),
        ("roles", {"roles": ["admin"]}, "admin"),
        ("https://shop.example/role", {"https://shop.example/role": "admin"}, "admin"),
    ],
)
async def test_f1_a_role_may_be_deep_inside_and_one_of_several(
    claim: str, claims: dict[str, Any], role: str
) -> None:
    """F1: 别处签发的令牌照它自己的样子。"""
    token = signed(role=..., **claims)
    principal = await verifier(jwt_claim_role=claim).verify_access_token(token)
    assert principal.role == role


async def test_f1_the_user_id_may_be_deep_inside() -> None:
    tokens = verifier(jwt_claim_user_id="user.id", jwt_claim_name="user.nick")
    token = signed(sub="auth0|x", name=..., user={"id": 7, "nick": "bob"})
    principal = await tokens.verify_access_token(token)
    assert (principal.user_id, principal.name) == (7, "bob")


@pytest.mark.parametrize("claim", ["sub", "iat", "exp", "aud"])
async def test_f1_a_missing_claim_is_named(claim: str) -> None:
    changes: dict[str, Any] = {claim: ...}
    with pytest.raises(InvalidTokenError, match=f"^the token has no {claim}$"):
        await verifier().verify_access_token(signed(**changes))


async def test_f1_a_missing_claim_is_named_as_the_setting_has_it() -> None:
    with pytest.raises(InvalidTokenError, match=r"^the token has no user\.id$"):
        await verifier(jwt_claim_user_id="user.id").verify_access_token(signed(user={}))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSA_KEY, "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "key",
)
async def test_f7_a_public_key_alone_is_enough(key: Any, algorithm: str) -> None:
    """F7: 别人的公钥放上就能用，不必再说算法；对称的从此不收。"""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    tokens = verifier(jwt_public_key=pem.decode())
    token = signed(key, algorithm, aud="anything")
    assert (await tokens.verify_access_token(token)).user_id == 42
    for forged in (signed(), handmade({"alg": "HS256"}, CLAIMS, pem)):
        with pytest.raises(InvalidTokenError):
            await tokens.verify_access_token(forged)


async def test_without_role_and_name_it_is_a_nameless_user() -> None:
    principal = await verifier().verify_access_token(signed(role=..., name=...))
    assert (principal.role, principal.name, principal.session_id) == ("user", "", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": True},
        {"sub": 1.0},
        {"sub": 0},
        {"sub": -1},
        {"sub": 2**53},  # C8：JavaScript 读不准的 id
        {"sub": 2**63},
        {"sub": "0"},
        {"sub": "01"},
        {"sub": "-1"},
        {"sub": "+1"},
        {"sub": " 1"},
        {"sub": "1.0"},
        {"sub": "١"},
        {"sub": "9" * 19},
        {"sub": "9" * 5000},
        {"sub": ""},
        {"sub": None},
        {"sub": [1]},
        {"sub": {"id": 1}},
        {"sub": ...},
        {"exp": ...},
        {"exp": None},
        {"exp": True},
        {"exp": "9999999999"},
        {"exp": [1]},
        {"exp": -1},
        {"exp": 0},
        {"exp": 10**30},
        {"iat": ...},
        {"iat": "now"},
        {"iat": False},
        {"nbf": "later"},
        {"nbf": None},
        {"aud": ...},
        {"aud": "someone-else"},
        {"aud": ["someone-else"]},
        {"aud": 5},
        {"aud": {}},
        {"aud": ""},
        {"role": 1},
        {"role": ["admin"]},
        {"name": {"x": 1}},
        {"name": "x" * 257},
        {"name": "nul\0"},
        {"sid": 5},
        {"jti": 5},
    ],
    ids=lambda changes: str(changes)[:40],
)
async def test_a_well_signed_token_with_a_nonsense_claim_is_invalid(
    changes: dict[str, Any],
) -> None:
    claims = {k: v for k, v in (CLAIMS | changes).items() if v is not ...}
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(handmade({"alg": "HS256"}, claims))


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000])
async def test_numbers_that_are_no_time_are_invalid(number: bytes) -> None:
    payload = json.dumps(CLAIMS).encode().replace(str(NOW_S + 60).encode(), number)
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(handmade({"alg": "HS256"}, payload))


async def test_an_expired_token_is_told_apart(clock: WallClock) -> None:
    tokens = verifier(clock)
    token = signed()
    clock.now = NOW + 70_000 - 1  # 容许 10 秒的时钟偏差
    await tokens.verify_access_token(token)
    clock.now = NOW + 70_000
    with pytest.raises(TokenExpiredError):
        await tokens.verify_access_token(token)


async def test_a_token_that_was_verified_before_still_expires(clock: WallClock) -> None:
    tokens = verifier(clock)
    token = signed()
    assert await tokens.verify_access_token(token) is await tokens.verify_access_token(token)
    clock.now = NOW + 3_600_000
    with pytest.raises(TokenExpiredError):
        await tokens.verify_access_token(token)


async def test_a_verified_token_is_not_good_before_the_time_it_was_verified(
    clock: WallClock,
) -> None:
    """钟倒走了：记着的不算数，照样看还没有到时候。"""
    tokens = verifier(clock)
    token = signed(nbf=NOW_S)
    await tokens.verify_access_token(token)
    clock.now = NOW - 60_000
    with pytest.raises(TokenNotYetValidError):
        await tokens.verify_access_token(token)


async def test_a_revoked_token_is_refused_though_it_was_verified_before() -> None:
    """SEC-1: 记着验过的，不记着没有吊销。"""
    revoked = RevocationList()
    credentials = RevocableCredentials(verifier(), cast(WsTickets, None), revoked)
    token = signed(jti="one")
    await credentials.verify_access_token(token)
    revoked.add(Revocation(42, 0, NOW + 60_000, token_id="one"))
    with pytest.raises(TokenRevokedError):
        await credentials.verify_access_token(token)
    with pytest.raises(TokenRevokedError):
        credentials.verify_at_once(token)


async def test_only_so_many_verified_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """最久没用的先忘：再来时重新验，得到另一个身份对象。"""
    monkeypatch.setattr(access_tokens, "_CACHE_ENTRIES", 2)
    tokens = verifier()
    used, unused, new = [signed(jti=jti) for jti in ("used", "unused", "new")]
    first = {token: await tokens.verify_access_token(token) for token in (used, unused)}
    await tokens.verify_access_token(used)
    await tokens.verify_access_token(new)
    assert await tokens.verify_access_token(used) is first[used]
    assert await tokens.verify_access_token(unused) is not first[unused]


async def test_a_forged_expired_token_is_invalid_not_expired() -> None:
    token = signed("another secret of thirty-two bytes!!", exp=NOW_S - 3600)
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(token)


async def test_an_expired_token_for_somebody_else_is_invalid_not_expired() -> None:
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(signed(aud="x", exp=NOW_S - 3600))


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_is_not_valid_before_its_time(claim: str) -> None:
    """C5: 几分钟之内是钟差，另有其错；更早的就是无效。"""
    header = {"alg": "HS256"}
    await verifier().verify_access_token(handmade(header, CLAIMS | {claim: NOW_S + 10}))
    for early_s in (11, 300):
        with pytest.raises(TokenNotYetValidError):
            await verifier().verify_access_token(
                handmade(header, CLAIMS | {claim: NOW_S + early_s})
            )
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(handmade(header, CLAIMS | {claim: NOW_S + 301}))


async def test_a_token_that_was_too_early_is_taken_when_its_time_has_come(clock: WallClock) -> None:
    """C5: 钟差不是令牌的错。"""
    tokens = verifier(clock)
    token = signed(iat=NOW_S + 11)
    with pytest.raises(TokenNotYetValidError):
        await tokens.verify_access_token(token)
    clock.now = NOW + 1_000
    assert (await tokens.verify_access_token(token)).user_id == 42


async def test_the_issuer_must_match_when_one_is_set() -> None:
    tokens = verifier(jwt_issuer="https://id.example")
    await tokens.verify_access_token(tokens.issue(1, "user", "", 60))
    await tokens.verify_access_token(signed(iss="https://id.example"))
    for wrong in ({}, {"iss": "https://evil.example"}, {"iss": ["https://id.example"]}):
        with pytest.raises(InvalidTokenError):
            await tokens.verify_access_token(handmade({"alg": "HS256"}, CLAIMS | wrong))


@pytest.mark.parametrize("name", ["none", "None", "NONE", ""])
async def test_a_token_without_a_signature_is_invalid(name: str) -> None:
    unsigned = b".".join([segment({"alg": name, "typ": "JWT"}), segment(CLAIMS), b""]).decode()
    for tokens in (verifier(), verifier(jwt_algorithms=("HS256", "HS512"))):
        with pytest.raises(InvalidTokenError):
            await tokens.verify_access_token(unsigned)


async def test_an_algorithm_that_is_not_allowed_is_invalid() -> None:
    key = SECRET * 2
    tokens = AccessTokens(load_settings().auth, key, lambda: NOW)
    await tokens.verify_access_token(signed(key))
    with pytest.raises(InvalidTokenError):
        await tokens.verify_access_token(signed(key, "HS512"))


@pytest.mark.parametrize("algorithms", [("RS256",), ("RS256", "HS256"), ("HS256", "RS256")])
async def test_the_public_key_is_never_taken_for_a_secret(algorithms: tuple[str, ...]) -> None:
    tokens = verifier(jwt_algorithms=algorithms, jwt_public_key=RSA_PEM.decode())
    await tokens.verify_access_token(signed(RSA_KEY, "RS256"))
    for key in (RSA_PEM, RSA_PEM.strip(), RSA_PEM.replace(b"\n", b"")):
        with pytest.raises(InvalidTokenError):
            await tokens.verify_access_token(handmade({"alg": "HS256"}, CLAIMS, key))


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", RSA_KEY),
        ("PS256", RSA_KEY),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["RS256", "PS256", "ES256", "EdDSA"],
)
async def test_public_key_algorithms_verify_tokens_of_others(algorithm: str, key: Any) -> None:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for written in (pem, pem.replace("\n", "\\n")):
        tokens = verifier(jwt_algorithms=(algorithm,), jwt_public_key=written)
        assert (await tokens.verify_access_token(signed(key, algorithm))).user_id == 42


async def test_previous_secrets_verify_but_never_sign() -> None:
    old, new = SECRET, "f" * 32
    tokens = AccessTokens(
        load_settings(jwt_previous_secrets=(old, "e" * 32)).auth, new, lambda: NOW
    )
    for secret in (old, new, "e" * 32):
        assert (await tokens.verify_access_token(signed(secret))).user_id == 42
    with pytest.raises(InvalidTokenError):
        await tokens.verify_access_token(signed("d" * 32))
    issued = tokens.issue(42, "user", "", 60)
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(issued)


async def test_a_well_signed_token_of_a_previous_secret_is_still_checked() -> None:
    tokens = AccessTokens(load_settings(jwt_previous_secrets=(SECRET,)).auth, "f" * 32, lambda: NOW)
    with pytest.raises(InvalidTokenError, match="Audience"):
        await tokens.verify_access_token(signed(aud="someone-else"))


async def test_an_empty_session_is_no_session() -> None:
    principal = await verifier().verify_access_token(signed(sid="", jti=""))
    assert (principal.session_id, principal.token_id) == (None, None)


async def test_without_a_secret_no_token_can_be_issued() -> None:
    tokens = verifier(jwt_algorithms=("RS256",), jwt_public_key=RSA_PEM.decode())
    with pytest.raises(ConfigurationError):
        tokens.issue(1, "user", "", 60)


@pytest.mark.parametrize(
    "options",
    [
        {"jwt_algorithms": ()},
        {"jwt_algorithms": ("none",)},
        {"jwt_algorithms": ("HS999",)},
        {"jwt_algorithms": ("RS256",)},
        {"jwt_algorithms": ("RS256",), "jwt_public_key": "nonsense"},
        {"jwt_algorithms": ("ES256",), "jwt_public_key": RSA_PEM.decode()},
        {"jwt_algorithms": ("EdDSA",), "jwt_public_key": RSA_PEM.decode()},
        {"jwt_algorithms": ("RS256",), "jwt_jwks_url": "file:///etc/passwd"},
        {"jwt_public_key": "nonsense"},
    ],
    ids=[
        *("none given", "none", "HS999", "no key", "no PEM", "EC with RSA", "Ed with RSA"),
        *("file", "no PEM, no algorithm"),
    ],
)
def test_keys_that_can_not_work_are_refused_at_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        verifier(**options)


@pytest.mark.parametrize("secret", [None, "", RSA_PEM.decode()])
def test_a_missing_or_public_secret_is_refused(secret: str | None) -> None:
    with pytest.raises(ConfigurationError):
        AccessTokens(load_settings().auth, secret)
    with pytest.raises(ConfigurationError):
        AccessTokens(load_settings(jwt_previous_secrets=(secret or "",)).auth, SECRET)


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b.c", "é", "\ud800", "\0", "eyJ.e30.x", " " * 100, signed() + "."],
    ids=ascii,
)
async def test_what_is_not_a_token_is_invalid(token: str) -> None:
    for tokens in (verifier(), verifier(jwt_algorithms=("HS256", "HS384"))):
        with pytest.raises(InvalidTokenError):
            await tokens.verify_access_token(token)


@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe",
        b"[" * 2000,
        [],
        {},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": {}},
        {"alg": "HS256", "kid": 5},
        {"alg": "HS256", "crit": ["x"], "x": 1},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
    ],
    ids=lambda header: str(header)[:30],
)
async def test_a_signed_token_with_a_nonsense_header_is_invalid(header: object) -> None:
    for tokens in (verifier(), verifier(jwt_algorithms=("HS256", "HS384"))):
        with pytest.raises(InvalidTokenError):
            await tokens.verify_access_token(handmade(header, CLAIMS))


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"null", b"1", b"[" * 3000, b""])
async def test_a_signed_token_with_a_nonsense_payload_is_invalid(payload: bytes) -> None:
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(handmade({"alg": "HS256"}, payload))


async def test_a_token_of_more_than_8_kb_is_refused_unread() -> None:
    token = signed(padding="x" * 8192)
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(token)


@given(st.text(max_size=200))
async def test_no_text_at_all_is_more_than_an_invalid_token(token: str) -> None:
    with pytest.raises(AuthenticationError):
        await verifier(jwt_algorithms=("HS256", "HS384")).verify_access_token(token)


@given(st.integers(0, 300), st.integers(0, 63))
async def test_no_changed_character_goes_unnoticed(position: int, letter: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = signed()
    position %= len(token)
    changed = token[:position] + alphabet[letter] + token[position + 1 :]
    if changed == token:
        return
    with pytest.raises(InvalidTokenError):
        await verifier().verify_access_token(changed)


@given(
    st.dictionaries(
        st.sampled_from([*CLAIMS, "iss", "nbf", "jti"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=2),
    )
)
async def test_the_short_cut_takes_nothing_that_the_library_refuses(changes: Any) -> None:
    """捷径只会说“是”；它说“是”的，PyJWT 也要说“是”，读出来的也一样。"""
    tokens = verifier()
    token = handmade({"alg": "HS256", "typ": "JWT"}, CLAIMS | changes)
    found = tokens._plain_claims(token)
    if found is not None:
        assert found == await tokens._signed_claims(token)


def test_the_short_cut_takes_an_ordinary_token() -> None:
    assert verifier()._plain_claims(signed()) == CLAIMS


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS512"},
        {"alg": "none"},
        {"alg": "HS256", "kid": 1},
        [],
    ],
)
def test_the_short_cut_leaves_an_unusual_header_to_the_library(header: object) -> None:
    assert verifier()._plain_claims(handmade(header, CLAIMS)) is None


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("junk", ["=", "!", "\n", "+"])
def test_the_short_cut_leaves_an_unusual_encoding_to_the_library(part: int, junk: str) -> None:
    parts = signed().split(".")
    parts[part] += junk
    assert verifier()._plain_claims(".".join(parts)) is None


async def test_sec_2_no_error_quotes_the_token() -> None:
    token = signed("another secret of thirty-two bytes!!")
    with pytest.raises(InvalidTokenError) as caught:
        await verifier().verify_access_token(token)
    assert not any(part in str(caught.value) for part in token.split("."))


# ── 吊销名单 ─────────────────────────────────────────────────────────────────


def bearer(user_id: int = 7) -> Principal:
    return Principal(user_id, "user", NOW, NOW + 600_000, "s", "t")


@pytest.mark.parametrize(
    ("revocation", "covered"),
    [
        (Revocation(7, NOW), True),
        (Revocation(7, NOW - 1), False),
        (Revocation(8, NOW), False),
        (Revocation(7, NOW - 1, NOW, session_id="s"), True),
        (Revocation(7, NOW, NOW, session_id="other"), False),
        (Revocation(8, NOW, NOW, session_id="s"), False),
        (Revocation(7, NOW - 1, NOW, token_id="t"), True),
        (Revocation(7, NOW, NOW, token_id="other"), False),
    ],
)
def test_the_list_covers_what_a_revocation_covers(revocation: Revocation, covered: bool) -> None:
    known = RevocationList()
    assert known.add(revocation)
    assert known.covers(bearer()) == revocation.covers(bearer()) == covered


def test_learning_it_twice_or_late_is_no_news() -> None:
    known = RevocationList()
    for revocation in (Revocation(7, NOW), Revocation(7, NOW, NOW, session_id="s")):
        assert known.add(revocation)
        assert not known.add(revocation)
    assert not known.add(Revocation(7, NOW - 1))


def test_the_list_forgets_sessions_and_tokens_that_have_expired_but_never_users() -> None:
    known = RevocationList()
    known.add(Revocation(7, NOW, NOW + 1, session_id="s"))
    known.add(Revocation(8, NOW))
    known.forget(NOW)
    assert known.covers(bearer(7))
    known.forget(NOW + 1)
    assert not known.covers(bearer(7))
    assert known.covers(bearer(8))
