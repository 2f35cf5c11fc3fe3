"""Base against head: statistics over runs, a verdict a case, and how it is shown. Reads results, never measures."""
