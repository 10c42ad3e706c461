import datetime

from conveyor.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DurabilityMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_MODE_UNSPECIFIED: _ClassVar[DurabilityMode]
    DURABILITY_MODE_NONE: _ClassVar[DurabilityMode]
    DURABILITY_MODE_ASYNC: _ClassVar[DurabilityMode]
    DURABILITY_MODE_SYNC: _ClassVar[DurabilityMode]

class Residence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCE_UNSPECIFIED: _ClassVar[Residence]
    RESIDENCE_RESIDENT: _ClassVar[Residence]
    RESIDENCE_SPILLED: _ClassVar[Residence]
    RESIDENCE_STORED: _ClassVar[Residence]

class EndReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    END_REASON_UNSPECIFIED: _ClassVar[EndReason]
    END_REASON_CLOSED: _ClassVar[EndReason]
    END_REASON_IDLE: _ClassVar[EndReason]
    END_REASON_LIFETIME: _ClassVar[EndReason]
    END_REASON_DRAINED: _ClassVar[EndReason]
    END_REASON_UNLOADED: _ClassVar[EndReason]
    END_REASON_MOVED: _ClassVar[EndReason]
DURABILITY_MODE_UNSPECIFIED: DurabilityMode
DURABILITY_MODE_NONE: DurabilityMode
DURABILITY_MODE_ASYNC: DurabilityMode
DURABILITY_MODE_SYNC: DurabilityMode
RESIDENCE_UNSPECIFIED: Residence
RESIDENCE_RESIDENT: Residence
RESIDENCE_SPILLED: Residence
RESIDENCE_STORED: Residence
END_REASON_UNSPECIFIED: EndReason
END_REASON_CLOSED: EndReason
END_REASON_IDLE: EndReason
END_REASON_LIFETIME: EndReason
END_REASON_DRAINED: EndReason
END_REASON_UNLOADED: EndReason
END_REASON_MOVED: EndReason

class Session(_message.Message):
    __slots__ = ("session_id", "model_name", "model_version", "position", "seed", "create_time", "expire_time", "residence", "state_bytes", "durability", "durable_position", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESIDENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model_name: str
    model_version: int
    position: int
    seed: int
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    residence: Residence
    state_bytes: int
    durability: Durability
    durable_position: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., position: _Optional[int] = ..., seed: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., residence: _Optional[_Union[Residence, str]] = ..., state_bytes: _Optional[int] = ..., durability: _Optional[_Union[Durability, _Mapping]] = ..., durable_position: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Durability(_message.Message):
    __slots__ = ("mode", "every_steps", "every")
    MODE_FIELD_NUMBER: _ClassVar[int]
    EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    mode: DurabilityMode
    every_steps: int
    every: _duration_pb2.Duration
    def __init__(self, mode: _Optional[_Union[DurabilityMode, str]] = ..., every_steps: _Optional[int] = ..., every: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "session_id", "seed", "idle_timeout", "max_lifetime", "contexts", "durability", "model_alias")
    class ContextsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_LIFETIME_FIELD_NUMBER: _ClassVar[int]
    CONTEXTS_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    MODEL_ALIAS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: int
    session_id: str
    seed: int
    idle_timeout: _duration_pb2.Duration
    max_lifetime: _duration_pb2.Duration
    contexts: _containers.MessageMap[str, _tensor_pb2.Tensor]
    durability: Durability
    model_alias: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., session_id: _Optional[str] = ..., seed: _Optional[int] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_lifetime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., contexts: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., durability: _Optional[_Union[Durability, _Mapping]] = ..., model_alias: _Optional[str] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class GetSessionRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class GetSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ResumeSessionRequest(_message.Message):
    __slots__ = ("session_id", "received_position", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_POSITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    received_position: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., received_position: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class ResumeSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ForkSessionRequest(_message.Message):
    __slots__ = ("session_id", "position", "new_session_id", "seed", "durability")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NEW_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    new_session_id: str
    seed: int
    durability: Durability
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ..., new_session_id: _Optional[str] = ..., seed: _Optional[int] = ..., durability: _Optional[_Union[Durability, _Mapping]] = ...) -> None: ...

class ForkSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ExportSessionRequest(_message.Message):
    __slots__ = ("session_id", "position")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    position: int
    def __init__(self, session_id: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class ExportSessionResponse(_message.Message):
    __slots__ = ("checkpoint", "position")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    position: int
    def __init__(self, checkpoint: _Optional[bytes] = ..., position: _Optional[int] = ...) -> None: ...

class ImportSessionRequest(_message.Message):
    __slots__ = ("checkpoint", "session_id", "seed", "idle_timeout", "max_lifetime", "durability")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_LIFETIME_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    session_id: str
    seed: int
    idle_timeout: _duration_pb2.Duration
    max_lifetime: _duration_pb2.Duration
    durability: Durability
    def __init__(self, checkpoint: _Optional[bytes] = ..., session_id: _Optional[str] = ..., seed: _Optional[int] = ..., idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_lifetime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, _Mapping]] = ...) -> None: ...

class ImportSessionResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "model_name", "stored")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    model_name: str
    stored: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., model_name: _Optional[str] = ..., stored: bool = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token", "total_size")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    total_size: int
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_size: _Optional[int] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ("session_id", "epoch")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: int
    def __init__(self, position: _Optional[int] = ...) -> None: ...
