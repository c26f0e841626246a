"""deploy/logs/：Vector 的配置。里面的程序由 VRL 的编译器编译、执行，跑 Vector 自己的那些单元测试，
再让真的日志走一遍；Vector 本身不在这里，选项名是对着它的参考写的。
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import loguru
import pytest
import yaml

from meeting_push.log_outlet import configure_logging, introduce
from meeting_push.logs import LIBRARY, Outlet, logger

VRLRuntime = pytest.importorskip(
    "vrl_python", reason="VRL's compiler has wheels for Linux on x86-64 only"
).VRLRuntime

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "logs"
CONFIG: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "vector.yaml").read_text())
TESTS: Final[list[dict[str, Any]]] = yaml.safe_load((FOLDER / "vector-tests.yaml").read_text())[
    "tests"
]
TRANSFORMS: Final[dict[str, Any]] = CONFIG["transforms"]
Event = dict[str, Any]


def run(line: str, then: str = "", host: str = "web-1") -> Any:
    """解开 ``line``，接着跑 ``then``；编译不过、执行失败就抛出。

    接着跑：两个程序之间的值要是经过 Python，时刻就成了文字。
    """
    program = f"{TRANSFORMS['parsed']['source']}\n{then}"
    return VRLRuntime.run(program, {"message": line, "host": host}, "UTC")


def parsed(line: str) -> Event:
    event: Event = run(line).processed_event
    return event


def is_grave(line: str) -> bool:
    return run(line, TRANSFORMS["grave"]["condition"]).runtime_result is True


@pytest.mark.parametrize(
    "program", [TRANSFORMS["parsed"]["source"], TRANSFORMS["grave"]["condition"]]
)
def test_the_programs_compile(program: str) -> None:
    problems = VRLRuntime.check_syntax(program)
    assert problems is None, problems.formatted_message


@pytest.mark.parametrize("case", TESTS, ids=lambda case: case["name"])
def test_vectors_own_tests_pass(case: dict[str, Any]) -> None:
    [given] = case["inputs"]
    assert given["insert_at"] == "parsed"
    line, host = given["log_fields"]["message"], given["log_fields"]["host"]
    for wanted in case["outputs"]:
        assert wanted["extract_from"] == "parsed" or is_grave(line)
        for condition in wanted["conditions"]:
            run(line, condition["source"], host)


def test_a_wrong_assertion_of_vectors_tests_is_noticed() -> None:
    with pytest.raises(Exception, match="assert"):
        run("x", 'assert_eq!(.event, "another")')


def test_every_input_is_something_before_it_and_everything_goes_somewhere() -> None:
    names = {*CONFIG["sources"], *TRANSFORMS}
    inputs = [
        name
        for part in (*TRANSFORMS.values(), *CONFIG["sinks"].values())
        for name in part["inputs"]
    ]
    assert set(inputs) == names


def templates(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from templates(each)
    elif isinstance(value, str) and value.startswith("{{"):
        yield value.strip("{} ")


def test_every_label_is_a_field_every_line_has() -> None:
    wanted = {*templates(CONFIG["sinks"]["loki"]), *templates(TRANSFORMS["counted"]["metrics"][0])}
    assert wanted == {"level", "event", "role", "host", "node"}
    for line in ('{"ts":"?","level":"INFO","event":"serving"}', "Traceback", ""):
        assert wanted <= parsed(line).keys()


# ── 真的日志 ─────────────────────────────────────────────────────────────────


@pytest.fixture
def shipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], list[str]]]:
    """写到 stderr 的各行。"""
    monkeypatch.setattr(Outlet, "ours", False)
    monkeypatch.setattr("meeting_push.log_outlet._process", {})
    configure_logging("INFO", as_json=True)
    introduce(node="01NODE", role="worker")
    yield lambda: capsys.readouterr().err.splitlines()
    loguru.logger.remove()


def test_what_we_write_arrives_field_by_field(shipped: Callable[[], list[str]]) -> None:
    logger.bind(message_id="01M", user_id=7, username='a "b"\n\x1b').warning("deliveries_failed")
    [line] = shipped()
    event = parsed(line)
    assert event.pop("timestamp") is not None
    assert event == {
        "level": "WARNING",
        "event": "deliveries_failed",
        "node": "01NODE",
        "role": "worker",
        "message_id": "01M",
        "user_id": 7,
        "username": 'a "b"\n\x1b',
        "host": "web-1",
    }


def test_a_traceback_arrives_as_one_event(shipped: Callable[[], list[str]]) -> None:
    try:
        json.loads("{")
    except ValueError as error:
        logger.opt(exception=error).error("request_failed")
    [line] = shipped()
    assert is_grave(line)
    assert parsed(line)["traceback"].startswith("Traceback (most recent call last):\n")


def test_what_a_library_says_arrives_as_one_event(shipped: Callable[[], list[str]]) -> None:
    loguru.logger.info("a {}", "text")
    [line] = shipped()
    event = parsed(line)
    assert (event["event"], event["text"]) == (LIBRARY, "a text")
    assert not is_grave(line)
