-- Extend holds by a lease from now on; one that has expired is taken again, whether it fits or not. ARGV ends with the
-- id of the hold in each bucket. Returns the time.
local ids = 4 + 5 * (#KEYS / 2)
for index = 1, #KEYS / 2 do
  local bucket = open_bucket(index)
  local id = ARGV[ids + index]
  if redis.call('ZSCORE', bucket.holds, id) then
    keep_for_a_lease(bucket, id)
  else
    hold(bucket, id)
  end
  save(bucket)
end
return packed({ now })
