"""`python -m replay.workers`: started by replay.workers.crew, not by hand."""

from replay.workers.worker import main

main()
