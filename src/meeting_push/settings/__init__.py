"""全部设置：不可变，唯一读环境变量的地方。

给出时用平的名字：``MEETING_PUSH_<大写名>``、``.env`` 或关键字，如 ``queue_max_length``；读时按组：
``settings.queue.max_length``。每一项的含义、单位、何时动它都写在组里，``.env.example`` 与
``docs/settings.md`` 由此生成（``make settings``）。
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, Self, get_type_hints
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from ..errors import ConfigurationError
from .ground import (
    ACCOUNTS_AUDIENCE,
    AlertingSettings,
    AuthSettings,
    DatabaseSettings,
    EventSettings,
    Group,
    HttpSettings,
    Identity,
    NodeSettings,
    ProcessSettings,
    RedisSettings,
    RetentionSettings,
    Role,
)
from .stations import (
    TOKEN_SOURCES,
    AdmissionSettings,
    DeliverySettings,
    DevicePolicy,
    EdgeSettings,
    HandshakeSettings,
    MeetingSettings,
    MessageSettings,
    PresenceSettings,
    QueueSettings,
    TokenSource,
)

__all__ = [
    "ACCOUNTS_AUDIENCE",
    "FLAT",
    "PREFIX",
    "TOKEN_SOURCES",
    "AdmissionSettings",
    "AlertingSettings",
    "AuthSettings",
    "DatabaseSettings",
    "DeliverySettings",
    "DevicePolicy",
    "EdgeSettings",
    "EventSettings",
    "HandshakeSettings",
    "HttpSettings",
    "Identity",
    "MeetingSettings",
    "MessageSettings",
    "NodeSettings",
    "PresenceSettings",
    "ProcessSettings",
    "QueueSettings",
    "RedisSettings",
    "RetentionSettings",
    "Role",
    "Settings",
    "TokenSource",
    "load_settings",
]

PREFIX: Final = "MEETING_PUSH_"
_FIELD_OF_ERROR: Final = re.compile(r'for field "(\w+)"')


class Settings(BaseModel):
    """以平的名字造；``_env_file=None`` 不读 ``.env``。"""

    model_config = ConfigDict(frozen=True)

    process: ProcessSettings
    http: HttpSettings
    redis: RedisSettings
    database: DatabaseSettings
    auth: AuthSettings
    handshake: HandshakeSettings
    edge: EdgeSettings
    admission: AdmissionSettings
    node: NodeSettings
    messages: MessageSettings
    meeting: MeetingSettings
    queue: QueueSettings
    delivery: DeliverySettings
    presence: PresenceSettings
    alerting: AlertingSettings
    events: EventSettings
    retention: RetentionSettings

    def __init__(self, **given: Any) -> None:
        """:raises TypeError: 没有这一项"""
        for name in given.keys() - FLAT.keys() - {"_env_file"}:
            raise TypeError(_no_such(name))
        found = _Environment(**given)
        groups: dict[str, dict[str, object]] = {name: {} for name in _GROUPS}
        for flat, place in FLAT.items():
            groups[place.group][flat] = getattr(found, flat)
        super().__init__(
            **{name: kind.model_validate(groups[name]) for name, kind in _GROUPS.items()}
        )

    @property
    def sql_url(self) -> str:
        """数据库；没有给出就是数据文件夹里的 SQLite（``#``、``?``、``%`` 照 URL 的规矩转义）。"""
        file = self.process.data_dir.absolute() / "meeting-push.db"
        return self.database.url or f"sqlite:///{quote(str(file))}"

    def changed(self, **given: object) -> Self:
        """换掉几项（平的名字）；不再读环境，也不再检查。"""
        groups: dict[str, Group] = {}
        for flat, value in given.items():
            group, name, _ = FLAT[flat]
            kept: Group = groups.get(group) or getattr(self, group)
            groups[group] = kept.model_copy(update={name: value})
        return self.model_copy(update=groups)


def _no_such(name: str) -> str:
    nearest = next((f"; did you mean {one}?" for one in get_close_matches(name, FLAT, n=1)), "")
    return f"no such setting: {name}{nearest}"


class Place(NamedTuple):
    """一项设置在哪一组、叫什么，它自己。"""

    group: str
    name: str
    info: FieldInfo


_GROUPS: Final[dict[str, type[Group]]] = {
    name: kind for name, kind in get_type_hints(Settings).items() if name in Settings.model_fields
}


def _places() -> Iterator[tuple[str, Place]]:
    for group, kind in _GROUPS.items():
        for name, info in kind.model_fields.items():
            yield info.alias or name, Place(group, name, info)


#: 平的名字 → 它的去处，一组一组，各照写下的次序。
FLAT: Final[dict[str, Place]] = dict(_places())


class _Source(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", frozen=True, extra="ignore"
    )


def _annotation(place: Place) -> Any:
    return get_type_hints(_GROUPS[place.group], include_extras=True)[place.name]


_FIELDS: Final[dict[str, Any]] = {
    flat: (_annotation(place), place.info.default) for flat, place in FLAT.items()
}
#: 平着的全部：它读环境；错在哪一项也由它说。
_Environment: Final = create_model("Settings", __base__=_Source, **_FIELDS)


def load_settings(**overrides: object) -> Settings:
    """读取设置；``overrides`` 里为 None 的项不算（命令行没给的选项）。

    :raises ConfigurationError: 一行话说明哪一项为什么不行，不含它的值（可能是密钥）。
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except TypeError as error:
        raise ConfigurationError(f"bad configuration: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            ": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")])
            for e in error.errors(include_input=False)
        )
        raise ConfigurationError(f"bad configuration: {problems}") from None
    except SettingsError as error:  # 复合类型（列表）不是 JSON
        found = _FIELD_OF_ERROR.search(str(error))
        name = found[1] if found else "a setting"
        raise ConfigurationError(
            f'bad configuration: {name}: not JSON, such as ["a", "b"]'
        ) from None
