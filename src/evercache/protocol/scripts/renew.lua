-- Lengthens the caller's own lease.
-- ARGV: token, lease_ms

--@ start

local token, lease_ms, lease = ARGV[6], ARGV[7], call('GET', KEYS[7])
--@ lease
if holder ~= token then
  return {'lost', now_us, replid}
end
--@ granted_here
if here then
  call('PEXPIRE', KEYS[7], lease_ms)
else
  call('SET', KEYS[7], string.format('%s %s %.0f %s %s', token, granted_stamp, now_ms, usual, replid), 'PX', lease_ms)
end
return {'ok', now_us, replid}
