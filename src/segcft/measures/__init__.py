"""What of a structure is a variable: its area, or whatever else a mask tells of it."""
