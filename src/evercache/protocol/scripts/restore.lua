-- Writes marks back after the bookkeeping was lost: the maximum of what is there and what the caller knows.
-- ARGV: life, mark of everything, tagfloor, lines, journal_ms, marks_ms, marks, every, whether the caller knew another
-- life ('1'), number of marks, and that many times member, score

--@ start

local LIFE, star_told, tagfloor_told, knew_another = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[14] == '1'
local lines, journal_ms, lives, marks_kept = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local every, count = tonumber(ARGV[13]), tonumber(ARGV[15])
--@ to_book
--@ state
--@ ensure_generation
--@ replace_lost_marks
--@ keep_marks
if knew_another and (star < NEWEST or call('HGET', STATE, 'silent')) then
  -- Begun by somebody who did not know the newest of the one before: entries of that may still be there.
  local wanted = NEWEST + 1 -- so that the mark is above that, and the next caller sees that it was issued
  --@ raise_tip
  --@ everything
  call('HDEL', STATE, 'silent')
end
local wanted = max(NEWEST, star_told, tagfloor_told)
for i = 16, 14 + 2 * count, 2 do
  call('ZADD', MARKS, 'GT', ARGV[i + 1], ARGV[i])
  wanted = max(wanted, tonumber(ARGV[i + 1]))
end
star = max(star, star_told)
local tagfloor = max(tonumber(call('HGET', STATE, 'tagfloor') or 0), tagfloor_told)
call('HSET', STATE, '*', star, 'tagfloor', tagfloor)
--@ raise_tip
local excess, most = 0, max(200, count)
--@ fold
--@ note_marks
return {'ok', now_us, replid, tip}
