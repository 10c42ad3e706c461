"""The Lua scripts that treat a session's hash in Valkey.

Its fields are `epoch`, `head`, and for each checkpoint one named POSITION:EPOCH, after the epoch that stored it. Of a
closed session only `epoch` and `closed` are left. The server runs a script as a whole, and each touches one key, so any
number of them may share a round trip.
"""

from collections.abc import Sequence
from hashlib import sha1

PREFIX = b"conveyor:session:"

Command = tuple[bytes, ...]

_FIND = "local epoch, closed = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'closed'))\n"

# ARGV: position, checkpoint, milliseconds to live, head. Returns the epoch, 0 if the session is open.
CREATE = (
    _FIND
    + """
if epoch and not closed then return 0 end
epoch = (tonumber(epoch) or 0) + 1
redis.call('HSET', KEYS[1], 'epoch', epoch, 'head', ARGV[4], ARGV[1] .. ':' .. epoch, ARGV[2])
redis.call('HDEL', KEYS[1], 'closed')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return epoch
"""
)

# ARGV: position, checkpoint, milliseconds to live, epoch, oldest, latest and, if there is one, the head. Returns a
# `Saved`.
# The first write is one that a full server refuses: after another it would refuse none.
SAVE = (
    _FIND
    + """
local position, owner, oldest, latest = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if epoch and (owner < tonumber(epoch) or (closed and owner == tonumber(epoch))) then
  return redis.status_reply('fenced')
end
local is_open = epoch and not closed
if not is_open and not ARGV[7] then return redis.status_reply('gone') end
local dropped = {'closed'}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local other, by = string.match(field, '^(%d+):(%d+)$')
  other, by = tonumber(other), tonumber(by)
  if other then
    local is_old = other < oldest or (other > oldest and other < latest)
    if is_old or (by < owner and other >= position) then dropped[#dropped + 1] = field end
  end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[4], ARGV[1] .. ':' .. ARGV[4], ARGV[2])
if not is_open then redis.call('HSET', KEYS[1], 'head', ARGV[7]) end
redis.call('HDEL', KEYS[1], unpack(dropped))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.status_reply('done')
"""
)

# ARGV: milliseconds to live at least and, if there is one, the epoch that it must have. Returns the hash as HGETALL
# does, nil if the session is not open, or has another epoch.
ACQUIRE = (
    _FIND
    + """
if not epoch or closed or (ARGV[2] and ARGV[2] ~= epoch) then return nil end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
if tonumber(ARGV[1]) > redis.call('PTTL', KEYS[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return redis.call('HGETALL', KEYS[1])
"""
)

# ARGV: the most bytes of the head. Returns epoch, head and the names of all fields, nil if the session is not open.
SUMMARY = (
    _FIND
    + """
if not epoch or closed then return nil end
local head = redis.call('HGET', KEYS[1], 'head')
return {epoch, string.sub(head, 1, tonumber(ARGV[1])), redis.call('HKEYS', KEYS[1])}
"""
)

# ARGV: epoch, milliseconds for which it stays. What frees memory comes first, so that a full server does it too.
CLOSE = (
    _FIND
    + """
if epoch and tonumber(epoch) > tonumber(ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'closed', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)


def calls(script: str, arguments: Sequence[tuple[str, Command]]) -> list[Command]:
    """Calls of a script, for sessions and what each gives it.

    The first brings the script and the others name it: so a server that has lost it, or is new, has it by then.
    """
    ways = [(b"EVAL", script.encode())] + [(b"EVALSHA", _digest(script))] * (len(arguments) - 1)
    return [
        (*way, b"1", PREFIX + session_id.encode(), *values)
        for way, (session_id, values) in zip(ways, arguments, strict=False)
    ]


def _digest(script: str) -> bytes:
    return sha1(script.encode(), usedforsecurity=False).hexdigest().encode()
