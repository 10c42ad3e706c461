from conveyor.inference import infer_pb2 as _infer_pb2
from conveyor.inference import model_pb2 as _model_pb2
from conveyor.inference import refused_pb2 as _refused_pb2
from conveyor.inference import repository_pb2 as _repository_pb2
from conveyor.inference import server_pb2 as _server_pb2
from conveyor.inference import statistics_pb2 as _statistics_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
