"""Free ports of the loopback interface."""

import random
import socket

# Below the range from which Linux takes the ports of outgoing connections (32768 to 60999), so that a process which is
# started again finds its port as it left it.
_CANDIDATES = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Returns ports on which nothing listens now; all are different."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(_CANDIDATES)  # noqa: S311 - any will do
        if port not in ports and _is_free(port):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
