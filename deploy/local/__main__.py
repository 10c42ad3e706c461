"""`make local`: replicas behind Envoy with Valkey, on this machine, until Ctrl-C."""

import argparse
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from deploy.local.layout import MODELS, Layout


def main() -> None:
    """Starts the layout, tells where it is and waits."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    parser.add_argument("models", nargs="?", type=Path, default=MODELS, help="folder of models (default: models)")
    parser.add_argument("--replicas", type=int, default=2, help="number of replicas (default: %(default)s)")
    parser.add_argument("--port", type=int, default=50051, help="Envoy's; 0 picks a free one (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keeps logs and checkpoints there; otherwise they go at the end")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="conveyor-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with Layout(folder, args.replicas, args.port, args.models) as layout:
                print(describe(layout), flush=True)
                signal.pause()
        except (FileNotFoundError, RuntimeError) as error:
            sys.exit(f"deploy.local: {error}")


def describe(layout: Layout) -> str:
    """The processes with their addresses and ids, and what to do with them."""
    rows = [("envoy", layout.envoy.address, layout.envoy.pid, f"http://{layout.envoy.admin_address}/clusters")]
    rows += [(each.name, each.address, each.pid, f"http://{each.metrics_address}/metrics") for each in layout.replicas]
    rows += [("valkey", layout.valkey.url, layout.valkey.pid, "")]
    lines = [f"{name:12} {address:26} pid {pid:<8} {page}".rstrip() for name, address, pid, page in rows]
    lines += [f"logs are in {layout.valkey.log.parent}; Ctrl-C ends all"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
