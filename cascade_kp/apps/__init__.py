"""Programs made of the library: many pictures on many machines."""
