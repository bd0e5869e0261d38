"""Workers: the processes that send. The parent reads, builds and writes; a worker only sends and stamps.

`crew` starts and watches them, `feeder` hands out the calls, `worker` is what runs in the process; `feed`,
`spool`, `pulse` and `duty` are what passes between the two.
"""
