"""One module for each thing that has a URL."""
