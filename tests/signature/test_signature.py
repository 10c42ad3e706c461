"""The description of a model: what it accepts, and that JSON gives it back."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor.signature import Axis, ContextSpec, NoiseSpec, OutputSpec, Signature, StateSpec, TensorSpec
from conveyor.signature.signature import DISTRIBUTIONS, ITEM_SIZES

TOKENS = TensorSpec("tokens", "int64", (), Axis(batch=1, time=0))
H = StateSpec("h", "float32", (2, 8), Axis(batch=1), "h_out")
LOGITS = OutputSpec("logits", "float32", (20,), Axis(batch=1, time=0), is_logits=True)


@st.composite
def specs(draw: st.DrawFn, name: str, with_time: bool = True) -> dict[str, object]:
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=3)))
    has_batch, has_time = draw(st.booleans()), with_time and draw(st.booleans())
    rank = len(shape) + has_batch + has_time
    places = draw(st.permutations(range(rank)))
    axis = Axis(places[0] if has_batch else None, places[has_batch] if has_time else None)
    return {"name": name, "dtype": draw(st.sampled_from(sorted(ITEM_SIZES))), "shape": shape, "axis": axis}


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    inputs = [TensorSpec(**draw(specs(f"i{n}"))) for n in range(draw(st.integers(1, 3)))]  # type: ignore[arg-type]
    outputs = [OutputSpec(**draw(specs(f"o{n}"))) for n in range(draw(st.integers(0, 3)))]  # type: ignore[arg-type]
    states = []
    for n in range(draw(st.integers(0, 3))):
        fields = draw(specs(f"s{n}", with_time=False))
        size = TensorSpec(**fields).num_bytes // ITEM_SIZES[str(fields["dtype"])]  # type: ignore[arg-type]
        initial = draw(st.none() | st.just(tuple(float(i) for i in range(size))))
        states.append(StateSpec(**fields, output=f"s{n}_out", initial=initial))  # type: ignore[arg-type]
    contexts = []
    for n in range(draw(st.integers(0, 2))):
        fields = draw(specs(f"c{n}", False))
        size = TensorSpec(**fields).num_bytes // ITEM_SIZES[str(fields["dtype"])]  # type: ignore[arg-type]
        default = draw(st.none() | st.just(tuple(float(i) for i in range(size))))
        contexts.append(ContextSpec(**fields, default=default))  # type: ignore[arg-type]
    if contexts:
        contexts.append(ContextSpec(**draw(specs("c", False)), initialiser="c_first"))  # type: ignore[arg-type]
    kinds = st.sampled_from(DISTRIBUTIONS)
    noises = [
        NoiseSpec(**draw(specs(f"n{n}")) | {"dtype": "float32"}, distribution=draw(kinds))  # type: ignore[arg-type]
        for n in range(draw(st.integers(0, 2)))
    ]
    max_token = draw(st.none() | st.integers(0, 99))
    return Signature(tuple(inputs), tuple(states), tuple(outputs), tuple(contexts), tuple(noises), max_token)


@given(signatures())
def test_json_round_trip(signature: Signature) -> None:
    """A signature is read back from its JSON as it was."""
    assert Signature.from_json(signature.to_json()) == signature


def test_derived_values() -> None:
    """Bytes, ranks and roles follow from the tensors."""
    signature = Signature((TOKENS,), (H,), (LOGITS,))
    assert (TOKENS.rank, H.rank, LOGITS.rank) == (2, 3, 3)
    assert (H.num_bytes, signature.state_bytes) == (64, 64)
    assert signature.logits == LOGITS
    assert signature.takes_tokens
    assert not Signature((TensorSpec("x", "float32", (3,), Axis(batch=0)),), (H,), ()).takes_tokens


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dtype": "bfloat16"}, "x: dtype 'bfloat16' is not one of"),
        ({"shape": (0,)}, r"x: shape \(0,\) has a length below 1"),
        ({"axis": Axis(batch=1)}, "x: Axis.* does not fit a tensor of 1 axes"),
        ({"axis": Axis(batch=0, time=0)}, "x: Axis.* does not fit a tensor of 2 axes"),
        ({"axis": Axis(batch=-1)}, "x: Axis.* does not fit"),
    ],
)
def test_bad_tensors(fields: dict[str, object], words: str) -> None:
    """A tensor that no graph could have is refused by name."""
    with pytest.raises(ValueError, match=words):
        TensorSpec(**({"name": "x", "dtype": "float32"} | fields))  # type: ignore[arg-type]


def test_constants() -> None:
    """What has a value of the model's own and no batch axis is shared by a run, and keeps no sessions apart."""
    rate = ContextSpec("rate", "int64", default=(16000,))
    each = ContextSpec("each", "float32", (3,), Axis(batch=0), default=(1, 2, 3))
    signature = Signature((TOKENS,), (H,), (LOGITS,), (rate, each, ContextSpec("lone", "float32")))

    assert signature.constants == (rate,)
    assert [spec.name for spec in signature.unbatched] == ["lone"]


def test_roles() -> None:
    """What a client gives, what is computed of it, and what has a value for each step."""
    given = ContextSpec("picture", "float32", (4,), Axis(batch=0))
    derived = ContextSpec("projected", "float32", (2,), Axis(batch=0), initialiser="projected_first")
    eps = NoiseSpec("eps", "float32", (3,), Axis(batch=1, time=0))
    h = StateSpec("h", "float32", (8,), Axis(batch=0), "h_out", initialiser="h_first")
    signature = Signature((TOKENS,), (h,), (LOGITS,), (given, derived), (eps,))

    assert signature.given_contexts == (given,)
    assert signature.initialisers == {"projected_first": derived, "h_first": h}
    assert signature.timed == (TOKENS, eps)
    assert signature.context_bytes == 24


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ContextSpec("c", "float32", (), Axis(time=0)), "c: a context has no time axis"),
        (lambda: ContextSpec("c", "float32", (2,), default=(1.0,)), "c: default has 1 values, shape"),
        (lambda: ContextSpec("c", "float32", initialiser="d", default=(1.0,)), "c: has both a default and an initial"),
        (lambda: NoiseSpec("n", "float64"), "n: noise is float32, got float64"),
        (
            lambda: NoiseSpec("n", "float32", distribution="cauchy"),
            "n: distribution .cauchy. is not one of normal, uniform",
        ),
        (
            lambda: StateSpec("s", "float32", (), Axis(batch=0), "t", (1.0,), "first"),
            "s: has both an initial value and an initialiser",
        ),
        (lambda: OutputSpec("o", "float32", (3,), is_logits=True, is_optional=True), "o: logits are never optional"),
        (lambda: Signature((), (), ()), "inputs: a model needs at least one stream input, or noise"),
        (
            lambda: Signature((TOKENS,), (), (), (ContextSpec("c", "float32", initialiser="d"),)),
            "contexts: an initialiser needs one that the client gives",
        ),
        (
            lambda: Signature(
                (TOKENS,), (), (), (ContextSpec("c", "float32"), ContextSpec("d", "float32", initialiser="c"))
            ),
            "named twice: c",
        ),
        (
            lambda: Signature(
                (TOKENS,),
                tuple(StateSpec(n, "float32", (), Axis(batch=0), f"{n}_out", initialiser="first") for n in "hc"),
                (),
                (ContextSpec("d", "float32"),),
            ),
            "named twice: first",
        ),
    ],
)
def test_roles_that_cannot_be(make: Callable[[], object], words: str) -> None:
    """What contradicts itself is refused by name."""
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"output": ""}, "s: a state needs the name of the output"),
        ({"axis": Axis(time=0)}, "s: a state has no time axis"),
        ({"shape": (3,), "initial": (1.0,)}, "s: initial has 1 values"),
    ],
)
def test_bad_states(fields: dict[str, object], words: str) -> None:
    """A state that could not be carried is refused by name."""
    with pytest.raises(ValueError, match=words):
        StateSpec(**({"name": "s", "dtype": "float32", "output": "s_out"} | fields))  # type: ignore[arg-type]


def test_bad_signatures() -> None:
    """Names are unique, there is an input, and one output at most has logits."""
    with pytest.raises(ValueError, match="named twice: h_out"):
        Signature((TOKENS,), (H,), (OutputSpec("h_out", "float32"),))
    with pytest.raises(ValueError, match="at least one stream input"):
        Signature((), (H,), (LOGITS,))
    with pytest.raises(ValueError, match=r"logits: logits are float16 or float32 of one axis, got float32 \(\)"):
        OutputSpec("logits", "float32", is_logits=True)
    with pytest.raises(ValueError, match="more than one is marked as logits"):
        Signature((TOKENS,), (H,), (LOGITS, OutputSpec("more", "float32", (20,), is_logits=True)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 9}',
        '{"format": 1}',
        '{"format": 1, "inputs": 3}',
        f'{{"format": 1, "inputs": [], "outputs": [], "states": [{{"name": "h", "initial": [{10**400}]}}]}}',
    ],
)
def test_bad_json(text: str) -> None:
    """Text that is no signature is a ValueError, whatever is wrong with it."""
    with pytest.raises(ValueError, match=r".+"):
        Signature.from_json(text)


@pytest.mark.parametrize(
    ("role", "field", "value", "words"),
    [
        ("states", "initialiser", 5, "h: initialiser 5 is not text"),
        ("states", "output", None, "h: output None is not text"),
        ("states", "initial", [None], "h: initial has None where a number should be"),
        ("inputs", "shape", None, "tokens: shape None is not a list of lengths"),
        ("outputs", "is_optional", "no", "logits: is_optional 'no' is neither true nor false"),
        ("outputs", "is_logits", 1, "logits: is_logits 1 is neither true nor false"),
    ],
)
def test_bad_fields_in_json(role: str, field: str, value: object, words: str) -> None:
    """A field of another kind is refused by the names of tensor and field."""
    raw = json.loads(Signature((TOKENS,), (H,), (LOGITS,), max_token=9).to_json())
    raw[role][0][field] = value

    with pytest.raises(ValueError, match=words):
        Signature.from_json(json.dumps(raw))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(key=st.sampled_from(["inputs", "states", "outputs", "contexts", "noises"]), junk=JUNK)
def test_junk_in_a_role(key: str, junk: object) -> None:
    """Junk in place of a role's tensors is a ValueError or reads as none at all."""
    raw = json.loads(Signature((TOKENS,), (H,), (LOGITS,)).to_json()) | {key: junk}
    with suppress(ValueError):
        assert getattr(Signature.from_json(json.dumps(raw)), key) == ()


@given(
    role=st.sampled_from(["inputs", "states", "outputs", "contexts", "noises"]),
    field=st.sampled_from(
        [
            "name",
            "dtype",
            "shape",
            "axis",
            "output",
            "initial",
            "initialiser",
            "distribution",
            "is_logits",
            "is_optional",
            "other",
        ]
    ),
    junk=JUNK,
)
def test_junk_in_a_tensor(role: str, field: str, junk: object) -> None:
    """Junk in a tensor's field is a ValueError, or means what it says."""
    roles = (ContextSpec("c", "float32"),), (NoiseSpec("n", "float32"),)
    raw = json.loads(Signature((TOKENS,), (H,), (LOGITS,), *roles).to_json())
    raw[role][0][field] = junk
    with suppress(ValueError):
        signature = Signature.from_json(json.dumps(raw))
        assert Signature.from_json(signature.to_json()) == signature
        assert all(isinstance(flag, bool) for o in signature.outputs for flag in (o.is_logits, o.is_optional))
