-- ARGV: whether there is a guard, its term and last, the reason.
if not lead then return refuse('there is no log') end
if ARGV[3] == '1' and (term ~= ARGV[4] or last ~= ARGV[5]) then return refuse('the log stands elsewhere') end
if ARGV[6] ~= '' and lead.closed ~= '' then return refuse('the log is closed: ' .. lead.closed) end
redis.call('HSET', LEAD, 'closed', ARGV[6])
return answer('ok', '')
