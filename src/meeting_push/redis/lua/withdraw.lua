-- 一条消息撤回了：每个收件人的那一条换一个新的 seq，重新进信箱与日志，并发布 withdrawn。
-- 原来的 seq 由一个占位的留着（没有正文，续传的设备听到 gap）：日志里每个 seq 恰有一条。
-- 还没有投递到的也进日志：之后的投递在那里认出它，什么也不做。
-- 做过了的（有占位的）只再发布一次。正文须先换成墓碑。同一用户的键有同一个 hash tag。
--
-- ARGV[1] 键前缀   ARGV[2] 新用户的 epoch   ARGV[3] 信箱上限   ARGV[4] 日志上限
-- ARGV[5] 信箱与日志的 TTL(ms)   ARGV[6] seq 的 TTL(ms)   ARGV[7] 发布用的动词
-- ARGV[8] message_id   ARGV[9] 占位的   ARGV[10] 尾   之后是各 user_id
-- 返回信箱溢出了的 user_id
local call, format, tonumber = redis.call, string.format, tonumber
local prefix, id, mark = ARGV[1], ARGV[8], ARGV[9]
-- 它是再来的一次（attempt 1）：不是一条消息的首推，不该算进推送的比例与延迟
local after = ',"attempt":1,' .. ARGV[10]
local full = {}

local function move(tag, mailbox, log, seq_key)
  local old = call('ZSCORE', log, id)
  local n = call('HINCRBY', seq_key, 'seq', 1)
  local seq = format('%d', n)
  if old then
    call('ZADD', log, old, mark)
  end
  call('ZADD', log, seq, id)
  call('ZREMRANGEBYRANK', log, 0, -ARGV[4] - 1)
  call('ZADD', mailbox, seq, id)
  call('ZREM', prefix .. 'expired_messages:{' .. tag, id)
  call('ZREM', prefix .. 'evicted_messages:{' .. tag, id)
  if n == 1 then
    call('HSETNX', seq_key, 'epoch', ARGV[2])
  end
  call('PEXPIRE', mailbox, ARGV[5])
  call('PEXPIRE', log, ARGV[5])
  call('PEXPIRE', seq_key, ARGV[6])
  return seq
end

for i = 11, #ARGV do
  local tag = ARGV[i] .. '}'
  local mailbox, log = prefix .. 'offline_messages:{' .. tag, prefix .. 'message_log:{' .. tag
  local seq
  if call('ZSCORE', log, mark) then
    seq = format('%d', call('ZSCORE', log, id) or 0)
  else
    seq = move(tag, mailbox, log, prefix .. 'user_seq:{' .. tag)
  end
  if ARGV[7] ~= '' and seq ~= '0' then
    call(ARGV[7], prefix .. 'user:{' .. tag .. ':messages', '{"type":"withdrawn","seq":' .. seq .. after)
  end
  if call('ZCARD', mailbox) > tonumber(ARGV[3]) then
    full[#full + 1] = ARGV[i]
  end
end
return full
