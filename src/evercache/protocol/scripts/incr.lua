-- Adds to a counter, or makes one. A counter keeps its stamp and its expiry and is not logged.
-- ARGV: least, not_before_us, not_after_us, id, delta, soft_ms, span_ms, initial, life, marks_ms

local bad = begin(true)
if bad then return bad end

local least, not_before_us, not_after_us = number(), number(), number()
local id, delta = text(), number()
local soft_ms, span_ms, initial, life, marks_ms = number(), number(), number(), text(), number()
if untimely(not_before_us, not_after_us) then
  return {'late', now_us, replid}
end

local entry, state, _, fresh = look(least, '', {})
local value = initial
if fresh then
  local payload = entry.counter and string.match(string.sub(entry.raw, entry.payload_at), '^%-?%d+$')
  if not payload then
    return {'type', now_us, replid} -- also an entry of a newer version
  end
  value = tonumber(payload)
end
value = value + delta
if math.abs(value) >= LIMIT then
  return {'range', now_us, replid}
end
if full then
  return out_of_memory()
end

if fresh then
  data()
  redis.call('SET', ENTRY, string.sub(entry.raw, 1, entry.payload_at - 1) .. exact(value), 'KEEPTTL')
else
  raise_tip(state, least, life)
  keep_marks(state, marks_ms)
  local header = MAGIC .. '\1\1' .. struct.pack('>I8I6I4', state.tip, now_ms + soft_ms, span_ms) .. unhex(id)
    .. string.rep('\0', HEADER - 30)
  data()
  redis.call('SET', ENTRY, header .. exact(value), 'PX', exact(soft_ms + span_ms))
end
return {'ok', now_us, replid, exact(value)}
