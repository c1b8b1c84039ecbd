-- In front of the scripts that claim, settle or tell what somebody may use: a user, an organisation or an address.
--
-- A quota has a hash: tat (µs, the theoretical arrival time of the generic cell rate algorithm); claimed_tokens,
-- claimed_nano, of turns that are not over; day, day_tokens, day_nano, month, month_tokens, month_nano, of turns that
-- are. Money is in billionths of a dollar. And its turns that run are a sorted set, by the time until which each holds
-- its place; a user's for ever, because the same script ends the turn.
--
-- Limits are six arguments, each '' for none: turns a minute, turns running, tokens a day, tokens a month, money a day,
-- money a month. An estimate is two: tokens and money.

local DAY_MS = 86400000
local QUOTA_KEPT_MS = 40 * DAY_MS

local function quota_now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A number for each month, by the calendar of UTC; years begin in March, so that leap days come last.
local function month_of(day)
  local era_day = (day + 719468) % 146097
  local era = (day + 719468 - era_day) / 146097
  local year = math.floor((era_day - math.floor(era_day / 1460) + math.floor(era_day / 36524)
    - math.floor(era_day / 146096)) / 365)
  local year_day = era_day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (era * 400 + year) * 12 + math.floor((5 * year_day + 2) / 153)
end

-- What was used, as of `at` (ms). A clock that is set back opens no new day.
local function quota_used(quota, at)
  local u = redis.call('HMGET', quota, 'tat', 'claimed_tokens', 'claimed_nano',
    'day', 'day_tokens', 'day_nano', 'month', 'month_tokens', 'month_nano')
  for i = 1, 9 do u[i] = tonumber(u[i] or 0) end
  local day = math.max(math.floor(at / DAY_MS), u[4])
  local month = month_of(day)
  if day > u[4] then u[5], u[6] = 0, 0 end
  if month > u[7] then u[8], u[9] = 0, 0 end
  return {tat = u[1], claimed = {u[2], u[3]}, day = day, month = month, spent = {u[5], u[8], u[6], u[9]}}
end

-- Turns that run.
local function quota_running(running, at)
  redis.call('ZREMRANGEBYSCORE', running, '-inf', at)
  return redis.call('ZCARD', running)
end

-- Of each limit what is left of it: turns that may begin at once, turns that may run beside, tokens and money that
-- nobody has spent or claimed. '' where there is no limit.
local function quota_left(quota, running, limits, at)
  local used, left = quota_used(quota, at), {'', '', '', '', '', ''}
  if limits[1] ~= '' then
    local step = math.floor(60000000 / limits[1])
    left[1] = math.max(0, math.floor((limits[1] * step - math.max(0, used.tat - at * 1000)) / step))
  end
  if limits[2] ~= '' then left[2] = math.max(0, limits[2] - quota_running(running, at)) end
  for i = 1, 4 do
    if limits[i + 2] ~= '' then
      left[i + 2] = math.max(0, limits[i + 2] - used.spent[i] - used.claimed[i < 3 and 1 or 2])
    end
  end
  return left
end

-- The first limit, by its number, that a turn would break, and in how many ms it would not: 0 when nobody knows.
-- `runs`: whether it would run at once. An estimate that is more than a whole limit fits while nothing of that is used.
local function quota_refusal(quota, running, limits, estimate, at, runs)
  local used = quota_used(quota, at)
  if limits[1] ~= '' then
    local step = math.floor(60000000 / limits[1])
    local wait = math.max(used.tat, at * 1000) + step - limits[1] * step - at * 1000
    if wait > 0 then return 1, math.ceil(wait / 1000) end
  end
  if runs and limits[2] ~= '' and quota_running(running, at) >= tonumber(limits[2]) then return 2, 0 end
  for i = 1, 4 do
    local limit, kind = limits[i + 2], i < 3 and 1 or 2
    if limit ~= '' then
      limit = tonumber(limit)
      local free = limit - used.spent[i] - used.claimed[kind]
      if free <= 0 or free < math.min(tonumber(estimate[kind]), limit) then
        local last = used.day
        repeat last = last + 1 until i % 2 == 1 or month_of(last) > used.month
        return i + 2, last * DAY_MS - at
      end
    end
  end
end

local function quota_claim(quota, limits, estimate, at)
  if limits[1] ~= '' then
    local tat = tonumber(redis.call('HGET', quota, 'tat') or 0)
    redis.call('HSET', quota, 'tat', math.max(tat, at * 1000) + math.floor(60000000 / limits[1]))
  end
  redis.call('HINCRBY', quota, 'claimed_tokens', estimate[1])
  redis.call('HINCRBY', quota, 'claimed_nano', estimate[2])
  redis.call('PEXPIRE', quota, QUOTA_KEPT_MS)
end

-- A turn is over that had claimed `estimate`: what it has used stands in its place. No claims add up to less than
-- nothing, though the store may have lost one of them.
local function quota_settle(quota, estimate, tokens, nano, at)
  local used = quota_used(quota, at)
  redis.call('HSET', quota,
    'claimed_tokens', math.max(0, used.claimed[1] - estimate[1]),
    'claimed_nano', math.max(0, used.claimed[2] - estimate[2]),
    'day', used.day, 'day_tokens', used.spent[1] + tokens, 'day_nano', used.spent[3] + nano,
    'month', used.month, 'month_tokens', used.spent[2] + tokens, 'month_nano', used.spent[4] + nano)
  redis.call('PEXPIRE', quota, QUOTA_KEPT_MS)
end
