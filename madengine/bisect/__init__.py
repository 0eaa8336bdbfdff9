"""`bisect`: builds versions of a model between a good and a bad one, and compares each with the good one."""
