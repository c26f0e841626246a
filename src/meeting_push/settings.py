"""全部设置：不可变，唯一读环境变量的地方。

每一项都可用 ``MEETING_PUSH_<大写名>`` 或 ``.env`` 给出；名字带单位。
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import quote

from pydantic import (
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .errors import ConfigurationError

PositiveSeconds = Annotated[float, Field(gt=0)]
#: 设备满了怎么办：拒绝新来的（4006）· 送走最早的（4505）· 拒绝，但同一个 ``device_id`` 总是新的顶掉
#: 旧的（4505）。
DevicePolicy = Literal["reject", "evict_oldest", "replace_same_device"]
#: 人归谁：我们的账号，还是内嵌的应用（或签发令牌的那一方）。
Identity = Literal["accounts", "application"]
#: 我们自己签发的令牌是给谁的。
ACCOUNTS_AUDIENCE: Final = "meeting-push"
TokenSource = Literal["header", "subprotocol", "ticket", "query"]
#: WebSocket 的令牌可以从哪里来；先找到者胜，就按这个次序。
TOKEN_SOURCES: Final[tuple[TokenSource, ...]] = ("header", "subprotocol", "ticket", "query")
RetryDelays = Annotated[tuple[PositiveSeconds, ...], Field(min_length=1, max_length=10)]


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


#: 前者必须小于后者。
_ORDERED: Final = (
    ("heartbeat_interval_s", "heartbeat_timeout_s"),
    ("access_token_ttl_s", "refresh_token_ttl_s"),
)
#: RFC 6454：方案、主机、端口，没有路径。浏览器对沙箱里的页面说的 ``null`` 不是谁，不能放行。
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s@]+", re.IGNORECASE)
PREFIX: Final = "MEETING_PUSH_"
_FIELD_OF_ERROR: Final = re.compile(r'for field "(\w+)"')


class Settings(BaseSettings):
    """所有字段都有能直接用的默认值；``None`` 表示“由程序准备”。"""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", frozen=True, extra="ignore"
    )

    # 进程
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    role: Role = Role.ALL
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    data_dir: Path = Path("data")
    redis_url: str | None = None  # None → 内嵌 Redis
    database_url: str | None = None  # None → data_dir 里的 SQLite
    key_prefix: str = ""
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = False
    reuse_port: bool = False  # 多个进程共用一个端口；--workers 自动打开
    max_request_bytes: Annotated[int, Field(ge=1024)] = 8 * 1024 * 1024

    # 认证
    identity: Identity | None = None  # None → serve：给了公钥或 JWKS 即 application，否则 accounts
    jwt_secret: SecretStr | None = None  # None → data_dir 里生成一个并说明
    jwt_previous_secrets: tuple[SecretStr, ...] = ()  # 换密钥时旧的放这里：只验证，不签发
    jwt_algorithms: tuple[str, ...] = ("HS256",)
    jwt_public_key: str | None = None  # PEM；RS/ES/EdDSA 用
    jwt_jwks_url: str | None = None
    jwt_audience: str | None = None  # None → accounts：meeting-push；application：不看
    jwt_issuer: str | None = None
    jwt_leeway_s: Annotated[int, Field(ge=0, le=300)] = 10
    jwt_claim_user_id: str = "sub"
    jwt_claim_role: str = "role"
    jwt_claim_name: str = "name"
    jwt_claim_session: str = "sid"
    access_token_ttl_s: Annotated[int, Field(ge=1)] = 900
    refresh_token_ttl_s: Annotated[int, Field(ge=1)] = 30 * 86400
    registration_enabled: bool = True
    registrations_per_address_per_s: Annotated[float, Field(ge=0)] = 1  # 每个节点；0 = 不限
    registrations_per_address_burst: Annotated[int, Field(ge=1)] = 100
    revocation_refresh_s: Annotated[float, Field(gt=0, le=2)] = 1  # 错过控制消息时多久补上
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()  # 只信这些网段（CIDR）给的 X-Forwarded-For
    allowed_origins: tuple[str, ...] = ()  # 空 → 只许同源（Origin 与 Host 一致）或没有 Origin

    # 握手
    ws_token_sources: Annotated[tuple[TokenSource, ...], Field(min_length=1)] = TOKEN_SOURCES
    ws_ticket_ttl_s: Annotated[int, Field(ge=1, le=60)] = 30
    handshakes_per_address_per_s: Annotated[float, Field(gt=0)] = 500  # 每个节点、每个地址
    handshakes_per_address_burst: Annotated[int, Field(ge=1)] = 10_000  # 一个地址后面可能是整个公司
    handshakes_per_user_per_s: Annotated[float, Field(gt=0)] = 10  # 认证之后才算
    handshakes_per_user_burst: Annotated[int, Field(ge=1)] = 200
    auth_failures_per_address_per_s: Annotated[float, Field(gt=0)] = 5  # 无效的令牌；过期的不算
    auth_failures_per_address_burst: Annotated[int, Field(ge=1)] = 100

    # 用户连接
    heartbeat_interval_s: PositiveSeconds = 30
    heartbeat_timeout_s: PositiveSeconds = 60
    handshake_timeout_s: PositiveSeconds = 5
    max_frame_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    outbox_max_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    outbox_max_delay_s: PositiveSeconds = 5
    bad_frame_limit: Annotated[int, Field(ge=1)] = 20
    bad_frame_window_s: PositiveSeconds = 60
    max_unacked: Annotated[int, Field(ge=1)] = 4096  # 每条连接记住多少条未确认的推送
    edge: Literal["native", "asgi"] = "native"  # asgi：用户连接也走普通 ASGI（内嵌到别的服务器时）

    # 连接的数目与快慢
    max_devices_per_user: Annotated[int, Field(ge=1, le=1_000)] = 200  # 一个用户，所有节点合计
    device_policy: DevicePolicy = "reject"
    max_connections_per_address: Annotated[int, Field(ge=0)] = 10_000  # 每个节点；0 = 不限
    max_http_connections_per_address: Annotated[int, Field(ge=0)] = 1_000  # 每个进程；0 = 不限
    max_connections_per_node: Annotated[int, Field(ge=1)] = 100_000
    connects_per_s: Annotated[float, Field(gt=0)] = 2_000  # 每个节点；再快的排队等
    connects_burst: Annotated[int, Field(ge=1)] = 5_000
    connect_wait_s: Annotated[float, Field(ge=0)] = 5  # 排队至多这么久，再长就 4005
    auth_failure_delay_s: Annotated[float, Field(ge=0)] = 0.2  # 平均；坏客户端因此转不快
    drain_window_s: Annotated[float, Field(ge=0)] = 10  # 关机时客户端分散在这么久里离开

    # 聋节点
    canary_interval_s: PositiveSeconds = 3  # 隔多久经 Redis 发给自己一条
    canary_deaf_s: PositiveSeconds = 8  # 发出这么久没听到就是聋了；两者之和加一个间隔 ≤ 15

    # 只有这个节点够不到 Redis
    cut_off_s: PositiveSeconds = 10  # 这么久而别的网关都好，就以 4007 把客户端交给它们

    # 消息
    message_ttl_s: Annotated[int, Field(ge=1)] = 7 * 86400
    max_content_bytes: Annotated[int, Field(ge=1)] = 64 * 1024
    max_title_chars: Annotated[int, Field(ge=1)] = 200
    max_data_bytes: Annotated[int, Field(ge=0)] = 16 * 1024
    max_recipients: Annotated[int, Field(ge=1)] = 10_000
    max_batch_messages: Annotated[int, Field(ge=1)] = 1_000
    # 一个用户的令牌能发多少，每个进程各算；一份 = 一个收件人，或正文每满 1 KB。0 = 不限；管理员不算
    sends_per_user_per_s: Annotated[float, Field(ge=0)] = 1_000
    sends_per_user_burst: Annotated[int, Field(ge=1)] = 50_000  # 优先级 5–9 的各只有十分之一
    mailbox_max_entries: Annotated[int, Field(ge=1)] = 1_000
    message_log_max_entries: Annotated[int, Field(ge=1)] = 1_000
    compress_above_bytes: Annotated[int, Field(ge=0)] = 1024

    # 会议
    meeting_max_title_chars: Annotated[int, Field(ge=1)] = 200
    meeting_max_participants: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    meeting_max_connections: Annotated[int, Field(ge=1)] = 500  # 每场会议，所有节点合计
    meeting_max_text_chars: Annotated[int, Field(ge=1)] = 4_000  # 一段转录
    meeting_max_frame_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024
    meeting_frames_per_s: Annotated[float, Field(gt=0)] = 20  # 每条连接；允许两秒的突发
    meeting_bytes_per_s: Annotated[float, Field(ge=1024)] = 64 * 1024
    meeting_outbox_max_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024
    meeting_refresh_s: PositiveSeconds = 5  # 续在场、核对有无漏段；三次没续上即不在场
    meeting_leave_grace_s: Annotated[float, Field(ge=0)] = 2  # 断开这么久仍没回来才宣布离开

    # 队列与工人
    queue_max_length: Annotated[int, Field(ge=1)] = 100_000
    queue_chunk_recipients: Annotated[int, Field(ge=1)] = 500
    queue_partitions: Annotated[int, Field(ge=1, le=64)] = 1  # 改它之前先排空队列
    queue_max_deliveries: Annotated[int, Field(ge=1)] = 5  # 取出超过这么多次还没有了结的进死信
    consumer_tasks: Annotated[int, Field(ge=1)] = 2
    consumer_tasks_max: Annotated[int, Field(ge=1)] = 8  # 积压时增到这么多
    consumer_batch_entries: Annotated[int, Field(ge=1)] = 100
    consumer_block_ms: Annotated[int, Field(ge=1)] = 1_000
    claim_idle_ms: Annotated[int, Field(ge=1)] = 30_000
    starvation_bound: Annotated[int, Field(ge=1)] = 10  # 每这么多批，普通队列至少先取一批
    # 入队时一个发送者的一份（收件人）：超出的走慢的那条，别人不等它
    fair_share_per_s: Annotated[float, Field(gt=0)] = 1_000
    fair_share_burst: Annotated[int, Field(ge=1)] = 2_000
    relay_interval_s: PositiveSeconds = 1
    relay_grace_s: Annotated[float, Field(ge=0)] = 5
    reconcile_interval_s: PositiveSeconds = 2  # 多久对照一次 Redis 与 SQL 的记号
    straggler_interval_s: PositiveSeconds = 30  # 多久查一页掉队的
    straggler_after_s: PositiveSeconds = 600  # 入队这么久还毫无痕迹才算掉队
    ack_flush_ms: Annotated[float, Field(ge=0)] = 5
    retry_delays_s: RetryDelays = (60, 300, 900)  # 没有确认：依次等这么久再推，用完即 failed
    expiry_interval_s: PositiveSeconds = 5

    # 在线状态
    node_lease_s: Annotated[int, Field(ge=1, le=30)] = 20
    presence_flush_ms: Annotated[float, Field(ge=0)] = 200
    presence_sweep_s: PositiveSeconds = 60  # 每隔这么久，内存与 Redis 对一次账
    presence_grace_s: Annotated[float, Field(ge=0)] = 5  # 离线满这么久才告诉关注者
    max_watched_per_connection: Annotated[int, Field(ge=1)] = 500  # 一条连接至多关注多少人
    max_watched_per_user: Annotated[int, Field(ge=1)] = 2_500  # 一个用户的全部设备，每个节点
    max_watched_users: Annotated[int, Field(ge=1)] = 50_000  # 每个节点；一个地址占四分之一

    # 依赖的等待上限
    start_patience_s: Annotated[float, Field(ge=0)] = 30  # 启动时 Redis、SQL 不在：等至多这么久
    redis_timeout_s: PositiveSeconds = 5
    database_timeout_s: PositiveSeconds = 10
    shutdown_grace_s: PositiveSeconds = 10

    # 观察
    stats_interval_s: PositiveSeconds = 5  # 每个进程隔多久把自己的统计交给大家
    consumer_stall_s: PositiveSeconds = 30  # 消费者这么久没有进展 → 不就绪

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

    @property
    def sql_url(self) -> str:
        """数据库；没有给出就是数据文件夹里的 SQLite（``#``、``?``、``%`` 照 URL 的规矩转义）。"""
        file = self.data_dir.absolute() / "meeting-push.db"
        return self.database_url or f"sqlite:///{quote(str(file))}"

    @field_validator("redis_url", "database_url", "jwt_secret", "jwt_public_key", "jwt_jwks_url")
    @classmethod
    def _not_empty(cls, value: str | SecretStr | None) -> str | SecretStr | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text is not None and not text.strip():
            raise ValueError("is empty; leave it out for the default")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _whole_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin: scheme://host[:port], such as "
                    "https://app.example"
                )
        return origins

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """互相矛盾的：启动时说，不让听话的客户端替它受罚。"""
        for smaller, larger in _ORDERED:
            if not getattr(self, smaller) < getattr(self, larger):
                raise ValueError(f"{larger} must be more than {smaller}")
        if self.consumer_tasks_max < self.consumer_tasks:
            raise ValueError("consumer_tasks_max must not be less than consumer_tasks")
        return self


def load_settings(**overrides: object) -> Settings:
    """读取设置；``overrides`` 里为 None 的项不算（命令行没给的选项）。

    :raises ConfigurationError: 一行话说明哪一项为什么不行，不含它的值（可能是密钥）。
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
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
