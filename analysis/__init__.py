"""What many observed calls mean: tables in, results and figures out."""
