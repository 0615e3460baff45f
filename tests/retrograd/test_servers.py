"""The embedded Postgres and Valkey: real, private, restartable, and gone with their parent."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from retrograd.local.guarded import ComponentFailed
from retrograd.local.servers import postgres, valkey

PARENT = """
import sys, time
from pathlib import Path
from retrograd.local.servers import postgres, valkey
with postgres(Path(sys.argv[1], "postgres")) as database, valkey(Path(sys.argv[1], "valkey")) as broker:
    print(database.pid, broker.pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with postgres(tmp_path_factory.mktemp("servers") / "postgres") as server:
        yield server


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with valkey(tmp_path_factory.mktemp("servers") / "valkey") as server:
        yield server


def plain(url: str) -> str:
    return url.replace("+psycopg", "", 1)


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=5)


def listeners(pid: int) -> set[str]:
    process = psutil.Process(pid)
    return {
        connection.laddr.ip
        for member in (process, *process.children(recursive=True))
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_postgres_answers_at_its_url(database):
    assert database.url().startswith("postgresql+psycopg://")
    with psycopg.connect(plain(database.url())) as connection:
        version, collation = connection.execute(
            "SELECT current_setting('server_version_num')::int, datlocale FROM pg_database "
            "WHERE datname = current_database()"
        ).fetchone()
    assert version >= 180000
    assert collation == "C.UTF-8"


def test_databases_are_made_and_are_apart(database):
    url = database.create_database("apart")
    assert url == database.url("apart")
    with psycopg.connect(plain(url)) as connection:
        connection.execute("CREATE TABLE things (id int)")
    with psycopg.connect(plain(database.url())) as connection:
        assert connection.execute("SELECT to_regclass('things')").fetchone() == (None,)


def test_postgres_refuses_other_passwords_and_listens_on_loopback_only(database):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=database.port, user="retrograd", password="guess", dbname="postgres"
        )
    assert listeners(database.pid) == {"127.0.0.1"}


def test_valkey_refuses_without_password_and_listens_on_loopback_only(broker):
    with client(broker.url) as connection:
        assert connection.ping()
    with redis.Redis(port=broker.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert listeners(broker.pid) == {"127.0.0.1"}


def test_files_and_arguments_tell_other_users_nothing(database, broker, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "servers0"
    for path in tmp_path_factory.getbasetemp().glob("servers*/*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for secret in (*path.glob("password"), *path.glob("*.conf"), *path.glob("*.log")):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "postgres/data").stat().st_mode) == 0o700
    secrets = {database.url().split(":")[2].split("@")[0], broker.url.split(":")[2].split("@")[0]}
    for pid in (database.pid, broker.pid):
        process = psutil.Process(pid)
        assert not any(secret in part for secret in secrets for part in process.cmdline())
        assert not any(secret in value for secret in secrets for value in process.environ().values())


@pytest.mark.skipif(os.geteuid() != 0, reason="says how root runs Postgres")
def test_as_root_postgres_runs_as_nobody_who_cannot_reach_the_files(database, tmp_path_factory):
    assert psutil.Process(database.pid).username() == "nobody"
    folder = next(tmp_path_factory.getbasetemp().glob("servers*/postgres"))
    look = ["setpriv", "--reuid=nobody", "--clear-groups", "ls", str(folder / "data")]
    assert subprocess.run(look, capture_output=True).returncode != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="other tests run as an ordinary user already")
def test_an_ordinary_user_runs_postgres_as_itself(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.chown(home, "nobody")
    keep = "-all,+dac_override"  # only to reach the interpreter, which root may have made private
    program = PARENT.replace("time.sleep(600)", "import psutil; print(psutil.Process(database.pid).username())")
    run = subprocess.run(
        ["setpriv", "--reuid=nobody", "--clear-groups", f"--inh-caps={keep}", f"--ambient-caps={keep}",
         sys.executable, "-c", program, str(home)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split()[-1] == "nobody"


def test_postgres_keeps_data_and_address_over_a_restart_and_a_kill(tmp_path):
    with postgres(tmp_path) as server:
        url = plain(server.url())
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept (id int)")
        server.stop()
        server.start()
        assert plain(server.url()) == url
        psutil.Process(server.pid).kill()
        assert server.process.wait(30) == 128 + signal.SIGKILL
        assert (tmp_path / "data/postmaster.pid").exists()
        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regclass('kept')::text").fetchone() == ("kept",)


def test_a_pid_file_that_names_a_stranger_is_cleared_and_one_that_is_true_is_respected(tmp_path):
    with postgres(tmp_path) as server:
        with pytest.raises(ComponentFailed, match=f"already runs in .* as process {server.pid}"):
            postgres(tmp_path).__enter__()
        pid_file = tmp_path / "data/postmaster.pid"
        text = pid_file.read_text()
        server.stop()
        pid_file.write_text(text.replace(text.splitlines()[0], str(os.getpid()), 1))
        server.start()


def test_valkey_restarts_empty_on_the_same_address(tmp_path):
    with valkey(tmp_path) as server:
        with client(server.url) as connection:
            connection.set("message", "lost")
        server.stop()
        server.start()
        with client(server.url) as connection:
            assert connection.get("message") is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent-death signal")
def test_kill_9_of_the_guardian_ends_postgres(tmp_path):
    with postgres(tmp_path) as server:
        postmaster = psutil.Process(server.pid)
        family = [postmaster, *postmaster.children()]
        postmaster.parent().kill()
        _, alive = psutil.wait_procs(family, timeout=15)
        assert not alive


def test_kill_9_of_the_parent_takes_both_servers_along(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout:
        servers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        processes = [*servers, *(server.parent() for server in servers), *servers[0].children()]
        assert len(processes) > 4  # Postgres has children of its own
        parent.kill()
        _, alive = psutil.wait_procs(processes, timeout=15)
        assert not alive
    with postgres(Path(tmp_path, "postgres")) as server:  # and the folder can be used again
        assert server.process.poll() is None
