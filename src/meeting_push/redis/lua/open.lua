-- 读一个用户的信箱与续传日志；除了给新用户建立 epoch，什么也不改。
-- epoch = “代次-随机”。代次比我们的旧，说明 Redis 丢过数据、换过主（对账者换了代次）：换新的 epoch，
-- 于是每台设备都得到 resync，没有人把新消息误当成应用过的。seq 跳开一大段再走，跳多少由随机的部分定：
-- 被换下的主醒来，把积着的命令做完，发出的号都在它以下，会话当作推过的（决定 0018）。
-- 单独用，或拼在 arrive.lua 前面（那时的 KEYS、ARGV 是它给的一段）。
-- KEYS[1] user_seq   KEYS[2] offline_messages   KEYS[3] message_log   KEYS[4] expired_messages
-- KEYS[5] evicted_messages
-- ARGV[1] 新 epoch   ARGV[2] seq 的 TTL(ms)   ARGV[3] 设备的 epoch（'' = 没有位置）   ARGV[4] last_seq
-- ARGV[5] 1 = 那是我们自己推到的，不是设备说的
-- 返回 {epoch, seq, 结论, 信箱 {id, seq, ...}, 日志中 last_seq 之后的 {id, seq, ...}, 更早挤出的, 过期的, 挤出的}
-- 挤出的见 evict.lua：{id, seq, ...}；更早的只记得 {evicted_from, evicted_to, evicted, evicted_at}，没有则全是 nil
-- 过期的见 expire.lua：{id, seq, ...}；续传的设备不看它们，日志里有
-- 结论：'' · resumed · epoch_changed · too_far_behind
local call = redis.call
local function generation(of)
  return tonumber(string.match(of, '^(%d+)-') or '0')
end
local function start_over(key, epoch, seq)
  seq = seq + 65537 + tonumber(string.match(epoch, '-(%x%x%x%x)') or '0', 16)
  call('HSET', key, 'epoch', epoch, 'seq', string.format('%d', seq))
  return epoch, seq
end
local function open_mailbox(KEYS, ARGV)
  local epoch, seq, from, to, evictions, evicted_at =
    unpack(call('HMGET', KEYS[1], 'epoch', 'seq', 'evicted_from', 'evicted_to', 'evicted', 'evicted_at'))
  seq = tonumber(seq or '0')
  if not epoch then
    epoch = ARGV[1]
    call('HSET', KEYS[1], 'epoch', epoch)
    call('PEXPIRE', KEYS[1], ARGV[2])
  elseif generation(epoch) < generation(ARGV[1]) then
    epoch, seq = start_over(KEYS[1], ARGV[1], seq)
  end
  local before = { from, to, evictions, evicted_at }
  local up_to_date = ARGV[3] == epoch and tonumber(ARGV[4]) == seq
  if (ARGV[3] == '' or up_to_date) and call('EXISTS', KEYS[2], KEYS[4], KEYS[5]) == 0 then
    return { epoch, seq, up_to_date and 'resumed' or '', {}, {}, before, {}, {} } -- 多数人：没有什么在等
  end
  local mailbox = call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  local evicted = call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES')
  local function without_position(verdict)
    local expired = call('ZRANGE', KEYS[4], 0, -1, 'WITHSCORES')
    return { epoch, seq, verdict, mailbox, {}, before, expired, evicted }
  end
  if ARGV[3] == '' then
    return without_position('')
  end
  local behind = seq - tonumber(ARGV[4])
  if ARGV[3] == epoch and behind < 0 and ARGV[5] == '1' then
    -- 推过的号这里还没有发出：Redis 退回了旧的数据，会再用一遍。换 epoch，没有人把新的当成推过的
    epoch, seq = start_over(KEYS[1], ARGV[1], seq)
  end
  if ARGV[3] ~= epoch or behind < 0 then
    return without_position('epoch_changed')
  end
  local log = call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[4], '+inf', 'WITHSCORES')
  -- 每个 seq 恰有一条日志：条数对得上，就是一条不缺
  if #log ~= behind * 2 then
    return without_position('too_far_behind')
  end
  return { epoch, seq, 'resumed', mailbox, log, before, {}, evicted }
end

if #KEYS == 5 then
  return open_mailbox(KEYS, ARGV)
end
