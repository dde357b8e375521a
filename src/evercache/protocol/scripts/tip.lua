-- The newest stamp issued: what a caller notes before it reads a value that it will set with since=.

--@ start
--@ to_book

return {'ok', now_us, replid, tonumber(call('HGET', STATE, 'tip') or 0)}
