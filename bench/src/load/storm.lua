
-- One request in ten has a fresh key; the other nine repeat one of this thread's last thousand.
local turn = 0

function request()
  turn = turn + 1
  if turn % 10 == 1 then
    fresh = fresh + 1
    return prefix .. fresh .. AFTER_KEY
  end
  return prefix .. math.random(math.max(1, fresh - 999), fresh) .. AFTER_KEY
end

-- A repetition of what is still in flight is answered with 409. Counting this way costs wrk some time.
function response(status)
  if status < 300 then
    accepted = accepted + 1
  elseif status == 409 then
    conflicts = conflicts + 1
  else
    others = others + 1
  end
end
