"""What a proof runs."""

import torch

from conveyor_export.cases import cut, make_cases, open_sessions
from conveyor_export.shapes import random_inputs
from tests.export.custom_modules import Opened


def test_sessions_open_with_what_the_module_computes() -> None:
    """Sequences from initial states begin with the module's first states and contexts, the others with random ones."""
    module = Opened().requires_grad_(False)
    origins = set()
    for case in make_cases(module, module.signature()):
        opened = module.initialise({"picture": case.inputs["picture"]})
        is_fresh = case.origin == "initial states"
        assert torch.equal(case.states["h"], opened["h"]) == is_fresh
        assert torch.equal(case.inputs["seen"], opened["seen"]) == is_fresh
        assert bool(case.states["count"].any()) != is_fresh
        origins.add((case.origin, case.num_sessions))
    assert len(origins) == 6


def test_contexts_are_the_same_at_every_step() -> None:
    """A stretch of steps takes its part of the stream, and the contexts whole."""
    module = Opened().requires_grad_(False)
    inputs, _ = open_sessions(module, module.signature(), random_inputs(module.signature(), 2, 9, torch.Generator()), 2)
    piece = cut(module.signature(), inputs, 3, 5)

    assert torch.equal(piece["x"], inputs["x"][3:5])
    assert torch.equal(piece["seen"], inputs["seen"])
    assert torch.equal(piece["picture"], inputs["picture"])
