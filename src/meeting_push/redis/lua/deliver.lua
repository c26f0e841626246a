-- 投递一批：对每个（用户, 消息）原子地取 seq → 进信箱 → 发布。先进信箱，后推。
-- 幂等：已在信箱的沿用旧 seq 再发布一次；已确认过的（只在日志里）什么也不做。
-- 重试（attempt > 0）只再发布，从不重新放进信箱：不在那里就是认领之后确认到了。
-- 同一用户的键有同一个 hash tag，落在同一个槽；Cluster 上一个主一次调用。接在 here.lua 之后。
--
-- ARGV[1] 键前缀          ARGV[2] 新用户的 epoch
-- ARGV[3] 信箱上限        ARGV[4] 日志上限
-- ARGV[5] 信箱与日志的 TTL(ms)   ARGV[6] seq 的 TTL(ms)
-- ARGV[7] 发布用的动词（Cluster 上是 SPUBLISH），'' = 只进信箱
-- 之后每条消息一组：message_id, attempt, 尾, 人数 n, n 个 user_id
-- 返回：按次序每人两个数：seq, 收到发布的节点数（-1 = 早已确认，什么也没做）；
--       末尾是信箱满得溢出了的 user_id：挤谁不在这里定，见 evict.lua
local call, format, tonumber = redis.call, string.format, tonumber
local prefix, epoch = ARGV[1], ARGV[2]
local mailbox_cap, log_cap = tonumber(ARGV[3]), tonumber(ARGV[4])
local ttl, seq_ttl, verb = ARGV[5], ARGV[6], ARGV[7]
local publish = verb ~= ''
local mailboxes = prefix .. 'offline_messages:{'
local logs = prefix .. 'message_log:{'
local seqs = prefix .. 'user_seq:{'
local channels = prefix .. 'user:{'
local replies, r = {}, 0
local full = {}

-- Lua 的数拼进字符串用 %.14g，1e15 以上会变成指数：一律先用 %d 变成整数文本。

-- 新的一条：返回它的 seq 文本；已有记录则 nil，且不留下痕迹（seq 不许有洞，洞会被当成丢失）。
local function append(seq_key, mailbox, log, id)
  local n = call('HINCRBY', seq_key, 'seq', 1)
  local seq = format('%d', n)
  if call('ZADD', log, 'NX', seq, id) == 0 then
    call('HINCRBY', seq_key, 'seq', -1)
    return nil
  end
  if call('ZADD', mailbox, 'NX', seq, id) == 0 then -- 日志已裁掉它，信箱里还有
    call('ZREM', log, id)
    call('HINCRBY', seq_key, 'seq', -1)
    return nil
  end
  if n == 1 then
    call('HSETNX', seq_key, 'epoch', epoch)
  end
  if n % 16 == 0 then -- 日志容许略长，裁剪的代价由 16 条分摊
    call('ZREMRANGEBYRANK', log, 0, -log_cap - 1)
  end
  if n > mailbox_cap and call('ZCARD', mailbox) > mailbox_cap then
    full[string.match(mailbox, '{(%d+)}$')] = true
  end
  call('PEXPIRE', mailbox, ttl)
  -- 这两个差百分之一才续：问一声不进 AOF，续要两条命令、150 字节
  if n == 1 or call('PTTL', log) < ttl * 0.99 then
    call('PEXPIRE', log, ttl)
    call('PEXPIRE', seq_key, seq_ttl)
  end
  return seq
end

if scattered then
  local i = 8
  while i <= #ARGV do
    local last = i + 3 + tonumber(ARGV[i + 3])
    for u = i + 4, last do
      local tag = ARGV[u] .. '}'
      local refused = elsewhere(mailboxes .. tag, logs .. tag, seqs .. tag)
      if refused then
        return refused
      end
    end
    i = last + 1
  end
end
local i = 8
while i <= #ARGV do
  local id = ARGV[i]
  local first = ARGV[i + 1] == '0'
  local before = '{"type":"new_message","seq":'
  if string.sub(ARGV[i + 2], 42, 57) == ',"withdrawn_at":' then -- 撤回了的再推一次
    before = '{"type":"withdrawn","seq":'
  end
  local after = ',"attempt":' .. ARGV[i + 1] .. ',' .. ARGV[i + 2]
  local last = i + 3 + tonumber(ARGV[i + 3])
  for u = i + 4, last do
    local tag = ARGV[u] .. '}'
    local mailbox, log = mailboxes .. tag, logs .. tag
    local seq = first and append(seqs .. tag, mailbox, log, id)
    local receivers = 0
    if not seq then
      local held = call('ZSCORE', mailbox, id)
      if held then
        seq = format('%d', held)
      else
        seq = format('%d', call('ZSCORE', log, id) or 0)
        receivers = -1
      end
    end
    if publish and receivers == 0 then
      receivers = call(verb, channels .. tag .. ':messages', before .. seq .. after)
    end
    replies[r + 1], replies[r + 2] = tonumber(seq), receivers
    r = r + 2
  end
  i = last + 1
end
for user in pairs(full) do
  r = r + 1
  replies[r] = user
end
return replies
