"""The run-time type checker of the test run: an int is a float, as in every annotation of Python's own."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
