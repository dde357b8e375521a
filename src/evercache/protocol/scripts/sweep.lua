-- Removes an entry that is dead, comparing before it deletes. Leaves foreign values and newer versions alone.
-- ARGV: least

--@ start

local least, raw = tonumber(ARGV[6]), call('MGET', KEYS[6])[1]
local version, flags, stamp, soft, hard = 0, 0, 0, 0, 0
if raw and #raw >= 38 then
  --@ parse
end
if version ~= 1 or (stamp >= least and now_ms < hard) then
  return {'ok', now_us, replid, 0}
end
call('UNLINK', KEYS[6])
return {'ok', now_us, replid, 1}
