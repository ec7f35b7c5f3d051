"""Words: classes and their synonyms, ids, text embeddings."""
