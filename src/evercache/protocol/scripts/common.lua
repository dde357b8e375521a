-- Parts that scripts share. A part begins at a line `--## name` and ends where the next one begins; a line `--@ name`
-- in a script, or in another part, stands for its text. So each script consists of what it runs, and creates no function
-- that it does not call: creating those of all scripts took the server longer than most scripts take as a whole. What is
-- seldom needed is included within the branch that needs it.
--
-- KEYS 1-5: a key that never exists, state, marks, log, ids; then the entries, then the lease of each.
-- ARGV 1-5: version of the arguments, the replication id that the caller expects ('' = any), number of the
-- data db, number of the bookkeeping db, the newest stamp that the caller knows. Then what the script takes;
-- arguments after those are ignored. Every reply is {status, server time in us, replication id, ...}.
--
-- A SELECT in a script does not leak into the connection. Each part says where it must run: in the database of the
-- entries (data), or of the bookkeeping (book).

--## start
-- The start of every script, in data.
--@ names
-- A replica answers READONLY here, and a full server lets the rest of the script pass.
local first = redis.pcall('UNLINK', KEYS[1])
if type(first) == 'table' then
  --@ failure
end
--@ generation

--## start_of_a_write
-- The start of scripts that store a value. `full`: the server is at maxmemory and can't evict. This changes nothing, but
-- a full server denies it. It must be asked before the first write: after that a script is denied nothing any more, and
-- values would grow past maxmemory.
--@ names
local full = false
local first = redis.pcall('SETRANGE', KEYS[1], 0, '')
if type(first) == 'table' then
  full = string.find(first.err, 'OOM', 1, true) ~= nil
  first = redis.pcall('UNLINK', KEYS[1])
  if type(first) == 'table' then
    --@ failure
  end
end
--@ generation

--## names
local call, max = redis.call, math.max
local STATE, MARKS, LOG, IDS = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DATA_DB, BOOK_DB, NEWEST = ARGV[3], ARGV[4], tonumber(ARGV[5])
local apart = DATA_DB ~= BOOK_DB
if ARGV[1] ~= '1' then
  return redis.error_reply('ERR this script takes arguments of version 1')
end

--## failure
-- Redis 6.2 puts the place and a '-' before the errors of commands; callers go by the first word.
return redis.error_reply(string.match(first.err, '^@[^:]*: *%d+: *%-?([^\r\n]*)') or first.err)

--## generation
local info = call('INFO', 'replication')
local _, before = string.find(info, 'master_replid:', 1, true)
local replid = string.sub(info, before + 1, before + 40)
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now_ms = (now_us - now_us % 1000) / 1000
if ARGV[2] ~= replid and ARGV[2] ~= '' then
  return {'GEN', now_us, replid}
end

--## untimely
-- A write that came too late (rule 11): after the moment up to which its caller waits, or, where the clock has been set
-- back meanwhile, before the moment at which it was sent.
if now_us > not_after_us or now_us < not_before_us then
  return {'late', now_us, replid}
end

--## out_of_memory
if full then
  return redis.error_reply("OOM command not allowed when used memory > 'maxmemory'.")
end

--## to_book
if apart then
  call('SELECT', BOOK_DB)
end

--## to_data
if apart then
  call('SELECT', DATA_DB)
end

--## state
-- In book; what is seldom needed (`tagfloor`, `life`, `held`) is read there. `gens` is false while there is no
-- bookkeeping.
local f = call('HMGET', STATE, 'tip', '*', 'gens', 'last', 'marked', 'lifetime')
local tip, star, gens, last = tonumber(f[1] or 0), tonumber(f[2] or 0), f[3], f[4] or '0-0'
local marked, lifetime = f[5], tonumber(f[6] or 0)

--## weigh
-- What is there (`raw`, false where nothing is) and what covers it; in book, after `state`. Takes `least` (the newest
-- mark that the caller knows), `func` (the mark of the function), `ntags` and `first_tag` (those that the caller names).
-- `version`: 0 where there is no envelope (counts as absent); above 1 it is of a later version of the library, of which
-- only the stamp and the expiry may be read. `marks`: the tags with their marks, in turn. `least` becomes the newest
-- mark that covers the entry. One above the tip is of a life that was evicted, and nobody here knows what that outdated.
local version, flags, stamp, soft, hard, marks, tagfloor = 0, 0, 0, 0, 0, nil, nil
if raw and #raw >= 38 then
  --@ parse
end
least = max(least, star, func)
local own_tags = version == 1 and flags % 4 > 1
if ntags > 0 or own_tags then
  local tags = {}
  for j = 1, ntags do
    tags[j] = ARGV[first_tag + j - 1]
  end
  if own_tags then
    --@ own_tags
  end
  --@ covering
end
local fresh = version > 0 and stamp >= least and stamp <= tip and now_ms < hard

--## parse
local magic, more, span
magic, more, version, flags, stamp, soft, span = struct.unpack('>BBBBI8I6I4', raw)
hard = soft + span
if magic ~= 231 or more ~= 202 or stamp >= 9007199254740992 then -- 2^53: whole numbers are exact below it
  version = 0
elseif version == 1 and flags % 4 > 1 and #raw < 39 + 8 * (string.byte(raw, 39) or #raw) then
  version = 0
end

--## own_tags
-- Adds those of the envelope in `raw` to `tags`, each once.
local have = {}
for _, tag in ipairs(tags) do
  have[tag] = true
end
for j = 1, string.byte(raw, 39) do
  local tag = string.format('%02x%02x%02x%02x%02x%02x%02x%02x', string.byte(raw, 32 + 8 * j, 39 + 8 * j))
  if not have[tag] then
    have[tag] = true
    tags[#tags + 1] = tag
  end
end

--## covering
if #tags > 0 then
  local members = {}
  for j, tag in ipairs(tags) do
    members[j] = 't:' .. tag
  end
  marks = {}
  for j, score in ipairs(call('ZMSCORE', MARKS, unpack(members))) do
    local mark = tonumber(score or 0)
    marks[2 * j - 1], marks[2 * j] = tags[j], mark
    least = max(least, mark)
  end
  tagfloor = tagfloor or tonumber(call('HGET', STATE, 'tagfloor') or 0)
  least = max(least, tagfloor)
end

--## function_mark
local func = 0
if name ~= '' then
  func = tonumber(call('ZSCORE', MARKS, 'f:' .. name) or 0)
end

--## id
-- The id in the envelope `raw`.
local id = string.format('%02x%02x%02x%02x%02x%02x%02x%02x', string.byte(raw, 23, 30))

--## lease
-- The value of a lease, `lease` (false where there is none): who holds it, under which stamp, granted when, the usual
-- time of the computation, granted in which generation.
local holder, granted_stamp, granted, usual, generation
if lease then
  holder, granted_stamp, granted, usual, generation = string.match(lease, '^(%x+) (%d+) (%d+) (%d+) (%x+)$')
end

--## granted_here
-- Whether a lease was granted, or last renewed, by this master. One from an earlier generation may be that of a
-- computation which is over: its store went to the former master. One from the future was granted before the clock was
-- set back (clocks of servers may differ by a second without anybody minding), and would last too long.
local here = generation == replid and tonumber(granted) <= now_ms + 1000

--## holds
-- Holds (rule 22): 'h:' .. scope in the state -> 'id:expiry_ms id:expiry_ms'; 'held' is the latest expiry of all.

-- An expiry, or 0 where the clock must have been set back since: no hold lasts longer than ten minutes.
local function believable(expiry)
  return expiry <= now_ms + 601000 and expiry or 0
end

local function latest(holders)
  local last = 0
  for expiry in string.gmatch(holders or '', ':(%d+)') do
    last = max(last, believable(tonumber(expiry)))
  end
  return last
end

--## held_since
--@ holds

-- Whether any of these was held at some moment from `since` (ms) on; in book. Takes `held`, that field of the state.
local function held_since(since, key, name, tags)
  if believable(held) < since then
    return false
  end
  local scopes = {}
  if key then
    scopes[1] = 'h:k:' .. key
  end
  if name ~= '' then
    scopes[#scopes + 1] = 'h:f:' .. name
  end
  for _, tag in ipairs(tags) do
    scopes[#scopes + 1] = 'h:t:' .. tag
  end
  if #scopes == 0 then
    return false
  end
  for _, holders in ipairs(call('HMGET', STATE, unpack(scopes))) do
    if latest(holders) >= since then
      return true
    end
  end
  return false
end

--## ensure_generation
-- Before any other write, in book: names the generation, with the tip that it started from. What an earlier generation
-- issued above that tip has been lost; and where it goes on, as a former master may, its stamps stay below those of this
-- one. Takes `gens`, `tip`, `star` and `LIFE`. The last of them takes at most 57 characters.
if not (gens and string.find(gens, replid, -57, true)) then
  --@ new_generation
end

--## new_generation
local former_master = string.find(info, 'master_replid2:0*[1-9a-f]') ~= nil -- this server was its replica
local items = {}
for item in string.gmatch(gens or '', '[^,]+') do
  items[#items + 1] = item
end
items[#items + 1] = string.format('%s:%.0f', replid, tip)
while #items > 32 do
  table.remove(items, 1)
end
gens = table.concat(items, ',')

-- The tip goes up, above whatever somebody else may have issued or still issues: by 2^32 us, some 72 minutes, further
-- than clocks step back. No leap goes beyond 2^52, so that enough stamps are left.
local LEAP = 4294967296
local function leap(from, by)
  tip = max(from, math.min(from + by, 4503599627370496))
  call('HSET', STATE, 'tip', tip)
end

-- Invalidates all entries up to the tip.
local function outdate()
  star = tip
  call('HSET', STATE, '*', star)
end

if not call('HGET', STATE, 'life') then
  -- Whether entries may remain of a life whose state is missing: after a FLUSHALL there is nothing but the state.
  local own = apart and 0 or call('EXISTS', STATE)
  call('UNLINK', LOG) -- of a life whose state was evicted: its lines are chained to nothing any more
  local keys = string.match(call('INFO', 'keyspace'), 'db' .. DATA_DB .. ':keys=(%d+)')
  local remain = tonumber(keys or 0) > own
  call('HSET', STATE, 'gens', gens, 'life', LIFE)
  if NEWEST > 0 then
    -- There was a life before this one, and it may have issued stamps that the caller has not heard of. What they
    -- outdated nobody knows in full, and entries may still be there: all of that life are outdated (rule 18).
    -- Less than a whole leap: the next master stays above this one, though it may never hear of this life; but
    -- more where the caller may not know of that of this generation. And more as time goes by: the next life may
    -- begin from the same stamp.
    local quarters = ARGV[2] == '' and 5 or former_master and 3 or 1
    leap(max(now_us, NEWEST), quarters * LEAP / 4 + now_us % (LEAP / 8))
    outdate()
    if remain then
      call('HSET', STATE, 'anew', '1')
    end
  elseif former_master then
    -- There was a master before this one. It had issued nothing, but may begin now, with a life of its own.
    leap(max(now_us, tip), LEAP)
  end
else
  call('HSET', STATE, 'gens', gens)
  leap(max(now_us, tip), LEAP)
  if call('HDEL', STATE, 'anew') == 1 then
    -- Entries above the tip were dead, as no life that is known here issued them. The leap passes over some of
    -- them: go above all that one who slept through two or three lives may have missed, and invalidate it.
    leap(tip, 3 * LEAP)
    outdate()
  end
end

--## raise_tip
-- To `wanted`, in book; takes what `ensure_generation` takes.
if wanted > tip then
  --@ ensure_generation
  -- A caller that knows more knows of a life that is not known here. Its entries stay dead, the newest included.
  local unknown = NEWEST > tip
  tip = max(tip, wanted, unknown and NEWEST + 1 or 0)
  call('HSET', STATE, 'tip', tip)
  if unknown then
    star = tip
    call('HSET', STATE, '*', star, 'silent', '1') -- no line in the log says so yet
  end
end

--## keep_marks
-- What is about to be stored may live for `lives` ms, the time of its computation included. Marks stay as long as the
-- longest of these that any process of the namespace ever told: others may have other settings (rule 18). In book.
if lives > lifetime then
  lifetime = lives
  call('HSET', STATE, 'lifetime', lives)
end

--## line
-- Issues one mark, of `kind`, `name` and `id`: its stamp `m`, the same as `digits`, and its line in the log. 'p' chains
-- the lines, so that a reader notices a gap (trimmed lines, or an emptied log). The state is written by `end_marks`.
m = max(now_us, tip + 1, NEWEST + 1)
digits = string.format('%.0f', m)
last = call('XADD', LOG, 'MAXLEN', '~', lines, '*', 'v', '1', 'k', kind, 'n', name, 's', digits, 'i', id, 'g', replid,
  'p', last)
tip = m

--## everything
-- The mark of everything.
do
  local kind, name, id, m, digits = '*', '', LIFE, 0, ''
  --@ line
  star = m
  call('HSET', STATE, '*', digits, 'tip', digits, 'last', last)
end

--## begin_marks
-- Before the marks of an invalidation or a write, in book. Takes `wide`: everything is invalidated anyway.
--@ ensure_generation
--@ replace_lost_marks
if NEWEST > tip and not wide then
  --@ everything
end

--## replace_lost_marks
-- The marks were evicted, and entries were not: nobody can say any more which of those are outdated (rule 18).
if marked and call('EXISTS', MARKS) == 0 then
  --@ everything
  marked = false
  call('HDEL', STATE, 'marked')
end

--## end_marks
-- After the marks, of which the last is `m`, and there are `issued`: writes the state, and keeps the bookkeeping within
-- its bounds. That is done by one in `every` marks, which the stamps decide.
call('HSET', STATE, 'tip', digits, 'last', last)
--@ keep_marks
if m % every < issued then
  --@ trim
end

--## trim
-- A bounded share of what has had its time, and of what is too much.
local journal = now_ms - journal_ms
call('XTRIM', LOG, 'MINID', '~', max(0, journal))
local old = call('ZRANGEBYSCORE', IDS, '-inf', '(' .. string.format('%.0f', journal), 'LIMIT', 0, 200)
if #old > 0 then
  call('ZREM', IDS, unpack(old))
end
local excess = call('ZCARD', IDS) - lines
if excess > 0 then
  call('ZPOPMIN', IDS, math.min(excess, 200))
end
local oldest = string.format('(%.0f', now_us - lifetime * 1000)
old = call('ZRANGEBYSCORE', MARKS, '-inf', oldest, 'LIMIT', 0, 200)
if #old > 0 then
  call('ZREM', MARKS, unpack(old))
end
local most = 200
--@ fold
--@ note_marks

--## fold
-- Too many marks: the oldest, `most` of them, fold into a wider one. Too wide is safe.
excess = call('ZCARD', MARKS) - marks_kept
if excess > 0 then
  local tagfloor = tonumber(call('HGET', STATE, 'tagfloor') or 0)
  local gone = call('ZPOPMIN', MARKS, math.min(excess, most))
  for i = 1, #gone, 2 do
    local mark = tonumber(gone[i + 1])
    if string.sub(gone[i], 1, 2) == 't:' then
      tagfloor = max(tagfloor, mark)
    else
      star = max(star, mark)
    end
  end
  call('HSET', STATE, '*', star, 'tagfloor', tagfloor)
end

--## note_marks
-- The state says whether there are marks, so that it shows when they were evicted.
if call('EXISTS', MARKS) == 1 then
  call('HSET', STATE, 'marked', '1')
else
  call('HDEL', STATE, 'marked')
end
