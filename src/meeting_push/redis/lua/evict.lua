-- 一个用户的信箱溢出了，该走的已经选好（outcome/mailbox_evictor.py）：给它们立下墓碑。此时还不移出：SQL 先
-- 记下失败，fail.lua 才移（次序见 MailboxEvictor）。选的时候与现在之间，信箱会变：还超出几条在这里
-- 重算，已不在的、别人立过碑的跳过。所以幂等，几个进程同时挤一个信箱，也不会挤到上限以下。
-- KEYS 都在用户自己的 tag 里：[1] offline_messages [2] mailbox_senders [3] evicted_messages [4] user_seq
-- ARGV[1] 上限  ARGV[2] 墓碑的 TTL(ms)  ARGV[3] 至多几块墓碑  ARGV[4] 现在(ms)
-- ARGV[5] 留下的各条是谁发的、多急：JSON {seq: [发送者, 优先级]}，空 = 记着的照旧
-- 之后：选好的 message_id，按该走的次序
-- 返回：这一次立了碑的 message_id
local call, format, tonumber = redis.call, string.format, tonumber
local mailbox, graves = KEYS[1], KEYS[3]
if ARGV[5] ~= '' then
  call('SET', KEYS[2], ARGV[5], 'PX', ARGV[2])
end

-- 立了碑而还没有移出的，已经不占上限
local held = call('ZCARD', mailbox) - call('ZINTERCARD', 2, mailbox, graves)
local excess = held - tonumber(ARGV[1])
local marked, stones = {}, {}
for i = 6, #ARGV do
  if excess <= 0 then
    break
  end
  local id = ARGV[i]
  local seq = call('ZSCORE', mailbox, id)
  if seq and not call('ZSCORE', graves, id) then
    marked[#marked + 1] = id
    stones[#stones + 1], stones[#stones + 2] = format('%d', seq), id
    excess = excess - 1
  end
end
if #marked == 0 then
  return marked
end
call('ZADD', graves, unpack(stones))
call('PEXPIRE', graves, ARGV[2])

-- 墓碑太多：最早的合成一段范围与条数（user_seq 里，0.1 只有它）；更旧的一段与它的消息一起过期了。
-- 还在信箱里的不合：没了碑，别人会以为它还占着，另挤一条。
local surplus = call('ZCARD', graves) - tonumber(ARGV[3])
local from, to, merged = nil, nil, {}
if surplus > 0 then
  local oldest = call('ZRANGE', graves, 0, surplus + #marked, 'WITHSCORES')
  for i = 1, #oldest, 2 do
    if #merged == surplus then
      break
    end
    if not call('ZSCORE', mailbox, oldest[i]) then
      merged[#merged + 1] = oldest[i]
      to = tonumber(oldest[i + 1])
      from = from or to
    end
  end
end
if #merged > 0 then
  call('ZREM', graves, unpack(merged))
  local known = call('HMGET', KEYS[4], 'evicted_at', 'evicted_from', 'evicted_to')
  if known[1] and tonumber(known[1]) >= tonumber(ARGV[4]) - tonumber(ARGV[2]) then
    from = math.min(from, tonumber(known[2]))
    to = math.max(to, tonumber(known[3]))
  else
    call('HSET', KEYS[4], 'evicted', 0)
  end
  call('HINCRBY', KEYS[4], 'evicted', #merged)
  call('HSET', KEYS[4], 'evicted_from', format('%d', from), 'evicted_to', format('%d', to),
    'evicted_at', ARGV[4])
end
return marked
