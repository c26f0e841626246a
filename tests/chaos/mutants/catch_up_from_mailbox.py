"""打破 DLV-5 的服务器：总线断过之后只重读信箱。别的设备期间确认了的，这台永远不知道（E1）。

用法同 ``python -m meeting_push``。
"""

from __future__ import annotations

from meeting_push.cli import main
from meeting_push.mailbox_model import MailboxView
from meeting_push.websocket.line import UserConnection
from meeting_push.websocket.opening import Opener


async def read_again(self: Opener, connection: UserConnection) -> MailboxView:
    view = await self._read(connection, None)
    connection.send_all(connection.session.reread(view))
    return view


if __name__ == "__main__":
    Opener._read_again = read_again  # type: ignore[method-assign]
    main()
