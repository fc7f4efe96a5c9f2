"""Cell types: classifiers on a model, their confidence, their baselines and scores."""
