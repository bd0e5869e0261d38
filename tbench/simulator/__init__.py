"""A Together-compatible server to test against: the public documents' wire, a modelled engine behind.

`words` and `prompt` say what a token is, `engine` and `prefixes` when each one is due (pure, seeded, no
clock), `order` and `answer` what is asked and said, `wire` how it looks, `faults` what goes wrong,
`driver` runs the engine on the clock, `truth` keeps what really happened, `app` and `server` serve it.
"""
