-- 撤回了的收件人记进状态哈希：迟到的确认不再改它。不在了的不重建。幂等。
-- KEYS[1] message_delivery_status   ARGV[1] 撤回的时刻(ms)   之后是各 user_id
local call = redis.call
if call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local fresh = 0
for i = 2, #ARGV do
  local field = 'u:' .. ARGV[i]
  local before = call('HGET', KEYS[1], field)
  if not before or string.sub(before, 1, 9) ~= 'withdrawn' then
    call('HSET', KEYS[1], field, 'withdrawn:' .. ARGV[1])
    fresh = fresh + 1
  end
end
if fresh > 0 then
  call('HINCRBY', KEYS[1], 'withdrawn', fresh)
end
return fresh
