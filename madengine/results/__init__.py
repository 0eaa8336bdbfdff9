"""What runs left behind: rows of perf.csv, summaries, and the merge of many runs into one table."""
