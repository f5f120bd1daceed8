-- ARGV: guard's term and last, adopt, how many voters, the voters, the lead record,
-- then for each entry: its id in the stream, the size of its data, itself.
local at = 7 + tonumber(ARGV[6])
local new = {}
for i, name in ipairs(FIELDS) do new[name] = ARGV[at + i - 1] end

local function attested()
	for i = 7, at - 1 do
		if redis.call('HGET', ATTESTED, ARGV[i]) ~= attestation(new.round, identity) then return false end
	end
	return at > 7
end

if lead and term == new.term and lead.append_id == new.append_id and lead.identity == identity then
	return answer('ok', '')
end
if term ~= ARGV[3] or last ~= ARGV[4] then return refuse('the log stands elsewhere') end
if lead and lead.closed ~= '' then return refuse('the log is closed: ' .. lead.closed) end
if new.identity ~= identity then return refuse('the server is another than the caller knows') end
if lead and lead.identity ~= identity and (ARGV[5] ~= '1' or not attested()) then
	return refuse('the log was accepted on another server')
end
for i = at + #FIELDS, #ARGV, 3 do
	local failure = append(ENTRIES, ARGV[i], 'entry', ARGV[i + 2], 'size', ARGV[i + 1])
	if failure then return failure end
end
write(at, lead and lead.beat or ZERO)
return answer('ok', '')
