"""What a network sees: people, readers, synthetic people, packed files, batches."""
