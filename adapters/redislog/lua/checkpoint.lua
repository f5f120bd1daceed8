-- ARGV: the office's term, the upload's id, the id in the stream below which entries
-- are dropped, then the snapshot's index, term, chain, size and pieces.
if outdated(ARGV[3], ARGV[6]) then
	return refuse('another office, or a newer snapshot is there')
end
if not uploaded(ARGV[4], ARGV[10]) then
	return answer('failed', 'another snapshot was being written at the same time: write it again')
end
place(6)
redis.call('XTRIM', ENTRIES, 'MINID', '=', ARGV[5])
return answer('ok', '')
