-- A bucket of a limit, as every script uses it. The arithmetic is that of `Bucket` in memory.
--
-- KEYS: two for each bucket. The first is a hash: u (used), d (drained), t (updated at), r (reserved), e (when the last
-- hold expires), x (when the hash may expire), and for each hold its amount and mark under its id. The second is a
-- sorted set of the ids of holds by the time when they expire; an id after "!" has been settled already.
--
-- ARGV: the time in seconds (empty: that of the server), the lease in seconds, an id, the time when its hold expires
-- (0: not known); then for each bucket: amount, capacity, rate, window, and 1 if the limit is enforced.

local ROUNDING = 1e-9
local MAX_DEBT = 10
local EMPTIED = 64
local NOTHING = 1e-6
local MAX_PURGED = 64 -- holds of a bucket that one call removes: a script blocks the server
local SPARE = 60 -- seconds that keys are kept longer than they are needed
local DAY = 86400

local function current_time()
  if ARGV[1] ~= '' then
    return tonumber(ARGV[1])
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local now = current_time()
local lease = tonumber(ARGV[2])

-- Book an actual amount in place of a reserved one, of which so much is left.
local function book(bucket, amount, left, actual)
  local extra = actual - amount
  if extra > 0 then
    bucket.used = math.max(bucket.used, math.min(bucket.used + extra, (1 + MAX_DEBT) * bucket.capacity))
  elseif extra < 0 then
    bucket.used = math.max(bucket.used - math.min(-extra, left), 0)
  end
end

local function release(bucket, amount, mark)
  local left = amount * math.exp(mark - bucket.drained)
  local rest = bucket.reserved - left
  if rest > NOTHING then
    bucket.reserved = rest
    return left
  end
  left = bucket.reserved
  bucket.reserved = 0
  return left
end

-- Settle a hold that is open; false if it is not.
local function settle_hold(bucket, id, actual)
  if redis.call('ZREM', bucket.holds, id) == 0 then
    return false
  end
  local entry = redis.call('HGET', bucket.usage, id)
  if entry then
    redis.call('HDEL', bucket.usage, id)
    local amount, mark = string.match(entry, '^(%S+) (%S+)$')
    amount = tonumber(amount)
    book(bucket, amount, release(bucket, amount, tonumber(mark)), actual)
  end
  return true
end

local function refill(bucket)
  local elapsed = now - bucket.updated
  if elapsed > 0 then
    bucket.updated = now
    bucket.used = math.max(bucket.used - elapsed * bucket.rate, 0)
    if bucket.used < bucket.reserved then
      local shrunk = EMPTIED
      if bucket.used > 0 then
        shrunk = math.min(math.log(bucket.reserved / bucket.used), EMPTIED)
      end
      bucket.drained = bucket.drained + shrunk
      bucket.reserved = bucket.used
    end
  elseif bucket.used == 0 or elapsed < -bucket.window then
    bucket.changed = bucket.changed or elapsed < 0
    bucket.updated = now
  end
end

-- The bucket of that index, refilled, without the holds that have expired.
local function open_bucket(index)
  local at = 5 * index
  local usage, holds = KEYS[2 * index - 1], KEYS[2 * index]
  local fields = redis.call('HMGET', usage, 'u', 'd', 't', 'r', 'e', 'x')
  local bucket = {
    usage = usage,
    holds = holds,
    used = tonumber(fields[1] or 0),
    drained = tonumber(fields[2] or 0),
    updated = tonumber(fields[3] or now),
    reserved = tonumber(fields[4] or 0),
    held_until = tonumber(fields[5] or 0),
    kept_until = tonumber(fields[6] or 0),
    amount = tonumber(ARGV[at]),
    capacity = tonumber(ARGV[at + 1]),
    rate = tonumber(ARGV[at + 2]),
    window = tonumber(ARGV[at + 3]),
    enforced = ARGV[at + 4] == '1',
    changed = false, -- so that it has to be saved
    entry = {}, -- a new hold
  }
  refill(bucket)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now, 'LIMIT', 0, MAX_PURGED)) do
    settle_hold(bucket, id, 0)
    bucket.changed = true
  end
  return bucket
end

-- Add an entry to the sorted set: it is kept for a lease.
local function keep_for_a_lease(bucket, id)
  redis.call('ZADD', bucket.holds, now + lease, id)
  bucket.held_until = math.max(bucket.held_until, now + lease)
  redis.call('PEXPIRE', bucket.holds, math.ceil((bucket.held_until - now + SPARE) * 1000))
end

-- Take the amount of a bucket. It has to be saved.
local function hold(bucket, id)
  bucket.entry = { id, string.format('%.17g %.17g', bucket.amount, bucket.drained) }
  bucket.used = bucket.used + bucket.amount
  bucket.reserved = bucket.reserved + bucket.amount
  keep_for_a_lease(bucket, id)
end

-- Write a bucket. One at rest is removed; any other is kept until it would be at rest.
local function save(bucket)
  if bucket.used <= 0 and redis.call('ZCARD', bucket.holds) == 0 then
    redis.call('DEL', bucket.usage)
    return
  end
  local full_in = 0
  if bucket.rate > 0 then
    full_in = bucket.used / bucket.rate
  elseif bucket.used > bucket.reserved then
    full_in = DAY -- of a limit that does not refill, so that it would never be at rest
  end
  local until_rest = math.max(now + full_in, bucket.held_until)
  local expires = until_rest > bucket.kept_until
  if expires then
    bucket.kept_until = until_rest + SPARE
  end
  redis.call(
    'HSET', bucket.usage, 'u', bucket.used, 'd', bucket.drained, 't', bucket.updated, 'r', bucket.reserved,
    'e', bucket.held_until, 'x', bucket.kept_until, unpack(bucket.entry)
  )
  if expires then
    redis.call('PEXPIRE', bucket.usage, math.ceil((bucket.kept_until - now) * 1000))
  end
end

-- As doubles in binary, eight bytes each: the server truncates numbers in a reply to integers.
local function packed(numbers)
  return struct.pack('<' .. string.rep('d', #numbers), unpack(numbers))
end

local function report(reply, bucket)
  reply[#reply + 1] = bucket.used
  reply[#reply + 1] = bucket.reserved
end
