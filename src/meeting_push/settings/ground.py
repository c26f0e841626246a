"""一项设置怎样写；脚下的几组：进程、HTTP、Redis、数据库、认证、节点。"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    model_validator,
)

from ..person_id import PersonIds

Value = TypeVar("Value")


def setting(
    default: Value, meaning: str, when: str = "", *, unit: str = "", flat: str | None = None
) -> Value:
    """一项。``when``：何时动它，空的通常不必；``unit``：名字没有说的；``flat``：与组里不同的平的名字。"""
    field: Value = Field(
        default,
        alias=flat,
        description=meaning,
        json_schema_extra={"when": when, "unit": unit},
    )
    return field


class Group(BaseModel):
    """一组：不可变；以平的名字造，由 ``Settings`` 造。"""

    model_config = ConfigDict(frozen=True)


def _not_empty(value: str | SecretStr) -> str | SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not text.strip():
        raise ValueError("is empty; leave it out for the default")
    return value


Text = Annotated[str, AfterValidator(_not_empty)]
Secret = Annotated[SecretStr, AfterValidator(_not_empty)]
PositiveInt = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Kilobytes = Annotated[int, Field(ge=1024)]  # 至少 1 KB，以字节计
PositiveSeconds = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]
PositiveRate = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0)]

#: 人归谁：我们的账号，还是内嵌的应用（或签发令牌的那一方）。
Identity = Literal["accounts", "application"]
#: 我们自己签发的令牌是给谁的。
ACCOUNTS_AUDIENCE: Final = "meeting-push"


class Role(StrEnum):
    """一个进程担任的角色；``ALL`` 三者兼任。"""

    ALL = "all"
    API = "api"
    GATEWAY = "gateway"
    WORKER = "worker"

    @property
    def serves_api(self) -> bool:
        return self in (Role.ALL, Role.API)

    @property
    def holds_sockets(self) -> bool:
        return self in (Role.ALL, Role.GATEWAY)

    @property
    def delivers(self) -> bool:
        return self in (Role.ALL, Role.WORKER)


class ProcessSettings(Group):
    """进程"""

    host: str = setting("127.0.0.1", "监听的地址", "代理或客户端在别的机器上：0.0.0.0")
    port: Annotated[int, Field(ge=0, le=65535)] = setting(
        8000, "监听的端口；0 = 任一个空着的", "已被占用", unit="端口"
    )
    role: Role = setting(Role.ALL, "这个进程做什么", "几千人以上分开：网关、API、工人各自伸缩")
    workers: Annotated[int, Field(ge=1, le=256)] = setting(
        1, "共用一个端口的进程数", "一个核满了：核数 − 1", unit="个"
    )
    data_dir: Path = setting(
        Path("data"), "数据文件夹：SQLite、内嵌 Redis、生成的密钥", "放到持久的盘上", unit="路径"
    )
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = setting(
        "INFO", "这一级以上才记", "查问题时 DEBUG；热路径上没有日志"
    )
    log_json: bool = setting(False, "每条日志一行 JSON", "日志由程序收集时")
    reuse_port: bool = setting(False, "多个进程共用一个端口；--workers 自动打开")
    metrics_file: Path | None = setting(
        None, "同一个 serve 的各进程经它一起回答 /metrics；--workers 自动给出", unit="路径"
    )
    start_patience_s: Seconds = setting(
        30, "启动时 Redis、SQL 不在：等至多这么久", "编排系统比它先放弃、或依赖起得更慢"
    )
    shutdown_grace_s: PositiveSeconds = setting(
        10, "关机时等手上的一批、确认、请求各至多这么久", "投递很慢；连同编排系统的宽限期"
    )


class HttpSettings(Group):
    """HTTP"""

    max_request_bytes: Kilobytes = setting(
        8 * 1024 * 1024, "请求体的上限；各路由另有更小的", "一批消息更大时"
    )
    max_connections_per_address: Amount = setting(
        1_000,
        "一个地址的 HTTP 连接，每个进程；0 = 不限",
        "一个地址后面是很多台后端",
        unit="条",
        flat="max_http_connections_per_address",
    )
    trusted_proxies: tuple[IPvAnyNetwork, ...] = setting(
        (), "只信这些网段给的 X-Forwarded-For", "前面有代理就要设", unit="CIDR"
    )


class RedisSettings(Group, alias_generator="redis_{}".format):
    """Redis"""

    url: Text | None = setting(
        None,
        "外面的 Redis（``redis://``、``rediss://``、``unix://``、``redis+sentinel://``、``redis+cluster://``）；"
        "没有给出就用内嵌的",
        "生产总要给",
        unit="URL",
    )
    timeout_s: PositiveSeconds = setting(5, "一条命令等至多这么久", "Redis 隔得远")
    key_prefix: str = setting(
        "", "每个键与频道名之前的", "几套系统共用一个 Redis", flat="key_prefix"
    )
    wait_replicas: Amount = setting(
        0,
        "写了信箱，等这么多个副本收到（``WAIT``）；0 = 不等",
        "切换时一条也不愿从 SQL 再来",
        unit="个",
    )
    wait_ms: PositiveInt = setting(
        100, "等副本至多这么久；到时不够照样算写下，数着", "副本隔得远", unit="毫秒"
    )


class DatabaseSettings(Group, alias_generator="database_{}".format):
    """数据库"""

    url: Text | None = setting(
        None, "SQL；没有给出就是 data_dir 里的 SQLite", "几台机器：PostgreSQL", unit="URL"
    )
    timeout_s: PositiveSeconds = setting(10, "连接、一条语句各等至多这么久", "数据库隔得远")
    table_prefix: str | None = setting(
        None,
        "每张表、每个索引的名字之前的；没有给出：mp_，0.1 建的库则没有前缀",
        "同一个库里有两套，或 mp_ 已有人用",
        flat="table_prefix",
    )
    schema_name: Text | None = setting(
        None,
        "表在 PostgreSQL 的这个 schema 里，没有就建；没有给出：search_path 的第一个",
        "与应用同一个库而要分开授权、备份",
        flat="database_schema",
    )


class AuthSettings(Group):
    """认证"""

    identity: Identity | None = setting(
        None,
        "人归谁；没有给出时 serve：给了公钥或 JWKS 即 application，否则 accounts",
        "令牌由应用用共享的密钥签发：application",
    )
    user_ids: Literal["auto", "string"] = setting(
        "auto",
        "人的 id；auto：十进制数是整数，别的（人归应用时）是一段字；string：全是一段字",
        "应用的 id 是一段字，其中有的恰是数字；从一开始就定下",
    )
    people_per_user_per_day: PositiveInt = setting(
        1_000, "人归应用而 id 是一段字：一个用户一天之内可以发给多少我们还不认识的人", unit="人"
    )
    jwt_secret: Secret | None = setting(
        None, "签发与验证的密钥；没有给出就在 data_dir 里生成", "几台机器：都给同一个"
    )
    jwt_previous_secrets: tuple[SecretStr, ...] = setting((), "只验证、不签发的旧密钥", "换密钥时")
    jwt_algorithms: tuple[str, ...] | None = setting(
        None,
        "收哪些算法；没有给出时 HS256，给了公钥就是它的那一种，给了 JWKS 就是公钥的各种",
        "只收其中几种",
    )
    jwt_public_key: Text | None = setting(None, "RS、ES、EdDSA 的公钥", "同上", unit="PEM")
    jwt_jwks_url: Text | None = setting(None, "公钥从这里取，会轮换", "同上", unit="URL")
    jwt_audience: str | None = setting(
        None,
        "令牌给谁（aud）；没有给出时 accounts：meeting-push，application：不看",
        "同一签发者的令牌还给别的服务用",
    )
    jwt_issuer: str | None = setting(None, "谁签发的（iss）；没有给出就不看", "令牌由别处签发")
    jwt_leeway_s: Annotated[int, Field(ge=0, le=300)] = setting(
        10, "判断过期与吊销的容差", "时钟对不准"
    )
    jwt_claim_user_id: str = setting(
        "sub", "令牌里的用户 id 叫什么；没有这个名字就当作路径，一点一层", "令牌由别处签发"
    )
    jwt_claim_role: str = setting(
        "role",
        "令牌里的角色叫什么，如 `realm_access.roles`；几个角色的表里有 `admin` 就是管理员",
        "同上",
    )
    jwt_claim_name: str = setting("name", "令牌里的名字叫什么", "同上")
    jwt_claim_session: str = setting("sid", "令牌里的会话叫什么", "同上")
    access_token_ttl_s: PositiveInt = setting(
        900, "访问令牌活多久", "吊销之外也要快失效：短，刷新更勤"
    )
    refresh_token_ttl_s: PositiveInt = setting(
        30 * 86400, "刷新令牌活多久，须长于访问令牌", "离开多久该重新登录"
    )
    registration_enabled: bool = setting(True, "谁都可以注册", "账号由管理员造：false")
    registrations_per_address_per_s: Rate = setting(
        1, "一个地址的注册，每个节点；0 = 不限", "很多新人在一个地址后面", unit="次/秒"
    )
    registrations_per_address_burst: PositiveInt = setting(
        100, "同上，攒得下多少", "同上", unit="次"
    )
    revocation_refresh_s: Annotated[float, Field(gt=0, le=2)] = setting(
        1, "错过控制消息时，吊销多久补上"
    )

    @property
    def owns_accounts(self) -> bool:
        """账号是不是我们的；是则发令牌的只有我们。"""
        if self.identity is not None:
            return self.identity == "accounts"
        return not (self.jwt_public_key or self.jwt_jwks_url)

    @property
    def audience(self) -> str | None:
        """令牌必须是给谁的；None = 给谁的都行。"""
        return self.jwt_audience or (ACCOUNTS_AUDIENCE if self.owns_accounts else None)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.access_token_ttl_s >= self.refresh_token_ttl_s:
            raise ValueError("refresh_token_ttl_s must be more than access_token_ttl_s")
        return self

    @property
    def person_ids(self) -> PersonIds:
        """收什么样的 id：账号是我们的，id 就是我们发的整数。"""
        if self.owns_accounts:
            return PersonIds()
        return PersonIds(strings=True, always=self.user_ids == "string")


class NodeSettings(Group):
    """节点"""

    canary_interval_s: PositiveSeconds = setting(3, "隔多久经 Redis 发给自己一条")
    canary_deaf_s: PositiveSeconds = setting(
        8, "发出这么久没听到就是聋了", "Redis 常停顿；它加两个间隔应 ≤ 15"
    )
    cut_off_s: PositiveSeconds = setting(
        10, "只有这个节点够不到 Redis 这么久，就以 4007 把客户端交给别的网关"
    )
    drain_window_s: Seconds = setting(
        10, "关机时客户端分散在这么久里离开", "一个节点几万连接：30–60"
    )
    stats_interval_s: PositiveSeconds = setting(
        5, "每个进程隔多久把自己的统计交给大家", "几十个进程：15"
    )
    metrics: bool = setting(
        True,
        "量不量延迟、事件循环、依赖与机器；不量也就不评估告警，`/metrics` 只剩别处也用的计数",
        "只为看它的代价（`bench pair`）",
    )
    flight_recorder_entries: Annotated[int, Field(ge=0, le=100_000)] = setting(
        10_000,
        "飞行记录仪：每个进程的每一站记住最近多少件；0 = 不记",
        "要追得更久：大一些，每一万件约 8 MB",
        unit="件",
    )


class AlertingSettings(Group):
    """告警"""

    file: Path | None = setting(
        None,
        "规则改哪几项、通知的渠道（YAML）；没有就是内置的规则，写进日志",
        "要有人收到通知",
        unit="路径",
        flat="alerts",
    )
    interval_s: PositiveSeconds = setting(5, "隔多久看一遍规则", flat="alerts_interval_s")
    site: Text | None = setting(
        None,
        "通知里 `/ops` 的链接从哪里起，`https://push.example`；没有就是监听的地址",
        "前面有代理",
        unit="地址",
        flat="alerts_site",
    )


class EventSettings(Group):
    """出门的事件"""

    file: Path | None = setting(
        None,
        "往哪些 URL 送哪些事件（YAML），见 docs/webhooks.md；没有就不送，也没有代价",
        "别的系统要知道消息的去向",
        unit="路径",
        flat="webhooks",
    )
    most_waiting: Annotated[int, Field(ge=1_000)] = setting(
        500_000,
        "一个接收者至多等着这么多事件，多出来的最早的成为死信",
        "接收者可能停一整天：一天的事件",
        unit="个",
        flat="webhook_max_waiting",
    )


class RetentionSettings(Group, alias_generator="retention_{}".format):
    """留多久"""

    days: Annotated[int, Field(ge=0, le=36_500)] | None = setting(
        None,
        "比这更早、对每个收件人都完结了的消息删掉；0 = 都留；没有给出：新的库 180，"
        "0.1 建的（从前用过的）0",
        "要留得更久、更短，或 0.1 的库也要删",
        unit="天",
    )
    archive_dir: Path | None = setting(
        None,
        "删之前写进这个文件夹：压缩的 JSONL，`meeting-push db unarchive` 放回去；没有就直接删",
        "按规定要留底",
        unit="路径",
    )
