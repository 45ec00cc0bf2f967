-- Returns what is used and reserved of each bucket.
local reply = {}
for index = 1, #KEYS / 2 do
  local bucket = open_bucket(index)
  if bucket.changed then
    save(bucket)
  end
  report(reply, bucket)
end
return packed(reply)
