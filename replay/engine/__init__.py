"""The engine: requests serialised once, connections of our own, one reader for all, kernel receive stamps.

`http1` is the protocol (pure), `clock` maps the kernel's stamps, `connection` holds a connection and the
reader that drains all of them, `sender` opens new ones, keeps the idle ones and is what a replay uses.
"""
