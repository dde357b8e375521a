-- Removes an entry that is dead, comparing before it deletes. Leaves foreign values and newer versions alone.
-- ARGV: least

local bad = begin()
if bad then return bad end

local least = number()
local entry = load_entry()
if not entry or entry.foreign or entry.newer or (entry.stamp >= least and now_ms < entry.hard) then
  return {'ok', now_us, replid, 0}
end
redis.call('UNLINK', ENTRY)
return {'ok', now_us, replid, 1}
