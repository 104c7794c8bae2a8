-- Sends the batch of a file again and again, with an id of its own for every event.
-- wrk -s gateway_load.lua URL -- FILE CONTENT_TYPE [DELAY_MS]

local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local body = file:read("*a")
  file:close()
  parts = {}
  local from = 1
  while true do
    local first = string.find(body, "@@@@@@@@", from, true)
    if not first then break end
    parts[#parts + 1] = string.sub(body, from, first - 1)
    parts[#parts + 1] = ""
    from = first + 8
  end
  parts[#parts + 1] = string.sub(body, from)
  headers = { ["Content-Type"] = args[2] }
  pause_ms = tonumber(args[3] or "0")
  serial = number * 0x10000000
end

function request()
  for index = 2, #parts, 2 do
    serial = serial + 1
    parts[index] = string.format("%08x", serial)
  end
  return wrk.format("POST", nil, headers, table.concat(parts))
end

function delay()
  return pause_ms
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("requests %d seconds %.3f p50_ms %.2f p99_ms %.2f refused %d broken %d\n",
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
