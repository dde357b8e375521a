-- Changes the expiry of a live entry, and nothing else: no stamp, no log.
-- ARGV: least, function, tags, not_before_us, not_after_us, soft_ms, span_ms, marks_ms

local bad = begin()
if bad then return bad end

local least, name, tags = number(), text(), list()
local not_before_us, not_after_us = number(), number()
local soft_ms, span_ms, marks_ms = number(), number(), number()
if untimely(not_before_us, not_after_us) then
  return {'late', now_us, replid}
end

local entry, state, _, fresh = look(least, name, tags)
if not fresh or entry.newer then
  return {'miss', now_us, replid}
end
keep_marks(state, marks_ms)
local soft = now_ms + soft_ms
data()
redis.call('SETRANGE', ENTRY, 12, struct.pack('>I6I4', soft, span_ms))
redis.call('PEXPIRE', ENTRY, exact(soft_ms + span_ms))
return {'ok', now_us, replid, soft}
