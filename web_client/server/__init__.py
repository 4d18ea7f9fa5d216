"""What every request passes: waitress, headers and ids, tokens and limits; and the public tunnel."""
