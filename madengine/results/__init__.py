"""Results: rows of perf.csv, results.json, summaries and tables, and the merge of many runs into one."""
