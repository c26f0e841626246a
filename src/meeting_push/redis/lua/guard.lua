-- 公共部分，拼在成批的脚本前面：一项坏了（WRONGTYPE、值不是数）不连累同批的，记下它是第几项。
-- 别的错误（OOM、READONLY、NOPERM …）不是它的错：照样抛出，整批再来。
local spoiled = {}

-- result 是 redis.pcall 给出的错误，或 pcall 接住的。
local function spoil(at, result)
  if type(result) == 'table' then
    local code = string.match(result.err or '', '^%u+')
    if code ~= 'WRONGTYPE' and code ~= 'ERR' then
      error(result, 0)
    end
  end
  spoiled[#spoiled + 1] = at
  return nil
end

local function guard(at, work, ...)
  local ok, result = pcall(work, ...)
  if ok then
    return result
  end
  return spoil(at, result)
end
