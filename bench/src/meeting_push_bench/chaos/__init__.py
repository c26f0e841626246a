"""``meeting-push bench chaos``：在混乱中记录历史，然后证明承诺没有被打破（DLV-1 … DLV-5、SEC-1）。

读的次序：``plan`` → ``schedule``（同一个种子，同一套计划）→ ``town``（真实的进程、Redis 与中间
的 TCP 代理）→ ``writers``、``phone``、``injector``、``observer``（各做各的，都写 ``history``）→
``drain``（连同读终局）→ ``check``（纯的：历史 + 终局 → 违反）→ ``report``。
"""
