"""The demo: handwritten digits from an MLflow registry, served, and replaced by a better version under load."""
