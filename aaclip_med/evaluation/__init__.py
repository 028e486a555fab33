"""A detector against masks: figures, tables, pictures, protocols."""
