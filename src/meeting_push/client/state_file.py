"""设备状态的 JSON 文件：整份重写，原子替换。"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

import msgspec
from loguru import logger

from ..private_files import private_folder


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """重启之后接着用的一切。``floor`` 为 None 表示还没有位置可以声称。

    不含令牌。``user_id`` 防止换了用户还用旧位置；下限之上的零散 seq 不存：
    续传会重推它们，按 id 去重。
    """

    device_id: str
    user_id: int | None = None
    epoch: str | None = None
    floor: int | None = None
    applied_ids: list[str] = []
    unconfirmed: list[str] = []


class StateFile:
    """一份文件只给一个客户端用；两个进程同用一份会互相覆盖。"""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: 取消了的保存仍在它的线程里写；后一次要排在它之后。
        self._writing = Lock()

    def load(self) -> DeviceState | None:
        """没有文件或读不懂时为 None：代价只是服务器把信箱重推一遍。阻塞。

        :raises OSError: 文件在，却读不了（权限等）
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=DeviceState)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            logger.bind(path=str(self._path)).warning("client_state_unreadable")
            return None

    def save(self, state: DeviceState) -> None:
        """写临时文件、落盘、改名：任何时刻断电都留下一份完整的。阻塞。

        :raises OSError: 写不了
        """
        with self._writing:
            private_folder(self._path.parent)
            self._replace(msgspec.json.encode(state))

    def _replace(self, content: bytes) -> None:
        with NamedTemporaryFile(
            dir=self._path.parent, prefix=self._path.name, suffix=".tmp", delete=False
        ) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self._path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise


def load_device_state(file: StateFile | None, device_id: str | None) -> DeviceState:
    """文件里的，没有就新开一份；指定了别的 ``device_id`` 就是另一台设备，旧账不算。"""
    state = file.load() if file else None
    if state is not None and device_id in (None, state.device_id):
        return state
    return DeviceState(device_id=device_id or uuid.uuid4().hex)
