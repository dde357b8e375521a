-- Invalidates keys, functions, tags or everything, once for each id.
-- KEYS: the entries and leases of the keys, in order
-- ARGV: lines, journal_ms, marks_ms, marks, every, life, number of scopes; for each kind, name, id, function of the
-- entry ('' = unknown)
-- Reply: for each its stamp, whether a live entry was there, and its line in the log; or the tip, where this id has been
-- obeyed before

--@ start

local lines, journal_ms, lives, marks_kept = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local every, LIFE, final = tonumber(ARGV[10]), ARGV[11], 9 + 4 * tonumber(ARGV[12])
local keys = (#KEYS - 5) / 2
for at = 13, final, 4 do
  local kind = ARGV[at]
  if kind ~= 'k' and kind ~= 'f' and kind ~= 't' and kind ~= '*' then
    return redis.error_reply('ERR a kind of invalidation that this script does not know')
  end
end

local found = keys > 0 and call('MGET', unpack(KEYS, 6, 5 + keys)) or nil
-- This also shows whether the bookkeeping database can be selected, before anything is removed.
--@ to_book
--@ state
local reply, removed, obeyed, issued, nth, listed = {'ok', now_us, replid}, {}, {}, 0, 0, false
local m, digits, now = 0, '', string.format('%.0f', now_ms)
for at = 13, final, 4 do
  local kind, name, id = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local key = kind == 'k'
  nth = nth + (key and 1 or 0)
  local item
  if call('ZSCORE', IDS, id) then
    item = tip
  else
    local existed = 0
    if key then
      local raw = found[nth]
      if raw then
        local name, least, ntags, first_tag = ARGV[at + 3], 0, 0, 0
        --@ function_mark
        --@ weigh
        existed = (fresh or version == 0) and 1 or 0
      end
      removed[#removed + 1], removed[#removed + 2] = KEYS[5 + nth], KEYS[5 + keys + nth]
    end
    if issued == 0 then
      local wide = kind == '*'
      --@ begin_marks
    end
    --@ line
    issued = issued + 1
    if kind == '*' then
      star = m
      call('HSET', STATE, '*', digits)
    elseif not key then
      call('ZADD', MARKS, digits, kind .. ':' .. name)
      listed = true
    end
    obeyed[2 * issued - 1], obeyed[2 * issued] = now, id
    item = {m, existed, last}
  end
  reply[#reply + 1] = item
end
if issued == 0 then
  return reply
end
if listed and not marked then
  call('HSET', STATE, 'marked', '1')
end
--@ end_marks
if #removed > 0 then
  --@ to_data
  -- The user asked for it by name: an entry of a newer version goes as well.
  call('UNLINK', unpack(removed))
  --@ to_book
end
-- Last: what fails before is not taken for obeyed when it is sent again.
call('ZADD', IDS, unpack(obeyed))
return reply
