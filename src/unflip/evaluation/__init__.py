"""What came of a translation: readings, flips, realism; and what to know of the data before."""
