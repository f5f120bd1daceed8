-- args: for each command the number of its words, and its words.
local replies, at = {}, 1
while at <= #args do
  local words = {}
  for i = 1, tonumber(args[at]) do words[i] = args[at + i] end
  replies[#replies + 1] = redis.call(unpack(words))
  at = at + 1 + #words
end
return replies
