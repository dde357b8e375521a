-- Refuses fills of keys, functions and tags for a time (rule 22), or lets go of them.
-- ARGV: id, span_ms (0: let go), not_after_us (0: no limit), most holds, life, scopes ('kind:name')

local bad = begin()
if bad then return bad end

local id, span_ms, not_after_us, most, life, scopes = text(), number(), number(), number(), text(), list()

-- Whoever asked has given up and let go of it, perhaps on another connection (rule 11).
if span_ms > 0 and not_after_us > 0 and now_us > not_after_us then
  return {'late', now_us, replid}
end

local state = read_state()

-- What is remembered of holds that nobody let go of, its time over; too many: those that still live count only.
local function prune(oldest)
  local all = redis.call('HGETALL', STATE)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == HELD and latest(all[i + 1]) < oldest then
      redis.call('HDEL', STATE, all[i])
    end
  end
end

-- The holders of a scope but this one.
local function others(field)
  local kept = ''
  for holder, expiry in string.gmatch(redis.call('HGET', STATE, field) or '', '(%x+):(%d+)') do
    if holder ~= id and tonumber(expiry) >= now_ms - REMEMBERED then
      kept = kept .. holder .. ':' .. expiry .. ' '
    end
  end
  return kept
end

if span_ms > 0 then
  ensure_generation(state, life)
  book()
  if state.held > 0 and state.held < now_ms - REMEMBERED then
    prune(now_ms)
  elseif redis.call('HLEN', STATE) + #scopes > most then
    prune(now_ms)
    if redis.call('HLEN', STATE) + #scopes > most then
      return {'full', now_us, replid}
    end
  end
  local expiry = now_ms + span_ms
  for _, scope in ipairs(scopes) do
    redis.call('HSET', STATE, HELD .. scope, others(HELD .. scope) .. id .. ':' .. exact(expiry))
  end
  redis.call('HSET', STATE, 'held', exact(math.max(believable(state.held), expiry)))
  return {'ok', now_us, replid}
end

if state.held > 0 then
  for _, scope in ipairs(scopes) do
    local kept = others(HELD .. scope)
    if kept == '' then
      redis.call('HDEL', STATE, HELD .. scope)
    else
      redis.call('HSET', STATE, HELD .. scope, kept)
    end
  end
  -- Nothing is held any more: scripts need not look.
  if redis.call('HLEN', STATE) <= state.fields then
    redis.call('HDEL', STATE, 'held')
  end
end
return {'ok', now_us, replid}
