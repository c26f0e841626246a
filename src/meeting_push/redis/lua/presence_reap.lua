-- 收拾一个没有租约的节点留下的一部分连接。接在 guard.lua、presence_user.lua 之后；ARGV[2] 是那个节点。
-- 几个节点同时来也无妨：SPOP 让每一条只归一个人，删掉登记的那一个才算收拾完它。
-- ARGV[4] 至多几条
-- 返回 {移走几条, 索引里还剩几条, 1 = 是我收拾完的, 下线了的人}；它活过来了则 {0, 0, 0, {}}。
if call('EXISTS', prefix .. 'node:' .. own) == 1 then
  return { 0, 0, 0, {} }
end
local removed = 0
for _, member in ipairs(call('SPOP', own_index, ARGV[4])) do
  local user, connection = match(member, '^(%d+):(.*)$')
  if user then
    removed = removed + (guard(member, remove, user, connection, own) or 0)
  end
end
local left, last = call('SCARD', own_index), 0
if left == 0 then
  last = call('SREM', nodes, own)
end
return { removed, left, last, turned }
