-- 各正文的头（编码与优先级），不取出正文；不在的是空串。
-- 不是字符串的（别人写坏的）同不在的：从记录重做一份，SET 会盖掉它。
-- 一批一条命令：一千个人一起回来时，逐个 GETRANGE 的打包与配对就占住了事件循环。
-- KEYS message_body:<id> …   ARGV[1] 头的长度
local call, heads = redis.pcall, {}
local last = ARGV[1] - 1
for i = 1, #KEYS do
  local head = call('GETRANGE', KEYS[i], 0, last)
  heads[i] = type(head) == 'string' and head or ''
end
return heads
