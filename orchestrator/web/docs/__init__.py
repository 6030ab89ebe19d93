"""The page at /docs: the OpenAPI document for people, without any script."""
