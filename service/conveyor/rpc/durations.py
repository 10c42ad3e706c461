"""Times in messages."""

from google.protobuf.duration_pb2 import Duration


def duration_message(seconds: float) -> Duration:
    """The wire's form of a time."""
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def seconds_of(duration: Duration) -> float:
    """Reads the wire's form."""
    return float(duration.seconds + duration.nanos / 1e9)
