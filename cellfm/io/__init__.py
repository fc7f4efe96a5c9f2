"""Files, networks, logs and progress: what every room needs and what does not know genes or cells."""
