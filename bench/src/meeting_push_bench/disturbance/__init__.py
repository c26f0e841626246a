"""一个捣乱的会不会连累别人：同一次运行里有它与没有它轮流上场，比较别人的延迟。

``slow_consumer``（CON-1）：一台不读的设备。``meeting_isolation``（ISO-1）：灌满的会议。
"""
