"""Talks to a Conveyor server: sessions that are stepped, scored and generated from. Needs grpcio and protobuf alone."""

from conveyor.client.client import Client, connect
from conveyor.client.durability import Durability
from conveyor.client.errors import (
    Aborted,
    AlreadyExists,
    ClientError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ReplayLost,
    ResourceExhausted,
    ServerError,
    SessionEnded,
    StepTimeout,
    Unavailable,
    WrongPosition,
)
from conveyor.client.results import GeneratedToken, Model, SessionInfo, StepResult, TopToken
from conveyor.client.session import Session
from conveyor.client.sync import SyncClient, SyncSession, connect_sync
from conveyor.client.tensor import Tensor

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Durability",
    "FailedPrecondition",
    "GeneratedToken",
    "InvalidArgument",
    "Model",
    "NotFound",
    "ReplayLost",
    "ResourceExhausted",
    "ServerError",
    "Session",
    "SessionEnded",
    "SessionInfo",
    "StepResult",
    "StepTimeout",
    "SyncClient",
    "SyncSession",
    "Tensor",
    "TopToken",
    "Unavailable",
    "WrongPosition",
    "connect",
    "connect_sync",
]
