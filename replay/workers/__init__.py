"""Workers: the processes that send. The parent plans and writes; a worker only sends and stamps.

`pool` starts and watches them, `worker` is what runs in the process; `messages` (a job cut into tasks, and
what came of them), `calls` (there and back) and `counters` are what passes between the two. `supply` makes
the calls: in the parent, or beside a worker on a machine that reads the trace itself.
"""
