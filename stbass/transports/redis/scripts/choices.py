"""Scripts of choices: guards that are seen from the other side, and proposals between choices."""

from __future__ import annotations

from stbass.transports.redis.scripts.script import Script

__all__ = ["ASK", "ATTACH", "DENY", "DETACH", "GIVE", "UNASK"]

ATTACH = Script(
    "ATTACH",
    r"""
-- arm number, side (w/r), open (1/0), passive (1/0), rank, whether those facing it are told (1/0)
-- ok: whether it is ready, whether it is closed
local side, open, passive, rank = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local epoch, closed, waits, cap, offered, acked = unpack(call('HMGET', S, 'epoch', 'closed', 'wait', 'cap', 'offered',
  'acked'))
if not epoch then return {'gone'} end
call('HSET', A, me .. '/' .. ARGV[2], side .. '|' .. open .. '|' .. passive .. '|' .. rank)
call('PEXPIRE', A, call('PTTL', S))
if passive == '0' and ARGV[7] == '1' then look(side == 'r' and 'w' or 'r') end
local ready = closed or #facing(side, rank) > 0
if side == 'r' then
  ready = ready or values(epoch) > 0
else
  if tonumber(cap) == 0 then ready = ready or waits else ready = ready or offered - acked < tonumber(cap) end
end
return {'ok', ready and 1 or 0, closed or 0}
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
if holder ~= me then return {holder and 'taken' or 'free', born} end
if closed then return {'closed', closed} end
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
local holder, epoch, given, offered, sent, left = unpack(call('HMGET', S, 'w', 'epoch', 'gv', 'offered', 'sent',
  'left'))
if not epoch then return {'gone'} end
local number = number_of(ARGV[3])
if tonumber(given or 0) == number then return {'ok', tonumber(sent or 0)} end
local reader = call('HGET', R, ARGV[2])
if holder ~= me or not reader then return {'none'} end
if values(epoch) < tonumber(left or 0) then return lose() end
local offers = lists(epoch)
call('RPUSH', offers, ARGV[3])
call('HDEL', R, ARGV[2])
call('PEXPIRE', offers, call('PTTL', S))
call('HSET', S, 'offered', number, 'gv', number, 'left', (left or 0) + 1)
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
