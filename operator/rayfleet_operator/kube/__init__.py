"""The Kubernetes API: objects are plain dicts, kinds are values, errors are types."""
