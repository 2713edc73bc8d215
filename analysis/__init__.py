"""What a run found, for people: a pandas table, interactive figures, an offline report, a picture, and export."""
