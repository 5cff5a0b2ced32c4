"""What a search or a run found, as pages, pictures and tables; begin with `gather`, then `page`."""
