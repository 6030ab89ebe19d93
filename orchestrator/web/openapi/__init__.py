"""The OpenAPI document: what each address takes and answers, and how that is put together."""
