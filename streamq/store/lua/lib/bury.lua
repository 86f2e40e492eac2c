-- Write a dead letter: the signed bytes as they were, and what is known about the death.
local function bury(dead, ledger, fields, flat, about)
  local letter = {}
  local function put(name, value)
    if value and value ~= '' then
      letter[#letter + 1] = name
      letter[#letter + 1] = value
    end
  end
  for _, name in ipairs(fields and CARRIED or {}) do
    put(name, fields[name])
  end
  for _, name in ipairs({ 'original_queue', 'original_id', 'original_entry', 'reason', 'error', 'traceback',
    'failed_at', 'retry_count', 'deliveries', 'worker', 'fingerprint' }) do
    put(name, about[name])
  end
  if not fields then
    put('raw', pack(flat))
  end
  redis.call('XADD', dead, '*', unpack(letter))
  redis.call('HINCRBY', ledger, 'dead', 1)
end

local MALFORMED = 'no payload, a bad priority, a doubled field, or bytes that do not unpack'
