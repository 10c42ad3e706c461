"""Every command against a real server: what it prints, and its exit status."""

import io
import lzma
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from conveyor.cli import COMMANDS, main
from conveyor.client import connect_sync
from tests.client.serving import SYMBOLS, ServerProcess, serving, write_models
from tests.foreign import make_old_gru, make_rated, save_foreign
from tests.models import make_context_model, make_feature_model, make_model, save_model

Capture = pytest.CaptureFixture[str]
TEXT = "abcdefghijklmnopqrs" * 30


def test_inspect_tells_of_a_file(models: Path, capsys: Capture) -> None:
    """A file's report has its tensors, state bytes, batching and where its nodes run."""
    assert main(["inspect", str(models / "letters" / "1" / "model.onnx")]) == 0

    report = capsys.readouterr().out
    for part in ("tokens", "h_out", "scores the vocabulary", "128 B per session", f"{len(SYMBOLS)} tokens"):
        assert part in report
    assert "chunks of any lengths run together" in report
    assert re.search(r"on the CPU\n.*LSTM", report)
    assert re.search(r"on CUDA\n +(\d+) of \1 nodes", report)


def test_inspect_tells_every_role(tmp_path: Path, capsys: Capture) -> None:
    """What a client gives, what is computed of it and what is drawn are told apart."""
    path = save_model(tmp_path, make_context_model()[0])

    assert main(["inspect", str(path)]) == 0

    report = capsys.readouterr().out
    for part in (
        r"context +92 B per session",
        r"heads +whole outputs, top-k of logits, log-probability of given tokens, sampling",
        r"noise +noise +float32 +\[20\] +time 0, batch 1 +80 +normal",
        r"state +h +float32 .* -> h_out; computed once as h_first",
        r"context +picture +float32 +\[3\] +batch 0 +12\n",
        r"context +leaning +float32 +\[20\] +batch 0 +80 +computed once as leaning_first",
    ):
        assert re.search(part, report), part


def test_inspect_proposes_a_signature(tmp_path: Path, capsys: Capture) -> None:
    """Of a file that says nothing it tells what was taken for what, and why."""
    path = save_foreign(tmp_path, make_old_gru(11))

    assert main(["inspect", str(path)]) == 0

    report = capsys.readouterr().out
    assert re.search(r"signature +graph\n", report)
    assert "state h -> hn: first and last state of the same GRU" in report
    assert "chunks of any lengths run together" in report


def test_inspect_writes_what_a_person_completes(tmp_path: Path, capsys: Capture) -> None:
    """What is written is the signature once it is completed, and is not overwritten."""
    path, beside = save_foreign(tmp_path, make_rated()), tmp_path / "signature.json"

    assert main(["inspect", str(path), "--write"]) == 0
    report = capsys.readouterr().out
    assert f"wrote {beside}" in report
    assert "to be settled before it can be served\n    constant rate: its value; the graph compares it with 2" in report

    assert main(["inspect", str(path)]) == 0
    report = capsys.readouterr().out
    assert re.search(r"signature +signature\.json\n", report)
    assert re.search(r"context +rate +int64 +\[\] +none +8 +2 unless a session has its own\n", report)
    assert "only sessions of one rate run together" in report

    assert main(["inspect", str(path), "--write"]) == 1
    assert "signature.json: exists already" in capsys.readouterr().err


def test_inspect_takes_a_persons_word(tmp_path: Path, capsys: Capture) -> None:
    """Where two pairings fit, both are named, and a person's choice is written."""
    path = save_foreign(tmp_path, make_twins())

    assert main(["inspect", str(path)]) == 1
    assert "right -> left_2 and right -> right_2 fit" in capsys.readouterr().err

    assert main(["inspect", str(path), "--state", "right=right_2", "--write"]) == 0
    assert re.search(r"state +right +float32 +\[1, 3\] +none +12 +-> right_2\n", capsys.readouterr().out)
    assert main(["inspect", str(path), "--state", "right"]) == 2


def make_twins() -> onnx.ModelProto:
    """Two inputs and two outputs, of which either pair may be a state."""
    info = onnx.helper.make_tensor_value_info
    values = [info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("left", "right", "left_2", "right_2")]
    nodes = [onnx.helper.make_node("Add", ["left", "right"], [name]) for name in ("left_2", "right_2")]
    graph = onnx.helper.make_graph(nodes, "twins", values[:2], values[2:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_inspect_lists_every_node_if_asked(models: Path, capsys: Capture) -> None:
    """With `--nodes` each node has a line."""
    assert main(["inspect", str(models / "letters"), "--nodes"]) == 0

    assert "ScatterND" in capsys.readouterr().out.split("OPERATOR")[1]


def test_inspect_takes_a_folder(models: Path, capsys: Capture) -> None:
    """A folder's report has all of its models."""
    assert main(["inspect", str(models)]) == 0

    report = capsys.readouterr().out
    assert "letters/1/model.onnx" in report
    assert "frames/1/model.onnx" in report


def test_inspect_asks_a_server(server: ServerProcess, capsys: Capture) -> None:
    """A server tells the same of its models."""
    assert main(["inspect", "--address", server.address]) == 0

    report = capsys.readouterr().out
    assert "letters, version 1" in report
    assert "frames, version 1" in report


def test_generate_writes_the_prompt_and_goes_on(server: ServerProcess, capsys: Capture) -> None:
    """The same seed writes the same text, of as many tokens as asked for."""
    texts = []
    for seed in ("1", "1", "2"):
        command = ["generate", "--address", server.address, "--model", "letters", "--prompt", "abc", "--seed", seed]
        assert main([*command, "--max-tokens", "40", "--temperature", "1.2"]) == 0
        texts.append(capsys.readouterr().out)

    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("abc")
    assert len(texts[0]) == 3 + 40 + 1


def test_models_are_listed_loaded_and_unloaded(tmp_path: Path, capsys: Capture) -> None:
    """A new version comes, one that cannot be read is told of, and what is unloaded is gone."""
    models = write_models(tmp_path)
    with serving(models) as server, connect_sync(server.address) as client:
        client.open("letters", session_id="old")
        save_model(models / "letters" / "2", make_model(seed=2)[0])
        assert main(["load", "letters", "--address", server.address]) == 0
        assert re.findall(r"^letters +(\d) +(\w+) +(\d) +[0-9a-f]{12}$", capsys.readouterr().out, re.MULTILINE) == [
            ("1", "leaving", "1"),
            ("2", "ready", "0"),
        ]
        assert main(["unload", "letters", "--version", "1", "--wait", "0", "--address", server.address]) == 0
        assert capsys.readouterr().out == "unloaded; sessions ended: 1\n"
        (models / "frames" / "conveyor.toml").write_text("[aliases]\nstable = 1\ncanary = {version = 2, percent = 5}")
        assert main(["load", "frames", "--address", server.address]) == 1
        assert "aliases.canary: there is no version 2" in capsys.readouterr().err
        save_model(models / "frames" / "2", make_feature_model(seed=2)[0])
        assert main(["load", "frames", "--address", server.address]) == 0
        assert re.search(r"^frames +2 +ready +0 +canary 5% ", capsys.readouterr().out, re.MULTILINE)
        (models / "frames" / "conveyor.toml").write_text("slots = 1")
        assert main(["load", "frames", "--address", server.address]) == 1
        capsys.readouterr()
        assert main(["models", "--address", server.address]) == 1
        listed = capsys.readouterr()
        assert listed.out.count("ready") == 3
        assert listed.err.startswith("frames: ")
        assert "slots: is not a setting of a model" in listed.err


@pytest.mark.parametrize("form", ["text.txt", "text.txt.xz", "-"])
def test_score_prints_bits_per_character(
    form: str, server: ServerProcess, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits are the mean of -log2 p over all characters but the first, whatever form the text comes in."""
    with connect_sync(server.address) as client, client.open("letters") as session:
        expected = -sum(session.score(TEXT)[1:]) / 0.6931471805599453 / (len(TEXT) - 1)
    path = tmp_path / form
    if form == "-":
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(TEXT.encode())))
    else:
        path.write_bytes(lzma.compress(TEXT.encode()) if form.endswith("xz") else TEXT.encode())

    assert main(["score", form if form == "-" else str(path), "--address", server.address, "--model", "letters"]) == 0
    printed = re.fullmatch(
        r"bits per character: (\S+)\ncharacters per second: \d+ \(570 in .*\)\n", capsys.readouterr().out
    )
    assert printed
    assert float(printed[1]) == pytest.approx(expected, abs=1e-3)


def test_sessions_prints_a_table(server: ServerProcess, capsys: Capture) -> None:
    """Each open session has a line with its id, model and position."""
    with connect_sync(server.address) as client, client.open("letters", session_id="listed") as session:
        session.step("abcd")
        assert main(["sessions", "--address", server.address]) == 0

    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["SESSION", "MODEL", "POSITION"]
    assert row.split()[:4] == ["listed", "letters/1", "4", "resident"]


def test_a_session_is_forked_exported_and_imported(server: ServerProcess, tmp_path: Path, capsys: Capture) -> None:
    """A fork and an import print the ids of new sessions, where the old one is; the export writes a file."""
    path = tmp_path / "session.bin"
    address = ["--address", server.address]
    with connect_sync(server.address) as client, client.open("letters", session_id="first") as session:
        session.step("abcd")
        for arguments in (["fork", "first"], ["export", "first", str(path)], ["import", str(path), "--seed", "7"]):
            assert main([*arguments, *address]) == 0
        fork_id, told, import_id = capsys.readouterr().out.splitlines()

        assert told.startswith(f"{path}: position 4, ")
        for session_id in (fork_id, import_id):
            with client.session(session_id) as copy:
                assert copy.position == 4


def test_stored_sessions_are_listed(server: ServerProcess, capsys: Capture) -> None:
    """With `--stored` the table has the sessions of the store."""
    options = {"session_id": "kept", "durability": "sync"}
    with connect_sync(server.address) as client, client.open("letters", **options) as session:
        session.step("abcd")
        assert main(["sessions", "--stored", "--address", server.address]) == 0

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["kept", "letters/1", "4", "stored"] in [row[:4] for row in rows]


def test_top_prints_a_frame(server: ServerProcess, capsys: Capture) -> None:
    """One frame has the sessions of each model."""
    with connect_sync(server.address) as client, client.open("letters") as session:
        session.step("abcd")
        assert main(["top", "--metrics", server.metrics, "--once", "--interval", "0.1"]) == 0

    frame = capsys.readouterr().out
    assert re.search(r"letters/1 +1 +1 +0", frame)
    assert "waiting in the queue" in frame


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        ([], 2, "required: COMMAND"),
        (["frobnicate"], 2, "invalid choice"),
        (["generate", "--max-tokens", "0"], 2, "at least 1"),
        (["inspect"], 2, "one of the arguments PATH --address is required"),
        (["inspect", "/nowhere", "--address", "127.0.0.1:1"], 2, "not allowed with argument"),
        (["inspect", "/nowhere"], 1, "/nowhere"),
        (["inspect", __file__], 1, "not an ONNX file"),
        (["score", "/nowhere"], 1, "/nowhere: No such file"),
        (["sessions", "--address", "127.0.0.1:1", "--timeout", "0.2"], 1, "127.0.0.1:1"),
        (["fork", "a", "--address", "127.0.0.1:1", "--timeout", "0.2"], 1, "127.0.0.1:1"),
        (["import", "/nowhere"], 1, "/nowhere: No such file"),
        (["top", "--metrics", "127.0.0.1:1", "--once"], 1, "no metrics at 127.0.0.1:1"),
        (["serve", "/nowhere"], 1, "/nowhere"),
    ],
)
def test_a_failure_is_one_line(arguments: list[str], status: int, problem: str, capsys: Capture) -> None:
    """Whatever goes wrong is told in a readable line, with an exit status and no traceback."""
    assert main(arguments) == status

    told = capsys.readouterr().err
    assert problem in told
    assert "Traceback" not in told
    assert status == 2 or len(told.splitlines()) == 1


def test_generate_names_what_it_cannot_take(server: ServerProcess, capsys: Capture) -> None:
    """A number that no request can hold is told with its name."""
    address = ["--address", server.address, "--model", "letters"]
    assert main(["generate", *address, "--seed", "-1"]) == 1

    assert re.fullmatch(r"conveyor: seed: .*-1\n", capsys.readouterr().err)


def test_top_needs_the_metrics_address(server: ServerProcess, capsys: Capture) -> None:
    """A port that speaks something else than HTTP is told in a readable line."""
    assert main(["top", "--metrics", server.address, "--once"]) == 1

    told = capsys.readouterr().err
    assert re.fullmatch(rf"conveyor: no metrics at {server.address}: the answer is not HTTP \(\w+\)\n", told)


def test_a_timeout_may_be_endless(server: ServerProcess, capsys: Capture) -> None:
    """With an endless timeout a command is answered."""
    assert main(["sessions", "--address", server.address, "--timeout", "inf"]) == 0

    assert capsys.readouterr().out.startswith("SESSION")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"a"])
def test_a_text_that_cannot_be_scored_is_refused(content: bytes, tmp_path: Path, capsys: Capture) -> None:
    """What is not text, or too little of it, is refused before a server is asked."""
    path = tmp_path / "text.txt"
    path.write_bytes(content)

    assert main(["score", str(path), "--address", "127.0.0.1:1"]) == 1
    assert "text.txt" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str, capsys: Capture) -> None:
    """Each command explains itself."""
    assert main([command, "--help"]) == 0

    assert f"conveyor {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "score", "sessions", "inspect", "models", "load", "unload"])
def test_client_commands_load_no_server(command: str) -> None:
    """A command that only asks a server needs none of the server's libraries."""
    arguments = [command, *(["x"] if command in ("score", "load", "unload") else [])]
    code = (
        "import sys\n"
        "for name in ('numpy', 'onnx', 'onnxruntime', 'prometheus_client', 'rich'): sys.modules[name] = None\n"
        "from conveyor.cli import main\n"
        f"sys.exit(main([*{arguments!r}, '--address', '127.0.0.1:1', '--timeout', '0.1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "install" not in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_quiet(server: ServerProcess) -> None:
    """An interrupted command leaves with 130 and says nothing."""
    code = (
        "import signal, sys, threading\n"
        "from conveyor.cli import main\n"
        "write = sys.stdout.write\n"
        "def interrupt(text):\n"
        "    sys.stdout.write = write\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    return write(text)\n"
        "sys.stdout.write = interrupt\n"
        f"sys.exit(main(['generate', '--address', {server.address!r}, '--model', 'letters', '--prompt', 'a', "
        "'--max-tokens', '100000']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (130, "")
