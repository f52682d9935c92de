-- Written by `cargo xtask bench`. Above stand BEFORE_KEY, AFTER_KEY, WITHOUT_KEY and PREFIX.

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  threads[#threads + 1] = thread
end

function init()
  prefix = BEFORE_KEY .. PREFIX .. number .. "-"
  math.randomseed(number + 1)
  fresh, accepted, conflicts, others = 0, 0, 0, 0
end

local function total(name)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get(name) end
  return sum
end

-- The last line that wrk prints. `fresh` counts the keys that were used for the first time.
function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests":%d,"micros":%d,"p50":%d,"p99":%d,"fresh":%d,"accepted":%d,"conflicts":%d,"others":%d,'
      .. '"refused":%d,"broken":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    total("fresh"), total("accepted"), total("conflicts"), total("others"),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
