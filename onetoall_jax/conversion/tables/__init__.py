"""One key table for each kind of checkpoint: data, and the sizes that shape it."""
