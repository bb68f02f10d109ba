"""The replication study: its experiments, how they run, what the results say about the papers'
findings, and the page that reports them."""
