"""Tools that make an archive. They run at export and never travel in the archive."""
