-- 一批（消息, 用户）过期了：记进状态哈希，移出信箱并留下墓碑。SQL 已先记下。幂等。
-- 状态哈希已不在的不重建：没有人再问它。
-- ARGV[1] 前缀   ARGV[2] 墓碑的 TTL(ms)   ARGV[3] 一个用户至多几块墓碑
-- 之后每三个一组：message_id, user_id, 过期时刻(ms)
local call = redis.call
local prefix, ttl, cap = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- 还在信箱里而没有确认过：它的 seq 不会再推，没有位置的设备要听到 gap（DLV-5）。
local function bury(id, tag, seq)
  local graves = prefix .. 'expired_messages:{' .. tag
  call('ZADD', graves, seq, id)
  call('ZREMRANGEBYRANK', graves, 0, -cap - 1)
  call('PEXPIRE', graves, ttl)
end

for i = 4, #ARGV, 3 do
  local id, user = ARGV[i], ARGV[i + 1]
  local tag = user .. '}'
  local mailbox = prefix .. 'offline_messages:{' .. tag
  local key, field = prefix .. 'message_delivery_status:' .. id, 'u:' .. user
  local state = call('HGET', key, field)
  local seq = call('ZSCORE', mailbox, id)
  if not state and call('EXISTS', key) == 1 then
    call('HSET', key, field, 'expired:' .. ARGV[i + 2])
    call('HINCRBY', key, 'expired', 1)
  end
  if seq then
    if not state or string.sub(state, 1, 9) ~= 'delivered' then
      bury(id, tag, seq)
    end
    call('ZREM', mailbox, id)
  end
end
return 1
