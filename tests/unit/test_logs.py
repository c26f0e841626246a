"""SEC-2：不论哪个库、哪一级，写出去的每一行都没有令牌。"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import loguru
import pytest
from _pytest.logging import LogCaptureHandler

from meeting_push.log_outlet import configure_logging, introduce
from meeting_push.logs import (
    MAX_TRACEBACK_CHARS,
    Outlet,
    RepeatedWarning,
    Said,
    carry,
    counts,
    logger,
    redact,
)
from tests.support.eventually import eventually

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /ws/user/1/messages?token={TOKEN} HTTP/1.1",
        f"?ticket={TOKEN}&device_id=x",
        f"Sec-WebSocket-Protocol: meeting-push.v1, bearer.{TOKEN}",
        f"Authorization: Bearer {TOKEN}",
        f"loose {TOKEN} in a sentence",
        '?token=opaque-secret"',
        "password=opaque-secret",
        "BEARER opaque-secret",
        "loose mpk_opaque-secret_x, pasted",
        '{"key":"mpk_opaque-secret"}',
    ],
)
def test_sec_2_a_token_is_redacted_wherever_it_stands(text: str) -> None:
    cleaned = redact(text)
    assert TOKEN not in cleaned
    assert "opaque-secret" not in cleaned


@pytest.mark.timeout(10)
@pytest.mark.parametrize("part", ["eyJ-", "eyJaaaaa.", "mpk_-", "bearer ", "token="])
def test_sec_2_a_text_made_to_be_slow_is_looked_at_once(part: str) -> None:
    redact(part * 60_000)


def test_what_is_not_secret_stays() -> None:
    assert redact("GET /api/v1/messages?cursor=01ABC took 3 ms") == (
        "GET /api/v1/messages?cursor=01ABC took 3 ms"
    )


@pytest.fixture(autouse=True)
def our_logging_ends_with_the_test() -> Iterator[None]:
    """别的测试的标准库日志（测试里的服务器打印请求头）不再流进 loguru；出口不再是我们的。"""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    loguru.logger.remove()
    Outlet.ours = False
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=[False, True], ids=["text", "json"])
def configured(request: pytest.FixtureRequest) -> None:
    configure_logging("DEBUG", as_json=request.param)


@pytest.mark.usefixtures("configured")
def test_sec_2_neither_messages_nor_fields_nor_exceptions_leak(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger.bind(url=f"/x?token={TOKEN}").info("event")
    logging.getLogger("uvicorn.error").warning("WebSocket /ws?token=%s [accepted]", TOKEN)
    try:
        raise ValueError(f"bad header: bearer {TOKEN}")
    except ValueError as error:
        logger.opt(exception=error).error("failed")
        loguru.logger.exception("said by a library")
    logger.bind(token="opaque-secret").info("event")
    written = capsys.readouterr().err
    assert "event" in written
    assert "[accepted]" in written
    assert "bad header" in written
    assert TOKEN not in written
    assert "opaque-secret" not in written


# ── 伪造与终端（A13） ─────────────────────────────────────────────────────────

#: 换行、ESC、C1 的 CSI、双向控制、行分隔符、孤立代理项。
HOSTILE = "x\n2026-01-01T00:00:00.000Z ERROR   forged\r\x1b[31m\x9b2J\u202e\u2028\udc80\x00"
FORGED = "2026-01-01T00:00:00.000Z"


def from_our_logger() -> None:
    logger.bind(username=HOSTILE).warning("event")


def from_a_message() -> None:
    loguru.logger.warning(HOSTILE)


def from_a_library() -> None:
    logging.getLogger("uvicorn.error").warning("bad path %s", HOSTILE)


def from_an_exception() -> None:
    try:
        try:
            raise KeyError(HOSTILE)
        except KeyError as error:
            raise ValueError(HOSTILE) from error
    except ValueError:
        logger.opt(exception=True).error("failed")


def from_a_library_exception() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("uvicorn.error").exception("broken")


def from_a_repeated_warning() -> None:
    RepeatedWarning("event").say(exception=ValueError(HOSTILE), command=HOSTILE)


SOURCES = [
    from_our_logger,
    from_a_message,
    from_a_library,
    from_an_exception,
    from_a_library_exception,
    from_a_repeated_warning,
]


def _stop_capturing() -> None:
    """pytest 把标准库的日志放进报告，孤立代理项过不了几个测试进程之间的管道。"""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, LogCaptureHandler):
            root.removeHandler(handler)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a13_nobody_forges_a_line_or_reaches_the_terminal(
    source: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A13: 一条记录一行（回溯缩进），没有一个控制符。"""
    _stop_capturing()
    source()
    written = capsys.readouterr().err
    lines = written.split("\n")
    assert all(line.isprintable() for line in lines)
    assert FORGED in written
    assert not [line for line in lines if line.startswith(FORGED)]


@pytest.mark.usefixtures("configured")
def test_a13_json_still_says_exactly_what_was_given(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """A13: 转义不改变意思；文本里字段的值加引号，造不出另一个字段。"""
    logger.bind(username='a b="1" c=2\n\U000e0001').warning("event")
    [line] = capsys.readouterr().err.splitlines()
    if line.startswith("{"):
        assert json.loads(line)["username"] == 'a b="1" c=2\n\U000e0001'
    else:
        assert line.endswith(r'username="a b=\"1\" c=2\n\U000e0001"')


@pytest.mark.parametrize("source", [from_a_repeated_warning], ids=["repeated warning"])
def test_a13_nor_where_the_application_writes_the_log(source: Callable[[], None]) -> None:
    """A13: 内嵌时格式是应用的，字段与异常在交给它之前就干净了。"""
    lines: list[str] = []
    loguru.logger.add(
        lambda text: lines.append(str(text)), format="{message} {extra[command]}\n{exception}"
    )
    source()
    assert all(line.isprintable() for text in lines for line in text.split("\n"))
    assert not [line for text in lines for line in text.split("\n") if line.startswith(FORGED)]


# ── 灌满（A14） ──────────────────────────────────────────────────────────────


def an_event(number: int) -> None:
    logger.bind(number=number).warning("event")


def a_success(number: int) -> None:
    logger.bind(number=number).info("event")


def a_library_warning(number: int) -> None:
    logging.getLogger("uvicorn.error").warning("strange request %s", number)


def a_library_warning_without_a_template(number: int) -> None:
    logging.getLogger("websockets").warning(f"strange request {number}")


KINDS = [an_event, a_success, a_library_warning, a_library_warning_without_a_template]


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("say", KINDS, ids=lambda say: say.__name__)
def test_a14_one_kind_of_event_is_at_most_twenty_lines_a_minute(
    say: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A14: 不论是谁记的、经过哪里。"""
    for number in range(5_000):
        say(number)
    logger.info("another kind")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20 + 1
    assert "another kind" in lines[-1]


@pytest.mark.usefixtures("configured")
def test_a14_tracebacks_are_fewer_still(capsys: pytest.CaptureFixture[str]) -> None:
    """A14: 一种意外，一分钟三份回溯。"""
    for _ in range(1_000):
        logger.opt(exception=ValueError("broken")).error("request_failed")
    assert 0 < capsys.readouterr().err.count("ValueError: broken") <= 3


@pytest.mark.usefixtures("configured")
async def test_a14_what_was_not_said_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A14: 窗口的末尾补一行，说出没有记下的次数。"""
    monkeypatch.setattr("meeting_push.log_outlet.EVERY_S", 0.2)
    for number in range(1_000):
        an_event(number)

    def counted() -> str:
        return next((line for line in capsys.readouterr().err.splitlines() if "980" in line), "")

    assert "event" in await eventually(counted)


@pytest.mark.parametrize("level", ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"])
def test_a17_every_level_can_be_chosen(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A17: ``LOG_LEVEL=TRACE`` 起不来。"""
    configure_logging(level, as_json=False)
    logging.getLogger("some").error("heard")
    assert "heard" in capsys.readouterr().err


# ── 平的 JSON ────────────────────────────────────────────────────────────────


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """写出的各个 JSON 对象。"""
    configure_logging("DEBUG", as_json=True)
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


Written = Callable[[], list[dict[str, Any]]]


def test_an_object_says_when_how_grave_what_and_about_whom_in_this_order(written: Written) -> None:
    logger.bind(attempts=2, user_id=7, message_id="01ABC").warning("deliveries_failed")
    [said] = written()
    assert list(said) == ["ts", "level", "event", "message_id", "user_id", "attempts"]
    assert (said["level"], said["event"]) == ("WARNING", "deliveries_failed")
    at = datetime.fromisoformat(said["ts"])
    assert said["ts"].endswith("Z")
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60


def test_an_object_says_which_process_wrote_it(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.log_outlet._process", {})
    introduce(node="01NODE", role="worker")
    logger.bind(node="another").info("serving")
    assert [(one["node"], one["role"]) for one in written()] == [("01NODE", "worker")]


def test_nothing_in_an_object_is_nested(written: Written) -> None:
    logger.bind(
        items=["a", "b"], nested={"deep": 1}, ratio=float("nan"), count=3, test=True, none=None
    ).warning("items_set_aside")
    [said] = written()
    assert said["items"] == "a,b"
    assert (said["count"], said["test"], said["none"]) == (3, True, None)
    assert not [value for value in said.values() if isinstance(value, list | dict)]


def test_a_traceback_is_one_text_without_the_values_of_variables(written: Written) -> None:
    secret = "value-of-a-variable"
    try:
        raise RuntimeError(len(secret))
    except RuntimeError as error:
        logger.opt(exception=error).error("request_failed")
    [said] = written()
    assert said["traceback"].startswith("Traceback (most recent call last):\n")
    assert said["traceback"].rstrip().endswith(f"RuntimeError: {len(secret)}")
    assert "value-of-a-variable" not in said["traceback"].replace('secret = "', "")


def test_a_traceback_has_an_end(written: Written) -> None:
    logger.opt(exception=ValueError("x" * 1_000_000)).error("request_failed")
    assert len(written()[0]["traceback"]) <= MAX_TRACEBACK_CHARS


@pytest.mark.parametrize("say", [a_library_warning, lambda _: loguru.logger.warning("strange")])
def test_what_a_library_says_is_its_name_and_a_text(
    say: Callable[[int], None], written: Written
) -> None:
    say(1)
    [said] = written()
    assert said["event"] == "library"
    assert said["logger"] in ("uvicorn.error", __name__)
    assert said["text"].startswith("strange")


def test_what_the_task_carries_is_on_every_line_of_it(written: Written) -> None:
    def in_a_request() -> None:
        carry(request_id="r-1")
        logger.bind(user_id=1).warning("request_failed")
        RepeatedWarning("requests_refused").say(code="not_found")
        a_library_warning(1)

    copy_context().run(in_a_request)
    logger.info("serving")
    assert [one.get("request_id") for one in written()] == ["r-1", "r-1", "r-1", None]


async def test_the_sum_of_a_minute_does_not_carry_what_one_request_did(log: list[str]) -> None:
    warning = RepeatedWarning("requests_refused", every_s=0.05)

    def in_a_request() -> None:
        carry(request_id="r-1")
        warning.say()
        warning.say()

    copy_context().run(in_a_request)
    await eventually(lambda: len(log) == 2)
    assert ["r-1" in line for line in log] == [True, False]


# ── 内嵌：出口是应用的 ───────────────────────────────────────────────────────


def test_a_line_in_the_log_of_an_application_has_all_fields_in_its_text() -> None:
    lines: list[str] = []
    loguru.logger.add(lines.append, format="{level} {message}")
    logger.bind(user_id=7, reason="too slow").warning("ws_session_broken")
    assert lines == ['WARNING ws_session_broken user_id=7 reason="too slow"\n']


def test_an_application_that_wants_json_finds_the_event_and_the_fields() -> None:
    lines: list[str] = []
    loguru.logger.add(lines.append, serialize=True)
    logger.bind(user_id=7).warning("ws_session_broken")
    assert json.loads(lines[0])["record"]["extra"] == {"event": "ws_session_broken", "user_id": 7}


def test_a14_an_application_is_not_flooded_either() -> None:
    lines: list[str] = []
    loguru.logger.add(lines.append, format="{message}", level="DEBUG")
    for number in range(1_000):
        logger.bind(number=number).warning("ws_open_timeout")
        logger.opt(exception=ValueError("x")).error("ws_auth_broken")
        logger.debug("hold_failed")
    events = Counter(line.split()[0] for line in lines)
    assert events == {"ws_open_timeout": 20, "ws_auth_broken": 3, "hold_failed": 1_000}


async def test_a14_nor_is_it_kept_in_the_dark(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meeting_push.logs.EVERY_S", 0.2)
    for _ in range(1_000):
        logger.warning("ws_open_timeout")
    await eventually(lambda: log[-1] == "ws_open_timeout {'repeated': 980}")


def test_braces_and_tags_in_a_field_mean_nothing_to_the_application() -> None:
    lines: list[str] = []
    loguru.logger.add(lines.append, format="{message}", colorize=True)
    logger.bind(origin="{level} <red>x</red>").warning("ws_origin_forbidden")
    assert lines == ['ws_origin_forbidden origin="{level} <red>x</red>"\n']


def test_the_record_says_who_said_it() -> None:
    places: list[str] = []
    loguru.logger.add(lambda message: places.append(message.record["function"]))
    logger.bind(user_id=7).warning("event")
    RepeatedWarning("event").say()
    assert places == ["test_the_record_says_who_said_it"] * 2


# ── 数 ───────────────────────────────────────────────────────────────────────


def told(since: Counter[Said]) -> dict[tuple[str, str, str], int]:
    return {tuple(said): n for said, n in (counts - since).items()}  # type: ignore[misc]  # 就是三个


def test_each_time_is_counted_also_what_is_not_written() -> None:
    before = counts.copy()
    configure_logging("ERROR", as_json=False)
    warning = RepeatedWarning("requests_refused")
    for _ in range(1_000):
        warning.say(code="not_found")
        logger.bind(code="unavailable").error("loop_died")
    assert told(before) == {
        ("requests_refused", "WARNING", "not_found"): 1_000,
        ("loop_died", "ERROR", "unavailable"): 1_000,
    }


def test_what_others_choose_is_no_label() -> None:
    before = counts.copy()
    configure_logging("WARNING", as_json=False)
    for number in range(100):
        logger.bind(code=f"code-{number}").warning(f"event-{number}")
        logging.getLogger(f"library-{number}").warning("x")
    assert told(before) == {("other", "WARNING", ""): 100, ("library", "WARNING", ""): 100}


def test_debugging_is_not_counted() -> None:
    before = counts.copy()
    logger.debug("hold_failed")
    assert told(before) == {}
