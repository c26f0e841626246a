"""全部设置：不可变，唯一读环境变量的地方。

每一项都可用 ``MEETING_PUSH_<大写名>`` 或 ``.env`` 给出；名字带单位。
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .errors import ConfigurationError

PositiveSeconds = Annotated[float, Field(gt=0)]


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


class Settings(BaseSettings):
    """所有字段都有能直接用的默认值；``None`` 表示“由程序准备”。"""

    model_config = SettingsConfigDict(
        env_prefix="MEETING_PUSH_", env_file=".env", frozen=True, extra="ignore"
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
    jwt_secret: SecretStr | None = None  # None → data_dir 里生成一个并说明
    jwt_algorithms: tuple[str, ...] = ("HS256",)
    jwt_public_key: str | None = None  # PEM；RS/ES/EdDSA 用
    jwt_jwks_url: str | None = None
    jwt_audience: str = "meeting-push"
    jwt_issuer: str | None = None
    jwt_leeway_s: Annotated[int, Field(ge=0, le=300)] = 10
    jwt_claim_user_id: str = "sub"
    jwt_claim_role: str = "role"
    jwt_claim_name: str = "name"
    jwt_claim_session: str = "sid"
    access_token_ttl_s: Annotated[int, Field(ge=1)] = 900
    refresh_token_ttl_s: Annotated[int, Field(ge=1)] = 30 * 86400
    registration_enabled: bool = True
    allowed_origins: tuple[str, ...] = ()  # 空 → 只许同源（Origin 与 Host 一致）或没有 Origin

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

    # 消息
    message_ttl_s: Annotated[int, Field(ge=1)] = 7 * 86400
    max_content_bytes: Annotated[int, Field(ge=1)] = 64 * 1024
    max_title_chars: Annotated[int, Field(ge=1)] = 200
    max_data_bytes: Annotated[int, Field(ge=0)] = 16 * 1024
    max_recipients: Annotated[int, Field(ge=1)] = 10_000
    max_batch_messages: Annotated[int, Field(ge=1)] = 1_000
    mailbox_max_entries: Annotated[int, Field(ge=1)] = 1_000
    message_log_max_entries: Annotated[int, Field(ge=1)] = 1_000
    compress_above_bytes: Annotated[int, Field(ge=0)] = 1024

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
    relay_interval_s: PositiveSeconds = 1
    relay_grace_s: Annotated[float, Field(ge=0)] = 5
    reconcile_interval_s: PositiveSeconds = 2  # 多久对照一次 Redis 与 SQL 的记号
    straggler_interval_s: PositiveSeconds = 30  # 多久查一页掉队的
    straggler_after_s: PositiveSeconds = 600  # 入队这么久还毫无痕迹才算掉队
    ack_flush_ms: Annotated[float, Field(ge=0)] = 5

    # 在线状态
    node_lease_s: Annotated[int, Field(ge=1, le=30)] = 20
    presence_flush_ms: Annotated[float, Field(ge=0)] = 200

    # 依赖的等待上限
    redis_timeout_s: PositiveSeconds = 5
    database_timeout_s: PositiveSeconds = 10
    shutdown_grace_s: PositiveSeconds = 10

    @property
    def sql_url(self) -> str:
        """数据库；没有给出就是数据文件夹里的 SQLite。"""
        return self.database_url or f"sqlite:///{self.data_dir.absolute()}/meeting-push.db"


def load_settings(**overrides: object) -> Settings:
    """读取设置；``overrides`` 里为 None 的项不算（命令行没给的选项）。

    :raises ConfigurationError: 一行话说明哪一项为什么不行，不含它的值（可能是密钥）。
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise ConfigurationError(f"bad configuration: {problems}") from None
    except SettingsError as error:  # 复合类型（列表）不是 JSON
        raise ConfigurationError(f"bad configuration: {error}") from None
