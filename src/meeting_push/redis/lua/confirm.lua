-- 把一批确认记进各消息的状态哈希；只有第一次确认改变计数（幂等）。
-- 常态是第一次：一行一次 HSETNX，其余的（计数、要不要回执）每条消息一次，不是每行一次。
-- ARGV[1] 前缀  ARGV[2] 哈希的 TTL(ms)
-- 之后每四个一组：message_id, user_id, sent_at, acked_at
-- 返回三个列表：第一次确认、且发送者要回执的 {message_id, sender_id, user_id, acked_at, ...}；
-- 状态坏了、没有记成的各是第几行（从 0 数）；第一次确认的按种类 {类型, 优先级, 人数, ...}。
-- 接在 guard.lua 之后。
local call = redis.call
local prefix, ttl = ARGV[1], ARGV[2]
local receipts, r = {}, 0
local counts, asked = {}, {}

-- 迟到的确认胜过 failed、expired：它们的计数与死信收回。已是 delivered 的返回 false。
local function overrule(key, field, state)
  local before = call('HGET', key, field)
  if string.sub(before, 1, 9) == 'delivered' then
    return false
  end
  call('HINCRBY', key, string.match(before, '^%a+'), -1)
  local letter = string.match(before, '^failed:.*:(%d+%-%d+)$')
  if letter then
    call('XDEL', prefix .. 'dead_letter_queue', letter)
  end
  call('HSET', key, field, state)
  return true
end

local function add(key, count)
  if call('HINCRBY', key, 'delivered', count) == count then
    call('PEXPIRE', key, ttl)
  end
end

-- 热路上没有闭包：先写的 HSETNX 用 redis.pcall，它成了，同一个键就不会是别的类型
for i = 3, #ARGV, 4 do
  local id, user, acked_at = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local key = prefix .. 'message_delivery_status:' .. id
  local field, row = 'u:' .. user, (i - 3) / 4
  local state = 'delivered:' .. ARGV[i + 2] .. ':' .. acked_at
  local written = redis.pcall('HSETNX', key, field, state)
  local first = written == 1
  if type(written) == 'table' then
    spoil(row, written)
  elseif first or guard(row, overrule, key, field, state) then
    counts[key] = (counts[key] or 0) + 1
    local about = asked[key]
    if not about then
      about = call('HMGET', key, 'receipt_to', 'expires_at', 'priority', 'message_type')
      asked[key] = about
    end
    if not first or (about[2] and (tonumber(about[2]) or 0) <= tonumber(acked_at)) then
      -- 过期、挤出之后才来的：它到手了，不再是洞（墓碑见 expire.lua、evict.lua）
      guard(row, call, 'ZREM', prefix .. 'expired_messages:{' .. user .. '}', id)
      guard(row, call, 'ZREM', prefix .. 'evicted_messages:{' .. user .. '}', id)
    end
    if about[1] then
      receipts[r + 1], receipts[r + 2], receipts[r + 3], receipts[r + 4] = id, about[1], user, acked_at
      r = r + 4
    end
  end
end
local rows = spoiled
spoiled = {} -- 计数坏了的不是哪一行的错：状态已经记下
local kinds = {}
for key, count in pairs(counts) do
  guard(-1, add, key, count)
  local about, n = asked[key], #kinds
  if about then -- 没有：问的时候才发现键坏了
    kinds[n + 1], kinds[n + 2], kinds[n + 3] = about[4] or 'message', about[3] or '0', count
  end
end
return { receipts, rows, kinds }
