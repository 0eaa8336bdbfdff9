"""What may be typed, what it means, and what the terminal gets."""
