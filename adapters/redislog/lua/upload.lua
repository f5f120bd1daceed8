-- One piece of a snapshot, on its way to a checkpoint or a replacement of the log.
-- ARGV: the office's term and the snapshot's index of a checkpoint, or nothing; the
-- guard of a replacement, or nothing; the id of the upload, the field, the piece.
if ARGV[3] ~= '' and outdated(ARGV[3], ARGV[4]) then
	return refuse('another office, or a newer snapshot is there')
end
if ARGV[5] ~= '' and (term ~= ARGV[5] or last ~= ARGV[6]) then
	return refuse('the log stands elsewhere')
end
local other = redis.call('HGET', UPLOAD, 'id')
if other and other ~= ARGV[7] then redis.call('DEL', UPLOAD) end
redis.call('HSET', UPLOAD, 'id', ARGV[7], ARGV[8], ARGV[9])
return answer('ok', '')
