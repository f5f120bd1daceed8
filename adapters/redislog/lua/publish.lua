-- ARGV: the office's term, the newest published number, how many records are kept,
-- the revision of the newest of these, then for each record: its id in the stream,
-- itself.
local function reply(status, text)
	local full = answer(status, text)
	full[5] = published()
	return full
end

if term ~= ARGV[3] or published() ~= ARGV[4] then
	return reply('refused', 'another office, or another place in the audit trail')
end
if ARGV[6] > last then return reply('refused', 'the records are of entries that are not here') end
for i = 7, #ARGV, 2 do
	local failure = append(AUDIT, ARGV[i], 'record', ARGV[i + 1])
	if failure then return failure end
end
if redis.call('XTRIM', AUDIT, 'MAXLEN', '=', ARGV[5]) > 0 then
	redis.call('SET', FLOOR, add(head(AUDIT), -1))
end
return reply('ok', '')
