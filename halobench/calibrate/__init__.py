"""The gate, measured itself: how often it cries wolf, and which planted slowdowns it finds."""
