"""Settings from defaults, file, environment and flags."""

from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

import pytest

from conveyor.engine.durability import Durability, Mode
from conveyor.engine.limits import Device, Limits
from conveyor.settings import Settings, SettingsError, add_flags, load
from conveyor.store.memory import MemoryStore
from conveyor.store.sqlite import SqliteStore
from conveyor.store.valkey import ValkeyStore


def read(*flags: str, **environment: str) -> Settings:
    """The settings of a command line and an environment."""
    parser = ArgumentParser()
    parser.add_argument("models", nargs="?")
    add_flags(parser)
    return load(parser.parse_args(flags), {"PATH": "/bin", **environment})


def problems_of(*flags: str, **environment: str) -> list[str]:
    """What is wrong with them."""
    with pytest.raises(SettingsError) as raised:
        read(*flags, **environment)
    return raised.value.problems


def test_defaults_are_valid() -> None:
    """They are the engine's own where it has any."""
    settings = read()

    assert settings == Settings()
    assert settings.limits() == Limits()
    assert settings.device() == Device()


def test_every_limit_is_a_setting() -> None:
    """What an engine can be limited by, an operator can set."""
    assert {field.name for field in (*fields(Limits), *fields(Device))} <= {field.name for field in fields(Settings)}


def test_a_flag_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    """Each source overrides the ones below it, setting by setting."""
    config = tmp_path / "conveyor.toml"
    config.write_text('port = 1\nnum_slots = 1\nmax_batch = 1\nidle_timeout = 1.5\nmodels = "a"\nlog_format = "json"')
    settings = read(
        "--port", "3", CONVEYOR_CONFIG=str(config), CONVEYOR_PORT="2", CONVEYOR_NUM_SLOTS="2", CONVEYOR_MODELS="b"
    )

    assert (settings.port, settings.num_slots, settings.max_batch, settings.idle_timeout) == (3, 2, 1, 1.5)
    assert (settings.models, settings.log_format) == (Path("b"), "json")
    assert read("c", "--config", str(config)).models == Path("c")


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    """Of all sources, with where the value came from: one start is enough to mend them all."""
    config = tmp_path / "conveyor.toml"
    config.write_text('slots = 1\nhost = 5\nmax_batch = true\nnum_threads = 1.5\nprovider = "tpu"')
    problems = problems_of(
        "--port",
        "http",
        "--metrics-port",
        "70000",
        "--num-slots",
        "0",
        "--log-level",
        "loud",
        CONVEYOR_CONFIG=str(config),
        CONVEYOR_IDLE_TIMEOUT="soon",
        CONVEYOR_TYPO="1",
        CONVEYOR_MAX_STREAM_STEPS="-1",
    )

    assert sorted(problems) == sorted(
        [
            f"{config}: slots is not a setting",
            f"{config}: host: must be text, got 5",
            f"{config}: max_batch: must be a whole number, got True",
            f"{config}: num_threads: must be a whole number, got 1.5",
            "provider: must be one of auto, cpu, cuda, got 'tpu'",
            "--port: must be a whole number, got 'http'",
            "metrics_port: must be 0 to 65535, got 70000",
            "num_slots: must be at least 1, got 0",
            "log_level: must be one of debug, info, warning, error, got 'loud'",
            "CONVEYOR_IDLE_TIMEOUT: must be a number of seconds, got 'soon'",
            "CONVEYOR_TYPO is not a setting",
            "max_stream_steps: must be at least 1, got -1",
        ]
    )


@pytest.mark.parametrize("value", ["nan", "-1", "0"])
def test_times_are_above_zero(value: str) -> None:
    """Not a number is no time either."""
    assert any(problem.startswith("idle_timeout") for problem in problems_of("--idle-timeout", value))


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_drain_ends(value: str) -> None:
    """It may take no time, but not for ever."""
    assert problems_of("--drain-timeout", value)
    assert read("--drain-timeout", "0").drain_timeout == 0


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_checkpoint_comes(value: str) -> None:
    """At once, if need be, but not never."""
    assert problems_of("--checkpoint-seconds", value)
    assert read("--checkpoint-seconds", "0").checkpoint_seconds == 0


def test_durability_is_a_default() -> None:
    """Of sessions that do not say, with the two numbers of an async one."""
    assert read().default_durability() == Durability(Mode.ASYNC, 64, 1.0)
    given = read("--durability", "sync", "--checkpoint-steps", "5", CONVEYOR_CHECKPOINT_SECONDS="0.5")

    assert given.default_durability() == Durability(Mode.SYNC, 5, 0.5)


def test_each_store_is_named(tmp_path: Path) -> None:
    """SQLite is in the state folder; none is a store too."""
    assert isinstance(read("--store", "memory").open_store(), MemoryStore)
    assert isinstance(read("--state-dir", str(tmp_path)).open_store(), SqliteStore)
    assert isinstance(read("--store", "valkey://host:1/2", "--store-replicas", "2").open_store(), ValkeyStore)
    assert read("--store", "none").open_store() is None


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (
            ("--store", "redis"),
            "store: must be none, memory, sqlite, or a URL that begins with valkey:// or valkeys://",
        ),
        (("--store", "valkey://:secret@/1"), "store: must be valkey://USER:PASSWORD@HOST:PORT/DB, "),
        (("--store-replicas", "1"), "store: only a Valkey store has replicas, and 1 were asked for"),
        (("--store-replicas", "17"), "store_replicas: must be 0 to 16, got 17"),
        (("--durability", "always"), "durability: must be one of none, async, sync, got 'always'"),
        (("--checkpoint-steps", "0"), "checkpoint_steps: must be at least 1, got 0"),
    ],
)
def test_wrong_stores_are_told(flags: tuple[str, ...], problem: str) -> None:
    """By the setting's name, and without a password that may be in it."""
    problems = problems_of(*flags)

    assert any(each.startswith(problem) for each in problems), problems
    assert not any("secret" in each for each in problems)


@pytest.mark.parametrize(("text", "problem"), [(None, "No such file"), ("port: 1", "not TOML")])
def test_an_unreadable_file_is_told(tmp_path: Path, text: str | None, problem: str) -> None:
    """Missing or malformed, with its path."""
    config = tmp_path / "conveyor.toml"
    if text is not None:
        config.write_text(text)

    (message,) = problems_of("--config", str(config))
    assert message.startswith(f"{config}: ")
    assert problem in message


def test_service_links_are_recognised() -> None:
    """Kubernetes injects CONVEYOR_PORT for a Service of that name: the message says what to do."""
    (message,) = problems_of(CONVEYOR_PORT="tcp://10.0.0.1:50051")

    assert "enableServiceLinks: false" in message
