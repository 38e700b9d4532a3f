"""What tracking costs, measured against untracked tables in one run; never a test."""
