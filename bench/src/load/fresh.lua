
function request()
  fresh = fresh + 1
  return prefix .. fresh .. AFTER_KEY
end
