-- Lengthens the caller's own lease.
-- ARGV: token, lease_ms

local bad = begin()
if bad then return bad end

local token, lease_ms = text(), number()
local holder, stamp, granted, expected, generation = lease_value()
if holder ~= token then
  return {'lost', now_us, replid}
end
if granted_here(granted, generation) then
  redis.call('PEXPIRE', LEASE, lease_ms)
else
  write_lease(token, stamp, expected, lease_ms)
end
return {'ok', now_us, replid}
