-- Changes the expiry of a live entry, and nothing else: no stamp, no log.
-- ARGV: least, function, tags, not_before_us, not_after_us, soft_ms, span_ms

local bad = begin()
if bad then return bad end

local least, name, tags = number(), text(), list()
local not_before_us, not_after_us = number(), number()
local soft_ms, span_ms = number(), number()
if untimely(not_before_us, not_after_us) then
  return {'late', now_us, replid}
end

local entry, _, _, fresh = look(least, name, tags)
if not fresh or entry.newer then
  return {'miss', now_us, replid}
end
local soft = now_ms + soft_ms
data()
redis.call('SETRANGE', ENTRY, 12, struct.pack('>I6I4', soft, span_ms))
redis.call('PEXPIRE', ENTRY, exact(soft_ms + span_ms))
return {'ok', now_us, replid, soft}
