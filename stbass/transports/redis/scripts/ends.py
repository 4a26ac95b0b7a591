"""Scripts of the two ends: joining, places and leases, the end of a channel."""

from __future__ import annotations

from stbass.transports.redis.scripts.script import Script

__all__ = ["AFFIRM", "CLOSE", "FREE", "HOLD", "JOIN", "LEAVE", "LOSE", "PURGE", "SYNC"]

JOIN = Script(
    "JOIN",
    r"""
-- lease, ttl (both ms), create (1/0), loose (1/0), name, type, capacity
-- ok: closed, offered, acked, sent, got, born
local lease, ttl = tonumber(ARGV[2]), tonumber(ARGV[3])
if call('HEXISTS', S, 'name') == 0 then
  if ARGV[4] == '0' then return {'gone'} end
  -- What every value needs comes first: a small hash is searched from its start.
  -- The lists of one that was here before have other numbers: somebody may still wait on them.
  call('HSET', S, 'epoch', clock(), 'offered', 0, 'acked', 0, 'sent', 0, 'got', 0, 'left', 0, 'name', ARGV[6],
       'type', ARGV[7], 'cap', ARGV[8], 'born', me)
end
if ARGV[5] == '1' then call('HSET', S, 'loose', 1) end
local closed, offered, acked, sent, got, its_birth = unpack(call('HMGET', S, 'closed', 'offered', 'acked', 'sent',
  'got', 'born'))
if closed and call('HLEN', P) == 0 then
  if values(call('HGET', S, 'epoch')) == 0 then return {'closed', closed} end
end
call('HSET', P, me, clock() + lease)
call('PEXPIRE', S, ttl)
call('PEXPIRE', P, ttl)
return {'ok', closed or 0, tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0), tonumber(got or 0),
        its_birth}
""",
)

HOLD = Script(
    "HOLD",
    r"""
-- side (w/r), owner, who, type, lease (ms), with new lists (1/0), runs (see keys.py)
-- ok: epoch, offered, acked (for a reader: done, with a capacity), sent, got, closed, whether it was held by the
-- party already, why nobody is left at the other end, up to which number its own values are there, or were received,
-- since it held the place last.  type: theirs.  held: owner, who, since (ms), for how long (ms)
local side, owner = ARGV[2], ARGV[3]
local type, holder, its_owner, who, since, its_runs, epoch, closed, left = unpack(call('HMGET', S, 'type', side,
  side .. '.owner', side .. '.who', side .. '.since', side .. '.runs', 'epoch', 'closed', 'left'))
if not type then return {'gone'} end
if type ~= ARGV[5] then return {'type', type} end
-- Is one of the two a later attempt of what the other is a part of?
local attempts, later = {}, 0
for run, attempt in string.gmatch(its_runs or '', '(%S+):(%d+)') do attempts[run] = tonumber(attempt) end
for run, attempt in string.gmatch(ARGV[8], '(%S+):(%d+)') do
  if attempts[run] and later == 0 then later = tonumber(attempt) - attempts[run] end
end
if later < 0 then return {'old'} end
if values(epoch) < tonumber(left or 0) then return lose() end
local offered, acked, done, sent, got, cap = unpack(call('HMGET', S, 'offered', 'acked', 'done', 'sent', 'got', 'cap'))
local reached = cap == '0' and acked or offered or 0
local now = clock()
epoch = tonumber(epoch)
if holder and holder ~= me then
  local left = tonumber(call('HGET', P, holder) or 0) - now
  local busy = its_owner ~= ''
  if not busy then
    local offers, taken = lists(epoch)
    if side == 'r' then
      busy = call('HEXISTS', S, 'wait') == 1 or call('LLEN', taken) > 1
    else
      for _, list in ipairs({offers, taken}) do
        local _, kind = number_of(call('LINDEX', list, -1) or '')
        busy = busy or kind == 's' or kind == 'n'
      end
    end
    for _, arm in ipairs(call('HKEYS', A)) do
      if string.match(arm, '^(.+)/') == holder then
        busy = busy or string.sub(call('HGET', A, arm), 1, 1) == side
      end
    end
  end
  if left > 0 and busy and later == 0 then
    call('HSET', S, 'ask.' .. side, me)
    tell(holder, 'ask', side, me)
    return {'held', its_owner, who, since, left}
  end
  if left <= 0 then
    call('HDEL', P, holder)
    for _, arm in ipairs(call('HKEYS', A)) do
      if string.match(arm, '^(.+)/') == holder then call('HDEL', A, arm) end
    end
  end
  -- It may not have heard what became of its latest values, and would send them again; or that it has received one.
  if side == 'w' then
    call('HSET', S, 'had.w.' .. holder, reached)
  elseif cap == '0' then
    call('HSET', S, 'had.r.' .. holder, (acked or 0) .. ' ' .. (got or 0))
  end
  free(side)
  tell(holder, 'lost', side)
  holder = nil
  epoch = tonumber(call('HGET', S, 'epoch'))
end
local kept, why = holder and 1 or 0, call('HGET', S, 'why')
local had = 0
if side == 'w' then
  had = tonumber(holder and reached or call('HGET', S, 'had.w.' .. me) or 0)
end
call('HDEL', S, 'had.' .. side .. '.' .. me)
if why and side == 'r' and not closed then
  closed = why
  call('HSET', S, 'closed', why)
  tell_all('closed', tonumber(call('HGET', S, 'offered') or 0), why)
end
if not holder then
  if side == 'r' then epoch = new_epoch() end
  call('HSET', S, side, me, side .. '.since', now)
elseif side == 'r' and ARGV[7] == '1' then
  epoch = new_epoch()
end
call('HSET', S, side .. '.owner', owner, side .. '.who', ARGV[4], side .. '.runs', ARGV[8])
call('HSET', P, me, now + tonumber(ARGV[6]))
call('PEXPIRE', P, call('PTTL', S))
if side == 'r' and cap ~= '0' then acked = done end
return {'ok', epoch, tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0), tonumber(got or 0),
        closed or 0, kept, why or '', had}
""",
)

FREE = Script(
    "FREE",
    r"""
-- side
if call('HGET', S, ARGV[2]) == me then free(ARGV[2]) end
return {'ok'}
""",
)

AFFIRM = Script(
    "AFFIRM",
    r"""
-- side, who asks: the holder that was asked for lives
local side, asks = ARGV[2], ARGV[3]
local holder, owner, who, since = unpack(call('HMGET', S, side, side .. '.owner', side .. '.who', side .. '.since'))
if holder == me then tell(asks, 'held', side, owner, who, since) else tell(asks, 'free', side) end
return {'ok'}
""",
)

SYNC = Script(
    "SYNC",
    r"""
-- lease, ttl (ms): the party lives; what is true now?
-- ok: closed, offered, acked, sent, w is mine (1) or another's (-1), r is mine, what became of the latest offer that
-- could not wait, how far the reader is (done with a capacity, else got), how many arms are mine, how many elements are
-- there
local type, closed, offered, acked, sent, w, r, now, epoch, cap, got, done, left = unpack(call('HMGET', S, 'type',
  'closed', 'offered', 'acked', 'sent', 'w', 'r', 'now', 'epoch', 'cap', 'got', 'done', 'left'))
if not type then return {'gone'} end
local there = values(epoch)
if there < tonumber(left or 0) then return lose() end
local offers, taken = lists(epoch)
-- First, because a server that is full lets us do it, and then all else.
for _, key in ipairs({S, P, A, R, offers, taken}) do call('PEXPIRE', key, ARGV[3]) end
call('HSET', P, me, clock() + tonumber(ARGV[2]))
local arms = 0
for _, arm in ipairs(call('HKEYS', A)) do
  if string.match(arm, '^(.+)/') == me then arms = arms + 1 end
end
return {'ok', closed or 0, tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0),
        w == me and 1 or w and -1 or 0, r == me and 1 or 0, now or '', tonumber(cap == '0' and got or done or 0), arms,
        there}
""",
)

CLOSE = Script(
    "CLOSE",
    r"""
-- '1', or why nobody is left who could be at the other end
-- ok: acked, sent, offered, closed (0: not yet)
local epoch, closed, offered, cap, w, r = unpack(call('HMGET', S, 'epoch', 'closed', 'offered', 'cap', 'w', 'r'))
offered = tonumber(offered or 0)
if not epoch then return {'gone'} end
local why = ARGV[2]
if not closed and why ~= '1' then
  call('HSET', S, 'why', why)
  if cap ~= '0' and not r then
    -- A writer goes on while there is room.
    tell(w, 'forsaken', why)
    return {'ok', 0, 0, 0, 0}
  end
end
if not closed then
  closed = why
  call('HSET', S, 'closed', closed)
  call('HDEL', S, 'wait')
  withdraw_offers()
  call('DEL', R)
  tell_all('closed', offered, closed)
end
local acked, sent = unpack(call('HMGET', S, 'acked', 'sent'))
return {'ok', tonumber(acked or 0), tonumber(sent or 0), offered, closed}
""",
)

LEAVE = Script(
    "LEAVE",
    r"""
-- final (1/0): otherwise not while there are values in a closed channel, for somebody who may still come for them
-- ok: whether it has left
local epoch, closed, w, r = unpack(call('HMGET', S, 'epoch', 'closed', 'w', 'r'))
if not epoch then return {'ok', 1} end
local left = values(epoch)
if closed and left > 0 and ARGV[2] == '0' then return {'ok', 0} end
if r == me then free('r') end
if w == me then free('w') end
left = values(call('HGET', S, 'epoch'))
call('HDEL', S, 'had.w.' .. me, 'had.r.' .. me)
call('HDEL', P, me)
for _, arm in ipairs(call('HKEYS', A)) do
  if string.match(arm, '^(.+)/') == me then call('HDEL', A, arm) end
end
local now, longest = clock(), 0
local parties = call('HGETALL', P)
for i = 2, #parties, 2 do longest = math.max(longest, tonumber(parties[i]) - now) end
local loose = call('HEXISTS', S, 'loose') == 1
if #parties == 0 or (closed and left == 0 and longest <= 0) then
  -- Somebody may still come who cannot tell a channel that was from one that is not yet.
  delete(loose)
elseif closed and left == 0 then
  tell_all('closed', tonumber(call('HGET', S, 'offered') or 0), closed)
  -- Who lives leaves now, or renews its lease and the time to live with it. Of those that died nobody deletes anything.
  local offers, taken = lists(tonumber(call('HGET', S, 'epoch')))
  for _, key in ipairs({P, A, R, offers, taken}) do call('PEXPIRE', key, longest + 1000) end
  call('PEXPIRE', S, loose and math.max(60000, longest + 1000) or longest + 1000)
end
return {'ok', 1}
""",
)

PURGE = Script(
    "PURGE",
    r"""
-- The channel is over, whatever lies in it and whoever has it open: nothing of it is left, and who has it open is told.
-- ok
tell_all('closed', 0, '1')
delete()
return {'ok'}
""",
)

LOSE = Script(
    "LOSE",
    r"""
-- The server has older data than it had, as the caller has seen: nothing of it is left, and who has it open is told.
return lose('restarted')
""",
)
