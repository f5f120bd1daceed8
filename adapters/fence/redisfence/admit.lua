-- KEYS[1] is the mark, ARGV[1] the fence in decimal digits, below 2^53: exact as a
-- number of Lua. Whatever else is given belongs to the effect.
do
  local seen = redis.call('GET', KEYS[1])
  if seen then
    local mark, fence = tonumber(seen), tonumber(ARGV[1])
    if not mark then
      return redis.error_reply('NOMARK ' .. KEYS[1] .. ' holds no fence')
    elseif mark > fence then
      return redis.error_reply('STALEFENCE ' .. seen)
    end
  end
  if seen ~= ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1])
  end
end
local keys, args = {}, {}
for i = 2, #KEYS do keys[i - 1] = KEYS[i] end
for i = 2, #ARGV do args[i - 1] = ARGV[i] end
