"""What a chapter of the book shows: its start and its claims, tables, plots, and explorers that need no kernel."""
