"""The inner problems of jobs."""
