-- Lengthens the caller's own lease.
-- ARGV: token, lease_ms

local bad = begin()
if bad then return bad end

local token, lease_ms = text(), number()
if lease_value() ~= token then
  return {'lost', now_us, replid}
end
redis.call('PEXPIRE', LEASE, lease_ms)
return {'ok', now_us, replid}
