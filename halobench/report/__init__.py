"""``python -m halobench.report``: one self-contained, interactive HTML page of results files."""
