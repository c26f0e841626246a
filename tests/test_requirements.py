"""需求的每一格都有着落：``docs/requirements.md`` 不缺行，证据真的在；需求里的名字真的有。"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import typer

from meeting_push import (
    AuthService,
    ConnectionManager,
    DeliveryConfirmationService,
    MeetingPush,
    MessageConsumer,
    MessagePublisher,
    MessageQueue,
    MessageService,
    OfflineMessageQueue,
    OnlineStatusService,
    RedisService,
    load_settings,
)
from meeting_push.cli import app as command_line
from meeting_push.cli import join_commands
from meeting_push.model import ConnectionInfo, DeliveryStatus, MessageType
from meeting_push.redis.keys import Keys
from meeting_push.settings import FLAT
from tests.stages import test_stage1_integration, test_stage2_integration
from tests.support.requirements_table import ROOT, Requirement, requirements

#: 每个任务的完成标准有几格，验收标准有几条；取自需求文档。
TASKS: Final = {
    "1": ("1.1", "1.2", "1.3", "2.1", "2.2", "3.1", "3.2", "4.1", "4.2"),
    "2": ("1.1", "1.2", "2.1", "2.2", "3.1", "3.2"),
}
BOXES: Final = 5
CRITERIA: Final = {"1-4.1": 4, "1-4.2": 5, "2-3.1": 4, "2-3.2": 4}
ENVIRONMENT: Final = 12
TABLE: Final = requirements()
SUITES: Final = (test_stage1_integration, test_stage2_integration)


def expected_numbers() -> Iterator[str]:
    for stage, tasks in TASKS.items():
        for task in tasks:
            yield from (f"{stage}-{task}-{box}" for box in range(1, BOXES + 1))
            criteria = CRITERIA.get(f"{stage}-{task}", 0)
            yield from (f"{stage}-{task}-A{one}" for one in range(1, criteria + 1))
    yield from (f"0-{box}" for box in range(1, ENVIRONMENT + 1))


# ── 追溯 ─────────────────────────────────────────────────────────────────────


def test_every_tick_box_has_exactly_one_row() -> None:
    assert Counter(row.number for row in TABLE) == Counter(expected_numbers())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.number)
def test_every_tick_box_has_a_test_or_a_command(row: Requirement) -> None:
    assert [name for name in row.tests if not _test_exists(name)] == []
    assert [command for command in row.commands if not _command_exists(command)] == []
    if row.is_gap:
        assert row.note, "a gap without a word about it"
        pytest.xfail(f"{row.text}: {row.note}")
    assert row.tests or row.commands


def _test_exists(name: str) -> bool:
    path, *parts = name.partition("[")[0].split("::")
    found: object = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    for part in parts:
        found = getattr(found, part, None)
    return inspect.isfunction(found)


def _command_exists(command: str) -> bool:
    program, *words = command.split()
    if program == "make":
        return re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M) is not None
    join_commands()
    found: Any = typer.main.get_command(command_line)
    for word in words:
        if word.startswith("-"):
            return any(word in option.opts for option in found.params)
        found = getattr(found, "commands", {}).get(word)
        if found is None:
            return False
    return True


def suite_tests() -> Iterator[str]:
    """两套阶段测试里的每一个。"""
    for suite in SUITES:
        path = f"{suite.__name__.replace('.', '/')}.py"
        for name, member in vars(suite).items():
            if name.startswith("test_"):
                yield f"{path}::{name}"
            elif name.startswith("Test"):
                yield from (f"{path}::{name}::{n}" for n in dir(member) if n.startswith("test_"))


def test_every_acceptance_test_proves_a_tick_box() -> None:
    assert set(suite_tests()) - {name for row in TABLE for name in row.tests} == set()


def test_every_path_the_page_names_exists() -> None:
    text = (ROOT / "docs" / "requirements.md").read_text()
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)(?:::[^`]*)?`", text))
    package = ROOT / "src" / "meeting_push"
    elsewhere = {each for each in named if each.startswith("reports/")}  # 跑了才有
    missing = {
        each for each in named if not (ROOT / each).exists() and not (package / each).exists()
    }
    assert missing - elsewhere == set()


# ── 名字：需求怎么写就怎么叫 ─────────────────────────────────────────────────

#: 类 → 方法 → 需求里写着的参数。
METHODS: Final[dict[type, dict[str, tuple[str, ...]]]] = {
    ConnectionManager: {
        "connect_user": ("user_id", "websocket"),
        "disconnect_user": ("user_id", "websocket"),
        "get_user_connections": ("user_id",),
        "broadcast_to_user": ("user_id", "message"),
    },
    OnlineStatusService: {
        "set_user_online": ("user_id", "connection_info"),
        "set_user_offline": ("user_id", "connection_id"),
        "is_user_online": ("user_id",),
        "get_online_users": (),
        "get_user_connection_count": ("user_id",),
    },
    MessageService: {"send_realtime_message": (), "send_message_to_multiple": ()},
    OfflineMessageQueue: {
        "add_offline_message": ("user_id", "message"),
        "get_offline_messages": ("user_id",),
        "clear_offline_messages": ("user_id",),
        "get_offline_message_count": ("user_id",),
    },
    MessagePublisher: {
        "publish_to_user": ("user_id", "message"),
        "publish_broadcast": ("message",),
        "publish_to_channel": ("channel", "message"),
    },
    MessageQueue: {
        "enqueue_message": ("message", "priority"),
        "dequeue_message": ("timeout",),
        "batch_enqueue": (),
        "batch_dequeue": (),
    },
    DeliveryConfirmationService: {
        "get_message_delivery_status": ("message_id",),
        "get_user_delivery_statistics": ("user_id",),
        "get_delivery_failure_messages": (),
    },
}
#: 类 → 需求里说它从哪个文件来。
HOMES: Final[dict[type, str]] = {
    ConnectionManager: "websocket/manager.py",
    AuthService: "services/auth_service.py",
    RedisService: "services/redis_service.py",
    MessageService: "services/message_service.py",
    MessagePublisher: "services/message_publisher.py",
    MessageConsumer: "services/message_consumer.py",
    MessageQueue: "services/message_queue.py",
    OfflineMessageQueue: "services/offline_message_queue.py",
    DeliveryConfirmationService: "services/delivery_confirmation_service.py",
    OnlineStatusService: "services/online_status_service.py",
}


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in METHODS.items() for name in names],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_a_method_has_the_name_and_arguments_of_the_requirements(owner: type, name: str) -> None:
    parameters = list(inspect.signature(getattr(owner, name)).parameters)[1:]
    wanted = METHODS[owner][name]
    assert tuple(parameters[: len(wanted)]) == wanted
    required = [
        each.name
        for each in list(inspect.signature(getattr(owner, name)).parameters.values())[1:]
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    if wanted:
        assert set(required) <= set(wanted), "callable as the requirements write it"


@pytest.mark.parametrize(("owner", "home"), HOMES.items(), ids=lambda each: str(each))
def test_a_class_lives_where_the_requirements_say(owner: type, home: str) -> None:
    module = importlib.import_module(f"meeting_push.{home.removesuffix('.py').replace('/', '.')}")
    assert getattr(module, owner.__name__) is owner


@pytest.mark.parametrize("path", ["router/message_manage.py", "router/meeting_manage.py"])
def test_a_router_lives_where_the_requirements_say(path: str) -> None:
    assert (ROOT / "src" / "meeting_push" / path).exists()


def test_the_manager_maps_users_to_their_connections(tmp_path: Path) -> None:
    push = MeetingPush(load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1"))
    assert push.manager.user_connections == {}


def test_the_endpoint_has_the_path_of_the_requirements(tmp_path: Path) -> None:
    push = MeetingPush(load_settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:1"))
    path = push.router.url_path_for("user_messages", user_id=42)
    assert path == "/ws/user/42/messages"


def test_the_redis_keys_and_channels_are_those_of_the_requirements() -> None:
    keys = Keys()
    assert [
        keys.online_user(1),
        keys.online_users_set,
        keys.connection_count(1),
        keys.mailbox(1),
        keys.delivery_queue,
        keys.priority_queue,
        keys.dead_letter_queue,
        keys.delayed_queue,
        keys.delivery_status("m"),
        keys.user_channel(1),
        keys.broadcast_channel,
        keys.system_channel,
    ] == [
        "online_users:{1}",
        "online_users_set",
        "user_connections_count:{1}",
        "offline_messages:{1}",
        "message_delivery_queue",
        "priority_message_queue",
        "dead_letter_queue",
        "delayed_message_queue",
        "message_delivery_status:m",
        "user:{1}:messages",
        "broadcast:all",
        "system:notifications",
    ]


def test_the_states_types_and_fields_are_those_of_the_requirements() -> None:
    wanted = ["pending", "delivered", "failed", "expired"]
    assert [each.value for each in DeliveryStatus] == [*wanted, "withdrawn"]  # 撤回是我们添的
    assert get_args(MessageType) == ("message", "notification", "system")
    assert set(ConnectionInfo.__struct_fields__) >= {
        *("connection_id", "device_info", "connect_time", "last_heartbeat", "ip_address"),
    }


def test_the_times_are_those_of_the_requirements() -> None:
    fields = {name: place.info for name, place in FLAT.items()}
    assert {
        name: fields[name].default
        for name in ("heartbeat_interval_s", "heartbeat_timeout_s", "presence_sweep_s")
    } == {"heartbeat_interval_s": 30, "heartbeat_timeout_s": 60, "presence_sweep_s": 60}
    assert fields["message_ttl_s"].default == 7 * 86_400
    assert fields["retry_delays_s"].default == (60, 300, 900)
