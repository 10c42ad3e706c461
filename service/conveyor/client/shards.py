"""Which calls a balancer must bring to the same server: those of one shard."""

from random import sample
from secrets import token_hex
from zlib import crc32

from conveyor.client.errors import InvalidArgument

HEADER = "x-conveyor-shard"

# Other values of the header that are tried for a session to which its shard's own does not lead.
NUM_DETOURS = 16

Metadata = tuple[tuple[str, str], ...]


class Shards:
    """Tells sessions' shards by their ids: the same in every client that has as many.

    With one shard a client is one for itself, unlike any other client's.

    Raises:
        InvalidArgument: there are none.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise InvalidArgument(f"shards: must be at least 1, got {count}", field="shards")
        self.count = count
        self._own = token_hex(8)

    def of(self, session_id: str) -> str:
        """The shard of a session."""
        if self.count == 1:
            return self._own
        return str(crc32(session_id.encode()) % self.count)

    def mint(self, shard: str | None = None) -> str:
        """A new session id, of this shard if one is given."""
        while True:
            session_id = token_hex(16)
            if shard is None or self.of(session_id) == _own(shard):
                return session_id


def detours(shard: str, count: int) -> list[str]:
    """Some other values for a shard. A balancer brings each to some server, and all of them together to all servers."""
    own = _own(shard)
    ways = [way for way in (own, *(f"{own}.{number}" for number in range(NUM_DETOURS))) if way != shard]
    return sample(ways, count)


def _own(shard: str) -> str:
    return shard.partition(".")[0]


def metadata_of(shard: str | None) -> Metadata:
    """What a call of this shard carries; nothing where any server will do."""
    return () if shard is None else ((HEADER, shard),)
