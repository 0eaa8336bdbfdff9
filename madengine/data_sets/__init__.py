"""The data sets of data.json: their file, their providers, and how they are fetched."""
