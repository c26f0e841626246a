-- 了结一批条目：确认、删除、忘掉摘要是一步，所以流里的每一条不是待取就是待确认。
-- KEYS[1] 流  KEYS[2] 摘要  KEYS[3] 意外
-- ARGV[1] 消费组  ARGV[2] 条数 n  然后 n 个条目 id，n 个摘要（'' = 没有）
-- 返回：确认了几条。
local call = redis.call
local n = tonumber(ARGV[2])
local ids, digests = {}, {}
for i = 1, n do
  ids[i], digests[i] = ARGV[2 + i], ARGV[2 + n + i]
end
local acked = call('XACK', KEYS[1], ARGV[1], unpack(ids))
call('XDEL', KEYS[1], unpack(ids))
call('HDEL', KEYS[2], unpack(digests))
call('HDEL', KEYS[3], unpack(ids))
if call('XLEN', KEYS[1]) == 0 then -- 外人裁掉的条目留下的摘要，在这里清掉
  call('DEL', KEYS[2], KEYS[3])
end
return acked
