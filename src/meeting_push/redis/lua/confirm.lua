-- 把一批确认记进各消息的状态哈希；只有第一次确认改变计数（幂等）。
-- 常态是第一次：相邻的同一条消息的合成一次 HMGET、一次 HSET，不是每行一次。
-- 只碰各消息自己的状态：Cluster 上一个主一次（here.lua）。
-- ARGV[1] 前缀  ARGV[2] 哈希的 TTL(ms)  ARGV[3] 1 = 迟到的（失败、过期之后才来的）也记；0 = 只说出来
-- ARGV[4] 对谁都完结了的，状态至多再留多久(ms)
-- 之后每四个一组：message_id, user_id, sent_at, acked_at；按消息排好才合得起来
-- 返回五个列表：第一次确认、且发送者要回执的 {message_id, sender_id, user_id, acked_at, ...}；
-- 状态坏了、没有记成的各是第几行（从 0 数）；第一次确认的按种类 {类型, 优先级, 人数, ...}；
-- 迟到的 {第几行, 它的死信（'' = 没有）, ...}：死信与墓碑收回了再来一遍；
-- 从此每个收件人都确认了的 {message_id, ...}。
-- 接在 here.lua、guard.lua 之后。
local call = redis.call
local prefix, ttl, overruling, lingers = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
local receipts, r, over = {}, 0, {}
local counts, uncounted, asked, late = {}, {}, {}, {}
local tally = {} -- 第一次确认的：类型 → 优先级 → 人数

-- 迟到的确认胜过 failed、expired：它们的计数收回。
local function overrule(key, field, before, state)
  call('HINCRBY', key, string.match(before, '^%a+'), -1)
  call('HSET', key, field, state)
  return true
end

-- 计数坏了的：错误由它说。
local function add(key, count)
  call('HINCRBY', key, 'delivered', count)
end

-- 一条消息的几行：ARGV[from] 起，到 ARGV[upto] 之前。
local function confirm(id, from, upto)
  local key = prefix .. 'message_delivery_status:' .. id
  local asking = { 'receipt_to', 'expires_at', 'priority', 'message_type', 'delivered', 'total' }
  local fields = {}
  for i = from, upto - 1, 4 do
    fields[#fields + 1] = 'u:' .. ARGV[i + 1]
    asking[#asking + 1] = fields[#fields]
  end
  local found = redis.pcall('HMGET', key, unpack(asking))
  if found.err then
    for i = from, upto - 1, 4 do
      spoil((i - 5) / 4, found)
    end
    return
  end
  local to, expires_at = found[1], tonumber(found[2] or '')
  local fresh, n, done, count = {}, 0, {}, 0
  for at, field in ipairs(fields) do
    local i, before = from + (at - 1) * 4, found[at + 6]
    local ended = before and string.sub(before, 1, 9)
    if not done[field] and ended ~= 'delivered' and ended ~= 'withdrawn' then
      local user, acked_at = ARGV[i + 1], ARGV[i + 3]
      if not overruling and (before or (found[2] and (expires_at or 0) <= tonumber(acked_at))) then
        -- 过期、挤出、失败之后才来的：它到手了，墓碑与死信先收回
        done[field] = true
        late[#late + 1] = (i - 5) / 4
        late[#late + 1] = before and string.match(before, '^failed:.*:(%d+%-%d+)$') or ''
      else
        local state = 'delivered:' .. ARGV[i + 2] .. ':' .. acked_at
        if not before then
          fresh[n + 1], fresh[n + 2] = field, state
          n = n + 2
        end
        if not before or guard((i - 5) / 4, overrule, key, field, before, state) then
          done[field], count = true, count + 1
          if to then
            receipts[r + 1], receipts[r + 2], receipts[r + 3], receipts[r + 4] = id, to, user, acked_at
            r = r + 4
          end
        end
      end
    end
  end
  local had = found[5] or '0'
  if count > 0 then
    if string.match(had, '^%d+$') then
      fresh[n + 1], fresh[n + 2] = 'delivered', string.format('%d', had + count)
      n = n + 2
      if tonumber(found[6] or '') == had + count then
        over[#over + 1] = id
      end
    else
      uncounted[key] = (uncounted[key] or 0) + count
    end
    counts[key] = (counts[key] or 0) + count
    asked[key] = found
  end
  if n > 0 then
    call('HSET', key, unpack(fresh)) -- 刚才还是哈希
  end
  if count > 0 and not found[2] then -- 没有开过的：此刻才有
    call('PEXPIRE', key, ttl)
  end
  if over[#over] == id then
    call('PEXPIRE', key, lingers, 'LT')
  end
end

local function note(message_type, priority, count)
  local of = tally[message_type or 'message']
  if not of then
    of = {}
    tally[message_type or 'message'] = of
  end
  of[priority or '0'] = (of[priority or '0'] or 0) + count
end

-- 常态：一条消息一行，第一次，按时，不要回执。做了则 true；别的交给 confirm，再问一遍。
local function confirm_one(id, from)
  local key, field = prefix .. 'message_delivery_status:' .. id, 'u:' .. ARGV[from + 1]
  local found = redis.pcall('HMGET', key, 'receipt_to', 'expires_at', 'priority', 'message_type',
    'delivered', 'total', field)
  local had = found[5] or '0'
  if found.err or found[1] or found[7] or not string.match(had, '^%d+$')
    or (tonumber(found[2] or '') or 0) <= tonumber(ARGV[from + 3]) then
    return false
  end
  local upto = had + 1
  call('HSET', key, field, 'delivered:' .. ARGV[from + 2] .. ':' .. ARGV[from + 3],
    'delivered', string.format('%d', upto))
  if tonumber(found[6] or '') == upto then
    over[#over + 1] = id
    call('PEXPIRE', key, lingers, 'LT')
  end
  note(found[4], found[3], 1)
  return true
end

local from, last = 5, #ARGV
if scattered then
  local seen
  for i = from, last, 4 do
    if ARGV[i] ~= seen then
      seen = ARGV[i]
      local refused = elsewhere(prefix .. 'message_delivery_status:' .. seen)
      if refused then
        return refused
      end
    end
  end
end
while from <= last do
  local id, upto = ARGV[from], from + 4
  while ARGV[upto] == id do
    upto = upto + 4
  end
  if overruling or upto > from + 4 or not confirm_one(id, from) then
    confirm(id, from, upto)
  end
  from = upto
end
local rows = spoiled
spoiled = {} -- 计数坏了的不是哪一行的错：状态已经记下
local kinds = {}
for key, count in pairs(uncounted) do
  guard(-1, add, key, count)
end
for key, count in pairs(counts) do
  note(asked[key][4], asked[key][3], count)
end
for message_type, of in pairs(tally) do
  for priority, count in pairs(of) do
    local n = #kinds
    kinds[n + 1], kinds[n + 2], kinds[n + 3] = message_type, priority, count
  end
end
return { receipts, rows, kinds, late, over }
