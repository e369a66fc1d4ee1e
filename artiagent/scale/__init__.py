"""What machines a run needs, and what it will cost before it starts. Knows no orchestrator."""
