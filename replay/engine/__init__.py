"""The engine: requests serialised once, connections of our own, one reader for all, kernel receive stamps.

`wire` is the protocol (pure), `clock` maps the kernel's stamps, `line` is a connection, `reader` drains all
of them, `pool` keeps the idle ones, `dial` opens new ones, `sender` is what a replay uses.
"""
