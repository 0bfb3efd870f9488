"""What results are kept in: files written once, their hashes, events, checked rows."""
