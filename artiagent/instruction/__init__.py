"""What is said to a vision-language model, and in which coordinates."""
