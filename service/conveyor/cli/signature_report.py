"""What `inspect` tells of a signature that is proposed, and how it is written. Imports the server's libraries."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from conveyor.graph.checks import check_graph
from conveyor.graph.errors import ModelError
from conveyor.graph.model_file import metadata_of, read_model, read_proto, reading
from conveyor.graph.modern import modernised
from conveyor.graph.proposal import Proposal, propose
from conveyor.graph.source import SIGNATURE_KEY, signature_path


def proposal_of(path: Path, given: Mapping[str, str]) -> Proposal | None:
    """The proposal for a file that has no signature, or one anew if a person names states; else None.

    Raises:
        ModelError: the file cannot be read, or two pairings of states fit.
    """
    with reading(path):
        proto = read_proto(path)
        is_signed = signature_path(path).is_file() or SIGNATURE_KEY in metadata_of(proto)
        if is_signed and not given:
            return None
        check_graph(proto)
        return propose(modernised(proto), given)


def write_signature(path: Path, proposal: Proposal | None) -> Path:
    """Writes the proposal, or the signature that the file has, beside it for a person to correct; returns where.

    Raises:
        ModelError: there is one: what a person wrote is not overwritten.
    """
    target = signature_path(path)
    if target.exists():
        raise ModelError(f"{target}: exists already; remove it to have it written anew")
    target.write_text((proposal.json if proposal else read_model(path).signature.to_json()) + "\n")
    return target


def describe_proposal(path: Path, proposal: Proposal) -> str:
    """What was taken for what, and what a person has to say."""
    parts = [str(path), section("proposed", proposal.decisions)]
    if proposal.questions:
        parts.append(section("to be settled before it can be served", proposal.questions))
    return "\n\n".join(parts)


def section(title: str, lines: Iterable[str]) -> str:
    """A title, and lines below it."""
    return "\n".join((f"  {title}", *(f"    {line}" for line in lines)))
