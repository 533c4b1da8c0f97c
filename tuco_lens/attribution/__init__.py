"""What fine-tuning changed in the weights, and where (`overview.py`)."""
