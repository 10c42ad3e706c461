import datetime

from conveyor.v1 import session_pb2 as _session_pb2
from conveyor.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Chunk(_message.Message):
    __slots__ = ("session_id", "request_id", "position", "tokens", "inputs", "outputs", "scoring", "acknowledged_position", "num_steps", "epoch")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SCORING_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_POSITION_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    inputs: _containers.MessageMap[str, _tensor_pb2.Tensor]
    outputs: Outputs
    scoring: Scoring
    acknowledged_position: int
    num_steps: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., inputs: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., outputs: _Optional[_Union[Outputs, _Mapping]] = ..., scoring: _Optional[_Union[Scoring, _Mapping]] = ..., acknowledged_position: _Optional[int] = ..., num_steps: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Outputs(_message.Message):
    __slots__ = ("names", "top_k", "last_only")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    LAST_ONLY_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    last_only: bool
    def __init__(self, names: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., last_only: bool = ...) -> None: ...

class Scoring(_message.Message):
    __slots__ = ("remember",)
    REMEMBER_FIELD_NUMBER: _ClassVar[int]
    remember: bool
    def __init__(self, remember: bool = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("session_id", "request_id", "position", "outputs", "top_tokens", "log_probabilities", "error", "durable_position", "epoch")
    class OutputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURABLE_POSITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    request_id: int
    position: int
    outputs: _containers.MessageMap[str, _tensor_pb2.Tensor]
    top_tokens: TopTokens
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    error: Error
    durable_position: int
    epoch: int
    def __init__(self, session_id: _Optional[str] = ..., request_id: _Optional[int] = ..., position: _Optional[int] = ..., outputs: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., top_tokens: _Optional[_Union[TopTokens, _Mapping]] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., durable_position: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class TopTokens(_message.Message):
    __slots__ = ("k", "tokens", "log_probabilities")
    K_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    k: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, k: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., log_probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "field", "position", "retry_delay", "epoch")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RETRY_DELAY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    field: str
    position: int
    retry_delay: _duration_pb2.Duration
    epoch: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., position: _Optional[int] = ..., retry_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., epoch: _Optional[int] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: Chunk
    def __init__(self, chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: StepResult
    def __init__(self, result: _Optional[_Union[StepResult, _Mapping]] = ...) -> None: ...

class StepStatelessRequest(_message.Message):
    __slots__ = ("checkpoint", "open", "chunk")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    checkpoint: bytes
    open: _session_pb2.OpenSessionRequest
    chunk: Chunk
    def __init__(self, checkpoint: _Optional[bytes] = ..., open: _Optional[_Union[_session_pb2.OpenSessionRequest, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class StepStatelessResponse(_message.Message):
    __slots__ = ("result", "checkpoint")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    result: StepResult
    checkpoint: bytes
    def __init__(self, result: _Optional[_Union[StepResult, _Mapping]] = ..., checkpoint: _Optional[bytes] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("chunks",)
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    def __init__(self, chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("results", "ended")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[StepResult]
    ended: _containers.RepeatedCompositeFieldContainer[SessionEnd]
    def __init__(self, results: _Optional[_Iterable[_Union[StepResult, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[SessionEnd, _Mapping]]] = ...) -> None: ...

class SessionEnd(_message.Message):
    __slots__ = ("session_id", "reason", "position")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    reason: _session_pb2.EndReason
    position: int
    def __init__(self, session_id: _Optional[str] = ..., reason: _Optional[_Union[_session_pb2.EndReason, str]] = ..., position: _Optional[int] = ...) -> None: ...
