-- Keys of a wrong type must fail before the first write: Redis does not undo a script that fails half-way, and the
-- next try would write what came before the failure once more.
local SIZE_OF = { stream = 'XLEN', zset = 'ZCARD', hash = 'HLEN' }

local function expect(kind, ...)
  for _, key in ipairs({ ... }) do
    redis.call(SIZE_OF[kind], key)
  end
end
