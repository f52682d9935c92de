
function request()
  return WITHOUT_KEY
end
