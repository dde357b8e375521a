-- Stores a computed value, only under the lease that it was computed under. Ends that lease, whatever it answers.
-- ARGV: token, stamp, soft_ms, span_ms, envelope

local bad = begin(true)
if bad then return bad end

local token, stamp, soft_ms, span_ms, envelope = text(), number(), number(), number(), text()
local entry = load_entry()
local holder, granted, began, _, generation = lease_value()

if holder ~= token or granted ~= stamp then
  if entry and entry.id == token then
    return {'ok', now_us, replid, entry.soft} -- the same call again
  end
  return {'refused', now_us, replid, 'lease'}
end

redis.call('UNLINK', LEASE)
-- The lease was granted over it only if it was outdated then, so that its stamp is the lower one.
if entry and entry.newer and now_ms < entry.hard and entry.stamp >= stamp then
  return {'refused', now_us, replid, 'newer'}
end
if soft_ms + span_ms <= 0 then
  return {'refused', now_us, replid, 'expired'}
end
if full then
  return {'refused', now_us, replid, 'full'}
end
-- Of tags that only the result knew the lease script could not know whether they are held (rule 22). Where another
-- generation granted the lease, the clock that it was granted by says nothing here.
if string.byte(envelope, 4) % 4 >= 2 then
  book()
  local held = tonumber(redis.call('HGET', STATE, 'held') or 0)
  if held > 0 and held_since(held, generation == replid and began or 1, nil, '', parse(envelope).tags) then
    return {'refused', now_us, replid, 'held'}
  end
  data()
end

local soft = now_ms + soft_ms
redis.call('SET', ENTRY, patched(envelope, stamp, soft, span_ms), 'PX', exact(soft_ms + span_ms))
return {'ok', now_us, replid, soft}
