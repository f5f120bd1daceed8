-- ARGV: where the records wanted begin in the stream, how many at most. (Of none,
-- XRANGE says nil.)
local reply = answer('ok', '')
reply[5] = {}
for _, item in ipairs(redis.call('XRANGE', AUDIT, ARGV[3], '+', 'COUNT', ARGV[4]) or {}) do
	if #item[2] ~= 2 or item[2][1] ~= 'record' then
		return unfit('the item ' .. item[1] .. ' of ' .. AUDIT .. ' is no audit record')
	end
	table.insert(reply[5], item[1])
	table.insert(reply[5], item[2][2])
end
return reply
