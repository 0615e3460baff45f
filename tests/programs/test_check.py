"""The process in which a stranger's program is looked at: it always answers, and says what is wrong."""

import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from core.programs.check import answer_for
from tests.programs import forging, recurrent

MEMORY = 3 << 30


def asked(tmp_path, content, seconds=60.0, memory=MEMORY):
    path = tmp_path / "program.zip"
    path.write_bytes(content)
    return {"path": str(path), "seconds": seconds, "memory_bytes": memory}


def checked(tmp_path, content, **limits):
    return answer_for(asked(tmp_path, content, **limits))


def refused(tmp_path, content, *said, **limits):
    answer = checked(tmp_path, content, **limits)
    assert answer["ok"] is False, answer
    assert answer["error"]["code"] == "invalid_program"
    for one in said:
        assert one in answer["error"]["message"]


@pytest.fixture(scope="module")
def tiny():
    """The smallest program: compiled in no time."""
    functions = {
        "init": lambda hyper, key: {"w": hyper["start"].astype(jnp.float32)},
        "schedule": lambda hyper: {"step_size": 0.1, "momentum": 0.5},
    }
    made = recurrent.Case(functions, {"start": jnp.ones(2)}, {})
    return made.export(
        inner_loss=lambda params, hyper, step, key: jnp.sum(jnp.square(params["w"])),
        outer_loss=lambda params, hyper, key: jnp.sum(params["w"]),
        data=None,
        metrics=None,
    )


def test_a_sound_program_over_the_protocol(tmp_path, exported):
    done = subprocess.run(
        [sys.executable, "-m", "core.programs.check"],
        input=json.dumps(asked(tmp_path, exported)).encode(),
        capture_output=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert answer["ok"], answer
    summary = answer["summary"]
    assert summary["deterministic"] is True
    assert summary["num_hyperparameters"] == 3 + 6 + 3 + 60 + 20
    assert "stablehlo.while" in summary["stablehlo_ops"]
    assert summary["custom_calls"] == []
    assert set(summary["probe"]) == {"inner_loss", "outer_loss"}
    assert all(isinstance(value, float) for value in summary["probe"].values())
    assert summary["manifest"]["num_steps"] == recurrent.STEPS


def test_programs_whose_files_are_wrong(tmp_path, tiny):
    refused(tmp_path, tiny[: len(tiny) // 2], "no zip directory at its end")
    refused(tmp_path, forging.with_serialized(tiny, "inner_loss", bytes(200 << 20)), "decompressed")


def test_a_loop_without_end_is_ended_and_named(tmp_path, tiny):
    def forever(w, step, key):
        return [jax.lax.while_loop(lambda x: x >= 0, lambda x: x + 1, jnp.sum(jnp.square(w)))]

    began = time.monotonic()
    refused(
        tmp_path,
        forging.with_function(tiny, "inner_loss", forever),
        "running inner_loss",
        "without end",
        seconds=8,
    )
    assert time.monotonic() - began < 30


def test_what_is_no_number(tmp_path, tiny):
    nan = forging.with_function(tiny, "inner_loss", lambda w, step, key: [jnp.log(-jnp.sum(jnp.square(w)))])
    refused(tmp_path, nan, "inner_loss: returns NaN or an infinity")


def test_more_memory_than_there_may_be(tmp_path, tiny):
    def large(w, step, key):
        outer = jnp.sin(jnp.arange(1 << 14, dtype=jnp.float32) + w[0])
        grown = jnp.sort(jnp.outer(outer, outer), axis=1)
        return [jnp.sum(grown @ grown)]

    refused(tmp_path, forging.with_function(tiny, "inner_loss", large), "inner_loss", memory=1 << 30)


def test_gradients_that_are_of_something_else(tmp_path, tiny):
    refused(
        tmp_path,
        forging.with_function(tiny, "inner_gradient", lambda w, step, key: [jnp.ones_like(w)]),
        "inner_linearized: does not agree with inner_gradient",
    )


def test_a_death_in_the_middle_is_an_answer(tmp_path, tiny, monkeypatch):
    """What a crash of the compiler looks like from outside."""
    program = 'import os, signal, sys; sys.stdin.read(); print(\'{"doing": "compiling init"}\', flush=True); os.kill(os.getpid(), signal.SIGSEGV)'
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: popen([command[0], "-c", program], **options)
    )
    refused(tmp_path, tiny, "SIGSEGV", "compiling init")


def test_questions_that_are_none():
    done = subprocess.run(
        [sys.executable, "-m", "core.programs.check"], input=b"[]", capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"standard input is not what is asked here" in done.stderr
