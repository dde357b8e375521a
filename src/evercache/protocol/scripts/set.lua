-- Explicit writes. They always log and always drop the leases.
-- ARGV: mode ('set', 'add', 'since'), not_before_us, not_after_us, lines, journal_ms, marks_ms, marks, every, life; the
-- id of each write; for each function, least, since, soft_ms, span_ms, envelope, number of tags; the tags of each
-- Reply: for each entry its stamp, whether one was there, and its soft expiry; or why it is not written

--@ start_of_a_write

local mode, not_before_us, not_after_us = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local lines, journal_ms, lives, marks_kept = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local every, LIFE = tonumber(ARGV[13]), ARGV[14]
local count = (#KEYS - 5) / 2
--@ untimely

local found = call('MGET', unpack(KEYS, 6, 5 + count))
--@ to_book
--@ state
local cancelled = call('ZMSCORE', IDS, unpack(ARGV, 15, 14 + count))
local untouched
if mode == 'since' then
  -- Whether the log shows no invalidation of this entry above `since`. Marks of functions, tags and everything
  -- have been looked at; what can't be decided counts as invalidated.
  function untouched(key, since)
    if since > tip or NEWEST > tip then
      return false -- of a life that is not known here: its state was lost, and its log with it
    elseif since == tip then
      return true
    end
    local from, previous, seen = '+', last, 0
    while seen < 2000 do
      local lines = call('XREVRANGE', LOG, from, '-', 'COUNT', 100)
      for _, line in ipairs(lines) do
        local f = {}
        for i = 1, #line[2], 2 do
          f[line[2][i]] = line[2][i + 1]
        end
        local stamp = tonumber(f.s)
        if stamp and stamp <= since then
          return true -- the stamps of the log only grow
        end
        local unknown = f.k ~= 'f' and f.k ~= 't' and f.k ~= '*' and f.k ~= 'k'
        if not stamp or unknown or (f.k == 'k' and f.n == key) then
          return false
        end
        previous = f.p
        from = '(' .. line[1]
      end
      seen = seen + #lines
      if #lines < 100 then
        break
      end
    end
    -- Else there were more lines once. And the log of this life tells nothing of a stamp from a former one: where this
    -- one began above that, `*` did as well, and has been looked at.
    return previous == '0-0' and (since == 0 or star > 0)
  end
end

local reply, writes, first_tag = {'ok', now_us, replid}, 0, 15 + 8 * count
for i = 1, count do
  local at, raw, key, existed, refused = 8 + count + 7 * i, found[i], KEYS[5 + i], 0, nil
  local ntags = tonumber(ARGV[at + 6])
  if cancelled[i] then
    refused = 'cancelled' -- its caller gave it up and has invalidated the key since
  elseif raw or mode == 'since' then
    local name, least = ARGV[at], tonumber(ARGV[at + 1])
    --@ function_mark
    --@ weigh
    existed = (fresh or (raw and version == 0)) and 1 or 0
    if mode == 'add' and fresh then
      refused = 'exists'
    elseif mode == 'since' then
      local since, raw, tags = tonumber(ARGV[at + 2]), ARGV[at + 5], {}
      local held = tonumber(call('HGET', STATE, 'held') or 0)
      least = max(tonumber(ARGV[at + 1]), star, func)
      for j = 1, ntags do
        tags[j] = ARGV[first_tag + j - 1]
      end
      if string.byte(raw, 4) % 4 > 1 then
        --@ own_tags
      end
      --@ covering
      --@ held_since
      -- A stamp does not tell the time at which it was taken: holds that nobody let go of count for five minutes (rule 22).
      if held_since(now_ms - 300000, key, name, tags) or since < least or not untouched(key, since) then
        refused = 'outdated'
      end
    end
  end
  first_tag = first_tag + ntags
  reply[3 + i] = refused or existed
  if not refused then
    writes = writes + 1
  end
end
if writes == 0 then
  return reply
end
--@ out_of_memory

local wide, kind, m, digits = false, 'k', 0, ''
--@ begin_marks
for i = 1, count do
  local existed = reply[3 + i]
  if existed == 0 or existed == 1 then
    local name, id, at = KEYS[5 + i], ARGV[14 + i], 8 + count + 7 * i
    --@ line
    --@ to_data
    local envelope, soft_ms, span_ms = ARGV[at + 5], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    local soft = now_ms + soft_ms
    local stamped = struct.pack('>I8I6I4', m, soft, span_ms)
    call('SET', name, string.sub(envelope, 1, 4) .. stamped .. string.sub(envelope, 23), 'PX', soft_ms + span_ms)
    if writes < count then
      call('UNLINK', KEYS[5 + count + i])
    end
    --@ to_book
    reply[3 + i] = {m, existed, soft}
  end
end
local issued = writes
--@ end_marks
if writes == count then
  --@ to_data
  call('UNLINK', unpack(KEYS, 6 + count))
end
return reply
