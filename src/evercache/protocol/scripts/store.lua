-- Stores computed values, each only under the lease that it was computed under. Ends these leases, whatever it answers.
-- ARGV: for each entry token, stamp, soft_ms, span_ms, envelope
-- Reply: for each entry its soft expiry, or why it is refused

--@ start_of_a_write

local count = (#KEYS - 5) / 2
local found = call('MGET', unpack(KEYS, 6))
local reply, kept, held = {'ok', now_us, replid}, {}, nil

for i = 1, count do
  local at = 1 + 5 * i
  local raw, lease, token, stamp_told, envelope = found[i], found[count + i], ARGV[at], ARGV[at + 1], ARGV[at + 4]
  local soft_ms, span_ms, refused = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), nil
  local version, flags, stamp, soft, hard = 0, 0, 0, 0, 0
  if raw and #raw >= 38 then
    --@ parse
  end
  if not lease or string.find(lease, token .. ' ' .. stamp_told .. ' ', 1, true) ~= 1 then
    refused = 'lease'
    kept[#kept + 1] = i
    if version == 1 then
      --@ id
      if id == token then
        refused = soft -- not refused: the same call again
      end
    end
  else
    -- The lease was granted over it only if it was outdated then, so that its stamp is the lower one.
    if version > 1 and now_ms < hard and stamp >= tonumber(stamp_told) then
      refused = 'newer'
    elseif soft_ms + span_ms <= 0 then
      refused = 'expired'
    elseif full then
      refused = 'full'
    elseif string.byte(envelope, 4) % 4 > 1 then
      -- Of tags that only the result knew the lease script could not know whether they are held (rule 22). Where another
      -- generation granted the lease, the clock that it was granted by says nothing here.
      --@ to_book
      held = held or tonumber(call('HGET', STATE, 'held') or 0)
      if held > 0 then
        --@ held_since
        --@ lease
        local raw, tags = envelope, {}
        --@ own_tags
        if held_since(generation == replid and tonumber(granted) or 1, nil, '', tags) then
          refused = 'held'
        end
      end
      --@ to_data
    end
  end
  if not refused then
    soft = now_ms + soft_ms
    local stamped = struct.pack('>I8I6I4', tonumber(stamp_told), soft, span_ms)
    call('SET', KEYS[5 + i], string.sub(envelope, 1, 4) .. stamped .. string.sub(envelope, 23), 'PX', soft_ms + span_ms)
  end
  reply[3 + i] = refused or soft
end
if #kept == 0 then
  call('UNLINK', unpack(KEYS, 6 + count))
elseif #kept < count then
  local keys = {}
  for i = 1, count do
    if i == kept[1] then
      table.remove(kept, 1)
    else
      keys[#keys + 1] = KEYS[5 + count + i]
    end
  end
  call('UNLINK', unpack(keys))
end
return reply
