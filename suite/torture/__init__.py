"""Commands are killed at random moments and given again: what they leave must be what an undisturbed one leaves."""
