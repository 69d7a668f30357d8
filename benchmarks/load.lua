-- wrk -s load.lua ... URL -- STATUS METHOD PATH BODY IDS
-- {item} becomes one of the ids in the file IDS, {user} and {number} become numbers.
local threads = {}
local ids = {}
local count = 0

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  expected, method, path, body = tonumber(arguments[1]), arguments[2], arguments[3], arguments[4]
  for id in io.lines(arguments[5]) do
    table.insert(ids, id)
  end
  failed = 0
end

function request()
  count = count + 1
  local item = path:gsub("{item}", ids[count % #ids + 1])
  local text = body:gsub("{number}", count):gsub("{user}", count % 100)
  return wrk.format(method, item, nil, text)
end

function response(status)
  if status ~= expected then
    failed = failed + 1
  end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  for _, thread in ipairs(threads) do
    failed = failed + thread:get("failed")
  end
  io.write(string.format(
    "\n%d %f %f %f %d\n", summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed
  ))
end
