-- What all scripts share; the loader puts it in front of each of them.
--
-- KEYS 1-5: a key that never exists, state, marks, log, ids; 6 and 7: entry and lease, where there is an entry.
-- ARGV 1-5: version of the arguments, the replication id that the caller expects ('' = any), number of the
-- data db, number of the bookkeeping db, the newest stamp that the caller knows. Then what the script takes;
-- arguments after those are ignored. Every reply is {status, server time in us, replication id, ...}.

local ABSENT, STATE, MARKS, LOG, IDS, ENTRY, LEASE = unpack(KEYS, 1, 7)
local DATA_DB, BOOK_DB, NEWEST = ARGV[3], ARGV[4], tonumber(ARGV[5])
local MAGIC, HEADER, LIMIT = '\231\202', 38, 9007199254740992 -- 2^53: whole numbers are exact below it
local SKEW = 1000 -- ms by which clocks of servers may differ without anybody minding
local LEAP = 4294967296 -- us, some 72 minutes: further than clocks step back
local LEAPT = 4503599627370496 -- 2^52: no leap goes beyond, so that enough stamps are left
local HELD = 'h:' -- before the fields of the state that say who holds what
local LONGEST = 600000 -- ms: no hold lasts longer; one that seems to is of a clock that was set back since
local REMEMBERED = 300000 -- ms for which a hold that nobody let go of counts for what began under it

local now_us, now_ms, replid
local full = false -- the server is at maxmemory and can't evict (known only to scripts that store a value)

-- Arguments, read one after the other.

local cursor = 5

local function text()
  cursor = cursor + 1
  return ARGV[cursor]
end

local function number()
  return tonumber(text())
end

local function list()
  local items = {}
  for i = 1, number() do
    items[i] = text()
  end
  return items
end

local function limits()
  return {lines = number(), journal_ms = number(), marks_ms = number(), marks = number()}
end

-- Lua's .. writes 1.79e+15 for a stamp.
local function exact(n)
  return string.format('%.0f', n)
end

-- Databases. A SELECT in a script does not leak into the connection.

local selected = DATA_DB

local function use(db)
  if selected ~= db then
    redis.call('SELECT', db)
    selected = db
  end
end

local function book()
  use(BOOK_DB)
end

local function data()
  use(DATA_DB)
end

-- Redis 6.2 puts the place and a '-' before the errors of commands; callers go by the first word.
local function failure(err)
  return redis.error_reply(string.match(err, '^@[^:]*: *%d+: *%-?([^\r\n]*)') or err)
end

-- The start of every script: returns the reply to give at once, or nil.
local function begin(stores_value)
  if ARGV[1] ~= '1' then
    return redis.error_reply('ERR this script takes arguments of version 1')
  end
  if stores_value then
    -- This changes nothing, but a full server denies it. It must be asked before the first write: after that
    -- a script is denied nothing any more, and values would grow past maxmemory.
    local probe = redis.pcall('SETRANGE', ABSENT, 0, '')
    full = type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) ~= nil
  end
  -- A replica answers READONLY here, and a full server lets the rest of the script pass.
  local first = redis.pcall('UNLINK', ABSENT)
  if type(first) == 'table' then
    return failure(first.err)
  end
  replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  local time = redis.call('TIME')
  now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  now_ms = math.floor(now_us / 1000)
  if ARGV[2] ~= '' and ARGV[2] ~= replid then
    return {'GEN', now_us, replid}
  end
end

-- Whether a write came too late (rule 11): after the moment up to which its caller waits, or, where the clock has
-- been set back meanwhile, before the moment at which it was sent.
local function untimely(not_before_us, not_after_us)
  return now_us > not_after_us or now_us < not_before_us
end

local function out_of_memory()
  return redis.error_reply("OOM command not allowed when used memory > 'maxmemory'.")
end

-- Envelopes.

local function hex(bytes)
  return (string.gsub(bytes, '.', function(c) return string.format('%02x', string.byte(c)) end))
end

local function unhex(digits)
  return (string.gsub(digits, '%x%x', function(d) return string.char(tonumber(d, 16)) end))
end

-- nil: nothing there; foreign: no envelope (counts as absent); newer: of a later version of the library,
-- of which only the stamp and the expiry may be read.
local function parse(raw)
  if not raw then
    return nil
  end
  local foreign = {foreign = true, tags = {}}
  if type(raw) ~= 'string' or #raw < HEADER or string.sub(raw, 1, 2) ~= MAGIC then
    return foreign
  end
  local version, flags, stamp, soft, span = struct.unpack('>BBI8I6I4', raw, 3)
  if version < 1 or stamp >= LIMIT then
    return foreign
  end
  local entry = {raw = raw, stamp = stamp, soft = soft, hard = soft + span, tags = {}, newer = version > 1}
  if entry.newer then
    return entry
  end
  entry.id = hex(string.sub(raw, 23, 30))
  entry.counter = flags % 2 == 1
  entry.payload_at = HEADER + 1
  if math.floor(flags / 2) % 2 == 1 then
    local count = string.byte(raw, HEADER + 1)
    if not count or #raw < HEADER + 1 + 8 * count then
      return foreign
    end
    for i = 1, count do
      local at = HEADER + 2 + 8 * (i - 1)
      entry.tags[i] = hex(string.sub(raw, at, at + 7))
    end
    entry.payload_at = HEADER + 2 + 8 * count
  end
  return entry
end

local function load_entry()
  data()
  local raw = redis.pcall('GET', ENTRY)
  if type(raw) == 'table' and not string.find(raw.err, 'WRONGTYPE', 1, true) then
    raw = redis.call('GET', ENTRY) -- raises it
  end
  return parse(raw)
end

-- Puts stamp, soft expiry and span into an envelope. The checksum leaves the header out.
local function patched(envelope, stamp, soft, span)
  return string.sub(envelope, 1, 4) .. struct.pack('>I8I6I4', stamp, soft, span) .. string.sub(envelope, 23)
end

local function lease_value()
  data()
  local token, stamp, granted, expected, generation = string.match(
    redis.call('GET', LEASE) or '', '^(%x+) (%d+) (%d+) (%d+) (%x+)$')
  return token, tonumber(stamp), tonumber(granted), tonumber(expected), generation
end

-- Whether a lease was granted, or last renewed, by this master. One from an earlier generation may be that of a
-- computation which is over: its store went to the former master. One from the future was granted before the
-- clock was set back, and would last too long.
local function granted_here(granted, generation)
  return generation == replid and granted <= now_ms + SKEW
end

local function write_lease(token, stamp, expected_ms, lease_ms)
  data()
  redis.call('SET', LEASE, token .. ' ' .. exact(stamp) .. ' ' .. exact(now_ms) .. ' ' .. exact(expected_ms)
    .. ' ' .. replid, 'PX', lease_ms)
end

-- Bookkeeping, read.

local function read_state()
  book()
  local f = redis.call('HMGET', STATE, 'tip', '*', 'tagfloor', 'gens', 'last', 'life', 'held', 'marked', 'lifetime',
    'data')
  local fields = 0
  for i = 1, 10 do
    fields = fields + (f[i] and 1 or 0)
  end
  return {
    tip = tonumber(f[1] or 0), star = tonumber(f[2] or 0), tagfloor = tonumber(f[3] or 0),
    gens = f[4] or '', last = f[5] or '0-0', life = f[6] or '', exists = f[4] and true or false,
    held = tonumber(f[7] or 0), marked = f[8] and true or false, lifetime = tonumber(f[9] or 0), fields = fields,
  }
end

-- Holds (rule 22): 'h:' .. scope in the state -> 'id:expiry_ms id:expiry_ms'; 'held' is the latest expiry of all.

-- An expiry, or 0 where the clock must have been set back since.
local function believable(expiry)
  return expiry <= now_ms + LONGEST + SKEW and expiry or 0
end

local function latest(holders)
  local last = 0
  for expiry in string.gmatch(holders or '', ':(%d+)') do
    last = math.max(last, believable(tonumber(expiry)))
  end
  return last
end

-- Whether any of these was held at some moment from `since` (ms) on. `held`: that field of the state.
local function held_since(held, since, key, name, tags)
  if believable(held) < since then
    return false
  end
  local scopes = {}
  if key then
    scopes[1] = HELD .. 'k:' .. key
  end
  if name ~= '' then
    scopes[#scopes + 1] = HELD .. 'f:' .. name
  end
  for _, tag in ipairs(tags) do
    scopes[#scopes + 1] = HELD .. 't:' .. tag
  end
  book()
  for _, holders in ipairs(redis.call('HMGET', STATE, unpack(scopes))) do
    if latest(holders) >= since then
      return true
    end
  end
  return false
end

local function union(tags, more)
  local all, have = {}, {}
  for _, group in ipairs({tags, more}) do
    for _, tag in ipairs(group) do
      if not have[tag] then
        have[tag] = true
        all[#all + 1] = tag
      end
    end
  end
  return all
end

-- The marks that cover a subject, as the reply tells them, and the maximum of them and of least.
local function covering(state, least, name, tags)
  book()
  local members = {}
  if name ~= '' then
    members[1] = 'f:' .. name
  end
  local before = #members
  for i, tag in ipairs(tags) do
    members[before + i] = 't:' .. tag
  end
  local scores = #members > 0 and redis.call('ZMSCORE', MARKS, unpack(members)) or {}
  local marks = {func = before == 1 and tonumber(scores[1] or 0) or 0, tags = {}}
  least = math.max(least, state.star, marks.func)
  for i, tag in ipairs(tags) do
    local score = tonumber(scores[before + i] or 0)
    marks.tags[2 * i - 1], marks.tags[2 * i] = tag, score
    least = math.max(least, score, state.tagfloor)
  end
  marks.least = least
  return marks
end

local function report(state, marks)
  return {state.tip, state.star, marks.func, state.tagfloor, marks.tags}
end

-- The entry, the state, the marks over the entry and over what the caller says of it, and whether it is alive. One
-- above the tip is of a life that was evicted, and nobody here knows what that outdated.
local function look(least, name, tags)
  local entry = load_entry()
  local state = read_state()
  local marks = covering(state, least, name, union(tags, entry and entry.tags or {}))
  local fresh = entry and not entry.foreign and entry.stamp >= marks.least and entry.stamp <= state.tip
    and now_ms < entry.hard
  return entry, state, marks, fresh and true or false
end

-- Bookkeeping, written.

-- Whether this server, before it became a master, was the replica of another one.
local function was_replica()
  return string.find(redis.call('INFO', 'replication'), 'master_replid2:0*[1-9a-f]') ~= nil
end

-- The tip goes up, above whatever somebody else may have issued or still issues.
local function leap(state, from, by)
  state.tip = math.max(from, math.min(from + (by or LEAP), LEAPT))
  redis.call('HSET', STATE, 'tip', exact(state.tip))
end

-- Invalidates all entries up to the tip.
local function outdate(state)
  state.star = state.tip
  redis.call('HSET', STATE, '*', exact(state.star))
end

-- Whether entries may remain of a life whose state is missing: after a FLUSHALL there is nothing but the state.
local function entries_remain()
  local own = DATA_DB == BOOK_DB and redis.call('EXISTS', STATE) or 0
  local keys = string.match(redis.call('INFO', 'keyspace'), 'db' .. DATA_DB .. ':keys=(%d+)')
  return tonumber(keys or 0) > own
end

-- Before any other write: names the generation, with the tip that it started from. What an earlier generation
-- issued above that tip has been lost; and where it goes on, as a former master may, its stamps stay below those of
-- this one.
local function ensure_generation(state, life)
  if string.match(state.gens, '(%x+):%d+$') == replid then
    return
  end
  local gens = {}
  for item in string.gmatch(state.gens, '[^,]+') do
    gens[#gens + 1] = item
  end
  gens[#gens + 1] = replid .. ':' .. exact(state.tip)
  while #gens > 32 do
    table.remove(gens, 1)
  end
  state.gens = table.concat(gens, ',')
  book()
  if state.life == '' then
    state.life = life
    redis.call('UNLINK', LOG) -- of a life whose state was evicted: its lines are chained to nothing any more
    local remain = NEWEST > 0 and entries_remain()
    redis.call('HSET', STATE, 'gens', state.gens, 'life', life)
    if NEWEST > 0 then
      -- There was a life before this one, and it may have issued stamps that the caller has not heard of. What they
      -- outdated nobody knows in full, and entries may still be there: all of that life are outdated (rule 18).
      -- Less than a whole leap: the next master stays above this one, though it may never hear of this life; but
      -- more where the caller may not know of that of this generation. And more as time goes by: the next life may
      -- begin from the same stamp.
      local quarters = ARGV[2] == '' and 5 or was_replica() and 3 or 1
      leap(state, math.max(now_us, NEWEST), quarters * LEAP / 4 + now_us % (LEAP / 8))
      outdate(state)
      if remain then
        redis.call('HSET', STATE, 'anew', '1')
      end
    elseif was_replica() then
      -- There was a master before this one. It had issued nothing, but may begin now, with a life of its own.
      leap(state, math.max(now_us, state.tip))
    end
  else
    redis.call('HSET', STATE, 'gens', state.gens)
    leap(state, math.max(now_us, state.tip))
    if redis.call('HDEL', STATE, 'anew') == 1 then
      -- Entries above the tip were dead, as no life that is known here issued them. The leap passes over some of
      -- them: go above all that one who slept through two or three lives may have missed, and invalidate it.
      leap(state, state.tip, 3 * LEAP)
      outdate(state)
    end
  end
end

local function raise_tip(state, tip, life)
  if tip > state.tip then
    ensure_generation(state, life)
    book()
    -- A caller that knows more knows of a life that is not known here. Its entries stay dead, the newest included.
    local unknown = NEWEST > state.tip
    state.tip = math.max(state.tip, tip, unknown and NEWEST + 1 or 0)
    redis.call('HSET', STATE, 'tip', exact(state.tip))
    if unknown then
      outdate(state)
      redis.call('HSET', STATE, 'silent', '1') -- no line in the log says so yet
    end
  end
end

-- Too many marks: the oldest fold into a wider one. Too wide is safe.
local function fold(state, cap, most)
  book()
  local excess = redis.call('ZCARD', MARKS) - cap
  if excess <= 0 then
    return
  end
  local gone = redis.call('ZPOPMIN', MARKS, math.min(excess, most))
  for i = 1, #gone, 2 do
    local field = string.sub(gone[i], 1, 2) == 't:' and 'tagfloor' or 'star'
    state[field] = math.max(state[field], tonumber(gone[i + 1]))
  end
  redis.call('HSET', STATE, '*', exact(state.star), 'tagfloor', exact(state.tagfloor))
end

-- The state says whether there are marks, so that it shows when they were evicted.
local function note_marks(state)
  local marked = redis.call('EXISTS', MARKS) == 1
  if marked ~= state.marked then
    state.marked = marked
    if marked then
      redis.call('HSET', STATE, 'marked', '1')
    else
      redis.call('HDEL', STATE, 'marked')
    end
  end
end

-- What is about to be stored may live for so many ms, the time of its computation included. Marks stay as long as
-- the longest of these that any process of the namespace ever told: others may have other settings (rule 18).
local function keep_marks(state, ms)
  if ms > state.lifetime then
    state.lifetime = ms
    book()
    redis.call('HSET', STATE, 'lifetime', exact(ms))
  end
end

-- A bounded share of what has had its time.
local function trim(state, limit)
  redis.call('XTRIM', LOG, 'MINID', '~', exact(math.max(0, now_ms - limit.journal_ms)))
  local ids = redis.call('ZRANGEBYSCORE', IDS, '-inf', '(' .. exact(now_ms - limit.journal_ms), 'LIMIT', 0, 100)
  if #ids > 0 then
    redis.call('ZREM', IDS, unpack(ids))
  end
  local excess = redis.call('ZCARD', IDS) - limit.lines
  if excess > 0 then
    redis.call('ZPOPMIN', IDS, math.min(excess, 100))
  end
  local marks = redis.call(
    'ZRANGEBYSCORE', MARKS, '-inf', '(' .. exact(now_us - state.lifetime * 1000), 'LIMIT', 0, 20)
  if #marks > 0 then
    redis.call('ZREM', MARKS, unpack(marks))
  end
end

-- Issues one mark: returns its stamp and the id of its line in the log.
local function issue(state, kind, name, id, limit)
  local m = math.max(now_us, state.tip + 1, NEWEST + 1)
  -- 'p' chains the lines, so that a reader notices a gap (trimmed lines, or an emptied log).
  local line = redis.call('XADD', LOG, 'MAXLEN', '~', exact(limit.lines), '*', 'v', '1', 'k', kind, 'n', name,
    's', exact(m), 'i', id, 'g', replid, 'p', state.last)
  if kind == 'f' or kind == 't' then
    redis.call('ZADD', MARKS, exact(m), kind .. ':' .. name)
  elseif kind == '*' then
    state.star = m
    redis.call('HSET', STATE, '*', exact(m))
  end
  state.tip, state.last = m, line
  redis.call('HSET', STATE, 'tip', exact(m), 'last', line)
  return m, line
end

-- The marks were evicted, and entries were not: nobody can say any more which of those are outdated (rule 18).
local function replace_lost_marks(state, limit, life)
  book()
  if state.marked and redis.call('EXISTS', MARKS) == 0 then
    issue(state, '*', '', life, limit)
    note_marks(state)
  end
end

-- Issues the mark of an invalidation or a write, and keeps the bookkeeping within its bounds.
local function mark(state, kind, name, id, remember, limit, life)
  ensure_generation(state, life)
  replace_lost_marks(state, limit, life)
  if NEWEST > state.tip and kind ~= '*' then
    issue(state, '*', '', life, limit) -- as in raise_tip
  end
  local m, line = issue(state, kind, name, id, limit)
  if remember then
    redis.call('ZADD', IDS, exact(now_ms), id)
  end
  keep_marks(state, limit.marks_ms)
  trim(state, limit)
  fold(state, limit.marks, 100)
  note_marks(state)
  return m, line
end
