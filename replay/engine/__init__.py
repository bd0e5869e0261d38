"""The engine: requests serialised once, connections of our own, one reader for all, kernel receive stamps.

`http1` is the protocol (pure), `clock` maps the kernel's stamps, `connection` is one connection, `reader`
drains all of them, `dial` opens new ones, `sender` keeps the idle ones and is what a replay uses.
"""
