"""The scripts that change a channel in Redis; the data model is in :mod:`.keys`.

Each has one key, ``<base>``, and as first argument the party that calls. Each may be called again with the same
arguments, and then gives the same answer: after a lost connection nobody knows whether a command was executed. The
first element of an answer is a word:

``ok``      done; what follows depends on the script
``gone``    there is no such channel (any more), or no such value
``closed``  the channel is closed, and nothing was done
``lost``    another party holds the side by now, and nothing was done
``none``    there is nobody to do it with
"""

from __future__ import annotations

import hashlib

__all__ = ["ALL", "Script"]


class Script:
    """A script and the digest under which a server knows it."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, body: str, *, lean: bool = False) -> None:
        self.name = name
        # Half of what a short script costs is to make functions that it does not call.
        self.text = ((_LEAN if lean else _COMMON) + body).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_LEAN = r"""
local S, me, call = KEYS[1], ARGV[1], redis.call
"""

_COMMON = r"""
local S, me, call = KEYS[1], ARGV[1], redis.call
local P, A, R = S .. ':parties', S .. ':arms', S .. ':props'
local function clock()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function tell(party, ...)
  local client, number = string.match(party or '', '^(.+)%.(%d+)$')
  if client then call('PUBLISH', 'stbass:chan:to:' .. client, cmsgpack.pack({tonumber(number), ...})) end
end
local function tell_all(...)
  for _, party in ipairs(call('HKEYS', P)) do tell(party, ...) end
end
local function lists(epoch) return S .. ':offers:' .. epoch, S .. ':taken:' .. epoch end
local function number_of(entry)
  local number, kind = string.match(entry, '^(%d+)([snbg])')
  return tonumber(number), kind
end
-- The arms of the other side that could be met: of parties that live, open, and no choice that only looks on.
local function facing(side, rank)
  local found, now = {}, clock()
  if call('EXISTS', A) == 0 then return found end
  local all = call('HGETALL', A)
  for i = 1, #all, 2 do
    local its_side, open, passive, its_rank = string.match(all[i + 1], '^(.)|(.)|(.)|(.*)$')
    local party = string.match(all[i], '^(.+)/')
    if its_side ~= side and open == '1' and passive == '0' and its_rank ~= rank then
      if tonumber(call('HGET', P, party) or 0) > now then table.insert(found, all[i]) end
    end
  end
  table.sort(found)
  return found
end
local function look(side)
  -- Choices at that side may find something; those that only look on too.
  if call('EXISTS', A) == 0 then return end
  local all = call('HGETALL', A)
  for i = 1, #all, 2 do
    if string.sub(all[i + 1], 1, 1) == side then
      local party, arm = string.match(all[i], '^(.+)/(%d+)$')
      tell(party, 'look', tonumber(arm))
    end
  end
end
local function find(list, number)
  for _, entry in ipairs(call('LRANGE', list, 0, -1)) do
    if number_of(entry) == number then return entry end
  end
end
-- What the reader has taken and not acknowledged goes back to the front; a new reader gets lists of its own.
local function new_epoch()
  local epoch = tonumber(call('HGET', S, 'epoch') or 0)
  local offers, taken = lists(epoch)
  local back = call('LRANGE', taken, 0, -1)
  for i = #back, 1, -1 do
    if back[i] ~= '' then call('LPUSH', offers, back[i]) end
  end
  call('DEL', taken)
  local ttl = call('PTTL', S)
  epoch = epoch + 1
  local next_offers, next_taken = lists(epoch)
  call('RPUSH', next_taken, '')
  call('PEXPIRE', next_taken, ttl)
  if call('EXISTS', offers) == 1 then
    call('RENAME', offers, next_offers)
    call('PEXPIRE', next_offers, ttl)
  end
  call('HSET', S, 'epoch', epoch)
  call('HDEL', S, 'wait')
  return epoch
end
-- Offers whose sender waits are nobody's when the writer is gone or the channel is closed.
local function withdraw_offers()
  local offers, taken = lists(tonumber(call('HGET', S, 'epoch') or 0))
  for _, list in ipairs({offers, taken}) do
    for _, entry in ipairs(call('LRANGE', list, 0, -1)) do
      local _, kind = number_of(entry)
      if kind == 's' or kind == 'n' then call('LREM', list, 1, entry) end
    end
  end
end
local function free(side)
  local asks = call('HGET', S, 'ask.' .. side)
  call('HDEL', S, side, side .. '.owner', side .. '.who', side .. '.since', 'ask.' .. side)
  if side == 'r' then
    new_epoch()
    call('DEL', R)
  else
    withdraw_offers()
  end
  if asks then tell(asks, 'free', side) end
end
local function values(epoch)
  local offers, taken = lists(epoch)
  return call('LLEN', offers) + math.max(0, call('LLEN', taken) - 1)
end
local function delete()
  local offers, taken = lists(tonumber(call('HGET', S, 'epoch') or 0))
  local loose = call('HGET', S, 'loose')
  local name, type, cap = unpack(call('HMGET', S, 'name', 'type', 'cap'))
  call('DEL', S, P, A, R, offers, taken)
  if loose then
    -- Somebody may still come who cannot tell a channel that was from one that is not yet.
    call('HSET', S, 'name', name, 'type', type, 'cap', cap, 'closed', 1, 'epoch', 0)
    call('EXPIRE', S, 60)
  end
end
"""

JOIN = Script(
    "JOIN",
    r"""
-- lease, ttl (both ms), create (1/0), loose (1/0), name, type, capacity
-- ok: closed, offered, acked, sent, got
local lease, ttl = tonumber(ARGV[2]), tonumber(ARGV[3])
if call('HEXISTS', S, 'name') == 0 then
  if ARGV[4] == '0' then return {'gone'} end
  -- What every value needs comes first: a small hash is searched from its start.
  call('HSET', S, 'epoch', 0, 'offered', 0, 'acked', 0, 'sent', 0, 'got', 0, 'wd', '', 'name', ARGV[6], 'type', ARGV[7],
       'cap', ARGV[8])
end
if ARGV[5] == '1' then call('HSET', S, 'loose', 1) end
local closed, offered, acked, sent, got = unpack(call('HMGET', S, 'closed', 'offered', 'acked', 'sent', 'got'))
if closed and call('HLEN', P) == 0 then
  if values(call('HGET', S, 'epoch')) == 0 then return {'gone'} end
end
call('HSET', P, me, clock() + lease)
call('PEXPIRE', S, ttl)
call('PEXPIRE', P, ttl)
return {'ok', closed and 1 or 0, tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0), tonumber(got or 0)}
""",
)

HOLD = Script(
    "HOLD",
    r"""
-- side (w/r), owner, who, type, lease (ms), with new lists (1/0)
-- ok: epoch, offered, acked, sent, got, closed.  type: theirs.  held: owner, who, since (ms), for how long (ms)
local side, owner = ARGV[2], ARGV[3]
local type, holder, its_owner, who, since, epoch, closed = unpack(call('HMGET', S, 'type', side, side .. '.owner',
  side .. '.who', side .. '.since', 'epoch', 'closed'))
if not type then return {'gone'} end
if type ~= ARGV[5] then return {'type', type} end
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
  if left > 0 and busy then
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
  free(side)
  tell(holder, 'lost', side)
  holder = nil
  epoch = tonumber(call('HGET', S, 'epoch'))
end
if not holder then
  if side == 'r' then epoch = new_epoch() end
  call('HSET', S, side, me, side .. '.since', now)
elseif side == 'r' and ARGV[7] == '1' then
  epoch = new_epoch()
end
call('HSET', S, side .. '.owner', owner, side .. '.who', ARGV[4])
call('HSET', P, me, now + tonumber(ARGV[6]))
local offered, acked, sent, got = unpack(call('HMGET', S, 'offered', 'acked', 'sent', 'got'))
return {'ok', epoch, tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0), tonumber(got or 0),
        closed and 1 or 0}
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

OFFER = Script(
    "OFFER",
    r"""
-- ttl (ms), then entries.  For each value that is sent: as few commands as can be.
-- ok: acked, sent
local holder, closed, epoch, offered, acked, sent = unpack(call('HMGET', S, 'w', 'closed', 'epoch', 'offered', 'acked',
  'sent'))
if not epoch then return {'gone'} end
if holder ~= me then return {'lost'} end
offered, acked, sent = tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0)
local offers = S .. ':offers:' .. epoch
local refused, accepted, fresh = false, 0, {}
for i = 3, #ARGV do
  local number, kind = string.match(ARGV[i], '^(%d+)(%a)')
  number = tonumber(number)
  if number > offered then
    if closed and kind ~= 'b' then
      refused = true
    else
      fresh[#fresh + 1] = ARGV[i]
      offered = number
      if kind == 'b' then accepted = accepted + 1 end
    end
  elseif closed and kind ~= 'b' and number > acked then
    refused = true
  end
end
for i = 1, #fresh, 1000 do
  local last = math.min(i + 999, #fresh)
  local length = call('RPUSH', offers, unpack(fresh, i, last))
  if length == last - i + 1 then call('PEXPIRE', offers, ARGV[2]) end
end
if accepted > 0 then
  sent = sent + accepted
  call('HSET', S, 'offered', offered, 'wd', '', 'sent', sent)
elseif #fresh > 0 then
  call('HSET', S, 'offered', offered, 'wd', '')
end
local arms = S .. ':arms'
if call('EXISTS', arms) == 1 then
  -- Choices at the reader's end may find something.
  local all = call('HGETALL', arms)
  for i = 1, #all, 2 do
    if string.sub(all[i + 1], 1, 1) == 'r' then
      local client, party, arm = string.match(all[i], '^(.+)%.(%d+)/(%d+)$')
      call('PUBLISH', 'stbass:chan:to:' .. client, cmsgpack.pack({tonumber(party), 'look', tonumber(arm)}))
    end
  end
end
return {refused and 'closed' or 'ok', acked, sent}
""",
    lean=True,
)

RECEIVE = Script(
    "RECEIVE",
    r"""
-- entry, whether a receive goes on waiting (1/0): acknowledge one value.  As few commands as can be.
-- ok: got before, whether it is closed, how many were acknowledged (0: it was withdrawn)
local holder, closed, epoch, writer, acked, got, sent = unpack(call('HMGET', S, 'r', 'closed', 'epoch', 'w', 'acked',
  'got', 'sent'))
if not epoch then return {'gone'} end
if holder ~= me then return {'lost'} end
local number, kind = string.match(ARGV[2], '^(%d+)(%a)')
number, acked, got, sent = tonumber(number), tonumber(acked or 0), tonumber(got or 0), tonumber(sent or 0)
if call('LREM', S .. ':taken:' .. epoch, 1, ARGV[2]) == 0 then
  -- Withdrawn; or the same once more, because the answer to the first was lost.
  if number > acked then return {'ok', got, closed and 1 or 0, 0} end
  return {'ok', got - 1, closed and 1 or 0, 1}
end
if number > acked then acked = number end
if kind == 's' or kind == 'n' then sent = sent + 1 end
if kind == 'n' then
  call('HSET', S, 'acked', acked, 'got', got + 1, 'sent', sent, 'now', number .. 'y')
else
  call('HSET', S, 'acked', acked, 'got', got + 1, 'sent', sent)
end
if ARGV[3] == '0' then call('HDEL', S, 'wait') end
if writer then
  local client, party = string.match(writer, '^(.+)%.(%d+)$')
  call('PUBLISH', 'stbass:chan:to:' .. client, cmsgpack.pack({tonumber(party), 'ack', acked, sent}))
end
return {'ok', got, closed and 1 or 0, 1}
""",
    lean=True,
)

WITHDRAW = Script(
    "WITHDRAW",
    r"""
-- number.  ok: 1 it is withdrawn, 0 it has happened
local number = tonumber(ARGV[2])
local wd, now, acked, epoch = unpack(call('HMGET', S, 'wd', 'now', 'acked', 'epoch'))
if not epoch then return {'gone'} end
if string.find(wd or '', ',' .. number .. ',', 1, true) or now == number .. 'n' then return {'ok', 1} end
if now == number .. 'y' then return {'ok', 0} end
local offers, taken = lists(epoch)
for _, list in ipairs({offers, taken}) do
  local entry = find(list, number)
  if entry then
    call('LREM', list, 1, entry)
    call('HSET', S, 'wd', (wd or '') .. ',' .. number .. ',')
    return {'ok', 1}
  end
end
if number <= tonumber(acked or 0) then return {'ok', 0} end
return {'ok', 1}
""",
)

NOW = Script(
    "NOW",
    r"""
-- entry, rank, then arms that refused already: offer to somebody who can take it at once
-- ok: to whom ('' : a plain receive)
local holder, closed, epoch, offered, waits = unpack(call('HMGET', S, 'w', 'closed', 'epoch', 'offered', 'wait'))
if not epoch then return {'gone'} end
if holder ~= me then return {'lost'} end
local number = number_of(ARGV[2])
if number <= tonumber(offered or 0) then return {'ok', ''} end
if closed then return {'closed'} end
local offers, taken = lists(epoch)
if values(epoch) > 0 then return {'none'} end
local to = nil
if waits and #ARGV == 3 then
  to = ''
else
  for _, arm in ipairs(facing('w', ARGV[3])) do
    local tried = false
    for i = 4, #ARGV do tried = tried or ARGV[i] == arm end
    if not tried then
      to = arm
      break
    end
  end
end
if not to then return {'none'} end
call('RPUSH', offers, ARGV[2])
call('PEXPIRE', offers, call('PTTL', S))
call('HSET', S, 'offered', number, 'wd', '')
if to ~= '' then
  local party, arm = string.match(to, '^(.+)/(%d+)$')
  tell(party, 'claim', tonumber(arm), tostring(number), ARGV[3])
end
return {'ok', to}
""",
)

REFUSE = Script(
    "REFUSE",
    r"""
-- number: the reader does not take this offer that cannot wait
local number = tonumber(ARGV[2])
local epoch, writer = unpack(call('HMGET', S, 'epoch', 'w'))
if not epoch then return {'gone'} end
local offers, taken = lists(epoch)
for _, list in ipairs({offers, taken}) do
  local entry = find(list, number)
  if entry then
    call('LREM', list, 1, entry)
    call('HSET', S, 'now', number .. 'n')
    tell(writer, 'no', number)
  end
end
return {'ok'}
""",
)

WAIT = Script(
    "WAIT",
    r"""
-- 1/0: a plain receive waits, or does not any more
-- ok: whether it is closed
local holder, closed, epoch = unpack(call('HMGET', S, 'r', 'closed', 'epoch'))
if not epoch then return {'gone'} end
if holder ~= me then return {'lost'} end
if ARGV[2] == '1' then
  call('HSET', S, 'wait', 1)
  look('w')
else
  call('HDEL', S, 'wait')
end
return {'ok', closed and 1 or 0}
""",
)

ACK = Script(
    "ACK",
    r"""
-- number (acknowledge all up to it), how many to move, whether a receive goes on waiting (1/0), all there is (1/0)
-- ok: got before, whether it is closed, how many were acknowledged, how many are taken; the entries moved, or all
local number, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local holder, closed, epoch, writer, acked, got, sent = unpack(call('HMGET', S, 'r', 'closed', 'epoch', 'w', 'acked',
  'got', 'sent'))
if not epoch then return {'gone'} end
if holder ~= me then return {'lost'} end
local offers, taken = S .. ':offers:' .. epoch, S .. ':taken:' .. epoch
acked, got = tonumber(acked or 0), tonumber(got or 0)
local answer = {'ok', got, closed and 1 or 0, 0, 0}
local there = call('LLEN', taken)
if number > acked then
  -- In order, all of them from the front.
  local keep, count = 0, 0
  for i, entry in ipairs(call('LRANGE', taken, 1, -1)) do
    local its = tonumber(string.match(entry, '^(%d+)%a'))
    if its and its > number then break end
    keep = i
    if its then count = count + 1 end
  end
  if keep > 0 then
    call('LTRIM', taken, keep, -1)
    call('LSET', taken, 0, '')
    there = there - keep
  end
  if count > 0 then
    answer[4] = count
    call('HSET', S, 'acked', number, 'got', got + count)
    if writer then
      local client, party = string.match(writer, '^(.+)%.(%d+)$')
      local message = cmsgpack.pack({tonumber(party), 'ack', number, tonumber(sent or 0)})
      call('PUBLISH', 'stbass:chan:to:' .. client, message)
    end
  end
end
if ARGV[4] == '0' then call('HDEL', S, 'wait') end
if there == 0 then
  call('RPUSH', taken, '')
  call('PEXPIRE', taken, call('PTTL', S))
  there = 1
end
if most >= there then
  local moved = call('LRANGE', offers, 0, most - there)
  if #moved > 0 then
    call('LTRIM', offers, #moved, -1)
    for i = 1, #moved, 1000 do call('RPUSH', taken, unpack(moved, i, math.min(i + 999, #moved))) end
    there = there + #moved
    if ARGV[5] == '0' then
      for _, entry in ipairs(moved) do answer[#answer + 1] = entry end
    end
  end
end
if ARGV[5] == '1' then
  for _, entry in ipairs(call('LRANGE', taken, 1, -1)) do answer[#answer + 1] = entry end
end
answer[5] = there - 1
return answer
""",
    lean=True,
)

CLOSE = Script(
    "CLOSE",
    r"""
-- ok: acked, sent
local epoch, closed = unpack(call('HMGET', S, 'epoch', 'closed'))
if not epoch then return {'gone'} end
if not closed then
  call('HSET', S, 'closed', 1)
  call('HDEL', S, 'wait')
  withdraw_offers()
  call('DEL', R)
  tell_all('closed')
end
local acked, sent = unpack(call('HMGET', S, 'acked', 'sent'))
return {'ok', tonumber(acked or 0), tonumber(sent or 0)}
""",
)

LEAVE = Script(
    "LEAVE",
    r"""
-- final (1/0): otherwise not while there are values in a closed channel, for somebody who may still come for them
-- ok.  stay
local epoch, closed, w, r = unpack(call('HMGET', S, 'epoch', 'closed', 'w', 'r'))
if not epoch then return {'ok'} end
local left = values(epoch)
if closed and left > 0 and ARGV[2] == '0' then return {'stay'} end
if r == me then free('r') end
if w == me then free('w') end
left = values(call('HGET', S, 'epoch'))
call('HDEL', P, me)
for _, arm in ipairs(call('HKEYS', A)) do
  if string.match(arm, '^(.+)/') == me then call('HDEL', A, arm) end
end
local now, alive = clock(), 0
local parties = call('HGETALL', P)
for i = 1, #parties, 2 do
  if tonumber(parties[i + 1]) > now then alive = alive + 1 end
end
if #parties == 0 or (closed and left == 0 and alive == 0) then
  delete()
elseif closed and left == 0 then
  tell_all('closed')
end
return {'ok'}
""",
)

ATTACH = Script(
    "ATTACH",
    r"""
-- arm number, side (w/r), open (1/0), passive (1/0), rank, whether those facing it are told (1/0)
-- ok: whether it is ready, whether it is closed
local side, open, passive, rank = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local epoch, closed, waits, cap = unpack(call('HMGET', S, 'epoch', 'closed', 'wait', 'cap'))
if not epoch then return {'gone'} end
call('HSET', A, me .. '/' .. ARGV[2], side .. '|' .. open .. '|' .. passive .. '|' .. rank)
call('PEXPIRE', A, call('PTTL', S))
if passive == '0' and ARGV[7] == '1' then look(side == 'r' and 'w' or 'r') end
local ready = closed or #facing(side, rank) > 0
if side == 'r' then
  ready = ready or values(epoch) > 0
else
  if tonumber(cap) == 0 then ready = ready or waits else ready = ready or values(epoch) < tonumber(cap) end
end
return {'ok', ready and 1 or 0, closed and 1 or 0}
""",
)

DETACH = Script(
    "DETACH",
    r"""
-- arm number
call('HDEL', A, me .. '/' .. ARGV[2])
return {'ok'}
""",
)

ASK = Script(
    "ASK",
    r"""
-- id, rank, then arms that refused already: propose to a choice at the writer's end that it sends
-- ok: to whom
local holder, closed, epoch = unpack(call('HMGET', S, 'r', 'closed', 'epoch'))
if not epoch then return {'gone'} end
if holder ~= me then return {'lost'} end
if closed then return {'closed'} end
for _, arm in ipairs(facing('r', ARGV[3])) do
  local tried = false
  for i = 4, #ARGV do tried = tried or ARGV[i] == arm end
  if not tried then
    call('HSET', R, ARGV[2], me)
    call('PEXPIRE', R, call('PTTL', S))
    local party, number = string.match(arm, '^(.+)/(%d+)$')
    tell(party, 'claim', tonumber(number), ARGV[2], ARGV[3])
    return {'ok', arm}
  end
end
return {'none'}
""",
)

UNASK = Script(
    "UNASK",
    r"""
-- id: the proposal does not stand any more
call('HDEL', R, ARGV[2])
return {'ok'}
""",
)

GIVE = Script(
    "GIVE",
    r"""
-- id, entry: yes to a proposal.  ok: sent
local holder, epoch, given, offered, sent = unpack(call('HMGET', S, 'w', 'epoch', 'gv', 'offered', 'sent'))
if not epoch then return {'gone'} end
local number = number_of(ARGV[3])
if tonumber(given or 0) == number then return {'ok', tonumber(sent or 0)} end
local reader = call('HGET', R, ARGV[2])
if holder ~= me or not reader then return {'gone'} end
call('HDEL', R, ARGV[2])
local offers = lists(epoch)
call('RPUSH', offers, ARGV[3])
call('PEXPIRE', offers, call('PTTL', S))
call('HSET', S, 'offered', number, 'gv', number, 'wd', '')
sent = call('HINCRBY', S, 'sent', 1)
tell(reader, 'gave', ARGV[2])
return {'ok', sent}
""",
)

DENY = Script(
    "DENY",
    r"""
-- id: no to a proposal
local reader = call('HGET', R, ARGV[2])
if reader then
  call('HDEL', R, ARGV[2])
  tell(reader, 'deny', ARGV[2])
end
return {'ok'}
""",
)

SYNC = Script(
    "SYNC",
    r"""
-- lease, ttl (ms): the party lives; what is true now?
-- ok: closed, offered, acked, sent, w is mine, r is mine, what became of the latest offer that could not wait, epoch
local type, closed, offered, acked, sent, w, r, now, epoch = unpack(call('HMGET', S, 'type', 'closed', 'offered',
  'acked', 'sent', 'w', 'r', 'now', 'epoch'))
if not type then return {'gone'} end
call('HSET', P, me, clock() + tonumber(ARGV[2]))
local offers, taken = lists(epoch)
for _, key in ipairs({S, P, A, R, offers, taken}) do call('PEXPIRE', key, ARGV[3]) end
return {'ok', closed and 1 or 0, tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0), w == me and 1 or 0,
        r == me and 1 or 0, now or '', tonumber(epoch)}
""",
)

DROP = Script(
    "DROP",
    r"""
-- element: it is none of ours
local epoch = call('HGET', S, 'epoch')
if epoch then
  local _, taken = lists(epoch)
  call('LREM', taken, 1, ARGV[2])
end
return {'ok'}
""",
)

ALL = (
    JOIN,
    HOLD,
    FREE,
    AFFIRM,
    OFFER,
    RECEIVE,
    WITHDRAW,
    NOW,
    REFUSE,
    WAIT,
    ACK,
    CLOSE,
    LEAVE,
    ATTACH,
    DETACH,
    ASK,
    UNASK,
    GIVE,
    DENY,
    SYNC,
    DROP,
)
"""Every script, in the order in which a connection loads them."""
