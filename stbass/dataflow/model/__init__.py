"""What a model is made of: components, connectors, fields, events."""
