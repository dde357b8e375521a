-- Writes marks back after the bookkeeping was lost: the maximum of what is there and what the caller knows.
-- ARGV: life, mark of everything, tagfloor, n, n times (member, score), limits

local bad = begin()
if bad then return bad end

local life, star, tagfloor, count = text(), number(), number(), number()
local state = read_state()
ensure_generation(state, life)
book()
local tip = math.max(NEWEST, star, tagfloor)
for _ = 1, count do
  local member, score = text(), number()
  redis.call('ZADD', MARKS, 'GT', exact(score), member)
  tip = math.max(tip, score)
end
state.star, state.tagfloor = math.max(state.star, star), math.max(state.tagfloor, tagfloor)
redis.call('HSET', STATE, '*', exact(state.star), 'tagfloor', exact(state.tagfloor))
raise_tip(state, tip, life)
fold(state, limits().marks, math.max(100, count))
return {'ok', now_us, replid, state.tip}
