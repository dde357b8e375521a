-- Changes the expiry of a live entry, and nothing else: no stamp, no log.
-- ARGV: least, function, not_before_us, not_after_us, soft_ms, span_ms, renewed (1 or 0; 2: if it was), marks_ms, number of tags,
-- tags

--@ start

local least, name, not_before_us, not_after_us = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local soft_ms, span_ms, renewed, lives = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local ntags, first_tag = tonumber(ARGV[14]), 15
--@ untimely

local raw = call('MGET', KEYS[6])[1]
--@ to_book
--@ state
--@ function_mark
--@ weigh
local was = math.floor(flags / 8) % 2
if not fresh or version > 1 or renewed > 1 + was then
  return {'miss', now_us, replid}
end
--@ keep_marks
soft = now_ms + soft_ms
--@ to_data
renewed = math.min(renewed, 1)
if was ~= renewed then
  call('SETRANGE', KEYS[6], 3, string.char(flags + 8 * (renewed - was)))
end
call('SETRANGE', KEYS[6], 12, struct.pack('>I6I4', soft, span_ms))
call('PEXPIRE', KEYS[6], soft_ms + span_ms)
return {'ok', now_us, replid, soft}
