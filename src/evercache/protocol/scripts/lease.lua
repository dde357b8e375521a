-- Reads an entry at the master, and takes the lease on it where it must be computed (or only reads: peek).
-- ARGV: least, function, tags, token, lease_ms, seen id, expected_ms, take ('1', or '0' to peek), life,
-- not_after_us (0 or absent: no limit), marks_ms (how long marks over the entry are to stay; absent: 0)

local bad = begin()
if bad then return bad end

local least, name, tags = number(), text(), list()
local token, lease_ms, seen, expected_ms = text(), number(), text(), number()
local asks, life, not_after_us, marks_ms = text() == '1', text(), number(), number()

-- Whoever asked has given up: nobody would use the lease, and everybody would wait for it (rule 11).
local late = asks and (not_after_us or 0) > 0 and now_us > not_after_us
local take = asks and not late

local entry, state, marks, fresh = look(least, name, tags)

-- A lease's stamp is the tip, so the tip must first reach what the caller knows, and a mark whose state was evicted.
if take then
  raise_tip(state, marks.least, life)
  if state.star > marks.least then -- the bookkeeping was gone, and what is here is of its former life
    marks.least = state.star
    fresh = fresh and entry.stamp >= state.star
  end
end
local known = report(state, marks)

-- An entry of a newer version is handed out though it may be stale: a store would be refused anyway, so that a
-- lease would only put those who compute in a row.
if fresh and (not asks or entry.newer or (now_ms < entry.soft and entry.id ~= seen)) then
  return {'entry', now_us, replid, known, entry.raw}
end
if not take then
  return {late and 'late' or 'miss', now_us, replid, known}
end

local stale = fresh and entry.raw or ''
if held_since(state.held, now_ms, ENTRY, name, tags) then
  -- What it is computed from is being changed (rule 22): compute, and store nothing.
  return {'held', now_us, replid, known, stale}
end
local holder, stamp, granted, expected, generation = lease_value()
-- A lease granted before a mark is free: its value would be dead on arrival.
if holder and stamp >= marks.least and granted_here(granted, generation) then
  local left = redis.call('PTTL', LEASE)
  if holder == token then
    -- The same call again, its first reply was lost.
    redis.call('PEXPIRE', LEASE, lease_ms)
    return {'lead', now_us, replid, known, stamp, stale}
  end
  if left >= 0 then
    return {'wait', now_us, replid, known, left, math.max(0, now_ms - granted), expected, stale}
  end
end

keep_marks(state, marks_ms or 0)
write_lease(token, state.tip, expected_ms, lease_ms)
return {'lead', now_us, replid, known, state.tip, stale}
