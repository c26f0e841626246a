-- 一条新连接要的一切，一次往返：座位、信箱、广播的游标；都在用户自己的槽里。
-- 接在 seat_claim.lua、open.lua 之后。没有座位的，别的什么也不做。
-- KEYS[1..5] open.lua 的   KEYS[6] user_slots   KEYS[7] broadcast_cursor
-- ARGV[1..5] open.lua 的   ARGV[6] 游标的 TTL(ms)   ARGV[7] 还没有游标时的起点，'' = 不知道
-- ARGV[8..] seat_claim.lua 的
-- 返回 {座位的结论} 或 {座位的结论, 信箱, 游标（HGETALL）, 1 = 游标是这一次定下的}
local seat = claim_seat({ KEYS[6] }, { unpack(ARGV, 8) })
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
return { seat, opened, cursor, begun }
