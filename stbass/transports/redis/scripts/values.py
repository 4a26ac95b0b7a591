"""Scripts that move values: offers, acknowledgements, withdrawals."""

from __future__ import annotations

from stbass.transports.redis.scripts.script import Script

__all__ = ["ACK", "DROP", "NOW", "OFFER", "RECEIVE", "REFUSE", "TURN", "WAIT", "WITHDRAW"]

OFFER = Script(
    "OFFER",
    r"""
-- ttl (ms), then entries.  For each value that is sent: as few commands as can be.
-- ok: acked, sent, whether values were refused because the channel is closed
local holder, closed, epoch, offered, acked, sent, left = unpack(call('HMGET', S, 'w', 'closed', 'epoch', 'offered',
  'acked', 'sent', 'left'))
if not epoch then return {'gone'} end
if holder ~= me then return {holder and 'taken' or 'free', call('HGET', S, 'born')} end
offered, acked, sent, left = tonumber(offered or 0), tonumber(acked or 0), tonumber(sent or 0), tonumber(left or 0)
local offers = S .. ':offers:' .. epoch
local refused, accepted, fresh = false, 0, {}
for i = 3, #ARGV do
  local number, kind, count = string.match(ARGV[i], '^(%d+)(%a)(%d*)')
  number = tonumber(number)
  if number > offered then
    if kind == 'b' then
      if number > offered + 1 then return {err = 'TRYAGAIN the values before these were refused'} end
      fresh[#fresh + 1] = ARGV[i]
      accepted = accepted + count
      offered = number + count - 1
    elseif closed then
      refused = true
    else
      fresh[#fresh + 1] = ARGV[i]
      offered = number
    end
  elseif closed and kind ~= 'b' and number > acked then
    refused = true
  end
end
for i = 1, #fresh, 1000 do
  local last = math.min(i + 999, #fresh)
  local length = call('RPUSH', offers, unpack(fresh, i, last))
  if length == last - i + 1 then
    call('PEXPIRE', offers, ARGV[2])
    if i == 1 and left > 0 and call('LLEN', S .. ':taken:' .. epoch) <= left then
      -- What was offered before is in neither list: it was deleted.  So nobody may go on as if nothing were.
      call('DEL', S, S .. ':parties', S .. ':arms', S .. ':props', offers, S .. ':taken:' .. epoch)
      return {'gone'}
    end
  end
end
if accepted > 0 then
  sent = sent + accepted
  call('HSET', S, 'offered', offered, 'sent', sent, 'left', left + #fresh)
elseif #fresh > 0 then
  call('HSET', S, 'offered', offered, 'left', left + #fresh)
end
local arms = S .. ':arms'
if call('EXISTS', arms) == 1 then
  -- Choices at the reader's end may find something.
  local all = call('HGETALL', arms)
  for i = 1, #all, 2 do
    if string.sub(all[i + 1], 1, 1) == 'r' then
      local client, party, arm = string.match(all[i], '^(.+)%.(%d+)/(%d+)$')
      local message = cmsgpack.pack({tonumber(party), 'look', tonumber(arm)})
      call('PUBLISH', string.match(S, '^(.*stbass:chan:){') .. 'to:' .. client, message)
    end
  end
end
return {'ok', acked, sent, refused and closed or 0}
""",
    lean=True,
)

RECEIVE = Script(
    "RECEIVE",
    r"""
-- entry, whether a receive goes on waiting (1/0): acknowledge one value.  As few commands as can be.
-- ok: got before, whether it is closed, how many were acknowledged (0: it was withdrawn)
local holder, closed, epoch, writer, acked, got, sent, offered, left = unpack(call('HMGET', S, 'r', 'closed', 'epoch',
  'w', 'acked', 'got', 'sent', 'offered', 'left'))
if not epoch then return {'gone'} end
local number, kind = string.match(ARGV[2], '^(%d+)(%a)')
if holder ~= me then
  -- The same once more, because the answer to the first was lost, and then the place.
  local had, place = string.match(call('HGET', S, 'had.r.' .. me) or '', '^(%d+) (%d+)$')
  if had and had == number then return {'ok', place - 1, closed or 0, 1} end
  return {holder and 'taken' or 'free', call('HGET', S, 'born')}
end
number, acked, got, sent = tonumber(number), tonumber(acked or 0), tonumber(got or 0), tonumber(sent or 0)
if call('LREM', S .. ':taken:' .. epoch, 1, ARGV[2]) == 0 then
  -- The same once more, because the answer to the first was lost; or withdrawn; or the list was deleted.
  if number <= acked then return {'ok', got - 1, closed or 0, 1} end
  local offers, taken = S .. ':offers:' .. epoch, S .. ':taken:' .. epoch
  if call('LLEN', offers) + math.max(0, call('LLEN', taken) - 1) < tonumber(left or 0) then
    call('DEL', S, S .. ':parties', S .. ':arms', S .. ':props', offers, taken)
    return {'gone'}
  end
  return {'ok', got, closed or 0, 0}
end
-- One that no writer has offered, or that was acknowledged before, is a stranger's.
if number <= acked or number > tonumber(offered or 0) then return {'ok', got, closed or 0, 0} end
acked, left = number, math.max(0, (left or 0) - 1)
if kind == 's' or kind == 'n' then sent = sent + 1 end
if kind == 'n' then
  call('HSET', S, 'acked', acked, 'got', got + 1, 'sent', sent, 'left', left, 'now', number .. 'y')
else
  call('HSET', S, 'acked', acked, 'got', got + 1, 'sent', sent, 'left', left)
end
if ARGV[3] == '0' then call('HDEL', S, 'wait') end
if writer then
  local client, party = string.match(writer, '^(.+)%.(%d+)$')
  local message = cmsgpack.pack({tonumber(party), 'ack', acked, sent})
  call('PUBLISH', string.match(S, '^(.*stbass:chan:){') .. 'to:' .. client, message)
end
return {'ok', got, closed or 0, 1}
""",
    lean=True,
)

ACK = Script(
    "ACK",
    r"""
-- number (acknowledge all up to it), how many elements to move, all there is (1/0), received (the writer has room)
-- ok: whether it is closed, and then how many elements are not acknowledged; the elements that were moved, or all
local number, most, received = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local holder, closed, epoch, writer, acked, done, got, sent, offered, left = unpack(call('HMGET', S, 'r', 'closed',
  'epoch', 'w', 'acked', 'done', 'got', 'sent', 'offered', 'left'))
if not epoch then return {'gone'} end
if holder ~= me then return {holder and 'taken' or 'free', call('HGET', S, 'born')} end
local offers, taken = S .. ':offers:' .. epoch, S .. ':taken:' .. epoch
acked, done, got, offered = tonumber(acked or 0), tonumber(done or 0), tonumber(got or 0), tonumber(offered or 0)
local answer = {'ok', closed or 0, 0}
local there = call('LLEN', taken)
number, received = math.min(number, offered), math.min(received, offered)
if number > done then
  -- In order, all of them from the front.  An element of which only a part was received stays.
  local keep, last = 0, done
  for i, entry in ipairs(call('LRANGE', taken, 1, -1)) do
    local first, count = string.match(entry, '^(%d+)b(%d+);')
    if first and first + count - 1 > number then break end
    keep, last = i, first and first + count - 1 or last
  end
  if keep > 0 then
    call('LTRIM', taken, keep, -1)
    call('LSET', taken, 0, '')
    there = there - keep
  end
  if last < number and there <= 1 then
    -- They are where they go when the reader asks for new lists.
    local again = 0
    for i, entry in ipairs(call('LRANGE', offers, 0, number - done)) do
      local first, count = string.match(entry, '^(%d+)b(%d+);')
      if first and first + count - 1 > number then break end
      again = i
    end
    if again > 0 then call('LTRIM', offers, again, -1) end
    keep = keep + again
  end
  left = math.max(0, (left or 0) - keep)
  call('HSET', S, 'acked', math.max(received, acked), 'done', number, 'got', got + number - done, 'left', left)
elseif received > acked then
  call('HSET', S, 'acked', received)
end
if received > acked and writer then
  local client, party = string.match(writer, '^(.+)%.(%d+)$')
  local message = cmsgpack.pack({tonumber(party), 'ack', received, tonumber(sent or 0)})
  call('PUBLISH', string.match(S, '^(.*stbass:chan:){') .. 'to:' .. client, message)
end
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
    if ARGV[4] == '0' then
      for _, entry in ipairs(moved) do answer[#answer + 1] = entry end
    end
  end
end
if ARGV[4] == '1' then
  for _, entry in ipairs(call('LRANGE', taken, 1, -1)) do answer[#answer + 1] = entry end
end
if closed then answer[3] = there - 1 + call('LLEN', offers) end
return answer
""",
    lean=True,
)

WAIT = Script(
    "WAIT",
    r"""
-- 1/0: a plain receive waits, or does not any more
-- ok: whether it is closed
local holder, closed, epoch = unpack(call('HMGET', S, 'r', 'closed', 'epoch'))
if not epoch then return {'gone'} end
if holder ~= me then return {holder and 'taken' or 'free', born} end
if ARGV[2] == '1' then
  call('HSET', S, 'wait', 1)
  look('w')
else
  call('HDEL', S, 'wait')
end
return {'ok', closed or 0}
""",
)

WITHDRAW = Script(
    "WITHDRAW",
    r"""
-- number.  ok: 1 it is withdrawn, 0 it has happened
local number = tonumber(ARGV[2])
local wd, now, acked, epoch = unpack(call('HMGET', S, 'wd', 'now', 'acked', 'epoch'))
if not epoch then return {'gone'} end
-- If another party took the place meanwhile, what has that number by now is not this one's.
local had = call('HGET', S, 'had.w.' .. me)
if had then return {'ok', number <= tonumber(had) and 0 or 1} end
if string.find(wd or '', ',' .. number .. ',', 1, true) or now == number .. 'n' then return {'ok', 1} end
if now == number .. 'y' then return {'ok', 0} end
local offers, taken = lists(epoch)
for _, list in ipairs({offers, taken}) do
  local entry = find(list, number)
  if entry then
    left_less(call('LREM', list, 1, entry))
    -- (Numbers do not come again; those long ago nobody asks for.)
    call('HSET', S, 'wd', string.sub((wd or '') .. ',' .. number .. ',', -1000))
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
local holder, closed, epoch, offered, waits, left = unpack(call('HMGET', S, 'w', 'closed', 'epoch', 'offered', 'wait',
  'left'))
if not epoch then return {'gone'} end
if holder ~= me then return {holder and 'taken' or 'free', born} end
local number = number_of(ARGV[2])
if number <= tonumber(offered or 0) then return {'ok', ''} end
if closed then return {'closed', closed} end
local offers, taken = lists(epoch)
local there = values(epoch)
if there < tonumber(left or 0) then return lose() end
if there > 0 then return {'none'} end
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
call('HSET', S, 'offered', number, 'left', 1)
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
  local _, kind = number_of(entry or '')
  if kind == 'n' then
    left_less(call('LREM', list, 1, entry))
    call('HSET', S, 'now', number .. 'n')
    tell(writer, 'no', number)
  end
end
return {'ok'}
""",
)

DROP = Script(
    "DROP",
    r"""
-- element: it is none of ours
local epoch = call('HGET', S, 'epoch')
if epoch then
  local _, taken = lists(epoch)
  left_less(call('LREM', taken, 1, ARGV[2]))
end
return {'ok'}
""",
)

TURN = Script(
    "TURN",
    r"""
-- What one client has done with several channels: of each program all or nothing.  Instead of the party: 'turn'.
-- for each channel, of which KEYS has the base: 'o' or 'a', number of the program, how many arguments, the arguments of
-- OFFER or ACK.  An entry '<number>c' of OFFER: nothing is offered, but all up to that number must be there.
-- an answer or an error for each.  undone: nothing was done, because the program has lost a place: a reader's (r), with
-- what it had received there, or only a writer's (w), which it may get back
local function offer(KEYS, ARGV)
"""
    + OFFER.text.decode()
    + r"""
end
local function acknowledge(KEYS, ARGV)
"""
    + ACK.text.decode()
    + r"""
end
local calls, programs, at = {}, {}, 2
for i, key in ipairs(KEYS) do
  -- Before anything is done: does each program hold the places of all that it tells, and is all there that came before?
  local kind, number, last = ARGV[at], ARGV[at + 1], at + 2 + ARGV[at + 2]
  local args = {}
  for j = at + 3, last do args[#args + 1] = ARGV[j] end
  at = last + 1
  local program = programs[number] or {}
  local writes = kind == 'o'
  local one = {kind = kind, program = program, args = args}
  programs[number], calls[i] = program, one
  local fine, known = pcall(redis.call, 'HMGET', key, writes and 'w' or 'r', 'epoch', 'offered', 'born')
  if fine and known[2] then
    local held, offered = known[1] == args[1], tonumber(known[3] or 0)
    if not held then
      one.refused = {known[1] and 'taken' or 'free', known[4]}
      if program.lost ~= 'r' then program.lost = writes and 'w' or 'r' end
    end
    if writes then
      local first, first_kind = string.match(args[3], '^(%d+)(%a)')
      local final, _, count = string.match(args[#args], '^(%d+)(%a)(%d*)')
      if first_kind == 'b' then first = first - 1 end
      if held and first_kind ~= 's' and tonumber(first) > offered then program.gap = true end
      if first_kind == 'c' then
      elseif held and final + (tonumber(count) or 1) - 1 <= offered then
        program.written = true
      else
        program.fresh = true
      end
    end
  end
end
for _, program in pairs(programs) do
  -- (If all that it sends is there already, this has been done, and comes again because the answer was lost.)
  program.repeated = program.written and not program.fresh
  if program.gap and not program.lost then return {err = 'TRYAGAIN the values before these were refused'} end
end
local answers = {}
for i, key in ipairs(KEYS) do
  local one = calls[i]
  local program = one.program
  local fine, answer = true, nil
  if program.lost and not program.repeated then
    answer = one.refused or {'undone', program.lost}
  elseif one.refused and one.kind == 'a' then
    answer = {'ok', 0, 0}
  else
    fine, answer = pcall(one.kind == 'o' and offer or acknowledge, {key}, one.args)
  end
  if not fine then
    answer = type(answer) == 'table' and answer or {err = tostring(answer)}
    -- What the server refuses for now it refuses before anything was done: all of it comes again.
    for _, word in ipairs({'OOM ', 'MISCONF ', 'NOREPLICAS ', 'READONLY ', 'NOPERM '}) do
      if string.find(answer.err or '', word, 1, true) then return answer end
    end
  end
  answers[i] = answer
end
return answers
""",
    bare=True,
)
