"""负载测试：``meeting-push bench <profile>``，与两次结果的比较 ``bench compare``。

读的次序：``plan``（做多少）→ ``run``（搭台）→ 某个场景（``push``、``hold`` …）→ ``result``（得到
什么）→ ``page``（给人看）。到达是开环的：延迟从*预定*的发送时刻算起，服务器慢下来，负载不跟着慢。
"""
