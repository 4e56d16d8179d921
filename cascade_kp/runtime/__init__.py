"""Running a cascade: from working crops to points, on some backend."""
