"""What each page says, as plain records: its template shows them, and its JSON is nothing else."""
