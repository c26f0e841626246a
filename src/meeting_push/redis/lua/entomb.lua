-- 一批（用户, 消息）过期了：移出信箱，没有确认过的留下墓碑。幂等。
-- 只碰各用户自己的键：Cluster 上按槽分开调用。
-- ARGV[1] 前缀   ARGV[2] 墓碑的 TTL(ms)   ARGV[3] 一个用户至多几块墓碑
-- 之后每三个一组：message_id, user_id, 1 = 早已确认
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
  local id, tag = ARGV[i], ARGV[i + 1] .. '}'
  local mailbox = prefix .. 'offline_messages:{' .. tag
  local seq = call('ZSCORE', mailbox, id)
  if seq then
    if ARGV[i + 2] == '0' then
      bury(id, tag, seq)
    end
    call('ZREM', mailbox, id)
  end
end
return 1
