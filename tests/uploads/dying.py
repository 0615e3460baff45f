"""A reader of tables that dies of a fault: `python -m tests.uploads.dying`."""

import os
import signal

os.kill(os.getpid(), signal.SIGSEGV)
