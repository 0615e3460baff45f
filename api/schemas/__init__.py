"""What the API takes and answers with, a module a noun."""
