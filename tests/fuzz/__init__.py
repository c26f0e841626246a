"""坏输入：生成器与 ``meeting-push bench fuzz`` 共用；这里量小、有界、会缩减。"""
