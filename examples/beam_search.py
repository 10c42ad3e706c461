"""Beam search over forks: of all continuations of a text, a likely one that taking the likeliest token misses.

`conveyor serve models` first, then `python examples/beam_search.py`. Each beam is a session; where two continuations of
one beam are among the best, its session is forked. All beams step together, in one batch of the server.
"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest

from conveyor.client import Client, Session, TopToken, connect


@dataclass
class Beam:
    """A continuation, its logarithm of probability, and the tokens that may come next."""

    session: Session
    text: str
    score: float
    nexts: Sequence[TopToken]


async def search(client: Client, prompt: str, num_beams: int, num_tokens: int, model: str = "") -> Beam:
    """The best continuation that so many beams find."""
    session = await client.open(model, durability="none")
    result = await session.step(prompt, top_k=num_beams, last_only=True)
    beams = [Beam(session, "", 0.0, result.top_tokens[-1])]
    for _ in range(num_tokens):
        beams = await advance(beams, num_beams)
    await asyncio.gather(*(beam.session.close() for beam in beams))
    return beams[0]


async def advance(beams: Sequence[Beam], num_beams: int) -> list[Beam]:
    """One token further: the best of all continuations, each in a session of its own, best first."""
    choices = [(beam, top) for beam in beams for top in beam.nexts]
    best = nlargest(num_beams, choices, key=lambda choice: choice[0].score + choice[1].log_probability)
    sessions = await asyncio.gather(*(heirs(beam, sum(chosen is beam for chosen, _ in best)) for beam in beams))
    free = {id(beam): iter(group) for beam, group in zip(beams, sessions, strict=True)}
    return await asyncio.gather(*(extend(beam, next(free[id(beam)]), top, num_beams) for beam, top in best))


async def heirs(beam: Beam, count: int) -> list[Session]:
    """So many sessions with the beam's state: its own, and forks of it."""
    if not count:
        await beam.session.close()
        return []
    return [beam.session, *await asyncio.gather(*(beam.session.fork() for _ in range(count - 1)))]


async def extend(beam: Beam, session: Session, top: TopToken, num_beams: int) -> Beam:
    """The beam with one token more."""
    result = await session.step([top.token], top_k=num_beams)
    return Beam(session, beam.text + top.text, beam.score + top.log_probability, result.top_tokens[-1])


async def main() -> None:
    """Prints what one beam finds, and what several do."""
    parser = argparse.ArgumentParser(description="Searches a likely continuation of a text.")
    parser.add_argument("--address", default="localhost:50051", help="the server (default: %(default)s)")
    parser.add_argument("--model", default="", help="name of the model; needed if the server has several")
    parser.add_argument("--prompt", default="To be, or not to be", help="the text (default: %(default)s)")
    parser.add_argument("--beams", type=int, default=8, help="number of beams (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=60, help="tokens to find (default: %(default)s)")
    args = parser.parse_args()
    async with connect(args.address) as client:
        for num_beams in (1, args.beams):
            beam = await search(client, args.prompt, num_beams, args.tokens, args.model)
            print(f"{num_beams} of them, log-probability {beam.score:.2f}:\n{args.prompt}{beam.text}\n")


if __name__ == "__main__":
    asyncio.run(main())
