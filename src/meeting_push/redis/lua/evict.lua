-- 一个用户的信箱溢出了：选出谁该走，立下墓碑。此时还不移出：SQL 先记下失败，fail.lua 才移
-- （次序见 MailboxEvictor）。幂等：立过碑而还在信箱里的再给一次，已选出的不重选。
-- 先从占得最多的发送者挤：他的里面先最不急的，再最早的。一样多的，比各自该走的那一条。
-- 各条是谁发的、多急，记在 mailbox_senders 里：一段文本 'seq:发送者:优先级;…'，一条约 15 字节。投递时
-- 不记（那是热路），这里不认得的先交还给调用者去问，他带着答案再来。
-- KEYS 都在用户自己的 tag 里：[1] offline_messages [2] mailbox_senders [3] evicted_messages [4] user_seq
-- ARGV[1] 上限  ARGV[2] 墓碑的 TTL(ms)  ARGV[3] 至多几块墓碑  ARGV[4] 现在(ms)  ARGV[5] 一次至多几条
-- ARGV[6] 上次不认得的：同样的文本，或空
-- 返回：{要走的 message_id, 不认得的 {id, seq, …}}；没有带着答案来而有不认得的，就还没有选
local call, format, tonumber = redis.call, string.format, tonumber
local mailbox, graves = KEYS[1], KEYS[3]
local marked, leaving, held = {}, {}, {}
for _, id in ipairs(call('ZRANGE', graves, 0, -1)) do
  marked[id] = true
end
local entries = call('ZRANGE', mailbox, 0, -1, 'WITHSCORES')
for i = 1, #entries, 2 do
  if marked[entries[i]] then
    leaving[#leaving + 1] = entries[i]
  else
    held[#held + 1] = { entries[i], format('%d', entries[i + 1]) }
  end
end
local excess = math.min(#held - tonumber(ARGV[1]), tonumber(ARGV[5]))
if excess <= 0 then
  return { leaving, {} }
end

local text = (call('GET', KEYS[2]) or '') .. ARGV[6]
local of = {}
for seq, sender, priority in string.gmatch(text, '(%d+):([^:;]*):(%d);') do
  of[seq] = { sender, tonumber(priority) }
end
local known, unknown = {}, {}
for _, entry in ipairs(held) do
  if of[entry[2]] then
    known[#known + 1] = entry
  else
    unknown[#unknown + 1], unknown[#unknown + 2] = entry[1], entry[2]
  end
end
-- 去问的时候又来了的，这一次不算：否则洪水里永远问不完
if #unknown > 0 and ARGV[6] == '' then
  return { leaving, unknown }
end
if ARGV[6] ~= '' then -- 只留还在信箱里的
  local kept = {}
  for i, entry in ipairs(known) do
    kept[i] = format('%s:%s:%d;', entry[2], unpack(of[entry[2]]))
  end
  call('SET', KEYS[2], table.concat(kept), 'PX', ARGV[2])
end

-- 各发送者：几条，以及各优先级里按 seq 排着的。
local shares = {}
for _, entry in ipairs(known) do
  local sender, priority = unpack(of[entry[2]])
  local share = shares[sender]
  if not share then
    share = { count = 0, lanes = {}, from = {} }
    shares[sender] = share
  end
  local lane = share.lanes[priority] or {}
  share.lanes[priority] = lane
  lane[#lane + 1] = entry
  share.count = share.count + 1
end

-- 他最不急的里最早的：优先级，与那一条。
local function next_of(share)
  for priority = 0, 9 do
    local lane, at = share.lanes[priority], share.from[priority] or 1
    if lane and lane[at] then
      return priority, lane[at]
    end
  end
end

local function before(share, other)
  if share.count ~= other.count then
    return share.count > other.count
  end
  local priority, entry = next_of(share)
  local rival, theirs = next_of(other)
  return priority < rival or (priority == rival and tonumber(entry[2]) < tonumber(theirs[2]))
end

local stones = {}
for _ = 1, math.min(excess, #known) do
  local largest
  for _, share in pairs(shares) do
    if share.count > 0 and (not largest or before(share, largest)) then
      largest = share
    end
  end
  local priority, entry = next_of(largest)
  largest.from[priority] = (largest.from[priority] or 1) + 1
  largest.count = largest.count - 1
  leaving[#leaving + 1] = entry[1]
  stones[#stones + 1], stones[#stones + 2] = entry[2], entry[1]
end
if #stones == 0 then
  return { leaving, {} }
end
call('ZADD', graves, unpack(stones))
call('PEXPIRE', graves, ARGV[2])

-- 墓碑太多：最早的合成一段范围与条数（user_seq 里，0.1 只有它）；更旧的一段与它的消息一起过期了。
local surplus = call('ZCARD', graves) - tonumber(ARGV[3])
if surplus > 0 then
  local oldest = call('ZPOPMIN', graves, surplus)
  local from, to = tonumber(oldest[2]), tonumber(oldest[#oldest])
  local known = call('HMGET', KEYS[4], 'evicted_at', 'evicted_from', 'evicted_to')
  if known[1] and tonumber(known[1]) >= tonumber(ARGV[4]) - tonumber(ARGV[2]) then
    from = math.min(from, tonumber(known[2]))
    to = math.max(to, tonumber(known[3]))
  else
    call('HSET', KEYS[4], 'evicted', 0)
  end
  call('HINCRBY', KEYS[4], 'evicted', surplus)
  call('HSET', KEYS[4], 'evicted_from', format('%d', from), 'evicted_to', format('%d', to),
    'evicted_at', ARGV[4])
end
return { leaving, {} }
