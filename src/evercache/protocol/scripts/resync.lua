-- What a process reads when it starts or has lost the thread. Raises the tip to the newest stamp that it knows.
-- ARGV: life

local bad = begin()
if bad then return bad end

local life = text()
local state = read_state()
raise_tip(state, NEWEST, life)
if state.exists then
  ensure_generation(state, life)
end
return {'ok', now_us, replid, state.tip, state.star, state.tagfloor, state.gens, state.last, state.life}
