-- The newest stamp issued: what a caller notes before it reads a value that it will set with since=.

local bad = begin()
if bad then return bad end

return {'ok', now_us, replid, read_state().tip}
