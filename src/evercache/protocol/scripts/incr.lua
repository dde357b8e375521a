-- Adds to a counter, or makes one. A counter keeps its stamp and its expiry and is not logged.
-- ARGV: least, not_before_us, not_after_us, id, delta, soft_ms, span_ms, initial, life, marks_ms

--@ start_of_a_write

local least, not_before_us, not_after_us = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local soft_ms, span_ms, value, LIFE = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), ARGV[14]
local lives, wanted, func, ntags, first_tag = tonumber(ARGV[15]), least, 0, 0, 0
--@ untimely

local raw = call('MGET', KEYS[6])[1]
--@ to_book
--@ state
--@ weigh
local payload_at = 39
if fresh then
  if own_tags then
    payload_at = 40 + 8 * string.byte(raw, 39)
  end
  local payload = version == 1 and flags % 2 == 1 and string.match(raw, '^%-?%d+$', payload_at)
  if not payload then
    return {'type', now_us, replid} -- also an entry of a newer version
  end
  value = tonumber(payload)
end
value = value + tonumber(ARGV[10])
if math.abs(value) >= 9007199254740992 then -- 2^53: whole numbers are exact below it
  return {'range', now_us, replid}
end
--@ out_of_memory

local digits = string.format('%.0f', value)
if fresh then
  --@ to_data
  call('SET', KEYS[6], string.sub(raw, 1, payload_at - 1) .. digits, 'KEEPTTL')
else
  --@ raise_tip
  --@ keep_marks
  --@ to_data
  local id = string.gsub(ARGV[9], '%x%x', function(byte) return string.char(tonumber(byte, 16)) end)
  local header = '\231\202\1\1' .. struct.pack('>I8I6I4', tip, now_ms + soft_ms, span_ms) .. id .. string.rep('\0', 8)
  call('SET', KEYS[6], header .. digits, 'PX', soft_ms + span_ms)
end
return {'ok', now_us, replid, digits}
