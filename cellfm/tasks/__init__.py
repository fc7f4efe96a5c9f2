"""What the tools fit and predict: one folder a task; knows arrays and models, writes to no AnnData."""
