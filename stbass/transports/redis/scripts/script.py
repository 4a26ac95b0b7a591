"""What a script is, and what most of them use."""

from __future__ import annotations

import hashlib

__all__ = ["Script"]


class Script:
    """A script and the digest under which a server knows it."""

    __slots__ = ("lean", "name", "sha", "text")

    def __init__(self, name: str, body: str, *, lean: bool = False, bare: bool = False) -> None:
        self.name = name
        self.lean = lean
        # Half of what a short script costs is to make functions that it does not call.
        self.text = (("" if bare else _LEAN if lean else _COMMON) + body).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_LEAN = r"""
local S, me, call = KEYS[1], ARGV[1], redis.call
"""

_COMMON = r"""
local S, call = KEYS[1], redis.call
local me, born = string.match(ARGV[1], '^(%S*) ?(%S*)$')
-- Another channel may be there by now, if the data of the one that is meant was deleted.
if born ~= '' and call('HGET', S, 'born') ~= born then return {'gone'} end
local P, A, R = S .. ':parties', S .. ':arms', S .. ':props'
local function clock()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function tell(party, ...)
  local client, number = string.match(party or '', '^(.+)%.(%d+)$')
  if client then
    call('PUBLISH', string.match(S, '^(.*stbass:chan:){') .. 'to:' .. client, cmsgpack.pack({tonumber(number), ...}))
  end
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
-- How many elements of ours the lists must have.
local function left_less(count)
  if count > 0 then call('HSET', S, 'left', math.max(0, tonumber(call('HGET', S, 'left') or 0) - count)) end
end
-- Offers whose sender waits are nobody's when the writer is gone or the channel is closed.
local function withdraw_offers()
  local offers, taken = lists(tonumber(call('HGET', S, 'epoch') or 0))
  local count = 0
  for _, list in ipairs({offers, taken}) do
    for _, entry in ipairs(call('LRANGE', list, 0, -1)) do
      local _, kind = number_of(entry)
      if kind == 's' or kind == 'n' then count = count + call('LREM', list, 1, entry) end
    end
  end
  left_less(count)
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
-- 'remembered': a mark stays for a minute that it was closed.
local function delete(remembered)
  local epoch, born, name, type, cap, closed = unpack(call('HMGET', S, 'epoch', 'born', 'name', 'type', 'cap',
    'closed'))
  local offers, taken = lists(epoch or '')
  call('DEL', S, P, A, R, offers, taken)
  if remembered and epoch then
    call('HSET', S, 'name', name, 'type', type, 'cap', cap, 'born', born, 'closed', closed or 1, 'epoch', epoch)
    call('EXPIRE', S, 60)
  end
end
-- Some of its data is not there any more: the rest is nobody's, and whoever has it open is told, and why, if known.
local function lose(...)
  tell_all('gone', ...)
  delete()
  return {'gone'}
end
"""
