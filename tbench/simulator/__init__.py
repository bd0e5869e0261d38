"""A Together-compatible server to test against: the public documents' wire, a modelled engine behind.

`prompt` says what a token is, `engine` when each is due (pure, seeded, no clock; with the profile that sets
it), `order` what a request asks for or why it is refused, `answer` what comes back and how an API writes it:
its `Dialect`. `call` is a request with what goes wrong and what really happened, `driver` runs the engine on
the clock, `service` holds the endpoints and sends tokens as they fall due, `server` the sockets. `odd` is a
server of its own: a table of behaviours.
"""
