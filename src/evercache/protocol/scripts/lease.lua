-- Reads entries at the master, and takes the leases on those that must be computed (or only reads: peek).
-- ARGV: function, take ('1', or '0' to peek), lease_ms, expected_ms, not_after_us (0: no limit), marks_ms (how long
-- marks over the entries are to stay), life; for each entry least, token, seen id, number of tags, tags
-- Reply: tip, mark of everything, mark of the function, tagfloor; for each entry a list, which ends with its tags and
-- their marks

--@ start

local name, asks, expected_ms, not_after_us = ARGV[6], ARGV[7] == '1', ARGV[9], tonumber(ARGV[10])
local count = (#KEYS - 5) / 2

-- Whoever asked has given up: nobody would use the lease, and everybody would wait for it (rule 11).
local late = asks and not_after_us > 0 and now_us > not_after_us
local take = asks and not late

local found = call('MGET', unpack(KEYS, 6))
--@ to_book
local f = call('HMGET', STATE, 'tip', '*', 'tagfloor', 'held', 'lifetime')
local tip, star, floor = tonumber(f[1] or 0), tonumber(f[2] or 0), tonumber(f[3] or 0)
local held, lifetime = tonumber(f[4] or 0), tonumber(f[5] or 0)
--@ function_mark
local reply = {'ok', now_us, replid, 0, 0, func, floor}
local at, i = 13, 1

while i <= count do
  local raw, least, token, seen, ntags = found[i], tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local first_tag = at + 4
  at = first_tag + ntags
  --@ weigh

  -- A lease's stamp is the tip, so the tip must first reach what the caller knows, and a mark whose state was evicted.
  local again = false
  if take and least > tip then
    local gens, LIFE, wanted, before = call('HGET', STATE, 'gens'), ARGV[12], least, star
    --@ raise_tip
    again = i > 1 and star > before -- everything was invalidated, and so were the leases on those before this one
    if star > least then -- the bookkeeping was gone, and what is here is of its former life
      least = star
      fresh = fresh and stamp >= star
    end
  end

  if again then
    at, i = 13, 1
  else
    local item
    if fresh and (not asks or version > 1 or now_ms < soft) then
      -- An entry of a newer version is handed out though it may be stale: a store would be refused anyway, so that a
      -- lease would only put those who compute in a row.
      local unread = true
      if seen ~= '' and asks and version == 1 then
        --@ id
        unread = id ~= seen
      end
      if unread then
        item = {'entry', raw}
      end
    end
    if item then
      -- It is there.
    elseif not take then
      item = {late and 'late' or 'miss'}
    else
      local stale = fresh and raw or ''
      if held > 0 then
        --@ held_since
        local tags = {}
        for j = 1, ntags do
          tags[j] = ARGV[first_tag + j - 1]
        end
        if held_since(now_ms, KEYS[5 + i], name, tags) then
          -- What it is computed from is being changed (rule 22): compute, and store nothing.
          item = {'held', stale}
        end
      end
      if not item then
        local lives, lease, key = tonumber(ARGV[11]), found[count + i], KEYS[5 + count + i]
        --@ lease
        -- A lease granted before a mark is free: its value would be dead on arrival.
        if holder and tonumber(granted_stamp) >= least then
          --@ granted_here
          if here then
            --@ to_data
            local left = call('PTTL', key)
            if holder == token then
              -- The same call again, its first reply was lost.
              call('PEXPIRE', key, ARGV[8])
              item = {'lead', tonumber(granted_stamp), stale}
            elseif left >= 0 then
              item = {'wait', left, max(0, now_ms - granted), tonumber(usual), stale}
            end
            --@ to_book
          end
        end
        if not item then
          --@ keep_marks
          --@ to_data
          call('SET', key, token .. string.format(' %.0f %.0f ', tip, now_ms) .. expected_ms .. ' ' .. replid, 'PX', ARGV[8])
          --@ to_book
          item = {'lead', tip, stale}
        end
      end
    end
    if marks then
      for _, each in ipairs(marks) do
        item[#item + 1] = each
      end
    end
    reply[7 + i] = item
    i = i + 1
  end
end
reply[4], reply[5] = tip, star
return reply
