-- An explicit write. It always logs and always drops the lease.
-- ARGV: least, function, mode ('set', 'add', 'since'), id, not_before_us, not_after_us, since, soft_ms, span_ms,
-- envelope, tags, limits, life

local bad = begin(true)
if bad then return bad end

local least, name, mode, id = number(), text(), text(), text()
local not_before_us, not_after_us, since = number(), number(), number()
local soft_ms, span_ms, envelope, tags = number(), number(), text(), list()
local limit, life = limits(), text()

-- Whether the log shows no invalidation of this entry above `since`. Marks of functions, tags and everything
-- have been looked at; what can't be decided counts as invalidated.
local function untouched(state)
  if since >= state.tip then
    return true
  end
  book()
  local from, previous, seen = '+', state.last, 0
  while seen < 2000 do
    local lines = redis.call('XREVRANGE', LOG, from, '-', 'COUNT', 100)
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
      if not stamp or unknown or (f.k == 'k' and f.n == ENTRY) then
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
  return previous == '0-0' -- else there were more lines once
end

if untimely(not_before_us, not_after_us) then
  return {'late', now_us, replid}
end
book()
if redis.call('ZSCORE', IDS, id) then
  return {'cancelled', now_us, replid} -- its caller gave it up and has invalidated the key since
end

local entry, state, marks, fresh = look(least, name, tags)
if mode == 'add' and fresh then
  return {'exists', now_us, replid}
end
if mode == 'since' then
  tags = union(tags, parse(envelope).tags)
  local over = covering(state, least, name, tags)
  -- A stamp does not tell the time at which it was taken: holds that nobody let go of count for a while (rule 22).
  local held = held_since(state.held, now_ms - REMEMBERED, ENTRY, name, tags)
  if held or since < over.least or not untouched(state) then
    return {'outdated', now_us, replid}
  end
end
if full then
  return out_of_memory()
end

local m = mark(state, 'k', ENTRY, id, false, limit, life)
local soft = now_ms + soft_ms
data()
redis.call('SET', ENTRY, patched(envelope, m, soft, span_ms), 'PX', exact(soft_ms + span_ms))
redis.call('UNLINK', LEASE)
return {'ok', now_us, replid, m, (fresh or (entry and entry.foreign)) and 1 or 0, soft}
