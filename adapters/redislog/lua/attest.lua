-- ARGV: the identity attested, the node, the round.
if ARGV[3] ~= identity then return refuse('the server is another than the one attested') end
redis.call('HSET', ATTESTED, ARGV[4], attestation(ARGV[5], identity))
-- An identity that is gone never comes back.
local flat = redis.call('HGETALL', ATTESTED)
for i = 1, #flat, 2 do
	if string.sub(flat[i + 1], 22) ~= identity then redis.call('HDEL', ATTESTED, flat[i]) end
end
return answer('ok', '')
