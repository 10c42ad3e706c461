"""The client alone, without the server's libraries."""

import subprocess
import sys

from tests.client.serving import ServerProcess

BLOCKED = ("numpy", "onnx", "onnxruntime", "prometheus_client", "rich", "torch", "grpc_health", "google.rpc")
CODE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from conveyor.client import Tensor, connect_sync
with connect_sync({address!r}) as client, client.open("letters") as session:
    logits = session.step("abc", outputs=["logits"])["logits"]
    text = "".join(token.text for token in session.generate("a", max_tokens=3))
with connect_sync({address!r}) as client, client.open("frames") as session:
    y = session.step([[0.0, 1.0, 2.0]], outputs=["y"])["y"].tolist()
print(len(logits.tolist()), len(text), len(y[0]))
"""


def test_the_client_works_with_grpc_and_protobuf_alone(server: ServerProcess) -> None:
    """Where the server's libraries cannot be imported, the client still steps and generates."""
    code = CODE.format(blocked=BLOCKED, address=server.address)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert done.stdout.split() == ["3", "3", "5"]
