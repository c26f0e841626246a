"""设置：以平的名字给出，按组读。"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meeting_push.errors import ConfigurationError
from meeting_push.settings import FLAT, Settings, load_settings


def value(settings: Settings, flat: str) -> object:
    place = FLAT[flat]
    return getattr(getattr(settings, place.group), place.name)


@pytest.mark.parametrize("flat", FLAT)
def test_every_setting_is_in_its_group_with_its_default(flat: str) -> None:
    assert value(Settings(_env_file=None), flat) == FLAT[flat].info.default


@pytest.mark.parametrize(
    ("flat", "text", "read"),
    [
        ("queue_max_length", "5", 5),
        ("edge", "asgi", "asgi"),
        ("max_http_connections_per_address", "6", 6),
        ("max_connections_per_address", "7", 7),
        ("meeting_max_connections", "8", 8),
        ("retry_delays_s", "[1, 2]", (1.0, 2.0)),
    ],
)
def test_a_setting_is_given_by_its_flat_name(
    flat: str, text: str, read: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert value(load_settings(**{flat: read}), flat) == read
    (tmp_path / ".env").write_text(f"MEETING_PUSH_{flat.upper()}={text}\n")
    assert value(load_settings(), flat) == read
    (tmp_path / ".env").unlink()
    monkeypatch.setenv(f"MEETING_PUSH_{flat.upper()}", text)
    assert value(load_settings(), flat) == read


def test_a_keyword_goes_before_the_environment_and_the_environment_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MEETING_PUSH_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEETING_PUSH_PORT", "2")
    assert load_settings().process.port == 2
    assert load_settings(port=3).process.port == 3
    assert load_settings(port=None).process.port == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("redis_ulr", "redis_ulr; did you mean redis_url?"),
        ("queue", "queue"),
        ("zzzzzzzz", "zzzzzzzz"),
    ],
)
def test_an_unknown_keyword_is_refused_with_the_nearest_known(name: str, said: str) -> None:
    unknown: dict[str, Any] = {name: 5}
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**unknown)
    assert refused.value.message.startswith(f"bad configuration: no such setting: {said}")
    with pytest.raises(TypeError, match=name):
        Settings(**unknown)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"redis_timeout_s": "hunter2"}, "redis_timeout_s: "),
        ({"meeting_refresh_s": "hunter2"}, "meeting_refresh_s: "),
        ({"edge": "hunter2"}, "edge: "),
        ({"ws_ticket_ttl_s": "hunter2"}, "ws_ticket_ttl_s: "),
        ({"jwt_secret": "hunter2", "access_token_ttl_s": 10**9}, "refresh_token_ttl_s must be "),
    ],
)
def test_what_is_wrong_is_told_by_the_flat_name_and_not_by_the_value(
    given: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**given)
    assert refused.value.message.startswith(f"bad configuration: {named}")
    assert "hunter2" not in refused.value.message


def test_a_changed_copy_leaves_the_rest_and_the_original() -> None:
    first = load_settings(port=1, redis_timeout_s=2)
    second = first.changed(redis_url="redis://elsewhere", key_prefix="p:", port=3)
    assert (second.redis.url, second.redis.key_prefix, second.redis.timeout_s) == (
        *("redis://elsewhere", "p:"),
        2,
    )
    assert (first.redis.url, first.process.port, second.process.port) == (None, 1, 3)


def test_settings_and_their_groups_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.queue.max_length = 1
    with pytest.raises(ValidationError, match="frozen"):
        settings.queue = settings.queue
