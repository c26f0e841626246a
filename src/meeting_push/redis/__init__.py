"""Redis 的边界：连接、键名、Lua 脚本、内嵌服务器。只有这里导入 redis 与 hiredis。"""
