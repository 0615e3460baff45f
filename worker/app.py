"""The Celery application. A message is a wake-up; the row in Postgres is the job.

celery -A worker.app worker -c 1 -Q cpu
"""

from __future__ import annotations

from celery import Celery

from core.config import get_settings

RUN_JOB = "run_job"

app = Celery("retrograd", include=["worker.tasks", "worker.signals"])
app.conf.update(
    broker_url=get_settings().broker_url.get_secret_value() or None,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # for ever: Postgres knows the jobs, so an outage costs only time
    broker_transport_options={"socket_keepalive": True, "socket_connect_timeout": 5},
    task_default_queue=get_settings().queue,
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=False,  # the lease guards a job, not the message: a lost worker's job is queued by the janitor
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,  # a busy worker would hold messages that an idle one could take
    worker_pool="prefork",
    worker_pool_start_method="spawn",  # JAX used before a fork hangs
    worker_proc_alive_timeout=60.0,  # a fresh interpreter on a busy machine takes more than the default of 4 s
    worker_max_tasks_per_child=50,  # compiled programs pile up
    worker_max_memory_per_child=2
    * get_settings().worker_memory_bytes
    // 1024,  # where dropping them is not enough
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_soft_shutdown_timeout=5.0,  # after SIGQUIT; SIGTERM has the job given back first, see worker.signals
    worker_enable_remote_control=False,  # nobody on the broker may command a worker
    worker_hijack_root_logger=True,
    worker_redirect_stdouts=False,
    worker_log_format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    worker_task_log_format="%(asctime)s %(levelname)s %(name)s: %(message)s",
)
