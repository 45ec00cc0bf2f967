-- Take the amounts of all buckets under one id, or none. Returns 1 if they were taken, else 0; the time; and for each
-- bucket what is used and reserved: afterwards, or now if nothing was taken.
local id = ARGV[3]
local buckets = {}
local granted = true
for index = 1, #KEYS / 2 do
  local bucket = open_bucket(index)
  local missing = bucket.used + math.min(bucket.amount, bucket.capacity) - bucket.capacity
  if bucket.enforced and missing > ROUNDING * bucket.capacity then
    granted = false
  end
  buckets[index] = bucket
end
local reply = { granted and 1 or 0, now }
for _, bucket in ipairs(buckets) do
  if granted then
    hold(bucket, id)
  end
  if granted or bucket.changed then
    save(bucket)
  end
  report(reply, bucket)
end
return packed(reply)
