"""HTML from what runs leave behind. Imports no torch."""
