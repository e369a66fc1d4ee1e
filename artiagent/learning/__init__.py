"""Fine-tuning of the vision-language model, and the reward model."""
