
-- Keys that were all executed before. Each thread goes round a part of them, so that a key comes again
-- when its last answer has long been there.
local again = BEFORE_KEY .. PREFIX
local turn = 0

function request()
  turn = (turn + 2) % KEYS
  return again .. turn + number % 2 .. AFTER_KEY
end
