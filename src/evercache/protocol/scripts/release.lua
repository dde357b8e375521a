-- Gives the caller's own lease back without a value (the computation raised).
-- ARGV: token

local bad = begin()
if bad then return bad end

if lease_value() ~= text() then
  return {'lost', now_us, replid}
end
redis.call('UNLINK', LEASE)
return {'ok', now_us, replid}
