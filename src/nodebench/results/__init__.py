"""What a run leaves behind: records and the store that keeps them."""
