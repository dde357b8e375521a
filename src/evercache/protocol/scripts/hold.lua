-- Refuses fills of keys, functions and tags for a time (rule 22), or lets go of them.
-- ARGV: id, span_ms (0: let go), not_after_us (0: no limit), most holds, life, number of scopes, scopes ('kind:name')

--@ start

local id, span_ms, not_after_us, most = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local LIFE, count = ARGV[10], tonumber(ARGV[11])
local REMEMBERED = 300000 -- ms for which a hold that nobody let go of counts for what began under it

-- Whoever asked has given up and let go of it, perhaps on another connection (rule 11).
if span_ms > 0 and not_after_us > 0 and now_us > not_after_us then
  return {'late', now_us, replid}
end

--@ to_book
--@ state
local held = tonumber(call('HGET', STATE, 'held') or 0)

-- The holders of a scope but this one.
local function others(field)
  local kept = ''
  for holder, expiry in string.gmatch(call('HGET', STATE, field) or '', '(%x+):(%d+)') do
    if holder ~= id and tonumber(expiry) >= now_ms - REMEMBERED then
      kept = kept .. holder .. ':' .. expiry .. ' '
    end
  end
  return kept
end

if span_ms > 0 then
  --@ holds

  -- What is remembered of holds that nobody let go of, its time over; too many: those that still live count only.
  local function prune(oldest)
    local all = call('HGETALL', STATE)
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, 2) == 'h:' and latest(all[i + 1]) < oldest then
        call('HDEL', STATE, all[i])
      end
    end
  end

  --@ ensure_generation
  if held > 0 and held < now_ms - REMEMBERED then
    prune(now_ms)
  elseif call('HLEN', STATE) + count > most then
    prune(now_ms)
    if call('HLEN', STATE) + count > most then
      return {'full', now_us, replid}
    end
  end
  local expiry = now_ms + span_ms
  for i = 12, 11 + count do
    local field = 'h:' .. ARGV[i]
    call('HSET', STATE, field, string.format('%s%s:%.0f', others(field), id, expiry))
  end
  call('HSET', STATE, 'held', max(believable(held), expiry))
  return {'ok', now_us, replid}
end

if held > 0 then
  for i = 12, 11 + count do
    local field = 'h:' .. ARGV[i]
    local kept = others(field)
    if kept == '' then
      call('HDEL', STATE, field)
    else
      call('HSET', STATE, field, kept)
    end
  end
  -- Nothing is held any more: scripts need not look.
  local others, fields = call('HMGET', STATE, 'tagfloor', 'life', 'held', 'data'), 0
  for i = 1, 6 do
    fields = fields + (f[i] and 1 or 0) + (others[i] and 1 or 0)
  end
  if call('HLEN', STATE) <= fields then
    call('HDEL', STATE, 'held')
  end
end
return {'ok', now_us, replid}
