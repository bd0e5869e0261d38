"""Privacy: traffic of the same shape with made-up content. A key that nobody keeps decides what is made up.

`StandIns` makes up texts, names and pictures, `Bodies` finds in JSON what is not the protocol's own, and
`Traffic` does both to requests and responses.
"""
