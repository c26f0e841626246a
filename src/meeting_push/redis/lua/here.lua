-- 公共部分，拼在 Cluster 上一个主一次调用的脚本前面：只声明了一个键（去哪里），别的槽的键由脚本拼。
-- 动手之前先看各行的键都在这里。有一个槽搬走了，或正在搬而键已不在（还没有），就什么也不做，说
-- ELSEWHERE，由调用者一个槽一次再来。一段脚本之内槽图不变：看过了就做得完（决定 0018）。
local scattered = #KEYS == 1

-- 一行的键，都同槽；不在这里的，给出那句话。
local function elsewhere(...)
  local found = redis.pcall('EXISTS', ...)
  return type(found) == 'table' and redis.error_reply('ELSEWHERE ' .. found.err)
end
