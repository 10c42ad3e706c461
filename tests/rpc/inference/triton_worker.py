"""Runs beside the tests in the environment of the stock client: takes calls as lines of JSON, answers with lines.

A request is `{"model": ..., "inputs": {name: {"datatype": ..., "data": nested list}}, "outputs": [names] or None,
"options": {what the client's call takes by name}}`; what comes of it `{"id": ..., "outputs": {name: nested list},
"is_final": bool}`, or `{"error": text}`.
"""

import asyncio
import json
import queue
import sys
import traceback

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype


def _arguments(request):
    inputs = []
    for name, tensor in request["inputs"].items():
        array = np.array(tensor["data"], triton_to_np_dtype(tensor["datatype"]))
        inputs.append(triton.InferInput(name, list(array.shape), tensor["datatype"]))
        inputs[-1].set_data_from_numpy(array)
    names = request.get("outputs")
    outputs = None if names is None else [triton.InferRequestedOutput(name) for name in names]
    return {"model_name": request["model"], "inputs": inputs, "outputs": outputs, **request.get("options", {})}


def _result(result, error=None):
    if error is not None:
        return {"error": error.message()}
    response = result.get_response()
    outputs = {o.name: result.as_numpy(o.name).tolist() for o in response.outputs}
    return {"id": response.id, "outputs": outputs, "is_final": response.parameters["triton_final_response"].bool_param}


def describe(client, model):
    """What a client may ask of the server and of a model."""
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "other_ready": client.is_model_ready("none"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True)["config"],
        "index": client.get_model_repository_index(as_json=True)["models"],
    }


def statistics(client, model):
    """What the model did."""
    return client.get_inference_statistics(model, as_json=True)["model_stats"][0]


def refused(client, call, arguments):
    """The status and the text of a call that fails."""
    try:
        getattr(client, call)(*arguments)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def infer(client, requests):
    """One unary call after another."""
    results = []
    for request in requests:
        try:
            results.append(_result(client.infer(**_arguments(request))))
        except InferenceServerException as error:
            results.append(_result(None, error))
    return results


def async_infer(client, requests):
    """Unary calls side by side, with callbacks; the results are in the order of the requests."""
    done = queue.Queue()
    for place, request in enumerate(requests):
        client.async_infer(
            callback=lambda result, error, place=place: done.put((place, _result(result, error))), **_arguments(request)
        )
    return [result for _, result in sorted((done.get(timeout=20) for _ in requests), key=lambda pair: pair[0])]


def stream(client, requests):
    """All requests on one stream at once."""
    done = queue.Queue()
    client.start_stream(lambda result, error: done.put(_result(result, error)))
    for request in requests:
        client.async_stream_infer(**_arguments(request))
    results = [done.get(timeout=20) for _ in requests]
    client.stop_stream()
    return results


def aio_stream(client, requests):
    """The same through the client for asyncio."""

    async def requests_of():
        for request in requests:
            yield _arguments(request)

    async def run():
        async with triton_aio.InferenceServerClient(client.address) as aio_client:
            return [_result(*pair) async for pair in aio_client.stream_infer(requests_of())]

    return asyncio.run(run())


def aio_infer(client, requests):
    """Unary calls side by side through the client for asyncio."""

    async def run():
        async with triton_aio.InferenceServerClient(client.address) as aio_client:
            return await asyncio.gather(*(aio_client.infer(**_arguments(request)) for request in requests))

    return [_result(result) for result in asyncio.run(run())]


def descriptors(client):
    """The stock client's messages as the server's protos would be described."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    return [file.DESCRIPTOR.serialized_pb.hex() for file in (model_config_pb2, service_pb2)]


def main(address):
    """Answers calls until the input ends."""
    client = triton.InferenceServerClient(address)
    client.address = address
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"result": globals()[name](client, **arguments)}
        except Exception:
            answer = {"failure": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    client.close()


if __name__ == "__main__":
    main(sys.argv[1])
