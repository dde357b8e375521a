-- Writes marks back after the bookkeeping was lost: the maximum of what is there and what the caller knows.
-- ARGV: life, mark of everything, tagfloor, n, n times (member, score), limits, whether the caller knew another life
-- ('1'; absent or '0': the same)

local bad = begin()
if bad then return bad end

local life, star, tagfloor, count = text(), number(), number(), number()
local members, scores = {}, {}
for i = 1, count do
  members[i], scores[i] = text(), number()
end
local limit, knew_another = limits(), text() == '1'
local state = read_state()
ensure_generation(state, life)
replace_lost_marks(state, limit, life)
keep_marks(state, limit.marks_ms)
book()
if knew_another and (state.star < NEWEST or redis.call('HGET', STATE, 'silent')) then
  -- Begun by somebody who did not know the newest of the one before: entries of that may still be there.
  raise_tip(state, NEWEST + 1, life) -- so that the mark is above that, and the next caller sees that it was issued
  mark(state, '*', '', life, false, limit, life)
  redis.call('HDEL', STATE, 'silent')
end
local tip = math.max(NEWEST, star, tagfloor)
for i, member in ipairs(members) do
  redis.call('ZADD', MARKS, 'GT', exact(scores[i]), member)
  tip = math.max(tip, scores[i])
end
state.star, state.tagfloor = math.max(state.star, star), math.max(state.tagfloor, tagfloor)
redis.call('HSET', STATE, '*', exact(state.star), 'tagfloor', exact(state.tagfloor))
raise_tip(state, tip, life)
fold(state, limit.marks, math.max(100, count))
note_marks(state)
return {'ok', now_us, replid, state.tip}
