"""Analysis: which is faster, by how much, and how sure one can be."""
