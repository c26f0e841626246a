"""只有我够不到 Redis：别的网关好好的，就把客户端交出去，不让他们陪着等（E2）。

Redis 对谁都不在时相反：套接字留着（CON-4），赶走他们也没有地方可去。分清两者靠 SQL 里的名册；
SQL 也够不到就只看时间：这样的节点多半是自己的网断了。
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from loguru import logger

from ..errors import UnavailableError

LOOK_EVERY_S: Final = 0.5
#: 别人要连着好这么久才算好：Redis 刚回来时总有先连上的，差几秒的不算被切断。
WELL_FOR_S: Final = 4.0
#: SQL 也够不到时等这么久。
BLIND_S: Final = 60.0


class CutOff:
    """``hears``：此刻写得进、听得见 Redis。``well_elsewhere``：别的网关好不好，不知道则 None。

    ``give_up``、``recover`` 是同步的，不得抛出。``run`` 须由监督者一直运行。
    """

    def __init__(
        self,
        *,
        hears: Callable[[], bool],
        well_elsewhere: Callable[[], bool | None],
        after_s: float,
        give_up: Callable[[], None],
        recover: Callable[[], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._hears = hears
        self._well_elsewhere = well_elsewhere
        self._after_s = after_s
        self._give_up = give_up
        self._recover = recover
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._deaf_since: float | None = None
        self._well_since: float | None = None
        self._given_up = False

    async def run(self) -> None:
        """监督者运行的循环体；永不返回。"""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def check(self) -> None:
        """健康检查。

        :raises UnavailableError: 客户端已交了出去，还没有重新接待
        """
        if self._given_up:
            raise UnavailableError("the clients were handed over", cause="cut_off")

    def look(self) -> None:
        now = self._clock()
        if self._hears():
            self._deaf_since = self._well_since = None
            if self._given_up:
                self._given_up = False
                logger.info("node_back_in_touch")
                self._recover()
            return
        self._deaf_since = self._deaf_since or now
        well = self._well_elsewhere()
        self._well_since = (self._well_since or now) if well else None
        if not self._given_up and self._is_alone(now, self._deaf_since, well):
            self._given_up = True
            logger.bind(deaf_s=round(now - self._deaf_since, 1), blind=well is None).error(
                "node_cut_off"
            )
            self._give_up()

    def _is_alone(self, now: float, deaf_since: float, well: bool | None) -> bool:
        if well is None:
            return now - deaf_since >= max(self._after_s, BLIND_S)
        settled = self._well_since is not None and now - self._well_since >= WELL_FOR_S
        return settled and now - deaf_since >= self._after_s
