"""The worker's settings, and what its processes do before the first job."""

import os
import subprocess
import sys

import pytest
from celery.app.defaults import NAMESPACES, flatten

from core import device
from worker import health
from worker.app import RUN_JOB, app


def test_the_published_task_is_registered():
    app.loader.import_default_modules()
    assert RUN_JOB in app.tasks
    assert app.tasks[RUN_JOB].ignore_result is True


def test_every_setting_is_one_that_celery_knows():
    known = {name for name, _ in flatten(NAMESPACES)}
    assert set(app.conf.changes) - {"deprecated_settings"} <= known


def test_settings_that_the_service_rests_on():
    conf = app.conf
    assert conf.task_acks_late is False
    assert conf.worker_disable_prefetch is True
    assert (conf.worker_pool, conf.worker_pool_start_method, conf.worker_concurrency) == ("prefork", "spawn", 1)
    assert conf.accept_content == ["json"]
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False


def test_importing_the_worker_loads_no_jax():
    program = "import sys, worker.tasks, worker.janitor; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_jax_is_prepared_before_its_import(tmp_path):
    environ = {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    device.prepare(environ)
    assert environ["JAX_ENABLE_X64"] == "1"
    assert environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"
    folder = tmp_path / "retrograd" / "jax"
    assert environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    device.prepare(environ)
    assert environ["XLA_FLAGS"].count("deterministic") == 1


def test_a_cache_that_others_can_write_is_not_used(tmp_path):
    (tmp_path / "retrograd" / "jax").mkdir(parents=True)
    (tmp_path / "retrograd" / "jax").chmod(0o777)
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    device.prepare(environ)
    assert "JAX_COMPILATION_CACHE_DIR" not in environ


def test_a_given_cache_stays(tmp_path):
    environ = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    device.prepare(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path)


def test_this_jax_takes_the_flags(tmp_path):
    environ = dict(os.environ)
    device.prepare(environ)
    program = "import jax.numpy as jnp; assert jnp.arange(3.0).sum().dtype == 'float64'"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["worker", "worker.janitor"])
@pytest.mark.parametrize("missing", ["RETROGRAD_DATABASE_URL", "RETROGRAD_BROKER_URL"])
def test_without_its_servers_a_process_says_what_to_set(module, missing):
    environ = {
        **os.environ,
        "RETROGRAD_DATABASE_URL": "postgresql+psycopg://x",
        "RETROGRAD_BROKER_URL": "redis://x",
    }
    del environ[missing]
    done = subprocess.run(
        [sys.executable, "-m", module], env=environ, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert f"{missing} is not set" in done.stderr


@pytest.fixture
def beats(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_health_is_a_recent_beat(beats):
    assert not health.is_alive("worker")
    health.beat("worker")
    assert health.is_alive("worker")
    assert not health.is_alive("janitor")
    (beat,) = beats.iterdir()
    os.utime(beat, (0, 0))
    assert not health.is_alive("worker")
    health.beat("worker")
    assert health.is_alive("worker")


def test_a_beat_follows_no_link(beats):
    elsewhere = beats / "elsewhere"
    health.beat("worker")
    (beat,) = beats.iterdir()
    beat.unlink()
    beat.symlink_to(elsewhere)
    health.beat("worker")
    assert not elsewhere.exists()
