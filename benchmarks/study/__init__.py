"""The replication study: its table of experiments, how it runs them, what it concludes and the page
it writes."""
