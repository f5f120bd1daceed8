-- ARGV: the number after the caller's newest entry, bytes and entries wanted at most.
local first = head(ENTRIES) or add(last, 1)
local start, snapshot = ARGV[3], {}
if start < first and exists(SNAPSHOT) then
	snapshot = redis.call('HMGET', SNAPSHOT, 'id', 'index', 'term', 'chain', 'size', 'pieces')
	for i = 1, 6 do
		if not snapshot[i] then return unfit('the key ' .. SNAPSHOT .. ' holds no whole snapshot') end
	end
	start = add(snapshot[2], 1)
end
local newest = tail(ENTRIES)
if newest and newest ~= last then
	return unfit('the key ' .. ENTRIES .. ' ends with the entry ' .. newest .. ', but ' .. LEAD .. ' names ' .. last ..
		' as the last one: restore the whole prefix')
end

local entries, size, limit = {}, 0, tonumber(ARGV[4])
local BATCH = 16
start = start .. '-0'
while start do
	local batch = redis.call('XRANGE', ENTRIES, start, '+', 'COUNT', BATCH)
	start = #batch == BATCH and '(' .. batch[BATCH][1]
	for _, item in ipairs(batch) do
		local fields = item[2]
		if #fields ~= 4 or fields[1] ~= 'entry' or fields[3] ~= 'size' or not tonumber(fields[4]) then
			return unfit('the item ' .. item[1] .. ' of ' .. ENTRIES .. ' is no entry of a log')
		end
		size = size + tonumber(fields[4])
		if #entries > 0 and (size > limit or #entries >= 2 * ARGV[5]) then
			start = false
			break
		end
		entries[#entries + 1] = item[1]
		entries[#entries + 1] = fields[2]
	end
end

local attested, flat = {}, redis.call('HGETALL', ATTESTED)
for i = 1, #flat, 2 do
	if string.sub(flat[i + 1], 22) == identity then
		attested[#attested + 1] = flat[i]
		attested[#attested + 1] = string.sub(flat[i + 1], 1, 20)
	end
end

local reply = answer('ok', '')
reply[5], reply[6], reply[7], reply[8], reply[9] = first, published(), attested, snapshot, entries
return reply
