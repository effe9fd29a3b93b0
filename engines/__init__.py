"""What runs inside Triton: batches of audio windows or texts in, hypotheses out. Imports nothing of Triton."""
