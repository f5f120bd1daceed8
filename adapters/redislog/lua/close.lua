-- ARGV: whether there is a guard, its term and last (zero: any), the server that is
-- meant or '', the reason.
if not lead then return refuse('there is no log') end
if ARGV[3] == '1' and (term ~= ARGV[4] or ARGV[5] ~= ZERO and last ~= ARGV[5]) then return refuse('the log stands elsewhere') end
if ARGV[6] ~= '' and ARGV[6] ~= identity then return refuse('the server is ' .. identity) end
if ARGV[7] ~= '' and lead.closed ~= '' then return refuse('the log is closed: ' .. lead.closed) end
redis.call('HSET', LEAD, 'closed', ARGV[7])
return answer('ok', '')
