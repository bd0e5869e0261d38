"""`python -m tbench.replay.workers`: started by replay.workers.pool, not by hand."""

from tbench.replay.workers.process import ignore_stop_signals

ignore_stop_signals()  # before what takes long to load

from tbench.replay.workers.worker import main  # noqa: E402

main()
