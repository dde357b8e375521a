-- What a process reads when it starts or has lost the thread. Raises the tip to the newest stamp that it knows, and
-- agrees with the other processes on the database of the bookkeeping: that of the first one counts.
-- ARGV: life

--@ start

local LIFE, wanted = ARGV[6], NEWEST

-- The database that the connection is in; of a tail it is that of the bookkeeping.
local at = apart and '' or BOOK_DB

local function go(db)
  if at ~= db and redis.pcall('SELECT', db).err then
    return false -- this user may not
  end
  at = db
  return true
end

-- What the state in this database, or whatever else is there under its name, says about the entries in DATA_DB: 'yes'
-- (its field `data` names the databases that it is the bookkeeping of), 'unsaid' (an earlier version of the library
-- wrote it), 'no', or nil.
local function serves_us(db)
  if not go(db) then
    return nil
  end
  local f = redis.pcall('HMGET', STATE, 'data', 'gens')
  if f.err then
    return nil
  end
  if f[1] then
    return string.find(' ' .. f[1] .. ' ', ' ' .. DATA_DB .. ' ', 1, true) and 'yes' or 'no'
  end
  return f[2] and 'unsaid' or nil
end

local here = serves_us(BOOK_DB)
if here ~= 'yes' then
  for db in string.gmatch(call('INFO', 'keyspace'), 'db(%d+):') do
    local there = db ~= BOOK_DB and serves_us(db)
    if there == 'yes' or (there == 'unsaid' and here ~= 'unsaid' and db == DATA_DB) then
      return {'elsewhere', now_us, replid, db}
    end
  end
end
if at ~= BOOK_DB then
  call('SELECT', BOOK_DB)
end
if here ~= 'yes' then
  local others = call('HGET', STATE, 'data')
  call('HSET', STATE, 'data', others and others .. ' ' .. DATA_DB or DATA_DB)
end

--@ state
local exists = gens
--@ raise_tip
if exists then
  --@ ensure_generation
end
f = call('HMGET', STATE, 'tagfloor', 'life')
return {'ok', now_us, replid, tip, star, tonumber(f[1] or 0), gens or '', last, f[2] or ''}
