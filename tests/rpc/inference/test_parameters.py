"""What parameters may say."""

from math import inf
from typing import Any

import pytest

from conveyor.errors import InvalidArgument, Unimplemented
from conveyor.inference.infer_pb2 import InferParameter
from conveyor.rpc.inference.parameters import Parameters, read_parameters, refuse_parameters


def test_none_means_no_sequence() -> None:
    """Without parameters there is no sequence, and no hurry."""
    assert read_parameters({}) == Parameters("", is_start=False, is_end=False, timeout=inf)


@pytest.mark.parametrize(
    ("value", "sequence_id"),
    [
        ({"int64_param": 5}, "5"),
        ({"uint64_param": 2**64 - 1}, "18446744073709551615"),
        ({"int64_param": -1}, "18446744073709551615"),
        ({"string_param": "a-b"}, "a-b"),
        ({"int64_param": 0}, ""),
        ({"string_param": ""}, ""),
    ],
)
def test_ids_are_numbers_or_text(value: dict[str, Any], sequence_id: str) -> None:
    """An unsigned id is the same whichever way it was sent; 0 and "" are none."""
    assert read_parameters({"sequence_id": InferParameter(**value)}).sequence_id == sequence_id


def test_a_request_says_all() -> None:
    """What is known is read, what is of no effect and what is unknown is let pass."""
    given = {
        "sequence_id": InferParameter(string_param="s"),
        "sequence_start": InferParameter(bool_param=True),
        "sequence_end": InferParameter(bool_param=True),
        "timeout": InferParameter(int64_param=1500),
        "priority": InferParameter(uint64_param=3),
        "triton_enable_empty_final_response": InferParameter(bool_param=False),
        "mine": InferParameter(double_param=0.5),
    }

    assert read_parameters(given) == Parameters("s", is_start=True, is_end=True, timeout=0.0015)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("sequence_id", {"bool_param": True}, "invalid value type for 'sequence_id' parameter, expected int64_param"),
        ("sequence_id", {}, "invalid value type"),
        ("sequence_id", {"string_param": "with space"}, "visible ASCII"),
        ("sequence_id", {"string_param": "x" * 129}, "visible ASCII"),
        (
            "sequence_start",
            {"int64_param": 1},
            "type for 'sequence_start' parameter, expected bool_param",
        ),
        ("timeout", {"string_param": "1"}, "invalid value type"),
        ("timeout", {"int64_param": -1}, "0 or more"),
        ("triton_other", {"bool_param": True}, "reserved"),
    ],
)
def test_nonsense_is_refused(name: str, value: dict[str, Any], problem: str) -> None:
    """The parameter is named."""
    with pytest.raises(InvalidArgument, match=problem) as raised:
        read_parameters({name: InferParameter(**value)})

    assert raised.value.field == f"parameters[{name}]"


@pytest.mark.parametrize("name", ["classification", "shared_memory_region"])
def test_what_would_change_the_answer_is_refused(name: str) -> None:
    """To leave it out of account would be a wrong answer."""
    refuse_parameters({"binary_data": InferParameter(bool_param=True)}, "outputs[y]")
    with pytest.raises(Unimplemented, match=rf"outputs\[y\].parameters\[{name}\]"):
        refuse_parameters({name: InferParameter()}, "outputs[y]")
