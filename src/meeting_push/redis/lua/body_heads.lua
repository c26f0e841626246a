-- 各正文的头（编码与优先级），不取出正文；不在的是空串。接在 here.lua 之后。
-- 不是字符串的（别人写坏的）同不在的：从记录重做一份，SET 会盖掉它。
-- 一批一条命令：一千个人一起回来时，逐个 GETRANGE 的打包与配对就占住了事件循环。
-- ARGV[1] 头的长度   之后 message_body:<id> …
local call, heads = redis.pcall, {}
local last = ARGV[1] - 1
if scattered then
  for i = 2, #ARGV do
    local refused = elsewhere(ARGV[i])
    if refused then
      return refused
    end
  end
end
for i = 2, #ARGV do
  local head = call('GETRANGE', ARGV[i], 0, last)
  heads[i - 1] = type(head) == 'string' and head or ''
end
return heads
