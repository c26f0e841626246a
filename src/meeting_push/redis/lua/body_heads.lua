-- 各正文的头（编码与优先级），不取出正文；不在的是空串。
-- 一批一条命令：一千个人一起回来时，逐个 GETRANGE 的打包与配对就占住了事件循环。
-- KEYS message_body:<id> …   ARGV[1] 头的长度
local call, heads = redis.call, {}
local last = ARGV[1] - 1
for i = 1, #KEYS do
  heads[i] = call('GETRANGE', KEYS[i], 0, last)
end
return heads
