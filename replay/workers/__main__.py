"""`python -m tbench.replay.workers`: started by replay.workers.pool, not by hand."""

from tbench.replay.workers.worker import main

main()
