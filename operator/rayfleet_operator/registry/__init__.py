"""From a model's URI to one immutable version of it.

`uri` reads what a person wrote, `mlflow`, `files` and `objects` each know one place where models live, and `resolver`
joins them. Whatever cannot be resolved is a `RegistryError` of `errors`: a reason for conditions, a message for people.
"""
