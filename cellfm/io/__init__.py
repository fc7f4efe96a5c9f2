"""Files, networks, logs and progress: what every room needs and what knows nothing of genes or cells."""
