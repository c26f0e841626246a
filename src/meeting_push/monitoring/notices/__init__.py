"""通知：告警怎样到人那里。

``Notifier`` 收下触发与恢复，按渠道攒成一份份通知，由渠道的那一种（``courier.sender_of``）发出去；
告警文件里的三节由 ``config.notice_config`` 检查。用法见 docs/alerting.md。
"""
