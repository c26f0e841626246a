"""握手请求的解析：不可信的文本怎么来都不出错。"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meeting_push.errors import InvalidTokenError
from meeting_push.http.upgrade_request import by_name
from meeting_push.mailbox_model import ResumePoint
from meeting_push.person_id import PersonIds
from meeting_push.websocket.handshake import (
    UNREADABLE_POSITION,
    Device,
    Handshake,
    extract_credential,
    person_in_path,
)
from tests.support.stand_ins import Verifier, authenticator_of


def handshake(query: str = "", **headers: str) -> Handshake:
    named = by_name([(name.replace("_", "-"), value) for name, value in headers.items()])
    return Handshake(1, query, named, "10.0.0.1")


def device(query: str, **headers: str) -> Device:
    return Device.of(handshake(query, **headers), "connection")


@pytest.mark.parametrize(
    "path",
    [
        "/ws/user/1",
        "/ws/user/1/messages/",
        "/ws/user//messages",
        "/ws/user/1/2/messages",
        "/ws/user/0/messages",
        "/ws/user/01/messages",
        "/ws/user/１/messages",
        f"/ws/user/{2**53}/messages",
        "/ws/user/ann/messages",
        "/ws/user/1/messages\n",
    ],
)
def test_other_paths_have_no_user(path: str) -> None:
    assert person_in_path(path, PersonIds()) is None


@pytest.mark.parametrize("path", ["/ws/user/a%2Fb/messages", "/ws/user/a%00/messages"])
def test_not_even_where_ids_are_strings(path: str) -> None:
    assert person_in_path(path, PersonIds(strings=True)) is None


def test_the_user_in_the_path_may_be_percent_encoded() -> None:
    assert person_in_path("/ws/user/%31/messages", PersonIds()) == 1
    ids = PersonIds(strings=True)
    assert person_in_path("/ws/user/ann%40example.org/messages", ids) == "ann@example.org"
    assert person_in_path("/ws/user/ann@example.org/messages", ids) == "ann@example.org"


def test_c8_user_ids_end_where_javascript_still_counts() -> None:
    """C8"""
    assert person_in_path(f"/ws/user/{2**53 - 1}/messages", PersonIds()) == 2**53 - 1


def test_the_device_describes_itself() -> None:
    described = device("device_id=phone&device_info=%E6%89%8B%E6%9C%BA&epoch=e&last_seq=7")
    assert described == Device("phone", "手机", ResumePoint("e", 7))


def test_an_anonymous_device_gets_the_connection_id_and_its_user_agent() -> None:
    assert device("", user_agent="curl/8") == Device("connection", "curl/8", None)


def test_descriptions_are_cleaned_and_cut() -> None:
    described = device(f"device_id={'i' * 99}&device_info=%00%0a%1b[31m{'x' * 999}")
    assert described.device_id == "i" * 64
    assert described.device_info == ("[31m" + "x" * 999)[:256]


def test_the_first_of_repeated_fields_counts() -> None:
    assert device("device_id=a&device_id=b").device_id == "a"


def test_too_many_fields_are_none() -> None:
    assert device("&".join(f"device_id={n}" for n in range(99))).device_id == "connection"


@pytest.mark.parametrize(
    "query",
    ["epoch=e", "last_seq=1", "epoch=e&last_seq=", "epoch=e&last_seq=-1", "epoch=e&last_seq=1.5",
     "epoch=e&last_seq=1e3", "epoch=e&last_seq=+7", "epoch=e&last_seq=0x7", "epoch=e&last_seq=null",
     "epoch=e&last_seq=99999999999999999", "epoch=%00&last_seq=1", "epoch=e&last_seq=%EF%BC%91"],
)  # fmt: skip
def test_c7_a_malformed_resume_point_is_void_not_absent(query: str) -> None:
    assert device(query).resume == UNREADABLE_POSITION


@pytest.mark.parametrize("query", ["", "epoch=&last_seq=", "epoch=", "device_id=phone"])
def test_no_resume_point_is_none(query: str) -> None:
    assert device(query).resume is None


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=9), st.text(max_size=60)))
def test_nothing_in_a_request_raises_anything_but_invalid_token(
    query: str, headers: dict[str, str]
) -> None:
    request = Handshake(1, query, by_name(list(headers.items())), "")
    Device.of(request, "connection")
    authenticator_of(Verifier()).origin_allowed(request)
    try:
        _, token = extract_credential(request)
    except InvalidTokenError:
        return
    assert token.isascii()


def test_the_order_of_the_four_ways() -> None:
    headers = {"authorization": "Bearer h", "sec_websocket_protocol": "x, bearer.p"}
    query = "token=q&ticket=t"
    assert extract_credential(handshake(query, **headers)) == ("header", "h")
    del headers["authorization"]
    assert extract_credential(handshake(query, **headers)) == ("subprotocol", "p")
    assert extract_credential(handshake(query)) == ("ticket", "t")
    assert extract_credential(handshake("token=q", authorization="Basic eDp5")) == ("query", "q")


def test_a_way_that_is_turned_off_is_as_good_as_not_given() -> None:
    request = handshake("token=q", authorization="Bearer h")
    assert extract_credential(request, ["query", "ticket"]) == ("query", "q")
    with pytest.raises(InvalidTokenError, match="no token"):
        extract_credential(request, ["ticket"])


def test_a_huge_token_is_refused_unread() -> None:
    with pytest.raises(InvalidTokenError, match="malformed"):
        extract_credential(handshake(f"token={'x' * 8193}"))


def test_the_handshake_never_shows_its_token() -> None:
    assert "secret" not in repr(handshake("token=secret"))


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("https://A.example", "a.EXAMPLE", True),
        ("http://a.example:8000", "a.example:8000", True),
        ("http://a.example:8000", "a.example", False),
        ("https://evil.example", "a.example", False),
        ("https://a.example.evil.example", "a.example", False),
        ("https://user@a.example", "a.example", False),
        ("null", "a.example", False),
        ("file://", "a.example", False),
        ("https://[", "a.example", False),
        ("", "", False),
    ],
)
def test_same_origin(origin: str, host: str, allowed: bool) -> None:
    authenticator = authenticator_of(Verifier())
    assert authenticator.origin_allowed(handshake(origin=origin, host=host)) is allowed


def test_the_star_allows_everything() -> None:
    request = handshake(origin="null", host="a.example")
    assert authenticator_of(Verifier(), ["*"]).origin_allowed(request)


def test_every_origin_header_must_be_allowed() -> None:
    headers = (("origin", "https://a.example"), ("origin", "https://b.example"))
    request = Handshake(1, "", by_name([*headers, ("host", "a.example")]), "")
    assert not authenticator_of(Verifier()).origin_allowed(request)
