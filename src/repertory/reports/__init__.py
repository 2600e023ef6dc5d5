"""From the decision log to tables, pages and diagrams."""
