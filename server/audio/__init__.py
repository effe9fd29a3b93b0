"""From bytes to 16 kHz samples and speech probabilities; knows no session rules."""
