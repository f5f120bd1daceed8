-- What every script begins with: who the server is, whether it may be used, and
-- where the log stands. A script's writes are one step for everybody, on the disk
-- too, but nothing takes them back: so each script first decides and then writes.
--
-- Numbers are decimals of 20 digits and are compared as texts: Lua's numbers are
-- doubles, which lose the last bits of large ones.
--
-- ARGV[1] is the newest schema we read, ARGV[2] our cluster; the rest is the script's.
local LEAD, ENTRIES, AUDIT, FLOOR, ATTESTED, SNAPSHOT, UPLOAD = unpack(KEYS)
local FIELDS = {'schema', 'cluster_id', 'term', 'holder', 'last', 'chain', 'append_id',
	'beat', 'identity', 'generation', 'closed', 'round'}
local NUMBERS = {'schema', 'term', 'holder', 'last', 'beat', 'generation', 'round'}
local ZERO = string.rep('0', 20)

local function unfit(text) return {'unfit', text} end

local function pad(digits) return string.rep('0', 20 - #digits) .. digits end

-- add returns a number of 20 digits plus or minus one.
local function add(number, one)
	local high, low = tonumber(string.sub(number, 1, 10)), tonumber(string.sub(number, 11)) + one
	if low == 1e10 then
		high, low = high + 1, 0
	elseif low == -1 then
		high, low = high - 1, 1e10 - 1
	end
	return string.format('%010d%010d', high, low)
end

-- A node's attestation is the round, as 20 digits, and the identity.
local function attestation(round, server) return round .. ' ' .. server end

local function exists(key) return redis.call('EXISTS', key) == 1 end

-- head and tail are the numbers of a stream's oldest and newest item, nil if there is none.
local function number(items) return items[1] and pad(string.match(items[1][1], '^%d+')) end
local function head(stream) return number(redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)) end
local function tail(stream) return number(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)) end

-- append adds an item to a stream. The first call of a script may fail, and then
-- nothing has been written; its error is returned.
local function append(stream, ...)
	local answer = redis.pcall('XADD', stream, ...)
	if type(answer) ~= 'table' or not answer.err then return nil end
	if string.find(answer.err, 'equal or smaller', 1, true) then
		return unfit('the key ' .. stream .. ' holds something newer than the lead record knows: ' ..
			'another program wrote to it, or it was restored from elsewhere')
	end
	return answer
end

local info = '\n' .. redis.call('INFO', 'server') .. redis.call('INFO', 'replication') .. redis.call('INFO', 'persistence')
local function fact(name) return string.match(info, '\n' .. name .. ':([^\r\n]*)') or '' end
local identity = fact('run_id') .. '/' .. fact('master_replid')

if fact('role') ~= 'master' then
	return unfit('the server is a replica of ' .. fact('master_host') .. ':' .. fact('master_port') ..
		' and may lack what was acknowledged: name the primary in the address')
end
if fact('aof_enabled') ~= '1' then
	return unfit('appendonly is no: what is acknowledged would be lost in a crash; set appendonly yes')
end
for i, want in ipairs({'hash', 'stream', 'stream', 'string', 'hash', 'hash', 'hash'}) do
	local found = redis.call('TYPE', KEYS[i]).ok
	if found ~= 'none' and found ~= want then
		return unfit('the key ' .. KEYS[i] .. ' is a ' .. found .. ', where a ' .. want ..
			' is right: another program uses this prefix; choose another one')
	end
end

-- lead is the lead record; nil: the store holds no log yet.
local lead
do
	local flat = redis.call('HGETALL', LEAD)
	if #flat > 0 then lead = {} end
	for i = 1, #flat, 2 do lead[flat[i]] = flat[i + 1] end
end
if not lead and (exists(ENTRIES) or exists(SNAPSHOT)) then
	return unfit('the key ' .. LEAD .. ' is missing although a log is there: restore the whole prefix, or empty it')
end
if lead then
	for _, name in ipairs(FIELDS) do
		if not lead[name] then return unfit('the key ' .. LEAD .. ' lacks the field ' .. name) end
	end
	for _, name in ipairs(NUMBERS) do
		if #lead[name] ~= 20 or string.find(lead[name], '%D') then
			return unfit('the key ' .. LEAD .. ' has no number of 20 digits in the field ' .. name)
		end
	end
	if lead.schema > ARGV[1] then
		return unfit('the log under ' .. LEAD .. ' has schema ' .. tonumber(lead.schema) .. ', this build knows ' ..
			tonumber(ARGV[1]) .. ': use the newer build')
	end
	if lead.cluster_id ~= ARGV[2] then
		return unfit('the log under ' .. LEAD .. ' is of the cluster ' .. lead.cluster_id .. ', not of ' ..
			ARGV[2] .. ': choose another prefix, or the right cluster id')
	end
end
local term, last = ZERO, ZERO
if lead then term, last = lead.term, lead.last end

-- answer is the reply of every script; what a call asks for besides comes behind.
local function answer(status, text) return {status, text, identity, redis.call('HGETALL', LEAD)} end
local function refuse(text) return answer('refused', text) end

-- write makes the lead record what ARGV holds from position at on.
local function write(at, beat)
	local flat = {}
	for i, name in ipairs(FIELDS) do
		flat[#flat + 1] = name
		flat[#flat + 1] = ARGV[at + i - 1]
		if name == 'beat' and beat then flat[#flat] = beat end
	end
	redis.call('HSET', LEAD, unpack(flat))
end

-- published is the number of the newest audit record, kept or dropped by the cap.
local function published() return tail(AUDIT) or redis.call('GET', FLOOR) or ZERO end

-- outdated says whether a snapshot may not be put in place.
local function outdated(office, index)
	local present = redis.call('HGET', SNAPSHOT, 'index') or ZERO
	return term ~= office or index > last or index <= present
end

-- uploaded says whether all pieces of a snapshot are there.
local function uploaded(id, pieces)
	return redis.call('HGET', UPLOAD, 'id') == id and redis.call('HLEN', UPLOAD) == tonumber(pieces) + 1
end

-- place makes what was uploaded the snapshot. ARGV holds index, term, chain, size and
-- pieces from position at on.
local function place(at)
	redis.call('HSET', UPLOAD, 'index', ARGV[at], 'term', ARGV[at + 1], 'chain', ARGV[at + 2],
		'size', ARGV[at + 3], 'pieces', ARGV[at + 4])
	redis.call('RENAME', UPLOAD, SNAPSHOT)
end
