-- 一条新连接要的一切，一次往返：座位、信箱、广播的游标；都在用户自己的槽里。
-- 接在 seat_claim.lua、open.lua 之后。没有座位的，别的什么也不做。
-- KEYS[1..5] open.lua 的   KEYS[6] user_slots   KEYS[7] broadcast_cursor
-- ARGV[1..5] open.lua 的   ARGV[6] 游标的 TTL(ms)   ARGV[7] 还没有游标时的起点，'' = 不知道
-- ARGV[8] 广播的日志到哪里   ARGV[9..] seat_claim.lua 的
-- 返回 {座位的结论}
-- 或 {1, 座位的值, epoch, seq, 1 = 续上了, 1 = 游标是这一次定下的}：多数人，没有什么在等他
-- 或 {座位的结论, 信箱, 游标（HGETALL）, 1 = 游标是这一次定下的}
local seat = claim_seat({ KEYS[6] }, { unpack(ARGV, 9) })
if seat[1] ~= 1 then
  return { seat }
end
local opened = open_mailbox(KEYS, ARGV)
local cursor, begun = redis.call('HGETALL', KEYS[7]), 0
if #cursor == 0 and ARGV[7] ~= '' then
  redis.call('HSET', KEYS[7], 'at', ARGV[7])
  cursor, begun = { 'at', ARGV[7] }, 1
end
redis.call('PEXPIRE', KEYS[7], ARGV[6])
local verdict, before = opened[3], opened[6]
if #cursor == 2 and cursor[1] == 'at' and cursor[2] == ARGV[8]
  and (verdict == '' or verdict == 'resumed') and not before[1]
  and #opened[4] == 0 and #opened[5] == 0 and #opened[7] == 0 and #opened[8] == 0 then
  return { 1, seat[2], opened[1], opened[2], verdict == 'resumed' and 1 or 0, begun }
end
return { seat, opened, cursor, begun }
