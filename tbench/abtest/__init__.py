"""Experiments: one trace replayed to several arms, several times each, in turns (`tbench ab`)."""
