"""Workers: the processes that send. The parent reads, builds and writes; a worker only sends and stamps.

`pool` starts and watches them, `worker` is what runs in the process, `tasks` cuts a job into their shares;
`call_queue`, `spool`, `counters` and `messages` are what passes between the two.
"""
