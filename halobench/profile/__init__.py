"""``python -m halobench.profile``: where the time of one backend or model goes, kernel by kernel."""
