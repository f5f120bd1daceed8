-- ARGV: guard's term and last, the number of the newest audit record that stays,
-- the upload's id, then the snapshot's index, term, chain, size and pieces, then the
-- lead record. Without a snapshot its id is empty.
if term ~= ARGV[3] or last ~= ARGV[4] then return refuse('the log stands elsewhere') end
if ARGV[6] ~= '' and not uploaded(ARGV[6], ARGV[11]) then
	return answer('failed', 'another snapshot was being written at the same time: write it again')
end
write(12)
if ARGV[6] ~= '' then place(7) else redis.call('DEL', SNAPSHOT) end
redis.call('DEL', ENTRIES, ATTESTED)

local keep = ARGV[5]
local floor = redis.call('GET', FLOOR)
if floor and floor > keep then redis.call('SET', FLOOR, keep) end
while true do
	local ids = {}
	for i, item in ipairs(redis.call('XREVRANGE', AUDIT, '+', '(' .. keep .. '-0', 'COUNT', 500)) do ids[i] = item[1] end
	if #ids == 0 then break end
	redis.call('XDEL', AUDIT, unpack(ids))
end
local newest = tail(AUDIT)
-- The stream remembers the newest number it ever held and takes none below it.
if not newest then
	redis.call('DEL', AUDIT)
else
	redis.call('XSETID', AUDIT, newest .. '-0', 'ENTRIESADDED', redis.call('XLEN', AUDIT), 'MAXDELETEDID', '0-0')
end
return answer('ok', '')
