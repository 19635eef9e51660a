"""What watches the work of a cluster and reports on it: log lines, summary, performance report."""
