-- 本节点的一批连接里，哪些在 Redis 里不齐全（被删、被逐出）。只读：不进 AOF，不复制。
-- ARGV[1] 前缀  ARGV[2] 节点；之后每两个一组：user_id, connection_id
-- 返回不齐全的各是第几组（从 0 数）。
local call, prefix = redis.call, ARGV[1]
local users, members = {}, {}
for i = 3, #ARGV, 2 do
  users[#users + 1] = ARGV[i]
  members[#members + 1] = ARGV[i] .. ':' .. ARGV[i + 1]
end
if #users == 0 then
  return {}
end
local online = call('ZMSCORE', prefix .. 'online_users_set', unpack(users))
local indexed = call('SMISMEMBER', prefix .. 'node_connections:' .. ARGV[2], unpack(members))
local missing = {}
-- 别人写坏了的键：再写也写不成，不算不齐全（redis.pcall 给出错误，而不是 0）
for n, user in ipairs(users) do
  if not online[n] or indexed[n] == 0
    or redis.pcall('HEXISTS', prefix .. 'online_users:{' .. user .. '}', ARGV[2 * n + 2]) == 0 then
    missing[#missing + 1] = n - 1
  end
end
return missing
