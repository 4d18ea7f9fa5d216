"""Tools that make an archive. They run at export and are not copied into the archive."""
