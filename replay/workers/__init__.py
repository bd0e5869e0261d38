"""Workers: the processes that send. The parent plans and writes; a worker only sends and stamps.

`pool` starts and watches them, `worker` is what runs in the process; `messages` (a job cut into tasks, and
what came of them), `calls` (there and back) and `counters` are what passes between the two. `on_ray` has
workers on the machines of a cluster; a `carrier` stands beside each, and makes the calls where it can read
the trace itself.
"""
