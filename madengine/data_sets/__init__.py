"""Data sets of data.json: what may be said of them, who provides them, and how they come here."""
