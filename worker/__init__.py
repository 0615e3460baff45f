"""Workers: they take jobs from Postgres when a Celery message wakes them, and the janitor that sends those."""
