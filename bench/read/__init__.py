"""`make bench-read`: what reading costs at 200,000 and at 20,000,000 entries, and whether it stays the same.

`contents.py` says what the entries are, `generate.py` fills a log with them, `serving.py` starts the app and asks it,
`questions.py` names the requests, and each of `measure.py`, `floor.py`, `export.py`, `writes.py` and `plans.py` prints
one table.
"""
