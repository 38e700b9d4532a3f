"""Kill -9 under writers: the log must hold what committed, nothing less and nothing more. `python -m tests.faults`."""
