-- Invalidates a key, a function, a tag or everything, once for each id.
-- ARGV: kind, name, id, limits, life, function of the entry ('' = unknown)

local bad = begin()
if bad then return bad end

local kind, name, id = text(), text(), text()
local limit, life, func = limits(), text(), text() or ''
if kind ~= 'k' and kind ~= 'f' and kind ~= 't' and kind ~= '*' then
  return redis.error_reply('ERR a kind of invalidation that this script does not know')
end

-- This also shows whether the bookkeeping database can be selected, before anything is removed.
local state = read_state()
if redis.call('ZSCORE', IDS, id) then
  return {'dup', now_us, replid, state.tip}
end

local existed = 0
if kind == 'k' then
  local entry, _, _, fresh = look(0, func, {})
  existed = (fresh or (entry and entry.foreign)) and 1 or 0
end
local m, line = mark(state, kind, name, id, true, limit, life)
if kind == 'k' then
  data()
  -- The user asked for it by name: an entry of a newer version goes as well.
  redis.call('UNLINK', ENTRY, LEASE)
end
return {'ok', now_us, replid, m, existed, line}
