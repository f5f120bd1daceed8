-- ARGV: the office's term, whether to beat.
if ARGV[4] == '1' and lead and term == ARGV[3] then
	redis.call('HSET', LEAD, 'beat', add(lead.beat, 1))
end
return answer('ok', '')
