"""``meeting-push bench fuzz``：一切坏输入，对着真实的服务器，可重现。

一个 case 是一条 TCP 连接；它的一切由 ``(seed, 编号)`` 决定。坏输入由 ``json_frames``、
``ws_frames``、``http_requests`` 产生（纯的，hypothesis 的测试也用它们），``cases`` 把它们送出去，
``vitals`` 看服务器有没有受伤，``witness`` 是同一个服务器上的好人。
"""
