"""SDK 的可调项：不可变，名字带单位。"""

from __future__ import annotations

from dataclasses import dataclass
from ssl import SSLContext


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """``PushClient`` 的可调项；默认值可直接用于生产。

    :param dead_after_s: 发出心跳后这么久没有任何帧到达，就当服务器已死
    :param stable_after_s: 连接活过这么久才算稳定，此后退避从头算起
    :param inbox_limit: 最多替应用存着几条没来得及处理的消息；满了就不再读套接字
    :param applied_capacity: 去重记住多少个已应用的消息 id
    :param concurrency: ``run()`` 里同时有几个处理函数；大于 1 时不再保证次序
    """

    open_timeout_s: float = 10
    close_timeout_s: float = 2
    dead_after_s: float = 10
    backoff_base_s: float = 1
    backoff_cap_s: float = 60
    stable_after_s: float = 10
    ack_delay_s: float = 0.005
    concurrency: int = 1
    inbox_limit: int = 1_000
    applied_capacity: int = 10_000
    max_frame_bytes: int = 4 * 1024 * 1024
    user_id_claim: str = "sub"
    ssl: SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestOptions:
    """``RestClient`` 的可调项。

    :param retries: 幂等调用最多重试几次（429、503、连不上）
    :param max_retry_wait_s: ``Retry-After`` 比它还长就不等了，把错误交给调用者
    """

    timeout_s: float = 10
    retries: int = 3
    backoff_base_s: float = 0.5
    max_retry_wait_s: float = 30
    ssl: SSLContext | None = None
