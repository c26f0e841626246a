-- 原子地入队一批：要么全部，要么（会超过上限时）一条都不。
-- 队列满了就拒绝，绝不裁掉旧的；已在队列里的同一条目不再加（去重）。
-- KEYS[1] 流   KEYS[2] 摘要 → 流里的 id   ARGV[1] 上限   ARGV[2..] 各条目的 JSON
-- 返回：入队后的长度；-1 表示已满。
local call, sub, sha1hex = redis.call, string.sub, redis.sha1hex
local stream, known = KEYS[1], KEYS[2]
local fresh, digests, seen = {}, {}, {}
for i = 2, #ARGV do
  local digest = sub(sha1hex(ARGV[i]), 1, 24)
  local at = call('HGET', known, digest)
  -- 摘要可能留着而条目已被人裁掉：以流为准，宁可重复，不可丢
  if not seen[digest] and not (at and #call('XRANGE', stream, at, at) > 0) then
    seen[digest] = true
    fresh[#fresh + 1] = ARGV[i]
    digests[#digests + 1] = digest
  end
end
local length = call('XLEN', stream) + #fresh
if length > tonumber(ARGV[1]) then
  return -1
end
for i = 1, #fresh do
  local id = call('XADD', stream, '*', 'v', '1', 'entry', fresh[i], 'd', digests[i])
  call('HSET', known, digests[i], id)
end
return length
