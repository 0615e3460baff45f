"""Whether a stranger's program may be kept: `python -m core.programs.check`.

Reads one JSON object from standard input, `{"path": …, "seconds": …, "memory_bytes": …}`, and writes one line:
`{"ok": true, "summary": …}`, or `{"ok": false, "error": {"code": "invalid_program", "message": …}}`.

The program is looked at, compiled and run in a process below this one, in a session of its own with limits on memory,
processor time, wall time and files. Whatever becomes of that process, here is an answer: a program that crashes the
compiler, or never ends, is an invalid program.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.errors import CoreError, InvalidProgram

_WITHIN = "--within"
_NICENESS = 10
_MAX_ANSWER_BYTES = 16 << 20
_GRACE_SECONDS = 5.0
_PROCESSOR_SHARE = 8  # processor seconds a second of wall time, of all threads together
_FILES = 256


def answer_for(asked: dict[str, Any]) -> dict[str, Any]:
    """What is to be written of the program that is asked about. Loads no JAX itself."""
    seconds, memory = float(asked["seconds"]), int(asked["memory_bytes"])
    with subprocess.Popen(
        [sys.executable, "-m", "core.programs.check", _WITHIN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        env=_environ(),
    ) as child:  # fmt: skip
        late = False
        try:
            output, _ = child.communicate(json.dumps(asked).encode(), seconds + _GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            late = True
            child.kill()
            output, _ = child.communicate()
        code = child.returncode
    said = [json.loads(line) for line in output[:_MAX_ANSWER_BYTES].splitlines() if _is_whole(line)]
    if said and "ok" in said[-1]:
        last: dict[str, Any] = said[-1]
        return last
    doing = said[-1]["doing"] if said else "being read"
    if late or code in (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL):
        message = f"took longer than {seconds:g} s, or was ended, while {doing}: look for a loop without end"
    else:
        what = signal.Signals(-code).name if code < 0 else f"code {code}"
        message = (
            f"ended its process ({what}) while {doing}: it may need more than the {memory} bytes that it may, or is no "
            "program that JAX exports"
        )
    return _refused(InvalidProgram(f"the program {message}"))


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _environ() -> dict[str, str]:
    given = {
        name: value for name, value in os.environ.items() if not name.startswith(("RETROGRAD_", "XLA_", "JAX_"))
    }
    return given | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}  # a GPU here is its worker's


def _refused(error: CoreError) -> dict[str, Any]:
    return {"ok": False, "error": {"code": error.code, "message": str(error)}}


def limit(seconds: float, memory_bytes: int) -> None:
    """Bound what this process may take, for ever. Without handlers, what oversteps ends it, whatever it is at."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    processor = max(1, int(seconds * _PROCESSOR_SHARE))
    resource.setrlimit(resource.RLIMIT_CPU, (processor, processor))
    # what it writes to, and not the address space: JAX reserves far more of that than it ever uses
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    files = min(_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    os.nice(_NICENESS)


def _within() -> None:
    """The process that touches the program."""
    asked = json.loads(sys.stdin.buffer.read())
    limit(float(asked["seconds"]), int(asked["memory_bytes"]))
    say({"doing": "being read"})
    try:
        say({"ok": True, "summary": found_of(Path(asked["path"]), int(asked["memory_bytes"]))})
    except CoreError as error:
        say(_refused(error if isinstance(error, InvalidProgram) else InvalidProgram(str(error))))
    except MemoryError:
        say(_refused(InvalidProgram(f"the program needs more than the {asked['memory_bytes']} bytes that it may")))
    except Exception as error:  # a program must not be able to leave its judge without a word
        say(_refused(InvalidProgram(f"the program cannot be judged ({type(error).__name__}); export it again")))
    sys.stdout.flush()
    os._exit(0)  # not through the destructors of a runtime that was given anything


def found_of(path: Path, memory_bytes: int) -> dict[str, Any]:
    """What is found of a program. See `core.programs.checking.check`.

    Raises:
        InvalidProgram: it may not be kept.
    """
    from core.programs import archive, checking  # JAX; after its limits are set

    program = archive.read(path.read_bytes())
    return checking.check(program, checking.Limits(memory_bytes), lambda doing: say({"doing": doing}))


def say(document: dict[str, Any]) -> None:
    """One line, at once: this process may not live to say another."""
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer for the program that standard input names."""
    if sys.argv[1:] == [_WITHIN]:
        _within()
    try:
        answer = answer_for(json.loads(sys.stdin.buffer.read()))
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"standard input is not what is asked here: {error}") from error
    say(answer)


if __name__ == "__main__":
    main()
