"""What fine-tuning changed, and where: of the weights (`overview.py`)."""
