-- Gives the caller's own lease back without a value (the computation raised).
-- ARGV: token

--@ start

local lease = call('GET', KEYS[7])
if not lease or string.match(lease, '^%x+') ~= ARGV[6] then
  return {'lost', now_us, replid}
end
call('UNLINK', KEYS[7])
return {'ok', now_us, replid}
