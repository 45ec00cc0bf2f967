-- Book the actual amounts in place of the reserved ones. A hold that is not there was settled already if it would not
-- have expired yet; else it was given back when it expired, and the amounts are booked now. They are booked too if it is
-- not known whether there was a hold. Returns the time.
local id = ARGV[3]
local expires_at = tonumber(ARGV[4])
local settled = '!' .. id
for index = 1, #KEYS / 2 do
  local bucket = open_bucket(index)
  local open = settle_hold(bucket, id, bucket.amount)
  local lost = not open and now >= expires_at and not redis.call('ZSCORE', bucket.holds, settled)
  if lost then
    book(bucket, 0, 0, bucket.amount)
  end
  if lost or (open and expires_at == 0) then
    keep_for_a_lease(bucket, settled) -- the call may be repeated when its reply was lost
  end
  if open or lost or bucket.changed then
    save(bucket)
  end
end
return packed({ now })
