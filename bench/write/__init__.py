"""What a write costs without a log, with ours and with others; the parts of `make bench`."""
